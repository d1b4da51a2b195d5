"""Attempts are counted before anything is judged; nobody is kept out for ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, cast

import pytest

from qimem.errors import Limited
from qimem.identity.login.attempts import Attempt, AttemptKind, AttemptRow, LoginAttempts
from qimem.kernel.clock import ManualClock
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import (
    ATTEMPT_PERIOD_SECONDS,
    ATTEMPTS_PER_ADDRESS_MAX,
    ATTEMPTS_PER_NAME_MAX,
    KNOWN_ADDRESS_SECONDS,
)
from qimem.kernel.transaction import Tx

pytestmark = pytest.mark.anyio

T = TypeVar("T")
ACME, OTHER = RealmId("acme"), RealmId("other")
Slot = tuple[RealmId, AttemptKind, tuple[str, ...]]


class FakeStore:
    """Rows in memory; a transaction is the call itself."""

    def __init__(self) -> None:
        self.rows: dict[Slot, AttemptRow] = {}

    def find(self, tx: Tx, realm_id: RealmId, kind: AttemptKind, key: tuple[str, ...]) -> AttemptRow | None:
        return self.rows.get((realm_id, kind, key))

    def put(self, tx: Tx, row: AttemptRow) -> None:
        self.rows[row.realm_id, row.kind, row.key] = row

    def delete(self, tx: Tx, realm_id: RealmId, kind: AttemptKind, key: tuple[str, ...]) -> None:
        self.rows.pop((realm_id, kind, key), None)

    async def write(self, fn: Callable[[Tx], T]) -> T:
        return fn(cast("Tx", None))

    async def read(self, fn: Callable[[Tx], T]) -> T:
        return fn(cast("Tx", None))


class Door:
    """A door, and how often somebody knocks before nobody answers."""

    def __init__(self) -> None:
        self.store, self.clock = FakeStore(), ManualClock()
        self.attempts = LoginAttempts(self.store, self.store, self.clock)

    def reopened(self) -> None:
        """As after a restart."""
        self.attempts = LoginAttempts(self.store, self.store, self.clock)

    async def knock(self, address: str = "10.0.0.1", name: str = "ada", realm_id: RealmId = ACME) -> Attempt:
        return await self.attempts.begin(realm_id, name, address)

    async def until_refused(self, *asked: str) -> int:
        for count in range(1_000):
            try:
                await self.knock(*asked)
            except Limited:
                return count
        return -1

    async def until_locked(self) -> int:
        for count in range(1_000):
            if (await self.knock(f"10.1.{count // 250}.{count % 250}")).locked:
                return count
        return -1


@pytest.fixture
def door() -> Door:
    return Door()


async def test_so_many_from_one_address_and_then_one_in_each_period(door: Door) -> None:
    assert await door.until_refused() == ATTEMPTS_PER_ADDRESS_MAX
    for _ in range(3):
        door.clock.advance(ATTEMPT_PERIOD_SECONDS - 1)
        assert await door.until_refused() == 0
        door.clock.advance(1)
        assert await door.until_refused() == 1


async def test_who_is_refused_is_told_how_long_to_wait(door: Door) -> None:
    await door.until_refused()
    door.clock.advance(20)
    with pytest.raises(Limited) as caught:
        await door.knock()
    assert (caught.value.code, caught.value.message) == ("too_many_attempts", "too many attempts")
    wait = caught.value.retry_after_seconds
    assert wait == ATTEMPT_PERIOD_SECONDS - 20
    door.clock.advance(wait)
    await door.knock()


async def test_refused_attempts_prolong_nothing(door: Door) -> None:
    await door.until_refused()
    for _ in range(ATTEMPT_PERIOD_SECONDS - 1):
        door.clock.advance(1)
        assert await door.until_refused() == 0
    door.clock.advance(1)
    assert await door.until_refused() == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8:0:1::1"), ("10.0.0.1", "")],
)
async def test_another_address_has_a_count_of_its_own(door: Door, one: str, other: str) -> None:
    await door.until_refused(one)
    assert await door.until_refused(other) == ATTEMPTS_PER_ADDRESS_MAX


async def test_the_addresses_of_one_customer_share_a_count(door: Door) -> None:
    await door.until_refused("2001:db8::1")
    assert await door.until_refused("2001:db8::ffff:2") == 0


async def test_names_and_realms_have_counts_of_their_own(door: Door) -> None:
    await door.until_refused()
    assert await door.until_refused("10.0.0.1", "bob") == ATTEMPTS_PER_ADDRESS_MAX
    await door.knock(realm_id=OTHER)
    # No two pairs of parts are one.
    assert await door.until_refused(".1", "ada10.0.0") == ATTEMPTS_PER_ADDRESS_MAX


async def test_from_many_addresses_the_account_is_locked_and_not_for_ever(door: Door) -> None:
    assert await door.until_locked() == ATTEMPTS_PER_NAME_MAX
    assert (await door.knock("10.9.9.9")).locked
    assert not (await door.knock("10.9.9.9", "bob")).locked
    door.clock.advance(ATTEMPT_PERIOD_SECONDS)
    assert not (await door.knock("10.9.9.8")).locked
    assert (await door.knock("10.9.9.7")).locked
    door.clock.advance(ATTEMPTS_PER_NAME_MAX * ATTEMPT_PERIOD_SECONDS)
    assert await door.until_locked() == ATTEMPTS_PER_NAME_MAX


async def test_the_owner_comes_in_from_where_they_were(door: Door) -> None:
    await door.attempts.succeeded(await door.knock("10.7.7.7"))
    await door.until_locked()
    attempt = await door.knock("10.7.7.7")
    assert not attempt.locked
    assert (await door.knock("10.7.7.8")).locked
    # And no other one does.
    assert not (await door.knock("10.7.7.7", "bob")).locked
    door.clock.advance(KNOWN_ADDRESS_SECONDS - 1)
    await door.until_locked()
    assert not (await door.knock("10.7.7.7")).locked
    door.clock.advance(1)
    await door.until_locked()
    assert (await door.knock("10.7.7.7")).locked


async def test_a_known_address_gives_no_more_guesses_than_another(door: Door) -> None:
    await door.attempts.succeeded(await door.knock())
    await door.until_locked()
    assert await door.until_refused() == ATTEMPTS_PER_ADDRESS_MAX


async def test_a_good_login_ends_the_counts(door: Door) -> None:
    for _ in range(ATTEMPTS_PER_ADDRESS_MAX - 1):
        attempt = await door.knock()
    await door.attempts.succeeded(attempt)
    assert await door.until_refused() == ATTEMPTS_PER_ADDRESS_MAX
    assert {row.kind for row in door.store.rows.values()} == set(AttemptKind) - {AttemptKind.BY_ONESELF}


async def test_counts_survive_a_restart(door: Door) -> None:
    await door.until_refused()
    await door.until_locked()
    door.reopened()
    assert await door.until_refused() == 0
    assert (await door.knock("10.9.9.9")).locked


@pytest.mark.parametrize("days", [1, -1])
async def test_a_clock_that_jumps_opens_nothing(door: Door, days: int) -> None:
    await door.until_refused()
    await door.until_locked()
    door.clock.wall_us += days * 86_400_000_000
    assert await door.until_refused() == 0
    assert (await door.knock("10.9.9.9")).locked


async def test_a_count_from_a_clock_that_is_ahead_falls_by_this_one(door: Door) -> None:
    await door.until_refused()
    for slot, row in list(door.store.rows.items()):
        door.store.rows[slot] = replace(row, updated_us=row.updated_us + 86_400_000_000)
    assert await door.until_refused() == 0
    door.clock.advance(ATTEMPT_PERIOD_SECONDS)
    assert await door.until_refused() <= 1
    door.clock.advance(ATTEMPTS_PER_ADDRESS_MAX * ATTEMPT_PERIOD_SECONDS)
    assert await door.until_refused() >= ATTEMPTS_PER_ADDRESS_MAX - 1


async def test_who_is_signed_in_has_a_count_of_their_own(door: Door) -> None:
    await door.until_refused()
    for _ in range(ATTEMPTS_PER_ADDRESS_MAX):
        await door.attempts.begin_by_oneself(ACME, "subject")
    with pytest.raises(Limited):
        await door.attempts.begin_by_oneself(ACME, "subject")
    await door.attempts.begin_by_oneself(OTHER, "subject")
    await door.attempts.succeeded_by_oneself(ACME, "subject")
    await door.attempts.begin_by_oneself(ACME, "subject")


async def test_what_says_nothing_any_more_may_be_forgotten(door: Door) -> None:
    await door.knock()
    (row, other) = door.store.rows.values()
    assert row.expires_us == other.expires_us == door.clock.now_us() + ATTEMPT_PERIOD_SECONDS * 1_000_000
    await door.knock()
    assert {row.expires_us for row in door.store.rows.values()} == {
        door.clock.now_us() + 2 * ATTEMPT_PERIOD_SECONDS * 1_000_000
    }
