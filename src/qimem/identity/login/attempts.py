"""How often somebody may try to sign in as somebody: counted before the password is looked at, and in the database.

Counted before, so that guesses made at once are counted too (Keycloak CVE-2024-4629); in the database, so that
neither a restart nor another worker begins anew; by the name as compared, so that no spelling has a count of its own
(Vault CVE-2025-6004); and for names that nobody has as well, so that a count tells nothing.

Three counts fall by one in each period, and a good login ends them:

- of a name and an address. Full, it answers 429: whoever guesses is told to stop.
- of who is signed in, at their own password and codes: who guesses at the name outside takes nothing from it.
- of a name, wherever from. Full, the account is locked for strangers: the answer is that of a wrong password, after
  the same work, and the password is not looked at. From an address where this user has signed in of late, the
  account is not locked: who guesses from everywhere cannot keep its owner out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from qimem.errors import Limited
from qimem.identity.ports import AttemptStore
from qimem.kernel.addresses import customer_of
from qimem.kernel.clock import MICROSECONDS, Clock, SteadyTime
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import (
    ATTEMPT_PERIOD_SECONDS,
    ATTEMPTS_PER_ADDRESS_MAX,
    ATTEMPTS_PER_NAME_MAX,
    KNOWN_ADDRESS_NOTED_SECONDS,
    KNOWN_ADDRESS_SECONDS,
)
from qimem.kernel.transaction import Database, Tx


class AttemptKind(StrEnum):
    """What is counted."""

    BY_ADDRESS = "by_address"
    BY_NAME = "by_name"
    KNOWN_ADDRESS = "known_address"
    BY_ONESELF = "by_oneself"


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """A count.

    Args:
        key: What it counts, as a tuple of parts.
        count: As it was at `updated_us`.
        expires_us: When it says nothing any more.
    """

    realm_id: RealmId
    kind: AttemptKind
    key: tuple[str, ...]
    count: int
    updated_us: int
    expires_us: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One that was counted.

    Args:
        locked: The password must not be looked at.
    """

    realm_id: RealmId
    username_key: str
    address: str
    locked: bool


