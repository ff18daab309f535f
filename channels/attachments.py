"""Files that every message of a template version carries: encoded once, shared by all messages.

A file is {name, type, data (base64), inline}. An inline image is named in the HTML as ``cid:name``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import InvalidInput

MAX_FILES = 10
MAX_BYTES = 3 * 1024 * 1024
"""Of all files of a message together, before they are encoded: many receivers refuse 10 MB."""
TYPES = frozenset(
    {
        "image/png",
        "image/jpeg",
        "image/gif",
        "application/pdf",
        "text/calendar",
        "text/csv",
        "text/plain",
        "application/vnd.apple.pkpass",
    }
)
"""What receivers do not take for malware."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_LINE = 76
RELATED, MIXED = "=_huiliu_related", "=_huiliu_mixed"


@dataclass(frozen=True)
class Files:
    """The constant text before and after a message's own parts."""

    before: str = ""
    """Headers and delimiters in front of the alternative part."""
    after: bytes = b""
    """All files, with the closing delimiters."""

    @property
    def empty(self) -> bool:
        return not self.after


def content_id(name: str) -> str:
    return f"{name}@files.huiliu"


def referred(html: str, files: Sequence[Mapping[str, Any]]) -> str:
    """The HTML with ``cid:name`` as the parts are really called."""
    for file in files:
        if file.get("inline"):
            html = html.replace(f'"cid:{file["name"]}"', f'"cid:{content_id(str(file["name"]))}"')
    return html


def compiled(files: Any, path: str) -> Files:
    """Check and encode the files of a version. Raises InvalidInput with the file's place."""
    if not files:
        return Files()
    if not isinstance(files, list) or len(files) > MAX_FILES:
        raise InvalidInput(f"{path} is a list of at most {MAX_FILES} files.", path)
    parts: dict[bool, list[bytes]] = {True: [], False: []}
    total, names = 0, set()
    for place, file in enumerate(files):
        where = f"{path}[{place}]"
        data = _data(file, where)
        total += len(data)
        if file["name"] in names:
            raise InvalidInput(f"{where}: there are two files “{file['name']}”.", where)
        names.add(file["name"])
        parts[bool(file.get("inline"))].append(_part(file, data))
    if total > MAX_BYTES:
        raise InvalidInput(
            f"{path} has {total / 1024 / 1024:.1f} MB; {MAX_BYTES // 1024 // 1024} MB is the most.", path
        )
    return _nested(parts[True], parts[False])


def _data(file: Any, where: str) -> bytes:
    if not isinstance(file, Mapping) or not _NAME.fullmatch(str(file.get("name", ""))):
        raise InvalidInput(f"{where} needs a name of letters, digits, “.”, “_” and “-”.", where)
    if file.get("type") not in TYPES:
        raise InvalidInput(f"{where}: the type must be one of {', '.join(sorted(TYPES))}.", where)
    if file.get("inline") and not str(file["type"]).startswith("image/"):
        raise InvalidInput(f"{where}: only images can be inline.", where)
    try:
        return base64.b64decode(str(file.get("data", "")), validate=True)
    except binascii.Error:
        raise InvalidInput(f"{where}: data is not base64.", where) from None


def _part(file: Mapping[str, Any], data: bytes) -> bytes:
    encoded = base64.b64encode(data).decode()
    lines = "\r\n".join(encoded[at : at + _LINE] for at in range(0, len(encoded), _LINE))
    inline = bool(file.get("inline"))
    name = f"Content-ID: <{content_id(str(file['name']))}>\r\n" if inline else ""
    return (
        f"Content-Type: {file['type']}\r\nContent-Transfer-Encoding: base64\r\n{name}"
        f'Content-Disposition: {"inline" if inline else "attachment"}; filename="{file["name"]}"\r\n\r\n'
        f"{lines}\r\n"
    ).encode()


def _nested(inline: Sequence[bytes], attached: Sequence[bytes]) -> Files:
    """multipart/mixed of multipart/related of what the message itself brings (RFC 2387)."""
    before, after = "", b""
    if inline:
        before = f'Content-Type: multipart/related; boundary="{RELATED}"\r\n\r\n--{RELATED}\r\n'
        after = _joined(inline, RELATED)
    if attached:
        before = f'Content-Type: multipart/mixed; boundary="{MIXED}"\r\n\r\n--{MIXED}\r\n{before}'
        after += _joined(attached, MIXED)
    return Files(before, after)


def _joined(parts: Sequence[bytes], boundary: str) -> bytes:
    mark = f"--{boundary}".encode()
    return b"".join(mark + b"\r\n" + part for part in parts) + mark + b"--\r\n"
