"""Room on the disk of the log: how much there is, and for how long it will do.

A log that cannot be written stops everything that has to be recorded. So a running server looks at what is free, draws a
line through the last two hours of it, and says once when it gets tight. What has no history looks at what the log itself
grew by.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

from qimem.audit.segment_file import segment_files, segment_numbers, stream_paths
from qimem.kernel.limits import (
    AUDIT_FORECAST_SAMPLES_MIN,
    AUDIT_FORECAST_SECONDS,
    AUDIT_FREE_LOW_BYTES,
    AUDIT_FREE_LOW_SECONDS,
    AUDIT_FREE_SAMPLE_SECONDS,
    AUDIT_SEGMENT_BYTES,
)

_HOUR: Final = 3_600
_DAY: Final = 24 * _HOUR
_RELIEF: Final = 1.25
"""A warning comes again only after there was so much more than the threshold: free space goes up and down by segments."""


class Pressure(IntEnum):
    """How tight it is."""

    NONE = 0
    LOW = 1
    RESERVE = 2


class Room(NamedTuple):
    """What is left.

    Args:
        free: Bytes.
        seconds: Until it is full at the rate of late; infinite when it does not shrink, or is not known.
    """

    free: float
    seconds: float


class Thresholds(NamedTuple):
    """Below how many free bytes it is low, and below how many the next segments may not be had."""

    low: float
    reserve: float

    def pressure(self, room: Room, easing: float = 1.0) -> Pressure:
        """How tight it is.

        Args:
            room: What is left.
            easing: The thresholds are multiplied by it.
        """
        if room.free < self.reserve * easing:
            return Pressure.RESERVE
        if room.free < self.low * easing or room.seconds < AUDIT_FREE_LOW_SECONDS * easing:
            return Pressure.LOW
        return Pressure.NONE


def thresholds(workers: int, *, segment_bytes: int = AUDIT_SEGMENT_BYTES) -> Thresholds:
    """For a log of so many streams: each needs a next segment, and while one is compressed it is there twice."""
    reserve = 2.0 * segment_bytes * workers
    # A server in memory is small on purpose.
    low = AUDIT_FREE_LOW_BYTES if segment_bytes == AUDIT_SEGMENT_BYTES else 0
    return Thresholds(max(low, reserve), reserve)


class Forecast:
    """Draws a line through what was free of late."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(
            maxlen=int(AUDIT_FORECAST_SECONDS / AUDIT_FREE_SAMPLE_SECONDS)
        )
        self._seconds = math.inf

    def saw(self, free: float, now: float) -> float:
        """Seconds until nothing is free; infinite when it does not shrink, or was watched too short a time.

        Args:
            free: Bytes, now.
            now: Monotonic seconds.
        """
        if not self._seen or now - self._seen[-1][0] >= AUDIT_FREE_SAMPLE_SECONDS:
            self._seen.append((now, free))
            self._seconds = self._fallen(free)
        return self._seconds

    def _fallen(self, free: float) -> float:
        count = len(self._seen)
        if count < AUDIT_FORECAST_SAMPLES_MIN:
            return math.inf
        middle = sum(at for at, _ in self._seen) / count
        level = sum(bytes_ for _, bytes_ in self._seen) / count
        spread = sum((at - middle) ** 2 for at, _ in self._seen)
        slope = sum((at - middle) * (bytes_ - level) for at, bytes_ in self._seen) / spread
        return math.inf if slope >= 0 else free / -slope


class AuditSpace:
    """Looks at the disk of a log. Use from one thread at a time: a disk that hangs keeps it.

    Args:
        log: The directory.
        limits: When to warn.
        warn: Told when it gets tighter, once for each threshold until there is room again.
    """

    def __init__(self, log: Path, limits: Thresholds, warn: Callable[[str], None]) -> None:
        self._log = log
        self._limits = limits
        self._warn = warn
        self._forecast = Forecast()
        self._told = Pressure.NONE

    def look(self, now: float) -> Room:
        """What is left.

        Args:
            now: Monotonic seconds.

        Raises:
            OSError: it cannot be seen.
        """
        free = free_bytes(self._log)
        room = Room(free, self._forecast.saw(free, now))
        pressure = self._limits.pressure(room)
        if pressure > self._told:
            self._warn(described(room, pressure))
            self._told = pressure
        else:
            self._told = min(self._told, self._limits.pressure(room, _RELIEF))
        return room


def free_bytes(directory: Path) -> int:
    """What others than root may still write there.

    Raises:
        OSError: it cannot be seen.
    """
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def described(room: Room, pressure: Pressure = Pressure.NONE) -> str:
    """For people: what is left."""
    until = "" if math.isinf(room.seconds) else f", full in {_duration(room.seconds)} at the rate of late"
    text = f"{int(room.free) >> 20} MiB are free where the audit log is{until}"
    return f"{text}: the next segment may not be had" if pressure is Pressure.RESERVE else text


def growth(log: Path, now_seconds: float) -> float:
    """Bytes a second that a log grew by in the last day, as far as its sealed segments tell.

    Args:
        log: The directory.
        now_seconds: Wall time.

    Raises:
        OSError: it cannot be seen.
    """
    began = now_seconds - _DAY
    oldest, total = now_seconds, 0
    for stream in stream_paths(log):
        # The last one is there in its full size already.
        for number in segment_numbers(stream)[:-1]:
            for file in segment_files(stream, number):
                seen = file.stat()
                oldest = min(oldest, seen.st_mtime)
                total += seen.st_size if seen.st_mtime >= began else 0
    return total / min(max(now_seconds - oldest, _HOUR), _DAY)


def _duration(seconds: float) -> str:
    return f"{seconds / _HOUR:.1f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} days"
