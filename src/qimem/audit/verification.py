"""Reads a stream again and says whether it is what was written; needs nothing but its bytes and a public key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

import msgspec

from qimem.audit.segment import (
    FORMAT,
    Chain,
    ChainLine,
    Checkpoint,
    Header,
    SignedCheckpoint,
    from_text,
    text,
)
from qimem.crypto.signatures import SignatureInvalid

_CHAIN_START: Final = b'{"chain":'
_CHECKPOINT_START: Final = b'{"checkpoint":'

_header = msgspec.json.Decoder(Header)
_chain_line = msgspec.json.Decoder(ChainLine)
_signed = msgspec.json.Decoder(SignedCheckpoint)


class Verifier(Protocol):
    """The public half of the key that signs checkpoints."""

    def verify(self, signature: bytes, data: bytes) -> None:
        """Return if the signature is good.

        Raises:
            SignatureInvalid: it is not.
        """
        ...


class Altered(Exception):
    """The log is not what was written.

    Args:
        where: Segment and byte.
        reason: What does not fit.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")


@dataclass(slots=True)
class Reading:
    """How far a stream was read and found good.

    Args:
        unanchored: Records behind the last checkpoint.
        records: Records of the segments that were read.
        torn_bytes: Length of a last batch that was not finished: what a crash leaves behind, never acknowledged.
        end: Offset of the first byte behind the last whole batch of the last segment.
    """

    instance: str | None = None
    stream: str | None = None
    chain: Chain = field(default_factory=Chain)
    segment: int = 0
    first: int = 1
    checkpoint: Checkpoint | None = None
    unanchored: int = 0
    records: int = 0
    torn_bytes: int = 0
    end: int = 0


class Known(NamedTuple):
    """What is remembered of a checkpoint: where it is said to stand, and the digest of its line."""

    segment: int
    digest: bytes


NOTHING_KNOWN: Final[Mapping[int, Known]] = MappingProxyType({})


def digest_of(line: bytes) -> bytes:
    """Of a signed checkpoint, with or without its line end."""
    return hashlib.sha256(line.rstrip(b"\n")).digest()


Visit = Callable[[bytes], None]


def _ignored(_line: bytes) -> None:
    pass


