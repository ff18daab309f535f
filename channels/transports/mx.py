"""The MX host of a domain, for grouping receivers. The package's only use of DNS."""

from __future__ import annotations

import dns.exception
import dns.resolver

LOOKUP_S = 3.0


def mx_host(domain: str) -> str | None:
    """The host of the domain's best MX record, or None where there is none or nobody answers."""
    resolver = dns.resolver.Resolver()
    resolver.lifetime = LOOKUP_S
    try:
        records = resolver.resolve(domain, "MX")
    except dns.exception.DNSException:
        return None
    best = min(records, key=lambda record: (record.preference, record.exchange))
    return str(best.exchange).rstrip(".").lower() or None
