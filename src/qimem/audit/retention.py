"""Sealed segments: compressed, and given up when they are too old or too many."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from qimem.audit.segment_file import StreamDirectory, StreamFiles, segment_files
from qimem.audit.trail import AuditTrail
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.hardening import harmless_environment
from qimem.kernel.limits import AUDIT_ARCHIVE_SECONDS

_log = logging.getLogger(__name__)

_DAY_SECONDS: Final = 86_400
_NICE: Final = 10


@dataclass(frozen=True, slots=True)
class Retention:
    """How long sealed segments are kept; None for ever.

    Args:
        days: Since the segment was sealed.
        total_bytes: Of one stream, as it is stored.
        archive: Command that is given a segment's path before it is given up; must end with 0.
    """

    days: int | None = None
    total_bytes: int | None = None
    archive: Sequence[str] = ()


class Retirement:
    """Decides which sealed segments are kept no longer, and has them archived. Use from one thread at a time."""

    def __init__(self, clock: Clock, retention: Retention) -> None:
        self._clock = clock
        self._retention = retention
        self._archiving: subprocess.Popen[bytes] | None = None
        self._closed = False

    def close(self) -> None:
        """End the archive command, and start no more; from any thread."""
        self._closed = True
        if self._archiving is not None:
            # The process does not end before its threads do, and this one would wait for a minute.
            _end(self._archiving)

    def leaving(self, files: StreamFiles, sealed: Sequence[int]) -> list[int]:
        """Those that are too old or too many, and archived: the oldest, without holes.

        Args:
            files: Of the stream.
            sealed: Numbers of its sealed segments, oldest first.

        Raises:
            OSError: a segment cannot be looked at.
        """
        sizes = {number: _size(files, number) for number in sealed}
        total, now = sum(sizes.values()), self._clock.now_us() / MICROSECONDS
        leaving: list[int] = []
        for number in sealed:
            old = self._retention.days is not None and _age(files, number, now) > (
                self._retention.days * _DAY_SECONDS
            )
            many = self._retention.total_bytes is not None and total > self._retention.total_bytes
            # Oldest first and without holes.
            if not (old or many) or not self._archived(files, number):
                break
            leaving.append(number)
            total -= sizes[number]
        return leaving

    def _archived(self, files: StreamFiles, number: int) -> bool:
        if not self._retention.archive:
            return True
        there = segment_files(files.path, number)
        if not there:
            # Whoever has taken the stream up meanwhile has given it up.
            return False
        try:
            code = self._run([*self._retention.archive, str(there[-1])])
        except (OSError, subprocess.TimeoutExpired) as error:
            _log.error("audit segment %s of %s is kept: the archive command failed: %s",
                       number, files.path.name, type(error).__name__)  # fmt: skip
            return False
        if code != 0 and not self._closed:
            _log.error("audit segment %s of %s is kept: the archive command ended with %s",
                       number, files.path.name, code)  # fmt: skip
        return code == 0

    def _run(self, command: Sequence[str]) -> int:
        silent = subprocess.DEVNULL
        with subprocess.Popen(
            command,
            stdin=silent,
            stdout=silent,
            stderr=silent,
            env=harmless_environment(),
            start_new_session=True,
        ) as running:
            self._archiving = running
            try:
                if self._closed:
                    _end(running)
                return running.wait(AUDIT_ARCHIVE_SECONDS)
            finally:
                self._archiving = None
                _end(running)


class SegmentKeeper:
    """Looks after the sealed segments of the stream that this worker writes."""

    def __init__(
        self, directory: StreamDirectory, trail: AuditTrail, clock: Clock, retention: Retention
    ) -> None:
        self._directory = directory
        self._trail = trail
        self._retirement = Retirement(clock, retention)
        self._thread = ThreadPoolExecutor(1, "audit-segments", initializer=_lower_priority)

    def close(self) -> None:
        """End the archive command, let the rest end by itself, and start no more."""
        self._retirement.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def keep_house(self) -> None:
        """Compress sealed segments and give up those that are too old or too many."""
        loop = asyncio.get_running_loop()
        sealed = await loop.run_in_executor(self._thread, self._compress)
        leaving = await loop.run_in_executor(self._thread, self._retirement.leaving, self._directory, sealed)
        if not leaving:
            return
        # What the log no longer holds is signed before it is gone; a gap that nobody signed is damage.
        await self._trail.give_up(leaving[-1] + 1)
        await loop.run_in_executor(self._thread, self._directory.remove_all, leaving)

    def _compress(self) -> list[int]:
        sealed = [number for number in self._directory.segments() if number < self._trail.sealed_below]
        for number in sealed:
            self._directory.compress(number)
        return sealed


def _size(files: StreamFiles, number: int) -> int:
    return sum(file.stat().st_size for file in segment_files(files.path, number))


def _age(files: StreamFiles, number: int, now_seconds: float) -> float:
    # When it was written last: compressing it keeps that time.
    # One that is gone is not old: whoever has taken the stream up meanwhile keeps house there.
    written = (file.stat().st_mtime for file in segment_files(files.path, number))
    return now_seconds - max(written, default=now_seconds)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With whatever it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _lower_priority() -> None:
    # On Linux niceness is per thread: compressing yields the core to the event loop.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