class StreamReader:
    """Reads the segments of one stream in order.

    Args:
        verifier: None to trust the signatures, for a server that reads its own log again.
        visit: Called with each record line of a whole batch.
        head: A checkpoint of this stream that is known from elsewhere; it must stand in it.
        known: Others by their numbers; they must stand in it unless their segments were given up.
    """

    def __init__(
        self,
        verifier: Verifier | None,
        visit: Visit = _ignored,
        head: Checkpoint | None = None,
        known: Mapping[int, Known] = NOTHING_KNOWN,
    ) -> None:
        self.reading = Reading()
        self._known = dict(known)
        self._head = head
        self.met_head = False
        self._verifier = verifier
        self._visit = visit

    def segment(self, name: str, data: bytes) -> None:
        """Read the next segment.

        Raises:
            Altered: it is not what was written.
        """
        reading = self.reading
        if reading.torn_bytes:
            raise Altered(name, "the segment before it does not end with a whole batch")
        content, filled = _content(data)
        start = self._begin(name, content)
        if start == 0:
            # It is no segment yet: the stream still ends in the one before it.
            reading.torn_bytes = filled
            return
        self._batches(name, content, start, filled)

    def begin_behind(self, name: str, data: bytes, line: bytes) -> int:
        """Read the segment of the head from the head on; its signature vouches for all that stands before it.

        Args:
            name: The segment's.
            data: Its bytes.
            line: The head as it stands there.

        Returns:
            Where the head stands.

        Raises:
            Altered: it is not there, or what comes behind it is not what was written.
        """
        reading, head = self.reading, self._head
        content, filled = _content(data)
        at = content.find(line)
        if head is None or at < 0:
            raise Altered(name, "the last checkpoint, which is known, is not there")
        reading.instance, reading.stream, reading.segment = head.instance, head.stream, head.segment
        reading.first, reading.checkpoint, self.met_head = head.first, head, True
        reading.chain = Chain(_digest(name, head.chain), head.entries)
        closing = reading.chain.close_batch(line, 1)
        start = at + len(line)
        if content[start : start + len(closing)] != closing:
            raise Altered(f"{name} at byte {at}", "the batch is not what was written here")
        self._batches(name, content, start + len(closing), filled)
        return at

    def check_end(self) -> None:
        """Judge what was read as a whole: nothing is gone at its beginning or its end.

        Raises:
            Altered: something is.
        """
        reading, head = self.reading, self._head
        if reading.checkpoint is not None and reading.checkpoint.first < reading.first:
            raise Altered(f"segment {reading.checkpoint.first}", "it is gone and was not given up")
        reached = 0 if reading.checkpoint is None else reading.checkpoint.number
        for number, known in sorted(self._known.items()):
            if known.segment >= reading.first:
                gone = "is not there" if number <= reached else "is behind its end"
                raise Altered(f"segment {known.segment}", f"checkpoint {number}, which is known, {gone}")
        if head is None or head.number == 0:
            return
        if head.number > reached:
            raise Altered(
                f"segment {head.segment}", f"it ends before checkpoint {head.number}, which is known"
            )
        if head.segment >= reading.first and not self.met_head:
            raise Altered(
                f"segment {head.segment}", f"checkpoint {head.number}, which is known, is not there"
            )

    def _batches(self, name: str, content: bytes, start: int, filled: int) -> None:
        while start < len(content):
            end = self._batch(name, content, start)
            if end == 0:
                break
            start = end
        self.reading.torn_bytes = max(0, filled - start)
        self.reading.end = start

    def _begin(self, name: str, content: bytes) -> int:
        """Take in the header; where the first batch begins, 0 when the header was never finished."""
        end = content.find(b"\n") + 1
        if end == 0:
            return 0
        reading = self.reading
        try:
            header = _header.decode(content[: end - 1])
        except ValueError as error:
            raise Altered(name, f"no header: {error}") from None
        if header.qimem_audit != FORMAT:
            raise Altered(name, f"format {header.qimem_audit} is not known to this version")
        if reading.segment == 0:
            reading.instance, reading.stream, reading.first = header.instance, header.stream, header.segment
            reading.chain = Chain(_digest(name, header.chain), header.entries)
            if header.segment == 1 and reading.chain != Chain():
                raise Altered(name, "the first segment claims to go on from another one")
        elif header.segment != reading.segment + 1:
            raise Altered(name, f"segment {header.segment} follows on segment {reading.segment}")
        if (header.instance, header.stream) != (reading.instance, reading.stream):
            raise Altered(name, "it belongs to another log")
        if (header.chain, header.entries) != (text(reading.chain.digest).decode(), reading.chain.entries):
            raise Altered(name, "it does not go on from where the segment before it ends")
        reading.segment = header.segment
        reading.chain.begin(content[:end])
        return end

    def _batch(self, name: str, content: bytes, start: int) -> int:
        """Take in one batch; where the next one begins, 0 when this one was never finished."""
        at = start
        lines: list[bytes] = []
        while True:
            end = content.find(b"\n", at) + 1
            if end == 0:
                return 0
            line = content[at:end]
            if line.startswith(_CHAIN_START):
                break
            lines.append(line)
            at = end
        where = f"{name} at byte {start}"
        before = Chain(self.reading.chain.digest, self.reading.chain.entries)
        closing = self.reading.chain.close_batch(content[start:at], len(lines))
        if line != closing:
            raise Altered(where, "the batch is not what was written here")
        _chain_line.decode(line)
        for each in lines:
            if each.startswith(_CHECKPOINT_START):
                self._checkpoint(where, each, before, alone=len(lines) == 1)
            else:
                self.reading.unanchored += 1
                self.reading.records += 1
                self._visit(each)
        return end

    def _checkpoint(self, where: str, line: bytes, before: Chain, *, alone: bool) -> None:
        reading = self.reading
        checkpoint = opened_checkpoint(where, line, self._verifier)
        state = (checkpoint.chain, checkpoint.entries, checkpoint.segment)
        if not alone or state != (text(before.digest).decode(), before.entries, reading.segment):
            raise Altered(where, "the checkpoint is about another state")
        if (checkpoint.instance, checkpoint.stream) != (reading.instance, reading.stream):
            raise Altered(where, "the checkpoint belongs to another log")
        number = 1 if reading.checkpoint is None else reading.checkpoint.number + 1
        if checkpoint.number != number and (reading.checkpoint is not None or reading.first == 1):
            raise Altered(where, f"checkpoint {checkpoint.number} stands where {number} belongs")
        if self._head is not None and self._head.number == checkpoint.number:
            if self._head != checkpoint:
                raise Altered(where, "the checkpoint is not the one that was put aside")
            self.met_head = True
        known = self._known.pop(checkpoint.number, None)
        if known is not None and known.digest != digest_of(line):
            raise Altered(where, f"checkpoint {checkpoint.number} is not the one that is known")
        reading.checkpoint = checkpoint
        reading.unanchored = 0


def _content(data: bytes) -> tuple[bytes, int]:
    """What was written from the front on, and how far anything was written at all."""
    # The last write before a power cut can be there in parts, with a hole between them.
    length = data.find(b"\0")
    return data if length < 0 else data[:length], len(data.rstrip(b"\0"))


def _digest(name: str, chain: str) -> bytes:
    try:
        digest = from_text(chain)
    except ValueError:
        raise Altered(name, "its chain is not base64url") from None
    if len(digest) != hashlib.sha256().digest_size:
        raise Altered(name, "its chain has another length")
    return digest


def opened_checkpoint(where: str, data: bytes, verifier: Verifier | None) -> Checkpoint:
    """A signed checkpoint.

    Args:
        where: Said in the error.
        data: Its line.
        verifier: The public key, None to trust the signature.

    Raises:
        Altered: it is none, or not signed with this key.
    """
    try:
        signed = _signed.decode(data)
        checkpoint = signed.opened()
        if verifier is not None:
            verifier.verify(from_text(signed.signature), signed.signed_bytes())
    except ValueError as error:
        raise Altered(where, f"no checkpoint: {error}") from None
    except SignatureInvalid:
        raise Altered(where, "the checkpoint is not signed with this key") from None
    return checkpoint


def read_stream(
    segments: Iterable[tuple[str, bytes]],
    verifier: Verifier | None,
    head: Checkpoint | None = None,
    visit: Visit = _ignored,
    known: Mapping[int, Known] = NOTHING_KNOWN,
) -> Reading:
    """Read a whole stream.

    Args:
        segments: Name and bytes of each segment, oldest first.
        verifier: The public key.
        head: A checkpoint of it that is known from elsewhere.
        visit: Called with each record line.
        known: See `StreamReader`.

    Raises:
        Altered: it is not what was written.
    """
    reader = StreamReader(verifier, visit, head, known)
    for name, data in segments:
        reader.segment(name, data)
    reader.check_end()
    return reader.reading
