"""Which addresses the server may be made to talk to.

What is reached from inside a network is trusted there: metadata services hand out credentials, admin pages ask nobody. So
only public addresses are reached, and of others those that the operator lists. An address is judged by where a packet to it
ends: IPv4 inside IPv6 counts as IPv4 (SSRF filters fall for `::ffff:169.254.169.254`), and the addresses of this very
machine count as private even where they are public.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Final

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_NEVER: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure's host, public by its number alone
            "192.0.0.0/24",
            "192.88.99.0/24",
            "2001::/23",  # Teredo and other tunnels
            "2001:db8::/32",
            "2002::/16",  # 6to4
            "3fff::/20",
        ),
    )
)
"""What `ipaddress` takes for global, in one version of Python or another, and is not, or leads elsewhere."""


class Reach:
    """Judges addresses.

    Args:
        allowed: CIDR networks that may be reached though they are not public.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed: tuple[IpNetwork, ...] = tuple(map(ipaddress.ip_network, allowed))

    def admits(self, address: IpAddress) -> bool:
        """Whether it may be reached."""
        end = _end_of(address)
        if any(end in network for network in self._allowed):
            return True
        return _is_public(end) and not is_own(end)


def _end_of(address: IpAddress) -> IpAddress:
    """Where a packet to it ends."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_public(address: IpAddress) -> bool:
    if any(address in network for network in _NEVER):
        return False
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def is_own(address: IpAddress) -> bool:
    """Whether it is one of this machine's: then it is also the one that it would be reached from."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # Of a datagram socket this sends nothing.
            probe.connect((str(address), 9))
        except OSError:
            # There is no way to it, so it is none of ours.
            return False
        return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == address
