"""Peers' addresses, as far as one customer of a provider can change them."""

from __future__ import annotations

import ipaddress


def customer_of(address: str) -> str:
    """The address; of IPv6 its /64, in which one customer has 2⁶⁴ of them. Other text as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped is not None:
        # Its /64 would be that of the whole Internet.
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
