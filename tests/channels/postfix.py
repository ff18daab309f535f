"""A private Postfix: own configuration, queue and port; gives up at once and bounces to whom it is told."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import need
from tests.postgres import free_port

DAEMONS = Path("/usr/lib/postfix/sbin")
_SERVICES = (
    ("cleanup", "unix", "0", "cleanup"),
    ("qmgr", "unix", "1", "qmgr"),
    ("rewrite", "unix", "-", "trivial-rewrite"),
    ("bounce", "unix", "0", "bounce"),
    ("defer", "unix", "0", "bounce"),
    ("trace", "unix", "0", "bounce"),
    ("verify", "unix", "1", "verify"),
    ("flush", "unix", "0", "flush"),
    ("proxymap", "unix", "-", "proxymap"),
    ("smtp", "unix", "-", "smtp"),
    ("error", "unix", "-", "error"),
    ("retry", "unix", "-", "error"),
    ("local", "unix", "-", "local"),
    ("anvil", "unix", "1", "anvil"),
    ("postlog", "unix-dgram", "1", "postlogd"),
)


def _known(find: object, name: str) -> bool:
    try:
        find(name)  # type: ignore[operator]
    except KeyError:
        return False
    return True


@contextmanager
def postfix(transports: Mapping[str, str]) -> Iterator[int]:
    """Its port. ``transports``: domain → transport, like ``error:5.1.1 nobody`` or ``smtp:[127.0.0.1]:25``."""
    there = shutil.which("postfix") is not None and (DAEMONS / "master").exists()
    accounts = _known(pwd.getpwnam, "postfix") and _known(grp.getgrnam, "postdrop")
    need(there and accounts and os.geteuid() == 0, "Postfix, and the root account that it starts from,")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="huiliu-postfix-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        _write(folder, port, transports)
        command = ["postfix", "-c", str(folder / "etc")]
        _quietly([*command, "start"])
        try:
            end = time.monotonic() + 15
            while not _listening(port):
                log = (folder / "log").read_text() if (folder / "log").exists() else ""
                need(
                    time.monotonic() < end,
                    f"A Postfix that starts here ({log[-300:]})",
                )
                time.sleep(0.05)
            yield port
        finally:
            _quietly([*command, "stop"])


def _quietly(command: list[str]) -> None:
    # Not into pipes: the daemons inherit them, and who reads them waits for the daemons.
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=60,
    )


def _write(folder: Path, port: int, transports: Mapping[str, str]) -> None:
    for part in ("etc", "queue", "data"):
        (folder / part).mkdir(mode=0o755)
    shutil.chown(folder / "data", "postfix")
    listed = ", ".join(f"{{{domain} = {target}}}" for domain, target in transports.items())
    (folder / "etc" / "main.cf").write_text(
        f"""compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = {DAEMONS}
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.private.example
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtp_dns_support_level = disabled
default_transport = error:5.1.2 no such domain
transport_maps = inline:{{ {listed} }}
maximal_queue_lifetime = 0
bounce_queue_lifetime = 0
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_reject_unlisted_recipient = no
smtp_tls_security_level = none
smtputf8_enable = yes
alias_maps =
alias_database =
local_recipient_maps =
bounce_size_limit = 5000
"""
    )
    lines = [f"127.0.0.1:{port} inet n - n - - smtpd"]
    for service, kind, most, program in _SERVICES:
        wakeup = "1" if service == "qmgr" else "-"
        private = "n" if service in ("cleanup", "qmgr", "flush", "postlog") else "-"
        lines.append(f"{service} {kind} {private} - n {wakeup} {most} {program}")
    (folder / "etc" / "master.cf").write_text("\n".join(lines) + "\n")


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
