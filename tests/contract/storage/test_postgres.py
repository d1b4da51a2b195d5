"""PostgreSQL: conflicts, lost connections and the strict epoch read."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import psycopg
import pytest

from qimem.errors import Conflict, Unavailable
from qimem.kernel import patience
from qimem.kernel.limits import (
    POSTGRES_POOL_MAX,
    POSTGRES_RETRIES_MAX,
)
from qimem.kernel.transaction import Tx, UniqueViolation
from qimem.storage import postgres
from qimem.storage.postgres import PostgresDatabase
from qimem.storage.postgres_connection import PostgresConnection, connect
from tests.contract.storage.postgres_backends import backend, end
from tests.contract.storage.rows import ACME, COUNT_SPENT, add_realm, claim, names

pytestmark = pytest.mark.anyio


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


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits longer than this for an answer."""
    monkeypatch.setattr(patience, "BACKGROUND_ANSWER_SECONDS", 0.3)


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_does_not_answer_keeps_nobody_waiting(
    postgres_database: PostgresDatabase,
) -> None:
    frozen: list[int] = []

    def freeze(tx: Tx) -> None:
        frozen.append(backend(tx))
        os.kill(frozen[0], signal.SIGSTOP)
        add_realm(tx)

    try:
        with pytest.raises(Unavailable) as refusal:
            await postgres_database.write(freeze)
        assert refusal.value.code == "storage_unavailable"
        with pytest.raises(Unavailable) as refusal:
            await postgres_database.read(lambda tx: time.sleep(0.5))
        assert refusal.value.code == "storage_unavailable"
        assert await postgres_database.read(names) == []
    finally:
        os.kill(frozen[0], signal.SIGCONT)
    assert await postgres_database.read(names) == []


@pytest.mark.usefixtures("impatient")
async def test_a_commit_without_an_answer_is_outcome_unknown(postgres_database: PostgresDatabase) -> None:
    frozen: list[int] = []

    def freeze(tx: Tx) -> None:
        add_realm(tx)
        frozen.append(backend(tx))
        os.kill(frozen[0], signal.SIGSTOP)

    try:
        with pytest.raises(Unavailable) as refusal:
            await postgres_database.write(freeze)
        assert refusal.value.code == "outcome_unknown"
    finally:
        os.kill(frozen[0], signal.SIGCONT)


@pytest.mark.usefixtures("impatient")
async def test_what_nobody_waits_for_any_more_is_not_committed(postgres_database: PostgresDatabase) -> None:
    def late(tx: Tx) -> None:
        add_realm(tx)
        time.sleep(0.5)

    with pytest.raises(Unavailable) as refusal:
        await postgres_database.write(late)
    assert refusal.value.code == "storage_unavailable"
    await asyncio.sleep(0.4)
    assert await postgres_database.read(names) == []


@pytest.mark.usefixtures("impatient")
async def test_what_waited_too_long_for_a_thread_is_not_begun(postgres_database: PostgresDatabase) -> None:
    begun: list[int] = []
    holding = [
        asyncio.ensure_future(postgres_database.read(lambda tx: time.sleep(0.5)))
        for _ in range(POSTGRES_POOL_MAX)
    ]
    await asyncio.sleep(0.1)
    with pytest.raises(Unavailable):
        await postgres_database.write(lambda tx: begun.append(1))
    await asyncio.gather(*holding, return_exceptions=True)
    await asyncio.sleep(0.3)
    await postgres_database.read(names)
    assert begun == []


async def test_when_one_connection_broke_the_others_are_not_believed_in(
    postgres_database: PostgresDatabase, admin: psycopg.Connection
) -> None:
    def meet(tx: Tx) -> int:
        together.wait(5)
        return backend(tx)

    together = threading.Barrier(2)
    before = await asyncio.gather(postgres_database.read(meet), postgres_database.read(meet))
    end(admin, before[0])
    while postgres_database._distrusted == 0.0:
        await postgres_database.read(names)
    after = await asyncio.gather(postgres_database.read(meet), postgres_database.read(meet))
    assert not {*before} & {*after}


