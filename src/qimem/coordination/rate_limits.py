"""Who may ask for how much: tiers of clients, the allowance of addresses, and the buckets that are charged."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Final, Protocol

from qimem.coordination.window_table import BUCKET_BYTES
from qimem.crypto.mac import digest
from qimem.kernel.addresses import customer_of
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.limits import REMEMBERED_BUCKETS_MAX
from qimem.kernel.metering import Allowance, Charge

# The first byte of a bucket, in order of worth: see `WindowTable.charge`.
_ADDRESS: Final = b"a"
_CLIENT: Final = b"c"


class Counter(Protocol):
    """Counts charges of buckets: in memory (`window_table`) or in a server for several nodes (`valkey_counter`)."""

    key: bytes
    """Goes into the name of each bucket."""

    def charge(self, bucket: bytes, units: int, allowance: Allowance) -> Charge | Awaitable[Charge]:
        """Take units of what is left in the bucket's window: all of them or none. Never fails."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


class RateLimits:
    """Charges requests to the best identity that was proven.

    Args:
        counter: Counts them.
        tiers: Name → what a client of the tier may use; at least one.
        addresses: What an address may use without being anybody; of IPv6 a whole /64.
    """

    def __init__(self, counter: Counter, tiers: Mapping[str, Allowance], addresses: Allowance) -> None:
        self._counter = counter
        self._tiers = tiers
        self._addresses = addresses
        # A tier that the configuration does not know any more must not set anybody free.
        self._strictest = min(tiers.values(), key=lambda tier: tier.limit / tier.window_seconds)
        self._clients: dict[tuple[str, str], bytes] = {}
        self._customers: dict[str, bytes] = {}

    async def charge_client(self, realm_id: RealmId, client_id: ClientId, tier: str, units: int) -> Charge:
        """Charge a client that was proven; negative units are given back."""
        key = realm_id, client_id
        bucket = self._clients.get(key)
        if bucket is None:
            bucket = self._remembered(self._clients, key, _CLIENT, f"{len(realm_id)}:{realm_id}{client_id}")
        charge = self._counter.charge(bucket, units, self._tiers.get(tier, self._strictest))
        return charge if isinstance(charge, Charge) else await charge

    async def charge_address(self, address: str, units: int) -> Charge:
        """Charge whoever is behind an address; negative units are given back."""
        bucket = self._customers.get(address)
        if bucket is None:
            bucket = self._remembered(self._customers, address, _ADDRESS, customer_of(address))
        charge = self._counter.charge(bucket, units, self._addresses)
        return charge if isinstance(charge, Charge) else await charge

    def _remembered(self, buckets: dict[Any, bytes], key: object, kind: bytes, name: str) -> bytes:
        if len(buckets) >= REMEMBERED_BUCKETS_MAX:
            buckets.clear()
        # Under a secret key a digest of what follows is as good as a MAC here: nobody sees buckets.
        bucket = buckets[key] = kind + digest(self._counter.key + name.encode())[: BUCKET_BYTES - len(kind)]
        return bucket
