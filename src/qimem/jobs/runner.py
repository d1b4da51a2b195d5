"""The background job runner: each task on its own period, once over all workers and nodes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from qimem.errors import QimemError
from qimem.jobs.ports import JobStore
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.transaction import Database

LEASE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Task:
    """Something that is to happen every so often.

    Args:
        period_seconds: Least time between two runs, wherever they ran.
    """

    name: str
    period_seconds: int
    run: Callable[[], Awaitable[None]]


class JobRunner:
    """Runs tasks whose lease it gets.

    Args:
        holder: Names this worker in the lease; unique over workers and nodes.
        report: Told of a task that failed; the next period tries again.
    """

    def __init__(
        self,
        database: Database,
        store: JobStore,
        clock: Clock,
        holder: str,
        report: Callable[[str, BaseException], None],
    ) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._holder = holder
        self._report = report
        self._running: list[asyncio.Task[None]] = []

    def start(self, tasks: Sequence[Task]) -> None:
        """Begin; the first try of each task comes within its period, at a random time."""
        self._running = [asyncio.create_task(self._repeat(task)) for task in tasks]

    async def stop(self) -> None:
        """Stop between runs, or in the middle of one that awaits."""
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def try_once(self, task: Task) -> bool:
        """Run the task if it is due and nobody else has it; whether it ran.

        Raises:
            Exception: the task's own, or what storage says. The task is due as before.
            TimeoutError: it took longer than its lease.
        """
        now_us = self._clock.now_us()
        due_before_us = now_us - task.period_seconds * MICROSECONDS
        taken = await self._database.write(
            lambda tx: self._store.take(
                tx,
                task.name,
                holder=self._holder,
                now_us=now_us,
                lease_us=LEASE_SECONDS * MICROSECONDS,
                due_before_us=due_before_us,
            )
        )
        if not taken:
            return False
        try:
            async with asyncio.timeout(LEASE_SECONDS):
                await task.run()
        except Exception:
            # Where storage is away the lease runs out by itself; what is told is why the task failed.
            with contextlib.suppress(QimemError):
                await self._database.write(lambda tx: self._store.release(tx, task.name, holder=self._holder))
            raise
        finished_us = self._clock.now_us()
        await self._database.write(
            lambda tx: self._store.finish(tx, task.name, holder=self._holder, now_us=finished_us)
        )
        return True

    async def _repeat(self, task: Task) -> None:
        while True:
            # Spread out, so that workers started together do not ask together for ever.
            await asyncio.sleep(task.period_seconds * (0.5 + random.random() / 2))  # noqa: S311 - not a secret
            try:
                await self.try_once(task)
            # Whatever it was: a task that ended in silence here would never run again in this worker.
            except Exception as error:  # noqa: BLE001
                self._report(task.name, error)
