"""Networks of data centres, read from a file: no reader opens a message from there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path

from core.errors import InvalidInput


class Networks:
    """A set of networks; a look-up costs one hash for each prefix length that occurs."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._prefixes: dict[tuple[int, int], set[int]] = {}
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            try:
                network = ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise InvalidInput(
                    f"Line {number}: “{text}” is not a network; write it like 3.0.0.0/8.",
                    "datacentre_networks",
                ) from None
            key = (network.version, network.max_prefixlen - network.prefixlen)
            self._prefixes.setdefault(key, set()).add(int(network.network_address) >> key[1])

    def __contains__(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(
            version == found.version and int(found) >> shift in known
            for (version, shift), known in self._prefixes.items()
        )


def load(path: str) -> Networks:
    """The networks of a file (UTF-8, ``#`` begins a comment); none without one. Raises InvalidInput."""
    if not path:
        return Networks()
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"HUILIU_DATACENTRE_NETWORKS: {path} cannot be read ({error}).", "datacentre_networks"
        ) from None
    return Networks(lines)