@pytest.mark.usefixtures("impatient")
async def test_a_connection_that_took_long_to_open_is_there_for_the_next(
    postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[float] = []

    def slowly(url: str, *servers: Any) -> PostgresConnection:
        opened.append(time.monotonic())
        time.sleep(0.4)
        return connect(url)

    monkeypatch.setattr(postgres, "connect", slowly)
    outcomes = []
    for _ in range(2 * POSTGRES_POOL_MAX):
        try:
            outcomes.append(await postgres_database.read(names))
        except Unavailable as refusal:
            outcomes.append(refusal.code)
        await asyncio.sleep(0.2)
    assert outcomes[0] == "storage_unavailable"
    assert outcomes[-POSTGRES_POOL_MAX:] == POSTGRES_POOL_MAX * [[]]
    assert len(opened) <= POSTGRES_POOL_MAX


@pytest.mark.usefixtures("impatient")
async def test_who_waits_too_long_for_a_row_costs_the_others_no_connection(
    postgres_database: PostgresDatabase, admin: psycopg.Connection
) -> None:
    def meet(tx: Tx) -> int:
        together.wait(5)
        return backend(tx)

    together = threading.Barrier(3)
    before = await asyncio.gather(*(postgres_database.read(meet) for _ in range(3)))
    admin.execute("BEGIN")
    admin.execute("LOCK TABLE realm")
    with pytest.raises(Unavailable):
        await postgres_database.read(names)
    admin.execute("ROLLBACK")
    await asyncio.sleep(0.1)
    after = await asyncio.gather(*(postgres_database.read(meet) for _ in range(3)))
    assert len({*before} & {*after}) >= 2


async def test_a_row_that_came_between_look_and_insert_is_seen(
    postgres_database: PostgresDatabase, admin: psycopg.Connection
) -> None:
    """PostgreSQL may tell of it as a violated key: a repetition that finds it is no conflict."""
    seen: list[list[str]] = []

    def look_and_insert(tx: Tx) -> str:
        seen.append(names(tx))
        if "acme" in seen[-1]:
            return "found"
        admin.execute(
            "INSERT INTO realm (realm_id, name, enabled, created_us) VALUES ('acme', 'acme', true, 1)"
        )
        try:
            add_realm(tx)
        except UniqueViolation:
            raise Conflict("theirs") from None
        return "made"

    assert await postgres_database.write(look_and_insert) == "found"
    assert seen == [[], ["acme"]]


async def test_a_row_that_nobody_looks_for_is_a_conflict(postgres_database: PostgresDatabase) -> None:
    await postgres_database.write(add_realm)
    attempts: list[int] = []

    def blindly(tx: Tx) -> None:
        attempts.append(1)
        add_realm(tx)

    with pytest.raises(UniqueViolation):
        await postgres_database.write(blindly)
    assert len(attempts) == 2


async def test_a_primary_that_was_demoted_is_neither_read_nor_written(
    postgres_database: PostgresDatabase, admin: psycopg.Connection
) -> None:
    await postgres_database.write(add_realm)
    assert await postgres_database.current(ACME) is not None
    admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    admin.execute("SELECT pg_reload_conf()")
    try:
        while not (await refusals(postgres_database)):
            await asyncio.sleep(0.01)
        assert await refusals(postgres_database) == ["storage_unavailable"] * 3
    finally:
        admin.execute("SET default_transaction_read_only = off")
        admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
        admin.execute("SELECT pg_reload_conf()")
    while await refusals(postgres_database):
        await asyncio.sleep(0.01)


async def refusals(database: PostgresDatabase) -> list[str]:
    """What an epoch, a read and a write are refused with."""
    found = []
    for ask in (
        lambda: database.current(ACME),
        lambda: database.read(names),
        lambda: database.write(lambda tx: tx.one(COUNT_SPENT)),
    ):
        try:
            await ask()
        except Unavailable as refusal:
            found.append(refusal.code)
    return found


async def test_a_dead_server_is_unavailable_and_its_return_is_noticed(
    postgres_database: PostgresDatabase, postgres_cluster
) -> None:
    await postgres_database.write(add_realm)
    assert await postgres_database.current(ACME) is not None
    # Beside the loop: the server waits for whoever is about to connect, and that is this loop.
    await asyncio.to_thread(postgres_cluster.crash)
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
        await asyncio.to_thread(postgres_cluster.start)
    assert await postgres_database.read(names) == ["acme"]
    assert await postgres_database.current(ACME) is not None
