"""What a worker tells of itself once a second."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qimem.audit.delivery import CheckpointDelivery
from qimem.audit.space import AuditSpace, Room
from qimem.audit.trail import AuditTrail
from qimem.identity.passwords import PasswordLane
from qimem.kernel.clock import Clock
from qimem.kernel.limits import METRICS_SECONDS
from qimem.observability.lines import LINES
from qimem.observability.metrics import LOG_DROPPED, SINKS, Metrics

_STATM = Path("/proc/self/statm")
_DESCRIPTORS = Path("/proc/self/fd")


class WorkerWatch:
    """Tells how this worker is until it is stopped.

    Args:
        metrics: Where it is told.
        trail: Of this worker.
        lane: Where passwords are hashed.
        space: Where the audit log is.
        delivery: Brings its checkpoints elsewhere.
        clock: Stamps what is told.
    """

    def __init__(
        self,
        metrics: Metrics,
        trail: AuditTrail,
        lane: PasswordLane,
        space: AuditSpace,
        delivery: CheckpointDelivery,
        clock: Clock,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._trail = trail
        self._lane = lane
        self._space = space
        self._delivery = delivery
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watch")
        self._looking: asyncio.Future[None] | None = None
        self._open_files, self._room = 0.0, Room(0.0, math.inf)
        self._dropped = 0

    def start(self) -> None:
        """Begin; to be called on the loop."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Tell no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        late = 0.0
        while True:
            if self._looking is None or self._looking.done():
                # A disk that hangs must take neither the loop along nor what else there is to tell.
                self._looking = loop.run_in_executor(self._thread, self._look)
                await asyncio.wait({self._looking}, timeout=METRICS_SECONDS)
            self._metrics.tell(self._values(late), self._clock.monotonic_seconds())
            dropped, self._dropped = LINES.dropped - self._dropped, LINES.dropped
            self._metrics.count(LOG_DROPPED, more=dropped)
            due = loop.time() + METRICS_SECONDS
            await asyncio.sleep(METRICS_SECONDS)
            late = loop.time() - due

    def _look(self) -> None:
        self._open_files = _open_files()
        try:
            self._room = self._space.look(self._clock.monotonic_seconds())
        except OSError:
            self._room = Room(0.0, 0.0)

    def _values(self, late: float) -> Sequence[float]:
        """In the order of `metrics.GAUGES`."""
        return (
            _resident_bytes(),
            self._open_files,
            late,
            self._lane.waiting,
            self._trail.waiting,
            float(self._trail.writable),
            *self._room,
            *map(self._delivery.late_seconds, SINKS),
        )


def _resident_bytes() -> float:
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _open_files() -> float:
    try:
        return len(os.listdir(_DESCRIPTORS))  # noqa: PTH208 - of ten thousand, a tenth of the time
    except OSError:
        return 0.0
