from __future__ import annotations

import pytest

from qimem.errors import QimemError, Unavailable, storage_unavailable
from qimem.kernel.ids import SYSTEM_REALM
from qimem.kms import self_check
from qimem.kms.self_check import SelfCheck
from tests.unit.kms.fakes import ACME, FakeDatabase, Worker

pytestmark = pytest.mark.anyio


def a_worker(root: bytes = bytes(range(32))) -> tuple[Worker, SelfCheck]:
    """A worker of an installation whose root key is 0, 1, 2, …, and its check."""
    database = FakeDatabase()
    Worker(database).add_realm(SYSTEM_REALM)
    worker = Worker(database, root)
    return worker, a_check(worker)


def a_check(worker: Worker, unfit: dict[str, str] | None = None) -> SelfCheck:
    database = worker.database
    return SelfCheck(
        database, database, worker.keyring, worker.clock, lambda _: {} if unfit is None else unfit
    )


async def fails(check: SelfCheck) -> bool:
    try:
        await check.run()
    except QimemError:
        return True
    return False


async def test_a_sound_worker_is_ready_and_passes() -> None:
    _, check = a_worker()
    assert await check.readiness() == {}
    assert not await fails(check)


async def test_an_empty_database_is_told() -> None:
    worker = Worker(FakeDatabase())
    worker.add_realm(ACME)
    check = a_check(worker)
    assert list(await check.readiness()) == ["migrations"]
    assert await fails(check)


async def test_a_database_that_does_not_answer_is_told() -> None:
    worker, check = a_worker()
    assert await check.readiness() == {}
    worker.database.failure = storage_unavailable()
    assert await check.readiness() == {"storage": "storage unavailable"}
    assert await fails(check)


async def test_a_database_that_is_not_the_one_of_this_process_is_told() -> None:
    worker, _ = a_worker()
    unfit = {"migrations": "of a newer version"}
    assert await a_check(worker, unfit).readiness() == unfit


async def test_a_pool_that_is_full_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, _ = a_worker()
    unfit: dict[str, str] = {}
    check = a_check(worker, unfit)
    assert await check.readiness() == {}
    full = Unavailable("too many database operations at once", code="overloaded")

    async def refuse(_fn: object) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(worker.database, "read", refuse)
        assert await check.readiness() == {}
    unfit["migrations"] = "of a newer version"
    assert await check.readiness() == unfit
    monkeypatch.setattr(worker.database, "read", refuse)
    assert await check.readiness() == unfit


async def test_a_database_that_stops_answering_halfway_is_not_taken_for_a_wrong_root_key() -> None:
    worker, check = a_worker()

    async def fail() -> None:
        worker.database.failure = storage_unavailable()

    worker.database.before_read = fail
    assert await check.readiness() == {"storage": "storage unavailable"}


async def test_another_root_key_is_told() -> None:
    _, check = a_worker(root=b"x" * 32)
    assert list(await check.readiness()) == ["root_key"]
    assert await fails(check)


async def test_a_missing_kek_is_told() -> None:
    worker, check = a_worker()
    worker.database.state.keks.clear()
    assert list(await check.readiness()) == ["root_key"]
    assert await fails(check)


async def test_a_pass_is_remembered_for_one_second() -> None:
    worker, check = a_worker()
    await check.run()
    worker.database.failure = storage_unavailable()
    worker.clock.advance(0.999)
    assert not await fails(check)
    worker.clock.advance(0.002)
    assert await fails(check)


async def test_a_failure_is_not_remembered() -> None:
    worker, check = a_worker()
    worker.database.failure = storage_unavailable()
    assert await fails(check)
    worker.database.failure = None
    assert not await fails(check)
    worker.clock.advance(2)
    worker.database.failure = storage_unavailable()
    assert await fails(check)


async def test_a_set_back_wall_clock_does_not_prolong_a_pass() -> None:
    worker, check = a_worker()
    await check.run()
    worker.clock.wall_us -= 3_600_000_000
    worker.clock.monotonic += 1.5
    worker.database.failure = storage_unavailable()
    assert await fails(check)


@pytest.mark.parametrize("broken", ["seal", "open"])
async def test_a_cipher_that_does_not_give_back_what_it_got_fails(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    _, check = a_worker()
    monkeypatch.setattr(self_check.Aead, broken, lambda *_: b"x" * 40)
    assert await fails(check)
