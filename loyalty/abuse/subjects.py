"""By what somebody may be known again: normalised, hashed with the key, never kept as it was."""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Mapping

from core.contacts import normalise_phone
from core.crypto import keyring
from core.errors import InvalidInput

MEMBER, DEVICE, ADDRESS, PHONE, IP = "member", "device", "address", "phone", "ip"
KINDS = (MEMBER, DEVICE, ADDRESS, PHONE, IP)
SHARED_KINDS = (DEVICE, ADDRESS, PHONE)
"""What two people do not have in common by chance."""
MAX_VALUE = 500
IPV6_PREFIX = 64
"""A household has this much of the IPv6 space to itself, and changes within it at will."""

Subject = tuple[str, str]
"""(kind, keyed hash)"""


def subjects_of(values: Mapping[str, str | None], member_id: int | None = None) -> dict[str, str]:
    """kind → keyed hash of what a client sent; empty values are left out, the member is added.

    A phone's hash is the same as the member's own blind index of it. InvalidInput names the kind
    whose value cannot be read.
    """
    unknown = sorted(set(values) - set(KINDS))
    if unknown:
        raise InvalidInput(f"“{unknown[0]}” is no kind of subject; use {', '.join(KINDS)}.", unknown[0])
    found = {kind: _hash(kind, value) for kind, value in values.items() if value and value.strip()}
    if member_id is not None:
        found[MEMBER] = _hash(MEMBER, str(member_id))
    return found


def _hash(kind: str, value: str) -> str:
    if len(value) > MAX_VALUE:
        raise InvalidInput(f"The {kind} has more than {MAX_VALUE} characters; send what identifies it.", kind)
    normalise = {PHONE: normalise_phone, IP: _network, ADDRESS: _address}.get(kind, str.strip)
    return keyring().blind_index(kind, normalise(value))


def _network(text: str) -> str:
    """An IPv4 address, or the network of an IPv6 one."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        raise InvalidInput(
            f"“{text}” is not an IP address; send the buyer's, such as 203.0.113.7.", IP
        ) from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)


def _address(text: str) -> str:
    """A postal address without what people write in different ways: width, case, spaces, punctuation."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(sign for sign in plain if sign.isalnum())
    if not kept:
        raise InvalidInput(f"“{text}” is not a postal address; leave it out where there is none.", ADDRESS)
    return kept
