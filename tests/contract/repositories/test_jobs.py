"""Leases of background jobs and the deletion of expired rows, the same on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import IdempotencyRow, Slot
from qimem.storage.database import OpenDatabase
from qimem.storage.repositories.grants import GrantRepository
from qimem.storage.repositories.idempotency import IdempotencyRepository
from qimem.storage.repositories.jobs import ExpiredRowsRepository, JobRepository
from tests.contract.repositories.rows import ACME, HOUR, NOW, OTHER, a_grant, race, uid

pytestmark = pytest.mark.anyio

JOBS = JobRepository()
EXPIRED = ExpiredRowsRepository()
GRANTS = GrantRepository()
ANSWERS = IdempotencyRepository()
LEASE = 300_000_000


async def take(database: OpenDatabase, holder: str, now_us: int, name: str = "sweep") -> bool:
    return await database.write(
        lambda tx: JOBS.take(
            tx, name, holder=holder, now_us=now_us, lease_us=LEASE, due_before_us=now_us - HOUR
        )
    )


async def finish(database: OpenDatabase, holder: str, now_us: int) -> None:
    await database.write(lambda tx: JOBS.finish(tx, "sweep", holder=holder, now_us=now_us))


async def test_a_job_that_never_ran_is_taken_once(database: OpenDatabase) -> None:
    assert await take(database, "a", NOW)
    assert not await take(database, "b", NOW + 1)
    assert not await take(database, "a", NOW + 1)
    assert await take(database, "b", NOW, "another")


@pytest.mark.parametrize("round_", range(5))
async def test_of_eight_workers_one_takes_the_job(workers: list[OpenDatabase], round_: int) -> None:
    def work(tx: Tx) -> bool:
        return JOBS.take(tx, "sweep", holder="w", now_us=NOW, lease_us=LEASE, due_before_us=NOW - HOUR)

    assert sorted(await race(workers, work, 8)) == [False] * 7 + [True]


async def test_a_finished_job_waits_for_its_period(database: OpenDatabase) -> None:
    assert await take(database, "a", NOW)
    await finish(database, "a", NOW + 10)
    assert not await take(database, "b", NOW + 10 + HOUR - 1)
    assert await take(database, "b", NOW + 10 + HOUR)


async def test_the_job_of_a_dead_worker_is_taken_when_its_lease_ends(database: OpenDatabase) -> None:
    assert await take(database, "a", NOW)
    assert not await take(database, "b", NOW + LEASE - 1)
    assert await take(database, "b", NOW + LEASE)


async def test_who_lost_the_lease_cannot_end_it(database: OpenDatabase) -> None:
    assert await take(database, "a", NOW)
    assert await take(database, "b", NOW + LEASE)
    await finish(database, "a", NOW + LEASE + 1)
    assert not await take(database, "c", NOW + 2 * LEASE - 1)
    # Nor did its run count: it was somebody else's turn.
    assert await take(database, "c", NOW + 2 * LEASE)


async def release(database: OpenDatabase, holder: str) -> None:
    await database.write(lambda tx: JOBS.release(tx, "sweep", holder=holder))


async def test_a_job_that_was_given_back_is_due_as_it_was(database: OpenDatabase) -> None:
    assert await take(database, "a", NOW)
    await finish(database, "a", NOW)
    assert await take(database, "a", NOW + HOUR)
    await release(database, "a")
    # The last run is still the one before.
    assert not await take(database, "b", NOW + HOUR - 1)
    assert await take(database, "b", NOW + HOUR)


async def test_only_the_holder_gives_a_job_back(database: OpenDatabase) -> None:
    assert await take(database, "a", NOW)
    await release(database, "b")
    assert not await take(database, "b", NOW + 1)
    assert await take(database, "b", NOW + LEASE)
    await release(database, "a")
    assert not await take(database, "c", NOW + LEASE + 1)


async def test_finishing_what_was_never_taken_changes_nothing(database: OpenDatabase) -> None:
    await finish(database, "a", NOW)
    assert await take(database, "b", NOW)


async def test_stamps_of_a_clock_that_was_ahead_do_not_stop_the_job(database: OpenDatabase) -> None:
    day = 24 * HOUR
    assert await take(database, "a", NOW + day)
    assert await take(database, "b", NOW)
    await finish(database, "b", NOW + day)
    assert await take(database, "c", NOW)


async def test_clocks_of_two_nodes_may_differ_by_minutes(database: OpenDatabase) -> None:
    assert await take(database, "a", NOW)
    assert not await take(database, "b", NOW - LEASE)
    await finish(database, "a", NOW)
    assert not await take(database, "b", NOW - LEASE)


async def fill(database: OpenDatabase) -> None:
    """Ten dead tokens, ten answers and ten grants, expiring at NOW + 1 … NOW + 10."""

    def add(tx: Tx) -> None:
        for n in range(1, 11):
            realm_id = ACME if n % 2 else OTHER
            GRANTS.revoke_access_token(tx, realm_id, f"jti-{n}", NOW + n)
            ANSWERS.put(tx, an_answer(n))
            grant = a_grant(n, realm_id, f"app-{realm_id}")
            GRANTS.insert(tx, replace(grant, expires_us=NOW + n, revoked_us=NOW if n == 10 else None))

    await database.write(add)


def an_answer(number: int) -> IdempotencyRow:
    slot = Slot(ACME, "alice", "POST /", f"k{number}")
    return IdempotencyRow(slot, b"digest", None, "id", created_us=NOW, expires_us=NOW + number)


async def left(database: OpenDatabase) -> list[set[int]]:
    def look(tx: Tx) -> list[set[int]]:
        numbers = range(1, 11)
        realms = {n: ACME if n % 2 else OTHER for n in numbers}
        return [
            {n for n in numbers if GRANTS.is_access_token_revoked(tx, realms[n], f"jti-{n}")},
            {n for n in numbers if ANSWERS.find(tx, an_answer(n).slot) is not None},
            {n for n in numbers if GRANTS.find(tx, realms[n], uid(n)) is not None},
        ]

    return await database.read(look)


async def delete(database: OpenDatabase, before_us: int, limit: int) -> int:
    return await database.write(lambda tx: EXPIRED.delete_expired(tx, before_us=before_us, limit=limit))


async def test_only_what_expired_is_deleted(people: OpenDatabase) -> None:
    await fill(people)
    assert await delete(people, NOW, 1_000) == 0
    assert await delete(people, NOW + 4, 1_000) == 12
    assert await left(people) == [set(range(5, 11))] * 3
    assert await delete(people, NOW + 4, 1_000) == 0


async def test_one_call_deletes_no_more_than_its_limit(people: OpenDatabase) -> None:
    await fill(people)
    counts = [await delete(people, NOW + 10, 7) for _ in range(6)]
    assert counts == [7, 7, 7, 7, 2, 0]
    assert await left(people) == [set(), set(), set()]


async def test_a_limit_of_nothing_deletes_nothing(people: OpenDatabase) -> None:
    await fill(people)
    assert await delete(people, NOW + 10, 0) == 0
    assert await left(people) == [set(range(1, 11))] * 3


async def test_sweeps_at_once_delete_every_row_once(workers: list[OpenDatabase]) -> None:
    await fill(workers[0])
    deleted = await race(workers, lambda tx: EXPIRED.delete_expired(tx, before_us=NOW + 10, limit=5), 8)
    assert sum(deleted) == 30
    assert await left(workers[0]) == [set(), set(), set()]
