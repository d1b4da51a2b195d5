"""How long one request may wait for storage, all its questions together.

A deadline for each question would let a request that asks four of them hang four times as long. Only
waiting is counted: a slow upload or a password's turn in its lane does not use up the storage's time.
A batch has a measure for each of its items, and one for all of them: a slow database serves as many as the
time allows, and one that is away holds up a thousand items no longer than the first.
"""

from __future__ import annotations

import time
from contextvars import ContextVar

from qimem.kernel.limits import BACKGROUND_ANSWER_SECONDS, BATCH_SECONDS, STORAGE_ANSWER_SECONDS

_left: ContextVar[list[float] | None] = ContextVar("storage_seconds_left", default=None)


def begin() -> None:
    """Start a request: what runs in this context from here on shares one measure of patience."""
    _left.set([STORAGE_ANSWER_SECONDS])


def begin_items() -> float:
    """Start a batch: when the time of all its items is over, for `begin_item`."""
    return time.monotonic() + BATCH_SECONDS


def begin_item(batch_ends: float) -> None:
    """Give the next item of a batch a measure of its own, unless the one before used up all of its own."""
    left = _left.get()
    if left is not None:
        left[0] = STORAGE_ANSWER_SECONDS if left[0] > 0 and time.monotonic() < batch_ends else 0.0


def seconds() -> float:
    """How long the next question may take."""
    left = _left.get()
    return BACKGROUND_ANSWER_SECONDS if left is None else left[0]


def spend(waited: float) -> None:
    """Take what a question took, in seconds, from the request's measure."""
    left = _left.get()
    if left is not None:
        left[0] = max(0.0, left[0] - waited)
