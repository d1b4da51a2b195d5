from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from qimem.errors import Conflict, Unavailable, outcome_unknown, storage_unavailable
from qimem.kernel import patience
from qimem.kernel.limits import LEASE_BLOCK_MAX, LEASE_BLOCK_MIN, MESSAGES_PER_VERSION_MAX
from qimem.kms.leases import MessageLease
from tests.unit.kms.fakes import ACME, FakeDatabase, FakeKeys

pytestmark = pytest.mark.anyio

KEY = UUID(int=1)


class Setting:
    """A database in which one version's messages are counted, and workers that lease of them."""

    def __init__(self, limit: int = MESSAGES_PER_VERSION_MAX) -> None:
        self.database = FakeDatabase()
        self.store = FakeKeys(self.database)
        self.store.limit = limit

    @property
    def leased(self) -> int:
        return self.database.state.leased.get((ACME, KEY), 0)

    async def take(self, lease: MessageLease, count: int = 1) -> int:
        """Take messages one by one; how many there were before the limit."""
        for taken in range(count):
            try:
                await lease.take_leasing(self.database, self.store)
            except Conflict:
                return taken
        return count


def a_lease() -> MessageLease:
    return MessageLease(ACME, KEY)


def test_a_new_lease_has_nothing_to_give() -> None:
    assert not a_lease().take()


async def test_a_whole_block_is_leased_at_once_and_used_without_the_database() -> None:
    setting, lease = Setting(), a_lease()
    await setting.take(lease)
    assert setting.leased == LEASE_BLOCK_MIN
    assert all(lease.take() for _ in range(LEASE_BLOCK_MIN - 1))
    assert not lease.take()
    assert setting.database.writes == 1


async def test_blocks_double_with_use_up_to_the_greatest() -> None:
    setting, lease = Setting(), a_lease()
    blocks = []
    for _ in range(14):
        before = setting.leased
        await setting.take(lease)
        blocks.append(setting.leased - before)
        lease.remaining = 0
    doubling = [LEASE_BLOCK_MIN * 2**turn for turn in range(11)]
    assert blocks == [*doubling, LEASE_BLOCK_MAX, LEASE_BLOCK_MAX, LEASE_BLOCK_MAX]
    assert doubling[-1] == LEASE_BLOCK_MAX


async def test_what_was_not_used_is_given_back() -> None:
    setting, lease = Setting(), a_lease()
    await setting.take(lease, 10)
    assert lease.give_back() == LEASE_BLOCK_MIN - 10
    assert not lease.take()


async def test_giving_back_twice_gives_back_once() -> None:
    setting, lease = Setting(), a_lease()
    await setting.take(lease, 10)
    assert (lease.give_back(), lease.give_back()) == (LEASE_BLOCK_MIN - 10, 0)


async def test_a_crash_loses_no_more_than_a_block() -> None:
    setting = Setting(limit=3 * LEASE_BLOCK_MIN)
    # Two workers die with most of their blocks unused; what they took counts as used.
    for _ in range(2):
        assert await setting.take(a_lease(), 5) == 5
    assert await setting.take(a_lease(), 4 * LEASE_BLOCK_MIN) == LEASE_BLOCK_MIN


async def test_exactly_the_limit_can_be_taken() -> None:
    setting = Setting(limit=5 * LEASE_BLOCK_MIN + 3)
    assert await setting.take(a_lease(), 10 * LEASE_BLOCK_MIN) == 5 * LEASE_BLOCK_MIN + 3
    assert setting.leased == setting.store.limit


async def test_an_exhausted_version_is_named_and_stays_exhausted() -> None:
    setting, lease = Setting(limit=1), a_lease()
    await setting.take(lease)
    for _ in range(3):
        with pytest.raises(Conflict) as refusal:
            await lease.take_leasing(setting.database, setting.store)
        assert (refusal.value.message, refusal.value.code) == (f"key exhausted: {KEY}", "key_exhausted")
        assert refusal.value.hint == "rotate the key"


async def test_many_at_once_lease_one_block() -> None:
    setting, lease = Setting(), a_lease()
    taken = await asyncio.gather(*(setting.take(lease) for _ in range(200)))
    assert sum(taken) == 200
    assert (setting.database.writes, lease.remaining) == (1, LEASE_BLOCK_MIN - 200)


async def test_many_at_once_get_no_more_than_there_is() -> None:
    setting, lease = Setting(limit=7), a_lease()
    taken = await asyncio.gather(*(setting.take(lease) for _ in range(50)))
    assert sum(taken) == 7
    assert (setting.leased, lease.remaining) == (7, 0)


async def test_workers_together_pass_no_limit() -> None:
    setting = Setting(limit=2 * LEASE_BLOCK_MIN + 100)
    leases = [a_lease() for _ in range(4)]
    taken = await asyncio.gather(*(setting.take(lease, LEASE_BLOCK_MIN) for lease in leases))
    assert sum(taken) == setting.store.limit == setting.leased


@pytest.mark.parametrize("failure", [storage_unavailable(), outcome_unknown()], ids=lambda error: error.code)
async def test_without_the_database_nothing_is_taken(failure: Unavailable) -> None:
    setting, lease = Setting(), a_lease()
    setting.database.failure = failure
    with pytest.raises(Unavailable) as caught:
        await lease.take_leasing(setting.database, setting.store)
    # Nothing was encrypted, whatever became of the block: "outcome unknown" would be untrue.
    assert caught.value.code == "storage_unavailable"
    assert lease.remaining == 0
    setting.database.failure = None
    assert await setting.take(lease) == 1
    assert setting.leased == LEASE_BLOCK_MIN


async def test_a_failure_releases_those_who_wait() -> None:
    setting, lease = Setting(), a_lease()
    setting.database.failure = storage_unavailable()
    waiting = [asyncio.ensure_future(lease.take_leasing(setting.database, setting.store)) for _ in range(5)]
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert [type(result) for result in results] == [Unavailable] * 5


async def test_those_who_waited_for_a_failure_do_not_wait_for_another_one() -> None:
    setting, lease = Setting(), a_lease()
    attempts: list[int] = []

    async def hang(_: object) -> None:
        attempts.append(1)
        await asyncio.sleep(0)
        raise storage_unavailable()

    setting.database.write = hang  # type: ignore[method-assign,assignment]
    waiting = [asyncio.ensure_future(lease.take_leasing(setting.database, setting.store)) for _ in range(5)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 5
    assert len(attempts) == 1


async def test_one_who_gives_up_waiting_holds_nobody_up() -> None:
    setting, lease = Setting(), a_lease()
    impatient = asyncio.ensure_future(setting.take(lease))
    await asyncio.sleep(0)
    patient = asyncio.ensure_future(setting.take(lease))
    impatient.cancel()
    assert await asyncio.wait_for(patient, 5) == 1


async def test_who_waits_for_a_lease_waits_no_longer_than_for_storage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "BACKGROUND_ANSWER_SECONDS", 0.1)
    setting, lease = Setting(), a_lease()
    going_on = asyncio.Event()
    write = setting.database.write

    async def slowly(work: Any) -> Any:
        await going_on.wait()
        return await write(work)

    setting.database.write = slowly  # type: ignore[method-assign,assignment]
    first = asyncio.ensure_future(setting.take(lease))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(lease.take_leasing(setting.database, setting.store), 1)
    going_on.set()
    assert await first == 1
    assert await asyncio.wait_for(setting.take(lease), 1) == 1
