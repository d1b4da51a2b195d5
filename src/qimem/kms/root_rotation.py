"""From one root key to the next while servers run: two generations, until nothing is wrapped under the old one.

    one key ──begin──▶ two keys ──rewrap, in batches──▶ two keys, the old one unused ──retire──▶ one key

Each arrow is a transaction that is conditional on what it found, so any number of processes may be at it, and be
killed at any moment: whoever comes next goes on from what the database says. The database itself keeps a generation
from going away while something refers to it. Files are none of its business: who calls has made the new key durable
before `begin`, and lets go of the old one after `retire`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from qimem.crypto.wrap import UnwrapFailed
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import ROOT_ROTATION_BATCH
from qimem.kernel.transaction import Database, Tx
from qimem.kms.hierarchy import RootKey
from qimem.kms.models import WrappedKek
from qimem.kms.root_keys import Generation

Position = tuple[str, int]
"""Realm and version, for going on behind it."""

_START: Position = ("", 0)


class RootKeyStore(Protocol):
    """Generations of the root key, and what is wrapped under them."""

    def generations(self, tx: Tx) -> Sequence[Generation]:
        """The root keys in use, newest first."""
        ...

    def begin(self, tx: Tx, new: Generation) -> bool:
        """Add a generation; False when there is one of its number or its key."""
        ...

    def keks(
        self, tx: Tx, generation: int, after: Position, limit: int
    ) -> Sequence[tuple[RealmId, WrappedKek]]:
        """Keys wrapped under the generation, by realm and version, after a position."""
        ...

    def count(self, tx: Tx, generation: int) -> int:
        """How many keys are wrapped under the generation."""
        ...

    def rewrap(self, tx: Tx, realm_id: RealmId, old: bytes, new: WrappedKek) -> bool:
        """Put `new` in the place of `old`; False when that is not what stands there."""
        ...

    def retire(self, tx: Tx, old: Generation, new: Generation) -> bool:
        """Let the new generation be the only one; False while something is wrapped under the old one."""
        ...


@dataclass(slots=True)
class Rewrapped:
    """What one walk over the keys did.

    Args:
        count: Keys that are now wrapped under the new root key.
        damaged: Realms with a key that the old root key does not open; they are left as they are.
    """

    count: int = 0
    damaged: list[RealmId] = field(default_factory=list)


class Rewrapping:
    """Moves everything from one root key to the next.

    Args:
        database: Of the installation.
        store: Its generations.
        old: What the keys are wrapped under.
        new: What they are to be wrapped under.
        generation: The number of the old one; the new one has the next.
    """

    def __init__(
        self, database: Database, store: RootKeyStore, old: RootKey, new: RootKey, generation: int
    ) -> None:
        self._database = database
        self._store = store
        self._old = old
        self._new = new
        self._generation = generation

    async def batch(self, after: Position, done: Rewrapped) -> Position | None:
        """Move the next few; where to go on, or None at the end.

        Raises:
            Unavailable: see `Database.write`; what was moved before stays moved.
        """
        found = await self._database.read(
            lambda tx: self._store.keks(tx, self._generation, after, ROOT_ROTATION_BATCH)
        )
        if not found:
            return None
        # Outside of the transaction: servers wait for the lock that it takes.
        moved = list(self._moved(found, done))

        def put(tx: Tx) -> int:
            # Not where the row was changed meanwhile: a realm may have been destroyed, and must not come back.
            return sum(self._store.rewrap(tx, realm_id, old, new) for realm_id, old, new in moved)

        if moved:
            done.count += await self._database.write(put)
        realm_id, last = found[-1]
        return realm_id, last.version

    async def walk(self) -> Rewrapped:
        """Move all that is there.

        Raises:
            Unavailable: see `Database.write`; what was moved before stays moved.
        """
        done = Rewrapped()
        at: Position | None = _START
        while at is not None:
            at = await self.batch(at, done)
        return done

    def _moved(
        self, found: Iterable[tuple[RealmId, WrappedKek]], done: Rewrapped
    ) -> Iterable[tuple[RealmId, bytes, WrappedKek]]:
        for realm_id, kek in found:
            try:
                wrapped = self._rewrapped(realm_id, kek)
            except UnwrapFailed:
                done.damaged.append(realm_id)
            else:
                yield realm_id, kek.wrapped, WrappedKek(kek.version, wrapped, self._generation + 1)

    def _rewrapped(self, realm_id: RealmId, kek: WrappedKek) -> bytes:
        if not any(kek.wrapped):
            # The key of a deleted realm, overwritten; its row is still to be removed.
            return kek.wrapped
        opened = self._old.unwrap_kek(realm_id, kek.version, kek.wrapped)
        try:
            wrapped = self._new.wrap_kek(opened)
            # Before the only other copy is overwritten: memory that lost a bit would lose a realm.
            again = self._new.unwrap_kek(realm_id, kek.version, wrapped)
            same = again.key.equals(opened.key.reveal())
            again.key.wipe()
        finally:
            opened.key.wipe()
        if not same:
            raise UnwrapFailed
        return wrapped
