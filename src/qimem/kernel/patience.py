"""How long one request may wait for storage, all its questions together.

A deadline for each question would let a request that asks four of them hang four times as long. Only
waiting is counted: a slow upload or a password's turn in its lane does not use up the storage's time.
Questions that are answered at once are free, so that a long batch is not refused for its length.
"""

from __future__ import annotations

from contextvars import ContextVar

from qimem.kernel.limits import BACKGROUND_ANSWER_SECONDS, STORAGE_ANSWER_SECONDS, STORAGE_PROMPT_SECONDS

_left: ContextVar[list[float] | None] = ContextVar("storage_seconds_left", default=None)


def begin() -> None:
    """Start a request: what runs in this context from here on shares one measure of patience."""
    _left.set([STORAGE_ANSWER_SECONDS])


def seconds() -> float:
    """How long the next question may take."""
    left = _left.get()
    return BACKGROUND_ANSWER_SECONDS if left is None else left[0]


def spend(waited: float) -> None:
    """Take what a question took, in seconds, from the request's measure."""
    left = _left.get()
    if left is not None and waited > STORAGE_PROMPT_SECONDS:
        left[0] = max(0.0, left[0] - waited)
