"""What the process that writes a stream is told: steps, and their form on the socket to it.

A job is a length and its steps, each a fixed head and three pieces of bytes. The answer to a job is one number: 0,
or the errno of the step that failed; those after it were not done.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

_STEP: Final = struct.Struct("!?QIIIi")
LENGTH: Final = struct.Struct("!I")
ANSWER: Final = struct.Struct("!i")


class Step(NamedTuple):
    """One durable write.

    Args:
        data: What to write at `offset`.
        seal: Cut the segment at its end.
        header: Go on in the next segment, which begins with this.
        head: A checkpoint to put aside once all of it is written.
        cut_to: Before anything else: this segment is cut at `offset`, and those behind it are removed; negative
            for no cut, 0 when there is no such segment.
    """

    data: bytes
    offset: int
    seal: bool = False
    header: bytes = b""
    head: bytes = b""
    cut_to: int = -1


def cut(segment: int, length: int) -> Step:
    """Go back to what is known of a stream."""
    return Step(b"", length, cut_to=segment)


def encoded(steps: Iterable[Step]) -> bytes:
    """A job as it is sent."""
    parts = [b""]
    for data, offset, seal, header, head, cut_to in steps:
        parts.append(_STEP.pack(seal, offset, len(data), len(header), len(head), cut_to))
        parts += (data, header, head)
    parts[0] = LENGTH.pack(sum(map(len, parts)))
    return b"".join(parts)


def decoded(job: bytes) -> Iterator[Step]:
    """The steps of a job, without its length."""
    at = 0
    while at < len(job):
        seal, offset, *lengths, cut_to = _STEP.unpack_from(job, at)
        at += _STEP.size
        pieces = []
        for length in lengths:
            pieces.append(job[at : at + length])
            at += length
        yield Step(pieces[0], offset, seal, pieces[1], pieces[2], cut_to)
