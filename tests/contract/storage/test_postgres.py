"""PostgreSQL: conflicts, lost connections and the strict epoch read."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from qimem.errors import Unavailable
from qimem.kernel.limits import POSTGRES_RETRIES_MAX
from qimem.kernel.transaction import Tx
from qimem.storage import postgres
from qimem.storage.database import DatabaseLocation
from qimem.storage.postgres import PostgresDatabase
from tests.contract.storage.rows import ACME, COUNT_SPENT, add_realm, claim, names

pytestmark = pytest.mark.anyio


@pytest.fixture
async def admin(postgres_location: DatabaseLocation) -> AsyncIterator[psycopg.Connection]:
    """A connection of an operator."""
    assert postgres_location.url is not None
    with psycopg.connect(postgres_location.url, autocommit=True) as connection:
        yield connection


def backend(tx: Tx) -> int:
    """Process id of the server side of this transaction."""
    return int(tx._cursor.connection.info.backend_pid)


def end(admin: psycopg.Connection, pid: int) -> None:
    """Cut a connection on the server side, and wait until it is gone."""
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


def disturb(admin: psycopg.Connection, key: bytes) -> None:
    """Commit something that conflicts with who has counted."""
    admin.execute("INSERT INTO spent VALUES ('acme', 'code', %s, 1)", (key,))


async def test_a_serialization_failure_is_tried_again(
    postgres_database: PostgresDatabase, admin: psycopg.Connection
) -> None:
    await postgres_database.write(add_realm)
    attempts = []

    def count_and_claim(tx: Tx) -> int:
        count = tx.one(COUNT_SPENT)[0]
        attempts.append(count)
        if len(attempts) == 1:
            admin.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
            admin.execute("SELECT count(*) FROM spent")
            disturb(admin, b"theirs")
            admin.execute("COMMIT")
        claim(tx, b"ours")
        return count

    assert await postgres_database.write(count_and_claim) == 1
    assert attempts == [0, 1]


async def test_endless_conflicts_end_as_unavailable(
    postgres_database: PostgresDatabase, admin: psycopg.Connection
) -> None:
    await postgres_database.write(add_realm)
    attempts = []

    def always_late(tx: Tx) -> None:
        tx.one(COUNT_SPENT)
        attempts.append(1)
        admin.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        admin.execute("SELECT count(*) FROM spent")
        disturb(admin, b"%d" % len(attempts))
        admin.execute("COMMIT")
        claim(tx, b"ours")

    with pytest.raises(Unavailable) as refusal:
        await postgres_database.write(always_late)
    assert refusal.value.code == "storage_unavailable"
    assert len(attempts) == POSTGRES_RETRIES_MAX


async def test_a_connection_lost_before_commit_changed_nothing(
    postgres_database: PostgresDatabase, admin: psycopg.Connection
) -> None:
    attempts = []

    def lose(tx: Tx) -> None:
        attempts.append(1)
        add_realm(tx)
        end(admin, backend(tx))
        add_realm(tx, "second")

    with pytest.raises(Unavailable) as refusal:
        await postgres_database.write(lose)
    assert refusal.value.code == "storage_unavailable"
    assert len(attempts) == 1
    assert await postgres_database.read(names) == []


async def test_a_connection_lost_at_commit_is_outcome_unknown(
    postgres_database: PostgresDatabase, admin: psycopg.Connection
) -> None:
    def lose(tx: Tx) -> None:
        add_realm(tx)
        end(admin, backend(tx))

    with pytest.raises(Unavailable) as refusal:
        await postgres_database.write(lose)
    assert refusal.value.code == "outcome_unknown"
    await postgres_database.write(lambda tx: add_realm(tx, "later"))
    assert await postgres_database.read(names) == ["later"]


async def test_a_connection_that_died_while_idle_is_not_noticed_by_anybody(
    postgres_database: PostgresDatabase, admin: psycopg.Connection
) -> None:
    end(admin, await postgres_database.read(backend))
    await postgres_database.write(add_realm)
    assert await postgres_database.read(names) == ["acme"]


async def test_a_statement_that_waits_too_long_is_unavailable(
    postgres_database: PostgresDatabase, admin: psycopg.Connection
) -> None:
    await postgres_database.write(add_realm)
    admin.execute("BEGIN")
    admin.execute("LOCK TABLE realm")

    def impatient(tx: Tx) -> list[str]:
        tx._cursor.execute("SET LOCAL lock_timeout = 50")
        return names(tx)

    with pytest.raises(Unavailable) as refusal:
        await postgres_database.read(impatient)
    assert refusal.value.code == "storage_unavailable"
    admin.execute("ROLLBACK")
    assert await postgres_database.read(names) == ["acme"]


async def test_every_connection_has_its_timeouts(postgres_database: PostgresDatabase) -> None:
    def timeouts(tx: Tx) -> list[str]:
        wanted = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        return [tx._cursor.execute(f"SHOW {name}").fetchone()[0] for name in wanted]

    assert await postgres_database.read(timeouts) == ["5s", "5s", "5s"]


async def test_isolation_is_serializable_for_writes_and_one_snapshot_for_reads(
    postgres_database: PostgresDatabase,
) -> None:
    def level(tx: Tx) -> tuple[str, str]:
        return tuple(
            tx._cursor.execute(f"SHOW {name}").fetchone()[0]
            for name in ("transaction_isolation", "transaction_read_only")
        )

    assert await postgres_database.write(level) == ("serializable", "off")
    assert await postgres_database.read(level) == ("repeatable read", "on")


async def test_a_read_whose_connection_is_lost_at_its_end_has_its_answer(
    postgres_database: PostgresDatabase, admin: psycopg.Connection
) -> None:
    await postgres_database.write(add_realm)

    def lose(tx: Tx) -> list[str]:
        found = names(tx)
        end(admin, backend(tx))
        return found

    assert await postgres_database.read(lose) == ["acme"]
    assert await postgres_database.read(names) == ["acme"]


async def test_a_server_that_does_not_answer_keeps_nobody_waiting(
    postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_ANSWER_SECONDS", 0.3)
    frozen: list[int] = []

    def freeze(tx: Tx) -> None:
        frozen.append(backend(tx))
        os.kill(frozen[0], signal.SIGSTOP)
        add_realm(tx)

    try:
        with pytest.raises(Unavailable) as refusal:
            await postgres_database.write(freeze)
        assert refusal.value.code == "outcome_unknown"
        with pytest.raises(Unavailable) as refusal:
            await postgres_database.read(lambda tx: time.sleep(0.5))
        assert refusal.value.code == "storage_unavailable"
        assert await postgres_database.read(names) == []
    finally:
        os.kill(frozen[0], signal.SIGCONT)


# The strict epoch read.


def watch_queries(database: PostgresDatabase) -> list[list[str]]:
    """Every query of the epoch reader: the realms it asked for."""
    reader, asked, running = database._epoch_reader, [], []
    query = reader._query

    async def noted(realm_ids: list[str]) -> object:
        assert not running, "two queries in flight"
        running.append(1)
        asked.append(list(realm_ids))
        try:
            return await query(realm_ids)
        finally:
            running.pop()

    reader._query = noted
    return asked


async def test_a_thousand_checks_at_once_are_a_few_queries(postgres_database: PostgresDatabase) -> None:
    await postgres_database.write(lambda tx: [add_realm(tx, f"r{n}") for n in range(10)])
    asked = watch_queries(postgres_database)
    found = await asyncio.gather(*(postgres_database.current(f"r{n % 10}") for n in range(1_000)))
    assert None not in found
    assert len(asked) <= 2
    assert all(len(realms) <= 10 for realms in asked)


async def test_who_arrives_during_a_query_waits_for_the_next(postgres_database: PostgresDatabase) -> None:
    await postgres_database.write(add_realm)
    first = await postgres_database.current(ACME)
    asked = watch_queries(postgres_database)
    in_flight = asyncio.create_task(postgres_database.current(ACME))
    while not asked:
        await asyncio.sleep(0)
    late = asyncio.create_task(postgres_database.current(ACME))
    await asyncio.gather(in_flight, late)
    assert asked == [[ACME], [ACME]]
    assert first == late.result()


async def test_a_lost_epoch_connection_is_replaced_at_once(
    postgres_database: PostgresDatabase, admin: psycopg.Connection
) -> None:
    await postgres_database.write(add_realm)
    before = await postgres_database.current(ACME)
    end(admin, postgres_database._epoch_reader._connection.info.backend_pid)
    assert await postgres_database.current(ACME) == before


async def test_no_answer_within_a_second_is_unavailable_for_everybody(
    postgres_database: PostgresDatabase,
) -> None:
    await postgres_database.write(add_realm)
    before = await postgres_database.current(ACME)
    frozen = postgres_database._epoch_reader._connection.info.backend_pid
    os.kill(frozen, signal.SIGSTOP)
    try:
        started = time.monotonic()

        async def ask() -> float:
            with pytest.raises(Unavailable) as refusal:
                await postgres_database.current(ACME)
            assert refusal.value.code == "storage_unavailable"
            return time.monotonic() - started

        first = asyncio.create_task(ask())
        waited = await first
        assert 0.9 < waited < 1.5
        assert await asyncio.wait_for(postgres_database.current(ACME), 1) == before
    finally:
        os.kill(frozen, signal.SIGCONT)


async def test_a_check_that_arrives_late_in_a_stuck_query_waits_no_longer_than_others(
    postgres_database: PostgresDatabase,
) -> None:
    await postgres_database.write(add_realm)
    reader = postgres_database._epoch_reader
    release = asyncio.Event()

    async def stuck(realm_ids: list[str]) -> object:
        await release.wait()
        return {}

    reader._query = stuck

    async def ask() -> float:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await postgres_database.current(ACME)
        return time.monotonic() - started

    first = asyncio.create_task(ask())
    await asyncio.sleep(0.5)
    second = asyncio.create_task(ask())
    assert max(await first, await second) < 1.3
    release.set()


async def test_a_dead_server_is_unavailable_and_its_return_is_noticed(
    postgres_database: PostgresDatabase, postgres_cluster
) -> None:
    await postgres_database.write(add_realm)
    assert await postgres_database.current(ACME) is not None
    postgres_cluster.crash()
    try:
        for attempt in (
            lambda: postgres_database.current(ACME),
            lambda: postgres_database.read(names),
            lambda: postgres_database.write(lambda tx: add_realm(tx, "never")),
        ):
            with pytest.raises(Unavailable) as refusal:
                await attempt()
            assert refusal.value.code == "storage_unavailable"
    finally:
        postgres_cluster.start()
    assert await postgres_database.read(names) == ["acme"]
    assert await postgres_database.current(ACME) is not None


async def test_a_server_that_only_reads_is_not_asked_for_epochs(
    postgres_location: DatabaseLocation, postgres_database: PostgresDatabase, admin: psycopg.Connection
) -> None:
    """A replica lags: what it says about permissions may be of yesterday."""
    await postgres_database.write(add_realm)
    name = admin.info.dbname
    admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    other = postgres_location.open()
    with pytest.raises(Unavailable):
        await other.current(ACME)
    await other.close()
