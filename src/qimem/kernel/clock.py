"""Time as a seam: no other module of the product asks the operating system for the time.

Wall time stamps and expires things; monotonic time measures durations, so that a stepped clock
never makes a wait negative or a window endless.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

MICROSECONDS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# The monotonic clock of Linux stands still while the machine sleeps; other systems have no such clock.
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def seconds_since_boot() -> float:
    """Seconds on a clock that never goes back and goes on while the machine sleeps."""
    return time.clock_gettime(_SINCE_BOOT)


class Clock(Protocol):
    """Where time comes from."""

    def now_us(self) -> int:
        """Wall time in microseconds since the Unix epoch."""
        ...

    def monotonic_seconds(self) -> float:
        """Seconds on a clock that never goes back; only differences mean something."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_us(self) -> int:
        """Wall time in microseconds since the Unix epoch."""
        return time.time_ns() // 1_000

    def monotonic_seconds(self) -> float:
        """Seconds since an arbitrary point."""
        return time.monotonic()


class SteadyTime:
    """Wall time that cannot run ahead of a process: at its start it is believed, later no faster than time passes.

    For what happens by itself when its time has come. A wall clock that jumps a day ahead would do it a day too early.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_us = clock.now_us()
        self._started = clock.monotonic_seconds()

    @property
    def elapsed_seconds(self) -> float:
        """How long this has been watched."""
        return self._clock.monotonic_seconds() - self._started

    def now_us(self) -> int:
        """Wall time in microseconds since the Unix epoch, or less."""
        return min(self._clock.now_us(), self._started_us + int(self.elapsed_seconds * MICROSECONDS))


class ManualClock:
    """A clock that stands still until it is told to move. For tests."""

    def __init__(self, start_us: int = 1_800_000_000 * MICROSECONDS) -> None:
        self.wall_us = start_us
        self.monotonic = 0.0

    def now_us(self) -> int:
        """The wall time last set."""
        return self.wall_us

    def monotonic_seconds(self) -> float:
        """The monotonic time last set."""
        return self.monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self.wall_us += int(seconds * MICROSECONDS)
        self.monotonic += seconds


class MovableClock:
    """The machine's clocks, moved forward at will. For tests of what expires."""

    def __init__(self) -> None:
        self._system = SystemClock()
        self._ahead_us = 0

    def now_us(self) -> int:
        """Wall time in microseconds since the Unix epoch."""
        return self._system.now_us() + self._ahead_us

    def monotonic_seconds(self) -> float:
        """Seconds since an arbitrary point."""
        return self._system.monotonic_seconds() + self._ahead_us / MICROSECONDS

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._ahead_us += int(seconds * MICROSECONDS)


def rfc3339(microseconds: int) -> str:
    """Render wall time as RFC 3339 UTC with `Z`, e.g. `2026-11-24T12:00:00.000000Z`."""
    return f"{_to_the_second(microseconds // MICROSECONDS)}.{microseconds % MICROSECONDS:06d}Z"


def parse_rfc3339(text: str) -> int:
    """Microseconds since the Unix epoch of an RFC 3339 time with an offset.

    Raises:
        ValueError: it is none.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset")
    return (moment - _EPOCH) // timedelta(microseconds=1)


@lru_cache(maxsize=4)
def _to_the_second(seconds: int) -> str:
    # Most of what is stamped is stamped now: 3.2 µs become 0.5.
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
