from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from qimem.errors import storage_unavailable
from qimem.jobs import runner as runner_module
from qimem.jobs.runner import LEASE_SECONDS, JobRunner, Task
from qimem.kernel.clock import ManualClock
from tests.unit.jobs.fakes import NO_TX, FakeDatabase, FakeJobs

pytestmark = pytest.mark.anyio

PERIOD = 600
WAIT_SECONDS = 20


class Setting:
    """Two workers that share their leases, and a count of the runs."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.jobs = FakeJobs()
        self.database = FakeDatabase()
        self.reports: list[tuple[str, BaseException]] = []
        self.runs = 0
        self.reported = asyncio.Event()

    def worker(self, holder: str = "a") -> JobRunner:
        return JobRunner(self.database, self.jobs, self.clock, holder, self.report)

    def report(self, name: str, error: BaseException) -> None:
        self.reports.append((name, error))
        self.reported.set()

    async def count(self) -> None:
        self.runs += 1

    def task(self, run: Callable[[], Awaitable[None]] | None = None) -> Task:
        return Task("sweep", PERIOD, run or self.count)


@pytest.fixture
async def setting() -> Setting:
    return Setting()


async def test_a_due_task_runs_once_a_period_whoever_asks(setting: Setting) -> None:
    a, b = setting.worker("a"), setting.worker("b")
    assert [await worker.try_once(setting.task()) for worker in (a, b, a)] == [True, False, False]
    setting.clock.advance(PERIOD - 1)
    assert not await b.try_once(setting.task())
    setting.clock.advance(1)
    assert await b.try_once(setting.task())
    assert setting.runs == 2


async def test_a_task_that_runs_is_not_run_by_another_worker(setting: Setting) -> None:
    others: list[bool] = []

    async def look_elsewhere() -> None:
        others.append(await setting.worker("b").try_once(setting.task()))

    assert await setting.worker("a").try_once(setting.task(look_elsewhere))
    assert others == [False]
    assert setting.runs == 0


@pytest.mark.parametrize("error", [storage_unavailable(), ZeroDivisionError()])
async def test_a_failed_run_gives_its_lease_back_and_is_tried_again_at_once(
    setting: Setting, error: Exception
) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        await setting.worker().try_once(setting.task(fail))
    assert await setting.worker("b").try_once(setting.task())
    assert setting.runs == 1


async def test_a_run_that_fails_when_its_lease_is_over_leaves_the_next_holder_alone(setting: Setting) -> None:
    async def fail_late() -> None:
        setting.clock.advance(LEASE_SECONDS)
        now_us = setting.clock.now_us()
        assert setting.jobs.take(NO_TX, "sweep", holder="b", now_us=now_us, lease_us=1, due_before_us=now_us)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await setting.worker("a").try_once(setting.task(fail_late))
    assert setting.jobs.rows["sweep"][0] == "b"


async def test_a_failure_is_told_also_when_its_lease_cannot_be_given_back(setting: Setting) -> None:
    async def fail() -> None:
        setting.database.failure = storage_unavailable()
        raise KeyError("x")

    with pytest.raises(KeyError):
        await setting.worker().try_once(setting.task(fail))
    setting.database.failure = None
    assert not await setting.worker("b").try_once(setting.task())
    setting.clock.advance(LEASE_SECONDS)
    assert await setting.worker("b").try_once(setting.task())


async def test_a_run_that_never_ends_is_cut_when_its_lease_ends(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "LEASE_SECONDS", 0.01)
    with pytest.raises(TimeoutError):
        await setting.worker().try_once(setting.task(asyncio.Event().wait))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [storage_unavailable(), TimeoutError(), ZeroDivisionError(), KeyError("x")])
async def test_a_failure_of_any_kind_is_reported_and_does_not_end_the_loop(
    setting: Setting, error: Exception
) -> None:
    again = asyncio.Event()

    async def fail_once() -> None:
        setting.runs += 1
        if setting.runs == 1:
            raise error
        again.set()

    worker = setting.worker()
    worker.start([Task("sweep", 0, fail_once)])
    await asyncio.wait_for(setting.reported.wait(), WAIT_SECONDS)
    setting.clock.advance(LEASE_SECONDS)
    await asyncio.wait_for(again.wait(), WAIT_SECONDS)
    await worker.stop()
    assert setting.reports == [("sweep", error)]


async def test_storage_that_is_away_is_reported_and_the_task_does_not_run(setting: Setting) -> None:
    setting.database.failure = storage_unavailable()
    worker = setting.worker()
    worker.start([Task("sweep", 0, setting.count)])
    await asyncio.wait_for(setting.reported.wait(), WAIT_SECONDS)
    await worker.stop()
    assert setting.runs == 0


async def test_stopping_ends_a_run_that_waits_and_reports_nothing(setting: Setting) -> None:
    begun = asyncio.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    worker = setting.worker()
    worker.start([Task("sweep", 0, wait), Task("later", PERIOD, setting.count)])
    await asyncio.wait_for(begun.wait(), WAIT_SECONDS)
    await asyncio.wait_for(worker.stop(), WAIT_SECONDS)
    assert setting.reports == []
    assert setting.runs == 0
    assert len(asyncio.all_tasks()) <= 2


async def test_stopping_what_never_started_is_nothing(setting: Setting) -> None:
    await setting.worker().stop()


async def test_first_tries_are_spread_over_the_second_half_of_the_period(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    here, sleep = asyncio.get_running_loop(), asyncio.sleep

    async def note(seconds: float) -> None:
        # The server of another test may run in a thread of this process.
        if asyncio.get_running_loop() is not here:
            return await sleep(seconds)
        waits.append(seconds)
        raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", note)
    worker = setting.worker()
    worker.start([setting.task() for _ in range(200)])
    await asyncio.gather(*worker._running, return_exceptions=True)
    assert len(waits) == 200
    assert all(PERIOD / 2 <= wait <= PERIOD for wait in waits)
    assert len(set(waits)) > 100
