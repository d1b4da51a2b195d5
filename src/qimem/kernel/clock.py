"""Time as a seam: no other module of the product asks the operating system for the time.

Wall time stamps and expires things; monotonic time measures durations, so that a stepped clock
never makes a wait negative or a window endless.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

MICROSECONDS = 1_000_000


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


def rfc3339(microseconds: int) -> str:
    """Render wall time as RFC 3339 UTC with `Z`, e.g. `2026-11-24T12:00:00.000000Z`."""
    moment = datetime.fromtimestamp(microseconds // MICROSECONDS, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{microseconds % MICROSECONDS:06d}Z"
