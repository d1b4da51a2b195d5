"""The state of the stream that a worker writes: where it is, and what the next write is.

Nothing here touches the disk but `resume`; the process that writes runs the steps that are made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import msgspec

from qimem.audit.segment import (
    CHECKPOINT_DOMAIN,
    FORMAT,
    Chain,
    Checkpoint,
    Header,
    checkpoint_line,
    header_line,
    text,
)
from qimem.audit.segment_file import StreamDirectory, read_segment, segment_name
from qimem.audit.steps import Step
from qimem.audit.verification import Reading, StreamReader
from qimem.kernel.clock import Clock, rfc3339
from qimem.kernel.limits import AUDIT_SEGMENT_BYTES

_ROOM_BYTES: Final = 1024
"""What a checkpoint and the ends of batches take at most; kept free for the last checkpoint of a segment."""


class Signer(Protocol):
    """The key that vouches for the log."""

    def sign(self, data: bytes) -> bytes:
        """64-byte Ed25519 signature."""
        ...


class Position(NamedTuple):
    """A point that a stream has reached."""

    chain: Chain
    segment: int
    offset: int
    checkpoints: int
    unsigned: int


@dataclass(slots=True)
class StreamState:
    """Where a stream is. All changes are made in memory first; the disk follows or the stream has failed."""

    instance: str
    name: str
    signer: Signer
    clock: Clock
    chain: Chain = field(default_factory=Chain)
    segment: int = 0
    offset: int = 0
    first: int = 1
    checkpoints: int = 0
    unsigned: int = 0
    segment_bytes: int = AUDIT_SEGMENT_BYTES

    def steps(self, lines: list[bytes], *, sign: bool) -> Iterator[Step]:
        """The writes for these records.

        Args:
            lines: Encoded records, each with its line end.
            sign: Whether a checkpoint ends them.
        """
        data = b"".join(lines)
        if self.segment == 0:
            yield self.next_segment()
        elif self.offset + len(data) + 2 * _ROOM_BYTES > self.segment_bytes:
            yield self.next_segment(self._checkpoint() if self.unsigned else b"", seal=True)
        written = data + self.chain.close_batch(data, len(lines)) if lines else b""
        self.unsigned += len(lines)
        head = b""
        if sign and self.unsigned:
            closing = self._checkpoint()
            head = closing.partition(b"\n")[0]
            written += closing
        yield self._advance(written, head)

    def position(self) -> Position:
        """Where the stream is, to come back to."""
        return Position(
            Chain(self.chain.digest, self.chain.entries),
            self.segment,
            self.offset,
            self.checkpoints,
            self.unsigned,
        )

    def restore(self, position: Position) -> None:
        """Be where the stream was: what came after it is not on the disk, or not for certain."""
        chain, self.segment, self.offset, self.checkpoints, self.unsigned = position
        self.chain = Chain(chain.digest, chain.entries)

    def first_head(self) -> bytes:
        """What is put aside of a stream that was only just made: that it exists."""
        return checkpoint_line(*self._signed()).rstrip()

    def _advance(self, data: bytes, head: bytes) -> Step:
        step = Step(data, self.offset, head=head)
        self.offset += len(data)
        return step

    def next_segment(self, last: bytes = b"", *, seal: bool = False) -> Step:
        """Go on in a new segment.

        Args:
            last: What still belongs into the one before it.
            seal: Whether to cut that one at its end.
        """
        offset = self.offset
        self.segment += 1
        header = header_line(
            Header(
                qimem_audit=FORMAT,
                instance=self.instance,
                stream=self.name,
                segment=self.segment,
                entries=self.chain.entries,
                chain=text(self.chain.digest).decode(),
                opened=rfc3339(self.clock.now_us()),
            )
        )
        self.chain.begin(header)
        self.offset = len(header)
        return Step(last, offset, seal=seal, header=header)

    def _checkpoint(self) -> bytes:
        self.checkpoints += 1
        self.unsigned = 0
        line = checkpoint_line(*self._signed())
        return line + self.chain.close_batch(line, 1)

    def _signed(self) -> tuple[bytes, bytes]:
        encoded = msgspec.json.encode(
            Checkpoint(
                instance=self.instance,
                stream=self.name,
                segment=self.segment,
                number=self.checkpoints,
                entries=self.chain.entries,
                chain=text(self.chain.digest).decode(),
                first=self.first,
                at=rfc3339(self.clock.now_us()),
            )
        )
        return encoded, self.signer.sign(CHECKPOINT_DOMAIN + encoded)


def resume(state: StreamState, directory: StreamDirectory, visit: Callable[[bytes], None], since: int) -> int:
    """Take up a stream where it ends.

    Args:
        state: Empty; afterwards where the stream is.
        directory: Its files.
        visit: Called with each record of the segments that are read, perhaps more than once.
        since: The segment to read from, if it is not one of the last two anyway.

    Returns:
        How many bytes of a batch that was never finished stand behind the end.

    Raises:
        Altered: what was read is not what was written.
        OSError: it cannot be read.
    """
    numbers = directory.segments()
    if not numbers:
        return 0
    start = min(since, numbers[-2:][0])
    reading = _read(directory, numbers, start, visit)
    while reading.checkpoint is None and start > numbers[0]:
        # The number of the last checkpoint is needed; after failures it can stand further back.
        start -= 1
        reading = _read(directory, numbers, start, visit)
    if reading.segment != numbers[-1]:
        # A segment whose header was never finished holds nothing that anyone was told of.
        directory.remove(numbers[-1])
    state.chain, state.segment, state.offset = reading.chain, reading.segment, reading.end
    state.first = numbers[0]
    state.unsigned = reading.unanchored
    if reading.checkpoint is not None:
        state.checkpoints = reading.checkpoint.number
    return reading.torn_bytes


def _read(
    directory: StreamDirectory, numbers: list[int], start: int, visit: Callable[[bytes], None]
) -> Reading:
    reader = StreamReader(None, visit)
    for number in numbers:
        if number >= start:
            reader.segment(segment_name(number), read_segment(directory.path, number))
    return reader.reading
