"""Epochs by lease on PostgreSQL: what a query told is believed for a tenth of a second.

Time runs from before the query was sent, so what another node acknowledged is seen at most a lease later, also by a
node that is cut off: nothing has to reach it. Every request compares for itself. A process that stood still, or a
machine that slept, finds its lease over when it wakes and asks anew.

One query tells the epochs of all realms that were asked for lately, again and again while there are any. A realm
that is not among them, a lease that is over, and every request that changes something get a strict read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import Context

from qimem.errors import Unavailable
from qimem.kernel import freshness
from qimem.kernel.clock import seconds_since_boot
from qimem.kernel.epochs import Epoch, EpochSource
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import (
    LEASE_IDLE_SECONDS,
    LEASE_POLL_SECONDS,
    LEASE_RETRY_SECONDS,
    LEASE_SECONDS,
    LEASED_REALMS_MAX,
)
from qimem.kernel.transaction import Tx
from qimem.storage.postgres import PostgresDatabase


class _Lease:
    """What a query told of a realm.

    Args:
        sent: A moment before the query was sent.
    """

    __slots__ = ("epoch", "sent", "used")

    def __init__(self, epoch: Epoch, sent: float) -> None:
        self.epoch = epoch
        self.sent = sent
        self.used = sent

    def renew(self, epoch: Epoch, sent: float) -> None:
        """Take what a query told, unless one that was sent later has told already."""
        if sent > self.sent:
            self.epoch, self.sent = epoch, sent


class LeasedEpochs:
    """Implements the epoch source port. Belongs to one loop."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._leases: dict[RealmId, _Lease] = {}
        self._polling: asyncio.Task[None] | None = None

    async def current(self, realm_id: RealmId) -> Epoch | None:
        """The realm's epoch: for requests that change nothing at most a lease old, else read after this call began.

        Raises:
            Unavailable: the lease is over, and no answer came in time.
        """
        now = seconds_since_boot()
        lease = self._leases.get(realm_id)
        if lease is not None and freshness.may_lag():
            lease.used = now
            if lease.sent > now - LEASE_SECONDS and lease.sent > self._database.changed_at:
                return lease.epoch
        epoch = await self._database.current(realm_id)
        self._note(realm_id, epoch, now)
        return epoch

    def at(self, tx: Tx, realm_id: RealmId) -> Epoch | None:
        """The realm's epoch in this snapshot."""
        return self._database.at(tx, realm_id)

    def bump(self, tx: Tx, realm_id: RealmId) -> None:
        """Make every worker forget what it knows of the realm, from this commit on."""
        self._database.bump(tx, realm_id)

    def _note(self, realm_id: RealmId, epoch: Epoch | None, sent: float) -> None:
        lease = self._leases.get(realm_id)
        if epoch is None:
            # Never kept: a stranger could name realms without end.
            self._leases.pop(realm_id, None)
        elif lease is not None:
            # Also by a strict read: what comes after it on this worker must not see less than it saw.
            lease.renew(epoch, sent)
        elif freshness.may_lag() and len(self._leases) < LEASED_REALMS_MAX:
            self._leases[realm_id] = _Lease(epoch, sent)
            if self._polling is None:
                # Not as a part of this request, whose patience ends with it.
                self._polling = asyncio.get_running_loop().create_task(self._poll(), context=Context())

    async def _poll(self) -> None:
        try:
            await self._renew()
        finally:
            self._polling = None

    async def _renew(self) -> None:
        while self._leases:
            sent = seconds_since_boot()
            try:
                epochs = await self._database.current_of_all(list(self._leases))
            except Unavailable:
                # The leases run out, and requests ask for themselves.
                await asyncio.sleep(LEASE_RETRY_SECONDS)
            else:
                self._renew_all(epochs, sent)
                await asyncio.sleep(max(0.0, sent + LEASE_POLL_SECONDS - seconds_since_boot()))
            self._forget_idle()

    def _renew_all(self, epochs: Mapping[RealmId, Epoch], sent: float) -> None:
        for realm_id, lease in list(self._leases.items()):
            epoch = epochs.get(realm_id)
            if epoch is not None:
                lease.renew(epoch, sent)
            elif lease.sent < sent:
                del self._leases[realm_id]

    def _forget_idle(self) -> None:
        since = seconds_since_boot() - LEASE_IDLE_SECONDS
        for realm_id in [realm_id for realm_id, lease in self._leases.items() if lease.used < since]:
            del self._leases[realm_id]

    async def close(self) -> None:
        """Ask no more."""
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.cancel()
            await asyncio.wait({polling})


class BoundedPostgresDatabase(PostgresDatabase):
    """PostgreSQL whose epochs are believed for the time of a lease where nothing is changed."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._leased = LeasedEpochs(self)

    @property
    def deciding(self) -> EpochSource:
        """Where decisions ask."""
        return self._leased

    async def close(self) -> None:
        """Finish what runs and close every connection."""
        await self._leased.close()
        await super().close()
