"""A whole log: any change to its files is found with the files and the public key alone."""

from __future__ import annotations

import asyncio
import gzip
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qimem.audit.log import (
    PublicKey,
    new_stream,
    ownerless_streams,
    read_public_key,
    verify_log,
    write_public_key,
)
from qimem.audit.segment_file import StreamDirectory, heads_of, read_heads, stream_paths
from qimem.audit.stream import StreamState
from qimem.audit.trail import open_trail
from qimem.kernel.clock import SystemClock
from tests.support.volume import volume
from tests.unit.audit.logs import signer, verifier_of

KEY = PublicKey.of(signer().public_bytes(), "here")
SIZE = 8 * 1024
RECORD = b'{"at":"2026-11-26T12:00:00.000000Z","event":"keys.encrypt","outcome":"ok","id":"%d"}\n'


def write_stream(log: Path, name: str, records: int = 150, *, instance: str = "here", seed: int = 1) -> None:
    """What a worker leaves behind that wrote so many records and ended in order; older segments compressed."""

    async def write() -> None:
        directory = StreamDirectory(log / name)
        state = StreamState(
            instance, name, signer(seed), verifier_of(signer(seed)), SystemClock(), segment_bytes=SIZE
        )
        trail = await open_trail(state, directory, lambda line: None)
        for number in range(records):
            await trail.append(RECORD % number)
        await trail.close()
        for number in directory.segments()[:2]:
            directory.compress(number)
        directory.close()

    asyncio.run(write())


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of two streams, and beside it one of another instance."""
    place = tmp_path_factory.mktemp("logs")
    for name in ("s000000000001", "s000000000002"):
        write_stream(place / "log", name)
    write_stream(place / "other", "s000000000001", instance="there", seed=2)
    write_public_key(place / "log", KEY)
    return place


@pytest.fixture
def log(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original / "log", tmp_path / "log"))


def faults(log: Path, anchors: dict[str, bytes] | None = None, key: PublicKey = KEY) -> list[str]:
    return [report.fault for report in verify_log(log, key, anchors or {}) if report.fault]


def test_an_untouched_log_is_good(log: Path) -> None:
    reports = verify_log(log, KEY, read_heads(heads_of(log)))
    assert [(report.stream, report.fault) for report in reports] == [
        ("s000000000001", None),
        ("s000000000002", None),
    ]
    for report in reports:
        assert report.reading is not None
        assert (report.reading.records, report.reading.unanchored, report.reading.torn_bytes) == (150, 0, 0)
        assert report.segments > 3


def test_the_key_beside_the_log_is_its_own(log: Path) -> None:
    assert read_public_key(log / "public-key.jwk") == KEY
    assert faults(log, key=PublicKey.of(signer(2).public_bytes(), "here"))
    assert faults(log, key=PublicKey.of(signer().public_bytes(), "there"))


def test_a_stream_that_is_gone_is_missed(log: Path) -> None:
    shutil.rmtree(log / "s000000000001")
    assert faults(log) == ["the stream is gone"]


def test_a_head_that_is_gone_is_missed(log: Path) -> None:
    (heads_of(log) / "s000000000001").unlink()
    assert faults(log)


def test_head_and_stream_cut_back_together_are_found_by_a_copy_kept_elsewhere(log: Path) -> None:
    anchors = read_heads(heads_of(log))
    # All of it goes back to a time when there was one checkpoint less.
    last = max((log / "s000000000001").glob("*.jsonl"))
    content = last.read_bytes().rstrip(b"\0")
    cut = content.rfind(b'{"checkpoint"')
    last.write_bytes(content[:cut])
    (heads_of(log) / "s000000000001").unlink()
    assert faults(log)
    write_stream(log.parent / "empty", "s000000000001", 0)
    shutil.copy(heads_of(log.parent / "empty") / "s000000000001", heads_of(log) / "s000000000001")
    assert faults(log) == []
    assert faults(log, anchors)


def test_a_stream_that_was_never_written_is_no_fault(log: Path) -> None:
    (log / "s000000000003").mkdir()
    assert faults(log) == []


def test_streams_that_somebody_writes_are_left_alone(log: Path) -> None:
    held = StreamDirectory(log / "s000000000001")
    others = list(ownerless_streams(log))
    assert [directory.path.name for directory in others] == ["s000000000002"]
    for directory in [held, *others]:
        directory.close()


@pytest.mark.parametrize("name", ["lost+found", "s1", "s00000000000g", "S000000000001", "s0000000000010"])
def test_a_directory_that_is_no_stream_is_left_alone(log: Path, name: str) -> None:
    (log / name).mkdir()
    (log / name / "00000001.jsonl").write_bytes(b"x\n")
    assert faults(log) == []
    found = list(ownerless_streams(log))
    assert [directory.path.name for directory in found] == ["s000000000001", "s000000000002"]
    for directory in found:
        directory.close()
    assert [file.name for file in (log / name).iterdir()] == ["00000001.jsonl"]


def test_a_new_stream_is_a_stream(tmp_path: Path) -> None:
    made = new_stream(tmp_path)
    made.close()
    assert stream_paths(tmp_path) == [made.path]


Mutation = Callable[[random.Random, Path, Path], str]


def segments(log: Path) -> list[Path]:
    return [file for stream in stream_paths(log) for file in sorted(stream.glob("0*"))]


def content_of(file: Path) -> bytes:
    data = file.read_bytes()
    return gzip.decompress(data) if file.suffix == ".gz" else data


def put(file: Path, data: bytes) -> None:
    file.write_bytes(gzip.compress(data, 1) if file.suffix == ".gz" else data)


def flip(pick: random.Random, log: Path, _other: Path) -> str:
    file = pick.choice(segments(log))
    data = bytearray(content_of(file))
    at = pick.randrange(len(data))
    data[at] ^= 1 << pick.randrange(8)
    put(file, bytes(data))
    return f"bit at {at} of {file.name}"


def flip_stored(pick: random.Random, log: Path, _other: Path) -> str:
    file = pick.choice([*segments(log), *heads_of(log).iterdir()])
    data = bytearray(file.read_bytes())
    # Of a compressed file, its header says when and where it was made; that is no record.
    at = pick.randrange(10 if file.suffix == ".gz" else 0, len(data))
    data[at] ^= 1 << pick.randrange(8)
    file.write_bytes(data)
    return f"stored bit at {at} of {file.name}"


def drop_lines(pick: random.Random, log: Path, _other: Path) -> str:
    file, lines, first, last = _stretch(pick, log)
    put(file, b"".join(lines[:first] + lines[last:]))
    return f"lines {first} to {last} of {file.name} dropped"


def reverse_lines(pick: random.Random, log: Path, _other: Path) -> str:
    while True:
        file, lines, first, last = _stretch(pick, log)
        if lines[first:last] != lines[first:last][::-1]:
            break
    put(file, b"".join(lines[:first] + lines[first:last][::-1] + lines[last:]))
    return f"lines {first} to {last} of {file.name} reversed"


def repeat_lines(pick: random.Random, log: Path, _other: Path) -> str:
    file, lines, first, last = _stretch(pick, log)
    put(file, b"".join(lines[:last] + lines[first:]))
    return f"lines {first} to {last} of {file.name} twice"


def truncate(pick: random.Random, log: Path, _other: Path) -> str:
    file = pick.choice(segments(log))
    data = content_of(file).rstrip(b"\0")
    at = pick.randrange(len(data))
    put(file, data[:at])
    return f"{file.name} cut at {at}"


def drop_segment(pick: random.Random, log: Path, _other: Path) -> str:
    file = pick.choice(segments(log))
    file.unlink()
    return f"{file.name} dropped"


def swap_segments(pick: random.Random, log: Path, _other: Path) -> str:
    one, two = pick.sample(segments(log), 2)
    first, second = content_of(one), content_of(two)
    put(one, second)
    put(two, first)
    return f"{one} and {two} swapped"


def splice(pick: random.Random, log: Path, other: Path) -> str:
    mine, foreign = pick.choice(segments(log)), pick.choice(segments(other))
    if pick.random() < 0.5:
        put(mine, content_of(foreign))
        return f"{foreign.name} in the place of {mine.name}"
    lines = content_of(foreign).rstrip(b"\0").splitlines(keepends=True)
    into = content_of(mine).rstrip(b"\0").splitlines(keepends=True)
    at = pick.randrange(len(into) + 1)
    put(mine, b"".join([*into[:at], pick.choice(lines), *into[at:]]))
    return f"a line of {foreign.name} in {mine.name} at {at}"


def replace_head(pick: random.Random, log: Path, other: Path) -> str:
    head = pick.choice(list(heads_of(log).iterdir()))
    head.write_bytes(
        pick.choice([b"", b"{}", (heads_of(other) / "s000000000001").read_bytes(), head.read_bytes()[:-4]])
    )
    return f"head of {head.name}"


def _stretch(pick: random.Random, log: Path) -> tuple[Path, list[bytes], int, int]:
    file = pick.choice(segments(log))
    lines = content_of(file).rstrip(b"\0").splitlines(keepends=True)
    first = pick.randrange(len(lines))
    return file, lines, first, pick.randint(first + 1, min(len(lines), first + 9))


MUTATIONS: tuple[Mutation, ...] = (
    flip, flip_stored, drop_lines, reverse_lines, repeat_lines, truncate, drop_segment, swap_segments,
    splice, replace_head,
)  # fmt: skip


def mutated(original: Path, place: Path, count: int) -> Iterator[tuple[str, list[str]]]:
    pick = random.Random(20261126)
    for number in range(count):
        log = Path(shutil.copytree(original / "log", place / "log"))
        made = MUTATIONS[number % len(MUTATIONS)](pick, log, original / "other")
        reports = verify_log(log, KEY, {})
        # What stands behind the last whole batch is no record; it is told all the same.
        yield made, [report.stream for report in reports if report.fault or report.reading.torn_bytes]  # type: ignore[union-attr]
        shutil.rmtree(log)


@pytest.mark.acceptance
@pytest.mark.timeout(0)  # the full count takes minutes
def test_every_mutation_is_found(original: Path, tmp_path: Path) -> None:
    unseen = [made for made, found in mutated(original, tmp_path, volume(10_000, share=0.03)) if not found]
    assert unseen == []


def test_a_chain_that_does_not_cover_the_records_is_caught_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qimem.audit.segment import Chain

    def counting(self: Chain, batch: bytes, entries: int) -> bytes:
        self.entries += entries
        return b'{"chain":"","entries":%d}\n' % self.entries

    monkeypatch.setattr(Chain, "close_batch", counting)
    write_stream(tmp_path / "log", "s000000000001")
    write_stream(tmp_path / "other", "s000000000001", instance="there", seed=2)
    (tmp_path / "place").mkdir()
    assert faults(tmp_path / "log") == []
    unseen = [made for made, found in mutated(tmp_path, tmp_path / "place", 100) if not found]
    assert unseen
