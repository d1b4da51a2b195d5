"""The whole log of a node: which stream a worker writes, and whether all streams are what was written."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from qimem.audit.segment_file import (
    SegmentGone,
    StreamDirectory,
    StreamTaken,
    heads_of,
    read_heads,
    read_segment,
    segment_name,
    segment_numbers,
    stream_paths,
)
from qimem.audit.verification import (
    NOTHING_KNOWN,
    Altered,
    Known,
    Reading,
    Verifier,
    Visit,
    opened_checkpoint,
    read_stream,
)
from qimem.crypto.randomness import token_hex
from qimem.crypto.signatures import Ed25519Verifier

DIRECTORY: Final = "audit"
PUBLIC_KEY: Final = "public-key.jwk"
_LOCK: Final = "lock"
_KEEPER: Final = "keeper"
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_LOCK_TURN_SECONDS: Final = 0.01


class PublicKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key that checkpoints are signed with, as a JWK (RFC 8037), and whose log it is."""

    kty: str
    crv: str
    x: str
    instance: str

    @classmethod
    def of(cls, public: bytes, instance: str) -> PublicKey:
        """The JWK of a 32-byte Ed25519 public key."""
        return cls("OKP", "Ed25519", base64.urlsafe_b64encode(public).rstrip(b"=").decode(), instance)

    def verifier(self) -> Ed25519Verifier:
        """Verifies its signatures.

        Raises:
            ValueError: it is no such key.
        """
        if (self.kty, self.crv) != ("OKP", "Ed25519"):
            raise ValueError("not an Ed25519 key")
        return Ed25519Verifier(base64.urlsafe_b64decode(self.x + "=" * (-len(self.x) % 4)))


def write_public_key(log: Path, key: PublicKey) -> None:
    """Put the key beside the streams, for those who trust the machine that far."""
    _make(log)
    file = log / PUBLIC_KEY
    encoded = msgspec.json.encode(key) + b"\n"
    if file.exists() and file.read_bytes() == encoded:
        return
    unfinished = log / f"{PUBLIC_KEY}.{os.getpid()}"
    unfinished.write_bytes(encoded)
    unfinished.rename(file)


def read_public_key(file: Path) -> PublicKey:
    """A key that was put somewhere.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such key.
    """
    return msgspec.json.decode(file.read_bytes(), type=PublicKey)


@asynccontextmanager
async def taking_streams(log: Path) -> AsyncIterator[None]:
    """One process at a time looks for a stream: what nobody holds in the meantime has no owner."""
    _make(log)
    descriptor = os.open(log / _LOCK, _LOCK_FLAGS, 0o600)
    try:
        while True:
            if _locked(descriptor):
                break
            await asyncio.sleep(_LOCK_TURN_SECONDS)
        yield
    finally:
        os.close(descriptor)


def new_stream(log: Path) -> StreamDirectory:
    """A stream that did not exist."""
    return StreamDirectory(log / f"s{token_hex(6)}")


def ownerless_streams(log: Path) -> Iterator[StreamDirectory]:
    """The streams that nobody writes, each held by this process; called while taking streams."""
    for path in stream_paths(log):
        with suppress(StreamTaken):
            yield StreamDirectory(path)


@contextmanager
def visiting(log: Path, path: Path) -> Iterator[StreamDirectory | None]:
    """A stream, held by this process; None when somebody writes it or looks for one.

    Nobody finds a stream meanwhile: one that is held only for a visit must not be taken for one that has a writer.
    """
    descriptor = os.open(log / _LOCK, _LOCK_FLAGS, 0o600)
    directory = None
    try:
        if _locked(descriptor):
            with suppress(StreamTaken):
                directory = StreamDirectory(path)
        yield directory
    finally:
        if directory is not None:
            directory.close()
        os.close(descriptor)


@contextmanager
def only_keeper(log: Path) -> Iterator[bool]:
    """Whether this process, and no other, looks after ownerless streams now."""
    descriptor = os.open(log / _KEEPER, _LOCK_FLAGS, 0o600)
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What was found of one stream; `fault` says what is not what was written."""

    stream: str
    segments: int
    reading: Reading | None
    fault: str | None


class _Elsewhere(NamedTuple):
    """What is known of a stream apart from its segments: heads, and checkpoints by number."""

    head: bytes | None
    anchor: bytes | None
    checkpoints: Mapping[int, Known]


def verify_log(
    log: Path,
    key: PublicKey,
    anchors: Mapping[str, bytes],
    visit: Visit | None = None,
    checkpoints: Mapping[str, Mapping[int, Known]] = MappingProxyType({}),
) -> list[StreamReport]:
    """Read all streams of a log.

    Args:
        log: The directory.
        key: Whose signatures count.
        anchors: Stream → a checkpoint that was kept elsewhere.
        visit: Called with each record line of what is good.
        checkpoints: Stream → checkpoints that were kept elsewhere.
    """
    heads = read_heads(heads_of(log))
    paths = {path.name: path for path in stream_paths(log)}
    verifier = key.verifier()
    reports = []
    for name in sorted(paths.keys() | heads.keys() | anchors.keys() | checkpoints.keys()):
        numbers = segment_numbers(paths[name]) if name in paths else []
        if not numbers and not any(name in known for known in (heads, anchors, checkpoints)):
            # Made a moment ago, and nothing was ever written to it.
            continue
        if name not in paths:
            reports.append(StreamReport(name, 0, None, "the stream is gone"))
            continue
        known = _Elsewhere(heads.get(name), anchors.get(name), checkpoints.get(name, NOTHING_KNOWN))
        try:
            count, reading = _read_live(paths[name], key.instance, verifier, known, visit)
            reports.append(StreamReport(name, count, reading, None))
        except (Altered, OSError) as error:
            reports.append(StreamReport(name, len(numbers), None, str(error)))
    return reports


def _read_live(
    path: Path,
    instance: str,
    verifier: Verifier,
    known: _Elsewhere,
    visit: Visit | None,
) -> tuple[int, Reading]:
    """Read a stream whose oldest segments may be given up in the meantime; how many there were, and what was read."""
    while True:
        numbers = segment_numbers(path)
        try:
            return len(numbers), _read(path, numbers, instance, verifier, known, visit)
        except SegmentGone:
            # Nobody is shown a record twice; and a segment that is gone before an older one was not given up.
            if visit is not None or segment_numbers(path)[:1] == numbers[:1]:
                raise


def _read(
    path: Path,
    numbers: list[int],
    instance: str,
    verifier: Verifier,
    known: _Elsewhere,
    visit: Visit | None,
) -> Reading:
    head, anchor, checkpoints = known
    if head is None:
        raise Altered(path.name, "its last checkpoint was put aside and is gone")
    reading = Reading()
    for data in (head,) if anchor is None else (head, anchor):
        checkpoint = opened_checkpoint(f"the head of {path.name}", data, verifier)
        if (checkpoint.instance, checkpoint.stream) != (instance, path.name):
            raise Altered(path.name, "its head belongs to another log")
        segments = ((segment_name(number), read_segment(path, number)) for number in numbers)
        visited = visit if data is head and visit is not None else _ignored
        reading = read_stream(segments, verifier, checkpoint, visited, checkpoints)
    if numbers and (reading.instance, reading.stream) not in {(instance, path.name), (None, None)}:
        raise Altered(path.name, "it belongs to another log")
    return reading


def _ignored(_line: bytes) -> None:
    pass


def _make(log: Path) -> None:
    log.mkdir(mode=0o700, parents=True, exist_ok=True)
