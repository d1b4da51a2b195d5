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
from qimem.audit.verification import Altered, StreamReader, Verifier, opened_checkpoint
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
    verifier: Verifier
    clock: Clock
    chain: Chain = field(default_factory=Chain)
    segment: int = 0
    offset: int = 0
    first: int = 1
    checkpoints: int = 0
    unsigned: int = 0
    head: bytes = b""
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
            last = self._checkpoint() if self.unsigned else b""
            self.head = last.partition(b"\n")[0]
            yield self.next_segment(last, seal=True)
        written = data + self.chain.close_batch(data, len(lines)) if lines else b""
        self.unsigned += len(lines)
        if sign and self.unsigned:
            closing = self._checkpoint()
            self.head = closing.partition(b"\n")[0]
            written += closing
        yield self._advance(written)

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

    def take_head(self) -> bytes:
        """The last checkpoint of the steps that were made, to be put aside when they are on the disk."""
        head, self.head = self.head, b""
        return head

    def _advance(self, data: bytes) -> Step:
        step = Step(data, self.offset)
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
    """Take up a stream where it ends: read it from its head on, so that a long log delays no start.

    What stands before the head was signed, and what is written now goes on from what was signed, never from what
    is found there: changes of it stay as visible as they are.

    Args:
        state: Empty; afterwards where the stream is.
        directory: Its files.
        visit: Called with each record behind the head, and with whole segments of them, unexamined, before it.
        since: The segment from which on they are visited.

    Returns:
        How many bytes of a batch that was never finished stand behind the end.

    Raises:
        Altered: what was read is not what was written.
        OSError: it cannot be read.
    """
    numbers = directory.segments()
    line, head = _known_head(state, directory, written=bool(numbers))
    if not numbers:
        return 0
    reader = StreamReader(state.verifier, visit, head)
    for number in numbers:
        if number >= min(head.segment, since):
            signed = _read(reader, directory, number, head, line)
            if number >= since:
                visit(signed)
    reading, checkpoint = reader.reading, reader.reading.checkpoint
    # The beginning of what is kept is what was signed, never what happens to be there.
    reading.first = numbers[0]
    reader.check_end()
    if checkpoint is None and numbers[0] != 1:
        raise Altered(f"segment {numbers[0]}", "there is nothing before it and no checkpoint after it")
    if (reading.instance, reading.stream) not in {(state.instance, state.name), (None, None)}:
        raise Altered(directory.path.name, "it belongs to another log")
    if reading.segment != numbers[-1]:
        # A segment whose header was never finished holds nothing that anyone was told of.
        directory.remove(numbers[-1])
    state.chain, state.segment, state.offset = reading.chain, reading.segment, reading.end
    state.unsigned = reading.unanchored
    if checkpoint is not None:
        state.checkpoints, state.first = checkpoint.number, checkpoint.first
    return reading.torn_bytes


def _read(
    reader: StreamReader, directory: StreamDirectory, number: int, head: Checkpoint, line: bytes
) -> bytes:
    """Read of a segment what stands behind the head; the bytes of it that stand before."""
    data = read_segment(directory.path, number)
    if number < head.segment:
        return data
    if number == head.segment:
        return data[: reader.begin_behind(segment_name(number), data, line)]
    reader.segment(segment_name(number), data)
    return b""


def _known_head(state: StreamState, directory: StreamDirectory, *, written: bool) -> tuple[bytes, Checkpoint]:
    """The checkpoint that was put aside, as a line and what it says; number 0 before the first."""
    data = directory.head()
    if data is None:
        if written:
            raise Altered(directory.path.name, "its last checkpoint was put aside and is gone")
        return b"", Checkpoint(state.instance, state.name, 0, 0, 0, "", 1, "")
    head = opened_checkpoint(f"the head of {directory.path.name}", data, state.verifier)
    if (head.instance, head.stream) != (state.instance, state.name):
        raise Altered(directory.path.name, "its head belongs to another log")
    if head.number > 0 and not written:
        raise Altered(directory.path.name, "the stream is gone")
    return data + b"\n", head
