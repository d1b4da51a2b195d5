"""Epochs by lease: never older than the lease, never for what changes something, and quiet when nobody asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from typing import Any

import psycopg
import pytest

from qimem.errors import Unavailable, storage_unavailable
from qimem.kernel import freshness
from qimem.kernel.epochs import Epoch
from qimem.kernel.limits import LEASE_POLL_SECONDS, LEASE_SECONDS
from qimem.storage import postgres_lease
from qimem.storage.database import DatabaseLocation
from qimem.storage.postgres import PostgresDatabase
from qimem.storage.postgres_lease import BoundedPostgresDatabase
from tests.contract.storage.rows import ACME, add_realm

pytestmark = pytest.mark.anyio
_INSTANCE = "INSERT INTO instance VALUES (1, gen_random_uuid(), 'life', '', NULL, 0)"
_POLLS = 4 * LEASE_POLL_SECONDS


@pytest.fixture
async def bounded(postgres_location: DatabaseLocation, anyio_backend: object) -> AsyncIterator[Any]:
    """This node's database, in mode `bounded`, with one realm."""
    opened = DatabaseLocation(postgres_location.directory, postgres_location.url, bounded=True).open()
    assert isinstance(opened, BoundedPostgresDatabase)
    await opened.write(add_realm)
    yield opened
    await opened.close()


@pytest.fixture
def elsewhere(bounded: Any, postgres_location: DatabaseLocation) -> Iterator[Callable[[], int]]:
    """Change the realm on another node; the number of its epoch after that."""
    assert postgres_location.url is not None
    with psycopg.connect(postgres_location.url, autocommit=True) as other:

        def change() -> int:
            row = other.execute(
                "UPDATE epoch SET n = n + 1 WHERE realm_id = %s RETURNING n", (ACME,)
            ).fetchone()
            assert row is not None
            return int(row[0])

        yield change


async def ask(database: Any, realm_id: Any = ACME, *, may_lag: bool = True) -> Epoch | None:
    """As a request of its own asks."""

    async def request() -> Epoch | None:
        freshness.begin(may_lag=may_lag)
        found: Epoch | None = await database.deciding.current(realm_id)
        return found

    return await asyncio.get_running_loop().create_task(request(), context=copy_context())


def delete_realm(location: DatabaseLocation) -> None:
    """On another node."""
    assert location.url is not None
    with psycopg.connect(location.url, autocommit=True) as other:
        other.execute("DELETE FROM epoch WHERE realm_id = %s", (ACME,))


