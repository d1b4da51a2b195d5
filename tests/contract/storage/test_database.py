"""What every database promises to the rest of the house: both kinds, the same tests."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine

import pytest

from qimem.errors import NotFound, Unavailable
from qimem.kernel.limits import GROUP_COMMIT_MAX, POSTGRES_POOL_MAX, WRITE_QUEUE_MAX
from qimem.kernel.transaction import ForeignKeyViolation, Tx, UniqueViolation
from qimem.storage import postgres, sqlite_writer
from qimem.storage.database import DatabaseLocation, OpenDatabase
from tests.contract.storage import workers
from tests.contract.storage.rows import ACME, COUNT_SPENT, add_realm, add_role, claim, names
from tests.support.volume import volume

pytestmark = pytest.mark.anyio


async def test_what_was_written_is_read_by_everybody(
    database: OpenDatabase, location: DatabaseLocation
) -> None:
    assert await database.write(lambda tx: add_realm(tx) or "done") == "done"
    other = location.open()
    assert await database.read(names) == await other.read(names) == ["acme"]
    await other.close()


async def test_a_refusal_undoes_the_work_of_its_own_operation(database: OpenDatabase) -> None:
    def refuse(tx: Tx) -> None:
        add_realm(tx)
        raise NotFound("no")

    with pytest.raises(NotFound):
        await database.write(refuse)
    assert await database.read(names) == []


async def test_a_second_row_with_the_same_key_is_a_unique_violation(database: OpenDatabase) -> None:
    await database.write(add_realm)
    with pytest.raises(UniqueViolation):
        await database.write(add_realm)
    assert await database.read(names) == ["acme"]


async def test_a_row_that_refers_to_nothing_is_a_foreign_key_violation(database: OpenDatabase) -> None:
    await database.write(add_realm)
    with pytest.raises(ForeignKeyViolation):
        await database.write(lambda tx: add_role(tx, "cipher", realm_id="other"))


async def test_a_violation_ends_the_operation_even_where_it_is_caught(database: OpenDatabase) -> None:
    await database.write(add_realm)

    def swallow(tx: Tx) -> str:
        add_realm(tx, "before")
        try:
            add_realm(tx)
        except UniqueViolation:
            return "acknowledged"
        return "never"

    with pytest.raises(UniqueViolation):
        await database.write(swallow)
    assert await database.read(names) == ["acme"]


async def test_after_a_violation_no_further_statement_has_an_effect(database: OpenDatabase) -> None:
    await database.write(add_realm)

    def go_on(tx: Tx) -> None:
        try:
            add_realm(tx)
        except UniqueViolation:
            add_realm(tx, "after")

    with pytest.raises((UniqueViolation, Unavailable)):
        await database.write(go_on)
    assert await database.read(names) == ["acme"]


async def test_of_a_hundred_writes_at_once_only_the_bad_one_fails(database: OpenDatabase) -> None:
    def write(number: int):
        def work(tx: Tx) -> int:
            add_realm(tx, f"realm-{number:02}")
            if number == 41:
                raise NotFound("no")
            return number

        return database.write(work)

    results = await asyncio.gather(*(write(number) for number in range(100)), return_exceptions=True)
    assert [number for number, result in enumerate(results) if result != number] == [41]
    assert isinstance(results[41], NotFound)
    assert await database.read(names) == [f"realm-{number:02}" for number in range(100) if number != 41]


def hold(database: OpenDatabase, release: threading.Event) -> list[asyncio.Future[bool]]:
    """Keep everything busy that writes, until released."""
    return [
        asyncio.ensure_future(database.write(lambda tx: release.wait(30))) for _ in range(POSTGRES_POOL_MAX)
    ]


async def test_a_caller_who_leaves_neither_loses_nor_undoes_the_write(
    database: OpenDatabase, location: DatabaseLocation
) -> None:
    release = threading.Event()
    holding = hold(database, release)
    await asyncio.sleep(0)
    writing = asyncio.create_task(database.write(add_realm))
    await asyncio.sleep(0.05)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    release.set()
    assert all(await asyncio.gather(*holding))
    await database.close()
    other = location.open()
    assert await other.read(names) == ["acme"]
    await other.close()


async def test_too_many_writes_at_once_are_refused_and_the_rest_is_done(database: OpenDatabase) -> None:
    await database.write(add_realm)
    if (writer := getattr(database, "_writer", None)) is not None:
        # A slow machine may take longer than a disk is given; here they wait for the test alone.
        writer._seconds = 60
    release = threading.Event()
    holding = hold(database, release)
    calls = [
        asyncio.ensure_future(database.write(lambda tx, n=n: claim(tx, b"%d" % n)))
        for n in range(WRITE_QUEUE_MAX + 200)
    ]
    while not any(call.done() for call in calls):
        await asyncio.sleep(0.01)
    release.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(await asyncio.gather(*holding))
    refused = [result for result in results if isinstance(result, Unavailable)]
    assert {error.code for error in refused} == {"overloaded"}
    done = results.count(True)
    assert done + len(refused) == len(results)
    assert WRITE_QUEUE_MAX - POSTGRES_POOL_MAX <= done <= WRITE_QUEUE_MAX + GROUP_COMMIT_MAX
    assert await database.read(lambda tx: tx.one(COUNT_SPENT)) == (done,)


async def test_a_read_cannot_write(database: OpenDatabase) -> None:
    with pytest.raises(Exception):
        await database.read(add_realm)
    assert await database.read(names) == []


async def test_a_read_that_fails_leaves_no_snapshot_open(database: OpenDatabase) -> None:
    def fail(tx: Tx) -> None:
        names(tx)
        raise NotFound("no")

    with pytest.raises(NotFound):
        await database.read(fail)
    await database.write(add_realm)
    assert await database.read(names) == ["acme"]


async def test_a_read_sees_one_moment(database: OpenDatabase, location: DatabaseLocation) -> None:
    process = workers.spawn(location, "redeem", 1)
    await database.write(add_realm)

    def look_twice(tx: Tx) -> tuple[object, object]:
        first = tx.one(COUNT_SPENT)
        workers.go(process)
        assert workers.found(process) == [0]
        return first, tx.one(COUNT_SPENT)

    assert await database.read(look_twice) == ((0,), (0,))
    assert await database.read(lambda tx: tx.one(COUNT_SPENT)) == (1,)


async def test_an_absent_realm_has_no_epoch(database: OpenDatabase) -> None:
    assert await database.current(ACME) is None
    assert await database.read(lambda tx: database.at(tx, ACME)) is None


async def test_a_new_realm_is_seen_by_who_saw_it_absent(
    database: OpenDatabase, location: DatabaseLocation
) -> None:
    other = location.open()
    assert await other.current(ACME) is None
    await database.write(add_realm)
    assert await other.current(ACME) is not None
    await other.close()


async def test_an_undone_bump_moves_nothing(database: OpenDatabase) -> None:
    await database.write(add_realm)
    before = await database.current(ACME)

    def refuse(tx: Tx) -> None:
        database.bump(tx, ACME)
        raise NotFound("no")

    with pytest.raises(NotFound):
        await database.write(refuse)
    assert await database.current(ACME) == before


async def test_a_bump_is_seen_by_the_next_check_of_another_opener(
    database: OpenDatabase, location: DatabaseLocation
) -> None:
    await database.write(add_realm)
    other = location.open()
    for _ in range(50):
        before = await other.current(ACME)
        await database.write(lambda tx: database.bump(tx, ACME))
        after = await other.current(ACME)
        assert after != before
        assert after == await database.current(ACME) == await other.read(lambda tx: other.at(tx, ACME))
    await other.close()


async def test_a_bump_of_one_realm_leaves_the_others_alone(database: OpenDatabase) -> None:
    await database.write(lambda tx: (add_realm(tx), add_realm(tx, "other")))
    before = await database.current("other")
    await database.write(lambda tx: database.bump(tx, ACME))
    assert await database.current("other") == before


async def test_checks_that_run_together_all_get_their_own_realm(database: OpenDatabase) -> None:
    def add_all(tx: Tx) -> None:
        for number in range(40):
            add_realm(tx, f"realm-{number}")
            for _ in range(number):
                database.bump(tx, f"realm-{number}")

    await database.write(add_all)
    found = await asyncio.gather(*(database.current(f"realm-{n % 50}") for n in range(200)))
    numbers = [None if epoch is None else epoch.number for epoch in found]
    assert numbers == [n % 50 + 1 if n % 50 < 40 else None for n in range(200)]


@pytest.mark.acceptance
async def test_every_acknowledged_commit_of_another_process_is_seen_by_the_very_next_check(
    database: OpenDatabase, location: DatabaseLocation
) -> None:
    await database.write(add_realm)
    count = volume(10_000, share=0.2)
    process = workers.spawn(location, "bump", count)
    # Before the first of its commits, or that one would be in it already.
    seen = await database.current(ACME)
    workers.go(process)
    assert process.stdin is not None
    assert process.stdout is not None
    missed = 0
    for number in range(count):
        assert process.stdout.readline() == f"{number}\n"
        now = await database.current(ACME)
        missed += now == seen
        seen = now
        process.stdin.write("next\n")
        process.stdin.flush()
    assert workers.found(process) == []
    assert missed == 0


async def test_what_may_happen_once_happens_once_over_four_processes(
    database: OpenDatabase, location: DatabaseLocation
) -> None:
    await database.write(add_realm)
    processes = [workers.spawn(location, "redeem", 400) for _ in range(4)]
    workers.go(*processes)
    won = sorted(number for process in processes for number in workers.found(process))
    assert won == list(range(400))


async def test_look_first_and_update_later_redeems_twice(
    database: OpenDatabase, location: DatabaseLocation
) -> None:
    """The negative control: the race is there to be lost."""
    await database.write(add_realm)
    await database.write(lambda tx: [claim(tx, b"%d" % number) for number in range(400)])
    processes = [workers.spawn(location, "redeem_naively", 400) for _ in range(4)]
    workers.go(*processes)
    won = [number for process in processes for number in workers.found(process)]
    assert len(won) > 400


async def test_writers_of_several_processes_lose_no_increment(
    database: OpenDatabase, location: DatabaseLocation
) -> None:
    await database.write(add_realm)
    others = [location.open() for _ in range(3)]
    bumps = [other.write(lambda tx, other=other: other.bump(tx, ACME)) for other in others for _ in range(20)]
    await asyncio.gather(*bumps)
    epoch = await database.current(ACME)
    assert epoch is not None
    assert epoch.number == 61
    for other in others:
        await other.close()


async def test_a_closed_database_refuses_instead_of_hanging(location: DatabaseLocation) -> None:
    closed = location.open()
    await closed.write(add_realm)
    await closed.close()
    with pytest.raises(Unavailable) as refusal:
        await asyncio.wait_for(closed.write(lambda tx: add_realm(tx, "late")), 5)
    assert refusal.value.code == "storage_unavailable"


async def test_queued_writes_are_finished_before_closing(location: DatabaseLocation) -> None:
    closing = location.open()
    writes = [asyncio.ensure_future(closing.write(lambda tx, n=n: add_realm(tx, f"r{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    await closing.close()
    await asyncio.gather(*writes)
    again = location.open()
    assert len(await again.read(names)) == 20
    await again.close()


async def test_a_database_carried_across_fork_is_refused(database: OpenDatabase) -> None:
    calls = (lambda: database.write(add_realm), lambda: database.read(names), lambda: database.current(ACME))
    for call in calls:
        assert _in_a_fork(call) == REFUSED
        await call()


REFUSED = 7


def _in_a_fork(call: Callable[[], Coroutine[object, object, object]]) -> int:
    """How the first step of a call ends in a child process; 0 when it is not refused."""
    pid = os.fork()
    if pid == 0:
        try:
            call().send(None)
        except RuntimeError as error:
            os._exit(REFUSED if "after fork" in str(error) else 1)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def test_behind_work_that_waited_too_long_no_more_is_taken_until_it_is_done(
    database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.write(add_realm)
    if (writer := getattr(database, "_writer", None)) is not None:
        writer._seconds = 60
    first, second = threading.Event(), threading.Event()
    holding = hold(database, first)
    await asyncio.sleep(0.05)
    # All of these wait for longer than the limit; with those behind them there is more than one group.
    behind = hold(database, second)
    queued = [
        asyncio.ensure_future(database.write(lambda tx, n=n: claim(tx, b"%d" % n)))
        for n in range(GROUP_COMMIT_MAX)
    ]
    await asyncio.sleep(0.1)
    # Only now: on a slow machine the first ones wait, too.
    for module in (sqlite_writer, postgres):
        monkeypatch.setattr(module, "QUEUE_AGE_SHARE", 0.0001)
    first.set()
    await asyncio.sleep(0.1)
    more = [
        asyncio.ensure_future(database.write(lambda tx, n=n: claim(tx, b"more %d" % n)))
        for n in range(2 * GROUP_COMMIT_MAX)
    ]
    await asyncio.sleep(0.05)
    refused = [call for call in more if call.done()]
    assert refused
    assert {call.exception().code for call in refused} == {"overloaded"}
    second.set()
    await asyncio.gather(*holding, *behind, *queued, *(call for call in more if call not in refused))
    assert await database.write(lambda tx: claim(tx, b"afterwards"))
