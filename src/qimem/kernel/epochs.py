"""Epochs: how a worker knows that what it remembers is still true.

Every realm has one counter, bumped in the same transaction as any change that a decision may
depend on. A request asks for the realm's epoch before its first decision; the answer is at least as
new as the question, so a change acknowledged before the request was sent is always seen. Epochs are
compared by inequality: after a restore they may go backwards, and `incarnation` then differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from qimem.kernel.ids import RealmId
from qimem.kernel.limits import CACHED_ENTRIES_PER_REALM_MAX, CACHED_REALMS_MAX
from qimem.kernel.transaction import Database, Tx

V = TypeVar("V")


class Epoch(NamedTuple):
    """State of a realm at one moment: equal epochs mean equal state."""

    incarnation: bytes
    number: int


class EpochSource(Protocol):
    """The storage side: reads and moves epochs."""

    async def current(self, realm_id: RealmId) -> Epoch | None:
        """The realm's epoch, read after this call began; None when there is no such realm.

        Raises:
            Unavailable: `storage_unavailable`; then nothing may be decided from memory.
        """
        ...

    def at(self, tx: Tx, realm_id: RealmId) -> Epoch | None:
        """The realm's epoch in this snapshot."""
        ...

    def bump(self, tx: Tx, realm_id: RealmId) -> None:
        """Make every worker forget what it knows of the realm, from this commit on."""
        ...


class RealmCache:
    """What is remembered about one realm under one epoch.

    Entries are looked up by a kind and a key; keys are tuples or scalars, never concatenated text,
    so that no crafted name reaches another entry.
    """

    __slots__ = ("_database", "_entries", "_epochs", "_weight", "epoch", "realm_id")

    def __init__(self, realm_id: RealmId, epoch: Epoch, database: Database, epochs: EpochSource) -> None:
        self.realm_id = realm_id
        self.epoch = epoch
        self._database = database
        self._epochs = epochs
        self._entries: dict[tuple[str, object], object] = {}
        self._weight = 0

    def find(self, kind: str, key: object) -> Any | None:
        """The remembered value, or None."""
        return self._entries.get((kind, key))

    def keep(self, kind: str, key: object, value: object, *, weight: int = 1) -> None:
        """Remember a value that was derived from this cache's own epoch; it counts as `weight` entries.

        What a realm's administrator can make as large as they like must not fill the memory of all.
        """
        if self._weight + weight > CACHED_ENTRIES_PER_REALM_MAX:
            # Dropping everything is rare and cheap to refill; tracking recency on every hit is neither.
            self._entries.clear()
            self._weight = 0
        self._entries[kind, key] = value
        self._weight += weight

    async def get(
        self,
        kind: str,
        key: object,
        load: Callable[[Tx], V | None],
        weigh: Callable[[V], int] = lambda _: 1,
    ) -> V | None:
        """The remembered value, or what `load` finds in one snapshot; absence is not remembered.

        A value read from a newer snapshot than this cache's epoch is used for this request only.
        """
        found = self._entries.get((kind, key))
        if found is not None:
            return cast("V", found)
        epoch, value = await self._database.read(lambda tx: (self._epochs.at(tx, self.realm_id), load(tx)))
        if value is not None and epoch == self.epoch:
            self.keep(kind, key, value, weight=weigh(value))
        return value


class RealmCaches:
    """The worker's memory of realms, each valid for exactly one epoch; those filled longest ago go first.

    Args:
        forget: Told of a realm that was there and is no more.
    """

    def __init__(
        self, database: Database, epochs: EpochSource, forget: Callable[[RealmId], None] = lambda _: None
    ) -> None:
        self._database = database
        self._epochs = epochs
        self._forget = forget
        self._caches: dict[RealmId, RealmCache] = {}

    async def fresh(self, realm_id: RealmId) -> RealmCache | None:
        """The cache to decide from: empty if the realm changed since it was last asked for.

        Returns:
            None when there is no such realm.

        Raises:
            Unavailable: the epoch could not be read.
        """
        epoch = await self._epochs.current(realm_id)
        cache = self._caches.get(realm_id)
        if cache is not None and cache.epoch == epoch:
            return cache
        if epoch is None:
            if self._caches.pop(realm_id, None) is not None:
                self._forget(realm_id)
            return None
        cache = RealmCache(realm_id, epoch, self._database, self._epochs)
        self._caches.pop(realm_id, None)
        self._caches[realm_id] = cache
        if len(self._caches) > CACHED_REALMS_MAX:
            del self._caches[next(iter(self._caches))]
        return cache