@pytest.fixture
def asked(bounded: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the database was asked: `one` for a request, `all` for the leases."""
    said: list[str] = []
    for name, word in (("current", "one"), ("current_of_all", "all")):

        def noted(given: Any, ask: Any = getattr(bounded, name), word: str = word) -> Any:
            said.append(word)
            return ask(given)

        monkeypatch.setattr(bounded, name, noted)
    return said


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are not renewed, and last however slow the machine is."""
    monkeypatch.setattr(postgres_lease, "LEASE_SECONDS", 30.0)
    monkeypatch.setattr(postgres_lease, "LEASE_POLL_SECONDS", 60.0)


@pytest.mark.usefixtures("quiet")
async def test_many_requests_share_one_strict_read(bounded: Any, asked: list[str]) -> None:
    found = [await ask(bounded) for _ in range(200)]
    assert len(set(found)) == 1
    assert None not in found
    assert asked.count("one") == 1


async def test_a_change_elsewhere_is_seen_within_the_lease(
    bounded: Any, elsewhere: Callable[[], int]
) -> None:
    for _ in range(20):
        assert await ask(bounded) is not None
        number, since = elsewhere(), time.monotonic()
        while True:
            sent = time.monotonic()
            found = await ask(bounded)
            assert found is not None
            if found.number == number:
                break
            assert sent - since < LEASE_SECONDS
            await asyncio.sleep(0.001)


@pytest.mark.usefixtures("quiet")
async def test_without_renewal_a_lease_ends(
    bounded: Any, elsewhere: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await ask(bounded)
    number = elsewhere()
    assert await ask(bounded) == before
    # Whatever made the time pass: a stopped process, a machine that slept.
    now = postgres_lease.seconds_since_boot() + postgres_lease.LEASE_SECONDS
    monkeypatch.setattr(postgres_lease, "seconds_since_boot", lambda: now)
    found = await ask(bounded)
    assert found is not None
    assert found.number == number


@pytest.mark.usefixtures("quiet")
async def test_what_changes_something_is_decided_on_what_is_true_now(
    bounded: Any, elsewhere: Callable[[], int]
) -> None:
    before = await ask(bounded)
    number = elsewhere()
    assert await ask(bounded) == before
    now = await ask(bounded, may_lag=False)
    assert now is not None
    assert now.number == number
    # And whoever asks after it sees no less than it saw.
    assert await ask(bounded) == now


@pytest.mark.usefixtures("quiet")
async def test_work_without_a_request_is_decided_on_what_is_true_now(
    bounded: Any, elsewhere: Callable[[], int]
) -> None:
    await ask(bounded)
    number = elsewhere()
    found = await bounded.deciding.current(ACME)
    assert found.number == number


@pytest.mark.usefixtures("quiet")
async def test_a_change_of_ones_own_is_seen_at_once(bounded: Any) -> None:
    before = await ask(bounded)
    await bounded.write(lambda tx: bounded.deciding.bump(tx, ACME))
    after = await ask(bounded)
    assert before is not None
    assert after is not None
    assert after.number == before.number + 1


@pytest.mark.usefixtures("quiet")
async def test_a_change_of_ones_own_that_may_have_happened_is_looked_for(
    bounded: Any, asked: list[str]
) -> None:
    await ask(bounded)

    def fail(tx: Any) -> None:
        bounded.bump(tx, ACME)
        raise storage_unavailable()

    with pytest.raises(Unavailable):
        await bounded.write(fail)
    before = asked.count("one")
    await ask(bounded)
    assert asked.count("one") == before + 1


@pytest.mark.usefixtures("quiet")
async def test_an_answer_on_its_way_does_not_undo_a_newer_one(
    bounded: Any, elsewhere: Callable[[], int]
) -> None:
    await ask(bounded)
    source = bounded.deciding
    sent, old = postgres_lease.seconds_since_boot(), await bounded.current(ACME)
    elsewhere()
    new = await ask(bounded, may_lag=False)
    source._renew_all({ACME: old}, sent)
    assert await ask(bounded) == new
    source._renew_all({}, sent)
    assert await ask(bounded) == new


async def test_a_realm_that_nobody_asks_for_is_not_asked_about(
    bounded: Any, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_lease, "LEASE_IDLE_SECONDS", 0.2)
    await ask(bounded)
    await asyncio.sleep(0.2 + _POLLS)
    assert "all" in asked
    asked.clear()
    await asyncio.sleep(_POLLS)
    assert asked == []
    await ask(bounded)
    await asyncio.sleep(_POLLS)
    assert asked[0] == "one"
    assert "all" in asked


async def test_a_realm_that_is_not_there_has_no_lease(bounded: Any, asked: list[str]) -> None:
    assert [await ask(bounded, "nowhere") for _ in range(3)] == [None] * 3
    assert asked == ["one"] * 3


@pytest.mark.usefixtures("quiet")
async def test_a_realm_that_a_strict_read_did_not_find_has_no_lease(
    bounded: Any, postgres_location: DatabaseLocation
) -> None:
    await ask(bounded)
    delete_realm(postgres_location)
    assert await ask(bounded) is not None
    assert await ask(bounded, may_lag=False) is None
    assert await ask(bounded) is None


@pytest.mark.usefixtures("quiet")
async def test_a_realm_that_a_query_for_all_did_not_find_has_no_lease(bounded: Any, asked: list[str]) -> None:
    await ask(bounded)
    bounded.deciding._renew_all({}, postgres_lease.seconds_since_boot())
    await ask(bounded)
    assert asked.count("one") == 2


async def test_a_realm_that_goes_away_loses_its_lease(
    bounded: Any, postgres_location: DatabaseLocation
) -> None:
    assert await ask(bounded) is not None
    delete_realm(postgres_location)
    await asyncio.sleep(LEASE_SECONDS)
    assert await ask(bounded) is None


async def test_beyond_so_many_realms_each_request_asks(
    bounded: Any, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_lease, "LEASED_REALMS_MAX", 1)
    await bounded.write(lambda tx: add_realm(tx, "other"))
    await ask(bounded)
    asked.clear()
    for _ in range(5):
        await ask(bounded, "other")
    assert asked.count("one") == 5
    before = asked.count("one")
    await ask(bounded)
    assert asked.count("one") == before


async def test_while_the_database_is_away_a_lease_ends_and_nobody_is_let_in(
    bounded: Any, elsewhere: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await ask(bounded) is not None
    before = bounded._epoch_reader

    class Away:
        async def current(self, _realm_id: object) -> None:
            raise storage_unavailable()

        current_of_all = current

    monkeypatch.setattr(bounded, "_epoch_reader", Away())
    since = time.monotonic()

    async def ask_until_refused() -> None:
        while time.monotonic() < since + 5:
            await ask(bounded)
            await asyncio.sleep(0.001)

    with pytest.raises(Unavailable):
        await ask_until_refused()
    assert time.monotonic() - since < LEASE_SECONDS + 0.1
    number = elsewhere()
    monkeypatch.setattr(bounded, "_epoch_reader", before)
    found = await ask(bounded)
    assert found is not None
    assert found.number == number


async def test_in_mode_strict_nothing_is_leased(postgres_database: PostgresDatabase) -> None:
    assert postgres_database.deciding is postgres_database


async def test_an_epoch_tells_which_server_told_it(bounded: Any) -> None:
    """One that takes over may count to the same number for another change."""
    await bounded.write(lambda tx: tx._cursor.execute(_INSTANCE))
    strict = await bounded.current(ACME)
    in_a_transaction, started = await bounded.read(
        lambda tx: (
            bounded.at(tx, ACME),
            tx._cursor.execute("SELECT pg_postmaster_start_time()").fetchone()[0],
        )
    )
    assert strict == in_a_transaction
    assert strict.incarnation[:4] == b"life"
    assert int.from_bytes(strict.incarnation[-8:]) == round(started.timestamp() * 1_000_000)
