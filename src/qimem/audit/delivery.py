"""Brings the newest checkpoint of every stream of this node to each sink, again and again.

What is brought is what stands in `heads/`: on the disk, signed, and of streams that nobody writes any more as well. So a
sink that was away for long lacks nothing that matters afterwards: the newest checkpoint vouches for all before it. No
request ever waits for this. One process of a node does it, for as long as it lives; another one takes over behind it, and
begins with all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from qimem.audit.segment_file import heads_of, read_heads
from qimem.audit.sinks import Sink, SinkFailed
from qimem.audit.verification import Altered, Verifier, opened_checkpoint
from qimem.kernel.clock import Clock
from qimem.kernel.limits import (
    AUDIT_CHECKPOINT_RETRY_SECONDS,
    AUDIT_CHECKPOINT_RETRY_SECONDS_MAX,
    AUDIT_SINK_CLOSE_SECONDS,
)

_log = logging.getLogger(__name__)

_LOCK: Final = "sender"
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class DeliveryTimes(NamedTuple):
    """When to look.

    Args:
        clock: For how late a sink is.
        seconds: Between two looks for new checkpoints.
    """

    clock: Clock
    seconds: float


class _Route:
    """One sink, and what it has."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.has: dict[str, int] = {}
        self.failures = 0
        self.late_since: float | None = None
        self.distrusted: set[str] = set()


class CheckpointDelivery:
    """Delivers until it is closed.

    Args:
        log: The directory of all streams.
        verifier: Of the key that signs their heads.
        times: When to look.
        sinks: Where to.
        failed: Told the name of a sink for each attempt that failed.
    """

    def __init__(
        self,
        log: Path,
        verifier: Verifier,
        times: DeliveryTimes,
        sinks: Sequence[Sink],
        failed: Callable[[str], None],
    ) -> None:
        self._log = log
        self._verifier = verifier
        self._routes = [_Route(sink) for sink in sinks]
        self._clock, self._seconds = times
        self._failed = failed
        self._lock = -1
        self._locking = threading.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; ends with `close`."""
        self._tasks = [asyncio.create_task(self._again_and_again(route)) for route in self._routes]

    async def close(self) -> None:
        """Deliver once more what was signed last, where that goes fast, and let another process do it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._lock >= 0:
            last = [self._attempt(route) for route in self._routes if route.failures == 0]
            # What does not go fast is done by the next start, which begins with all of them.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*last), AUDIT_SINK_CLOSE_SECONDS)
            os.close(self._lock)
            self._lock = -1

    def late_seconds(self, name: str) -> float:
        """For how long a sink has lacked a checkpoint; 0 when it has all, or another process brings them."""
        since = [route.late_since for route in self._routes if route.sink.name == name]
        return max(
            (self._clock.monotonic_seconds() - each for each in since if each is not None), default=0.0
        )

    async def deliver(self) -> None:
        """One attempt at every sink; those that fail are told by `failed`."""
        for route in self._routes:
            await self._attempt(route)

    async def _again_and_again(self, route: _Route) -> None:
        while True:
            await self._attempt(route)
            await asyncio.sleep(self._pause(route))

    def _pause(self, route: _Route) -> float:
        if route.failures == 0:
            return self._seconds
        back_off = AUDIT_CHECKPOINT_RETRY_SECONDS * 2.0 ** min(route.failures - 1, 16)
        return min(back_off, AUDIT_CHECKPOINT_RETRY_SECONDS_MAX)

    async def _attempt(self, route: _Route) -> None:
        try:
            await self._deliver(route)
        except (SinkFailed, OSError) as error:
            reason = (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
            if route.failures == 0:
                _log.warning("checkpoints do not reach audit.checkpoint_%s: %s", route.sink.name, reason)
            self._count_failure(route)
        except Exception:  # noqa: BLE001 - logged with its traceback
            # A defect must not end the delivery for good.
            _log.exception("the delivery of checkpoints failed")
            self._count_failure(route)
        else:
            if route.failures:
                _log.warning("checkpoints reach audit.checkpoint_%s again", route.sink.name)
            route.failures = 0

    def _count_failure(self, route: _Route) -> None:
        route.failures += 1
        self._failed(route.sink.name)

    async def _deliver(self, route: _Route) -> None:
        # Beside the loop: a disk that hangs must hold up neither requests nor the end of the server.
        if not await asyncio.to_thread(self._mine):
            return
        heads = await asyncio.to_thread(read_heads, heads_of(self._log))
        missing = self._missing(route, heads)
        if missing:
            if route.late_since is None:
                route.late_since = self._clock.monotonic_seconds()
            await route.sink.take([head for _, head in missing.values()])
            route.has |= {stream: number for stream, (number, _) in missing.items()}
        route.late_since = None

    def _missing(self, route: _Route, heads: Mapping[str, bytes]) -> dict[str, tuple[int, bytes]]:
        """Stream → number and bytes of the checkpoint that the sink lacks."""
        missing = {}
        for stream, head in heads.items():
            try:
                checkpoint = opened_checkpoint(f"the head of {stream}", head, self._verifier)
            except Altered as error:
                self._distrust(route, stream, str(error))
                continue
            number = checkpoint.number
            if checkpoint.stream != stream:
                self._distrust(route, stream, "its head belongs to another log")
                continue
            if number < route.has.get(stream, 0):
                self._distrust(route, stream, f"it went back to checkpoint {number}")
            elif number > route.has.get(stream, 0):
                missing[stream] = number, head
        return missing

    def _distrust(self, route: _Route, stream: str, reason: str) -> None:
        if stream not in route.distrusted:
            route.distrusted.add(stream)
            _log.error("audit stream %s was changed by somebody: %s; see qimem audit verify", stream, reason)

    def _mine(self) -> bool:
        """Whether this process, of all of this node, delivers."""
        with self._locking:
            if self._lock >= 0:
                return True
            descriptor = os.open(self._log / _LOCK, _LOCK_FLAGS, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            self._lock = descriptor
            return True
