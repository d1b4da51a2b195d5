"""Addresses: of peers, as far as one customer of a provider can change them, and of servers that are told secrets."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


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


def is_this_machine(host: str) -> bool:
    """Whether only this machine is behind a host. A name other than `localhost` may mean anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def keeps_secrets(base_url: str) -> bool:
    """Whether nobody else on the network reads what is sent to a URL: it is https, or http to this machine.

    Raises:
        ValueError: it is no URL.
    """
    parts = urlsplit(base_url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_this_machine(parts.hostname or ""))