class LoginAttempts:
    """Counts attempts."""

    def __init__(self, database: Database, store: AttemptStore, clock: Clock) -> None:
        self._database = database
        self._store = store
        # A clock that jumps ahead must not open what was locked.
        self._time = SteadyTime(clock)

    async def begin(self, realm_id: RealmId, username_key: str, address: str) -> Attempt:
        """Count an attempt to sign in under a name.

        Args:
            realm_id: Where.
            username_key: The name as compared, whether anybody has it or not.
            address: Of the peer.

        Raises:
            Limited: `too_many_attempts` from this address at this name.
            Unavailable: it cannot be counted; then nobody may try.
        """
        peer = customer_of(address)

        def count(tx: Tx) -> bool | Limited:
            now_us = self._time.now_us()
            here = self._count(tx, realm_id, AttemptKind.BY_ADDRESS, (username_key, peer), now_us)
            if here.count >= ATTEMPTS_PER_ADDRESS_MAX:
                return _full(here, now_us)
            everywhere = self._count(tx, realm_id, AttemptKind.BY_NAME, (username_key,), now_us)
            full = everywhere.count >= ATTEMPTS_PER_NAME_MAX
            locked = full and not self._knows(tx, realm_id, username_key, peer, now_us)
            self._add(tx, here)
            if not full:
                self._add(tx, everywhere)
            return locked

        counted = await self._database.write(count)
        if isinstance(counted, Limited):
            raise counted
        return Attempt(realm_id, username_key, peer, locked=counted)

    async def begin_by_oneself(self, realm_id: RealmId, subject: str) -> None:
        """Count an attempt of somebody who is signed in at their own password or code.

        Raises:
            Limited: `too_many_attempts`.
            Unavailable: it cannot be counted; then nobody may try.
        """

        def count(tx: Tx) -> Limited | None:
            now_us = self._time.now_us()
            own = self._count(tx, realm_id, AttemptKind.BY_ONESELF, (subject,), now_us)
            if own.count >= ATTEMPTS_PER_ADDRESS_MAX:
                return _full(own, now_us)
            self._add(tx, own)
            return None

        refused = await self._database.write(count)
        if refused is not None:
            raise refused

    async def succeeded_by_oneself(self, realm_id: RealmId, subject: str) -> None:
        """It was not a guess.

        Raises:
            Unavailable: it cannot be written.
        """
        await self._database.write(
            lambda tx: self._store.delete(tx, realm_id, AttemptKind.BY_ONESELF, (subject,))
        )

    def forget_name(self, tx: Tx, realm_id: RealmId, username_key: str) -> None:
        """Unlock an account: an administrator has looked after it."""
        self._store.delete(tx, realm_id, AttemptKind.BY_NAME, (username_key,))

    async def succeeded(self, attempt: Attempt) -> None:
        """The user signed in: what was counted was not a guess.

        Raises:
            Unavailable: it cannot be written.
        """

        def forget(tx: Tx) -> None:
            now_us, key = self._time.now_us(), (attempt.username_key, attempt.address)
            self._store.delete(tx, attempt.realm_id, AttemptKind.BY_ADDRESS, key)
            self._store.delete(tx, attempt.realm_id, AttemptKind.BY_NAME, (attempt.username_key,))
            known = self._store.find(tx, attempt.realm_id, AttemptKind.KNOWN_ADDRESS, key)
            if known is None or now_us - known.updated_us > KNOWN_ADDRESS_NOTED_SECONDS * MICROSECONDS:
                expires_us = now_us + KNOWN_ADDRESS_SECONDS * MICROSECONDS
                row = AttemptRow(attempt.realm_id, AttemptKind.KNOWN_ADDRESS, key, 1, now_us, expires_us)
                self._store.put(tx, row)

        await self._database.write(forget)

    def _count(
        self, tx: Tx, realm_id: RealmId, kind: AttemptKind, key: tuple[str, ...], now_us: int
    ) -> AttemptRow:
        """The count as it is now; it falls in whole periods, the next of which is under way since `updated_us`."""
        row = self._store.find(tx, realm_id, kind, key)
        if row is None:
            return AttemptRow(realm_id, kind, key, 0, now_us, now_us)
        period_us = ATTEMPT_PERIOD_SECONDS * MICROSECONDS
        if row.updated_us > now_us + period_us:
            # Written by a clock that is ahead of this one: left so, it would not fall until time has caught up.
            row = replace(row, updated_us=now_us, expires_us=now_us + row.count * period_us)
            self._store.put(tx, row)
        periods = max(0, now_us - row.updated_us) // period_us
        if periods >= row.count:
            return replace(row, count=0, updated_us=now_us)
        return replace(row, count=row.count - periods, updated_us=row.updated_us + periods * period_us)

    def _add(self, tx: Tx, row: AttemptRow) -> None:
        count = row.count + 1
        expires_us = row.updated_us + count * ATTEMPT_PERIOD_SECONDS * MICROSECONDS
        self._store.put(tx, replace(row, count=count, expires_us=expires_us))

    def _knows(self, tx: Tx, realm_id: RealmId, username_key: str, peer: str, now_us: int) -> bool:
        known = self._store.find(tx, realm_id, AttemptKind.KNOWN_ADDRESS, (username_key, peer))
        return known is not None and now_us < known.expires_us


def _full(row: AttemptRow, now_us: int) -> Limited:
    """The refusal; returned and not raised, so that what was put right about the count stays."""
    # The period under way has begun at `updated_us`, or later than that by a clock set back.
    passed = max(0, now_us - row.updated_us) // MICROSECONDS
    seconds = max(1, ATTEMPT_PERIOD_SECONDS - passed)
    return Limited("too many attempts", code="too_many_attempts", retry_after_seconds=seconds)
