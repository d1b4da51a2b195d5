"""Whose address a request counts for: the peer's, or the one that trusted proxies say stands behind them.

Whoever is no proxy may write anything into these headers, and an address that can be chosen is no limit and no evidence.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from qimem.kernel.addresses import customer_of
from qimem.kernel.limits import FORWARDED_HOPS_MAX, STRAY_PEERS_MAX, STRAY_PEERS_SECONDS
from qimem.observability.logging import logger

_FOR = b"x-forwarded-for"
_PROTO = b"x-forwarded-proto"
_FORWARDED = b"forwarded"
_HOP = re.compile(r"\[([0-9a-fA-F:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}|([0-9a-fA-F:.]+)")
"""An address; one with a port, of IPv6 in brackets. No zones (`%eth0`): their names can be chosen."""


class Peers:
    """Tells peers from proxies.

    Args:
        proxies: Networks whose forwarded headers are believed.
        count_stray: Called for every request with such headers from anybody else.
        now: Monotonic seconds.
    """

    def __init__(
        self, proxies: Sequence[str], count_stray: Callable[[], None], now: Callable[[], float]
    ) -> None:
        self._proxies = [ipaddress.ip_network(network) for network in proxies]
        self._count_stray = count_stray
        self._now = now
        self._period = 0.0
        self._logged: set[str] = set()

    def address_behind(
        self, peer: str, fields: Mapping[bytes, bytes], lines: Iterable[tuple[bytes, bytes]]
    ) -> str:
        """The address that a request counts for.

        Args:
            peer: The other end of the connection.
            fields: Header name → last value.
            lines: All header fields in their order.
        """
        if _FOR not in fields and _PROTO not in fields and _FORWARDED not in fields:
            return peer
        if not self._proxies_hold(peer):
            self._note(peer)
            return peer
        address = peer
        # Each proxy appends whom it saw: from the right, up to the first who is none.
        for hop in _hops(lines):
            found = _address_of(hop)
            if found is None:
                # Somebody's invention, or a name such as `unknown`: whoever passed it on answers for it.
                break
            address = found
            if not self._proxies_hold(found):
                break
        return address

    def _proxies_hold(self, address: str) -> bool:
        if not self._proxies:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)

    def _note(self, peer: str) -> None:
        self._count_stray()
        now = self._now()
        if now - self._period >= STRAY_PEERS_SECONDS:
            self._period = now
            self._logged.clear()
        customer = customer_of(peer)
        if customer in self._logged or len(self._logged) >= STRAY_PEERS_MAX:
            return
        self._logged.add(customer)
        logger().warning("forwarded headers of a peer that is no trusted proxy", address=peer)


def _hops(lines: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """From the last to the first; of a longer list, those that were added last."""
    whole = b",".join(value for name, value in lines if name == _FOR)
    return [hop.strip() for hop in whole.decode("latin-1").rsplit(",", FORWARDED_HOPS_MAX)[::-1]][
        :FORWARDED_HOPS_MAX
    ]


def _address_of(hop: str) -> str | None:
    match = _HOP.fullmatch(hop)
    if match is None:
        return None
    try:
        parsed = ipaddress.ip_address(match[1] or match[2] or match[3])
    except ValueError:
        return None
    # One sender must not have two spellings.
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    return str(mapped or parsed)
