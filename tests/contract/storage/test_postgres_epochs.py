"""The strict epoch read on PostgreSQL: batched, overtaken when it is slow, and never older than its question."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import psycopg
import pytest

from qimem.errors import Unavailable
from qimem.kernel import patience
from qimem.kernel.limits import EPOCH_CONNECTIONS, EPOCH_OVERTAKE_SECONDS, EPOCH_QUERIES_MAX
from qimem.storage import postgres_epochs
from qimem.storage.database import DatabaseLocation
from qimem.storage.postgres import PostgresDatabase
from tests.contract.storage.postgres_backends import end
from tests.contract.storage.rows import ACME, add_realm, names

pytestmark = pytest.mark.anyio


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """No query counts as slow, also on a busy machine."""
    monkeypatch.setattr(postgres_epochs, "EPOCH_OVERTAKE_SECONDS", 60.0)


async def next_to_ask(database: PostgresDatabase) -> int:
    """The server side of the connection that the next query goes out on."""
    reader = database._epoch_reader
    while reader._opening or reader._asking:
        await asyncio.sleep(0.01)
    return int(reader._idle[-1].info.backend_pid)


def watch_queries(database: PostgresDatabase) -> list[list[str]]:
    """Every query of the epoch reader: the realms it asked for."""
    reader, asked, running = database._epoch_reader, [], []
    ask = reader._ask

    async def noted(connection: object, batch: Any) -> None:
        assert not running, "two queries in flight"
        running.append(1)
        asked.append(list(batch.waiting))
        try:
            await ask(connection, batch)
        finally:
            running.pop()

    reader._ask = noted
    return asked


@pytest.mark.usefixtures("prompt")
async def test_a_thousand_checks_at_once_are_a_few_queries(postgres_database: PostgresDatabase) -> None:
    await postgres_database.write(lambda tx: [add_realm(tx, f"r{n}") for n in range(10)])
    asked = watch_queries(postgres_database)
    found = await asyncio.gather(*(postgres_database.current(f"r{n % 10}") for n in range(1_000)))
    assert None not in found
    assert len(asked) <= 2
    assert all(len(realms) <= 10 for realms in asked)


@pytest.mark.usefixtures("prompt")
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
    end(admin, await next_to_ask(postgres_database))
    assert await postgres_database.current(ACME) == before


async def test_no_answer_within_a_second_is_unavailable_for_everybody(
    postgres_database: PostgresDatabase,
) -> None:
    await postgres_database.write(add_realm)
    before = await postgres_database.current(ACME)
    frozen = await next_to_ask(postgres_database)
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
        assert 0.8 < waited < 1.3
        assert await asyncio.wait_for(postgres_database.current(ACME), 1) == before
    finally:
        os.kill(frozen, signal.SIGCONT)


async def test_a_check_that_arrives_during_a_stuck_query_overtakes_it(
    postgres_database: PostgresDatabase,
) -> None:
    await postgres_database.write(add_realm)
    before = await postgres_database.current(ACME)
    frozen = await next_to_ask(postgres_database)
    os.kill(frozen, signal.SIGSTOP)
    try:
        first = asyncio.ensure_future(postgres_database.current(ACME))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        assert await postgres_database.current(ACME) == before
        assert time.monotonic() - started < 0.6
        with pytest.raises(Unavailable):
            await first
    finally:
        os.kill(frozen, signal.SIGCONT)


async def test_never_more_epoch_queries_than_permitted(postgres_database: PostgresDatabase) -> None:
    await postgres_database.write(add_realm)
    reader, most, release = postgres_database._epoch_reader, [0], asyncio.Event()

    async def stuck(connection: Any, batch: Any) -> None:
        most.append(len(reader._asking))
        await release.wait()
        reader._asking.discard(asyncio.current_task())
        await connection.close()

    reader._ask = stuck
    asking = []
    for _ in range(16):
        asking.append(asyncio.ensure_future(postgres_database.current(ACME)))
        await asyncio.sleep(EPOCH_OVERTAKE_SECONDS)
    refused = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(one) for one in refused} == {Unavailable}
    assert max(most) == EPOCH_QUERIES_MAX
    release.set()


async def test_connections_are_opened_in_advance_and_no_more_are_kept(
    postgres_database: PostgresDatabase,
) -> None:
    await postgres_database.write(add_realm)
    reader = postgres_database._epoch_reader

    async def grown(size: int) -> None:
        while len(reader._idle) < size:
            await postgres_database.current(ACME)
            await asyncio.sleep(0.01)

    await asyncio.wait_for(grown(EPOCH_CONNECTIONS), 10)
    for _ in range(3):
        reader._open()
    while reader._opening:
        await asyncio.sleep(0.01)
    assert len(reader._idle) == EPOCH_CONNECTIONS + 3
    for _ in range(5):
        await postgres_database.current(ACME)
    assert len(reader._idle) == EPOCH_CONNECTIONS


async def test_a_request_that_has_waited_for_storage_waits_less_for_an_epoch(
    postgres_database: PostgresDatabase,
) -> None:
    await postgres_database.write(add_realm)
    await postgres_database.current(ACME)
    patience.begin()
    patience.spend(0.6)
    frozen = await next_to_ask(postgres_database)
    os.kill(frozen, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await postgres_database.current(ACME)
        assert time.monotonic() - started < 0.5
        with pytest.raises(Unavailable):
            await postgres_database.read(names)
        assert time.monotonic() - started < 0.5
    finally:
        os.kill(frozen, signal.SIGCONT)


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
