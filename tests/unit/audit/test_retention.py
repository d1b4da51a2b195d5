"""Sealed segments: compressed without loss, given up only when signed and archived."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qimem.audit import log
from qimem.audit.log import PublicKey
from qimem.audit.retention import Retention, SegmentKeeper
from qimem.audit.segment_file import StreamDirectory, read_segment
from qimem.audit.stream import StreamState
from qimem.audit.trail import AuditTrail, open_trail
from qimem.audit.verification import Altered, read_stream
from qimem.kernel.clock import SystemClock
from tests.support.processes import alive, eventually
from tests.unit.audit.logs import VERIFIER, signer, verifier_of

pytestmark = pytest.mark.anyio
SIZE = 8 * 1024
RECORD = b'{"at":"2026-11-26T12:00:00.000000Z","event":"keys.encrypt","outcome":"ok","id":"%d"}\n'


class Stream:
    trail: AuditTrail

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = StreamDirectory(path)
        self.state = StreamState(
            "here", path.name, signer(), verifier_of(signer()), SystemClock(), segment_bytes=SIZE
        )

    @classmethod
    async def open(cls, path: Path) -> Stream:
        stream = cls(path)
        stream.trail = await open_trail(stream.state, stream.directory, lambda line: None)
        return stream

    def keeper(self, retention: Retention = Retention()) -> SegmentKeeper:
        return SegmentKeeper(self.directory, self.trail, SystemClock(), retention)

    def names(self) -> list[str]:
        return sorted(file.name for file in self.path.glob("0*"))

    def records(self) -> int:
        numbers = self.directory.segments()
        return read_stream([(str(n), read_segment(self.path, n)) for n in numbers], VERIFIER).records


@pytest.fixture
async def stream(tmp_path: Path) -> AsyncIterator[Stream]:
    stream = await Stream.open(tmp_path / "log" / "s000000000001")
    for number in range(200):
        await stream.trail.append(RECORD % number)
    yield stream
    await stream.trail.close()
    stream.directory.close()


async def keep_house(stream: Stream, retention: Retention = Retention()) -> None:
    keeper = stream.keeper(retention)
    await keeper.keep_house()
    keeper.close()


async def test_sealed_segments_are_compressed_and_the_last_one_is_not(stream: Stream) -> None:
    before = stream.names()
    await keep_house(stream)
    assert stream.names() == [f"{name}.gz" for name in before[:-1]] + before[-1:]
    assert stream.records() == 200
    assert all((stream.path / name).stat().st_mode & 0o77 == 0 for name in stream.names())


async def test_a_segment_that_the_disk_has_not_sealed_yet_is_left_alone(stream: Stream) -> None:
    """While a disk fails the stream is ahead of it; what is to be cut must still be there when the disk is back."""
    before = stream.names()
    stream.state.next_segment()
    await keep_house(stream)
    assert stream.names() == [f"{name}.gz" for name in before[:-1]] + before[-1:]
    stream.state.restore(stream.trail._acknowledged)


async def test_a_stream_goes_on_behind_compressed_segments(stream: Stream, tmp_path: Path) -> None:
    await keep_house(stream)
    await stream.trail.close()
    stream.directory.close()
    again = await Stream.open(stream.path)
    await again.trail.append(RECORD % 200)
    assert again.records() == 201
    await again.trail.close()
    again.directory.close()


@pytest.mark.parametrize("left", ["00000001.jsonl.gz.new", "00000001.jsonl.gz"])
async def test_a_compression_that_was_cut_off_loses_nothing(stream: Stream, left: str) -> None:
    if left.endswith(".new"):
        (stream.path / left).write_bytes(b"half")
    else:
        plain = (stream.path / "00000001.jsonl").read_bytes()
        stream.directory.compress(1)
        (stream.path / "00000001.jsonl").write_bytes(plain)
    assert stream.records() == 200
    await keep_house(stream)
    assert stream.records() == 200


def age(stream: Stream, numbers: range, days: float) -> None:
    for number in numbers:
        for file in stream.path.glob(f"{number:08}*"):
            then = SystemClock().now_us() / 1_000_000 - days * 86_400
            os.utime(file, (then, then))


async def test_old_segments_are_given_up_and_the_rest_verifies(stream: Stream) -> None:
    age(stream, range(1, 4), 31)
    await keep_house(stream, Retention(days=30))
    assert stream.names()[0] == "00000004.jsonl.gz"
    assert 0 < stream.records() < 200


async def test_what_was_not_given_up_and_is_gone_is_found(stream: Stream) -> None:
    await keep_house(stream)
    stream.directory.remove(1)
    await stream.trail.append(RECORD % 200)
    await stream.trail.give_up(1)
    with pytest.raises(Altered, match="gone"):
        stream.records()


async def test_age_is_that_of_the_record_and_not_of_its_compression(stream: Stream) -> None:
    age(stream, range(1, 3), 31)
    await keep_house(stream)
    assert (stream.path / "00000001.jsonl.gz").exists()
    await keep_house(stream, Retention(days=30))
    assert not (stream.path / "00000001.jsonl.gz").exists()


async def test_the_oldest_go_when_there_are_too_many(stream: Stream) -> None:
    await keep_house(stream)
    sealed = [(stream.path / name).stat().st_size for name in stream.names()[:-1]]
    await keep_house(stream, Retention(total_bytes=sum(sealed[2:])))
    assert stream.names()[0] == "00000003.jsonl.gz"
    stream.records()


async def test_without_limits_nothing_is_given_up(stream: Stream) -> None:
    age(stream, range(1, 4), 10_000)
    await keep_house(stream)
    assert stream.names()[0] == "00000001.jsonl.gz"


async def test_what_is_given_up_is_archived_first(stream: Stream, tmp_path: Path) -> None:
    age(stream, range(1, 3), 31)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    await keep_house(stream, Retention(days=30, archive=("cp", "-t", str(shelf))))
    assert sorted(file.name for file in shelf.iterdir()) == ["00000001.jsonl.gz", "00000002.jsonl.gz"]
    assert stream.names()[0] == "00000003.jsonl.gz"


@pytest.mark.parametrize(
    "archive",
    [("false",), ("no-such-program",), (sys.executable, "-c", "import sys; sys.exit('02.' in sys.argv[1])")],
)
async def test_what_cannot_be_archived_is_kept_with_all_that_came_after(
    stream: Stream, archive: tuple[str, ...]
) -> None:
    age(stream, range(1, 4), 31)
    await keep_house(stream, Retention(days=30, archive=archive))
    kept = 2 if len(archive) > 1 else 1
    assert stream.names()[0] == f"{kept:08}.jsonl.gz"
    stream.records()


async def test_an_archive_command_is_told_no_setting_and_no_password(
    stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(stream, range(1, 2), 31)
    for name in ("QIMEM_LOG__LEVEL", "DATABASE_URL", "PGPASSWORD", "CLOUD_TOKEN"):
        monkeypatch.setenv(name, "given")
    told = tmp_path / "told"
    await keep_house(stream, Retention(days=30, archive=("sh", "-c", f"env > {told}")))
    assert re.findall("(.*)=given", told.read_text()) == ["CLOUD_TOKEN"]


async def test_an_archive_command_does_not_outlive_its_server(stream: Stream, tmp_path: Path) -> None:
    age(stream, range(1, 3), 31)
    before, began = stream.names(), tmp_path / "began"
    # A shell with a child: both have to end.
    archive = ("sh", "-c", f"sleep 50 & echo $! > {began}; wait")
    keeper = stream.keeper(Retention(days=30, archive=archive))
    keeping = asyncio.create_task(keeper.keep_house())
    while not began.exists() or not began.read_text():
        await asyncio.sleep(0.01)
    keeper.close()
    await asyncio.wait({keeping}, timeout=5)
    assert keeping.done()
    keeping.exception()
    assert stream.names()[-1:] == before[-1:]
    assert stream.directory.segments()[0] == 1
    child = int(began.read_text())
    eventually(lambda: not alive(child))


def verified_while_leaving(stream: Stream, monkeypatch: pytest.MonkeyPatch, leaving: list[int]) -> str | None:
    """What is wrong with a log from which these segments go when their names have been read."""
    listed, calls = log.segment_numbers, iter(range(9))

    def then_gone(path: Path) -> list[int]:
        found = listed(path)
        # It is asked whether there are any, and then for those to read.
        if next(calls) == 1:
            for number in leaving:
                stream.directory.remove(number)
        return found

    monkeypatch.setattr(log, "segment_numbers", then_gone)
    key = PublicKey.of(signer().public_bytes(), "here")
    (report,) = log.verify_log(stream.path.parent, key, {})
    return report.fault


async def test_segments_that_are_given_up_while_they_are_read_are_no_damage(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stream.trail.give_up(3)
    assert verified_while_leaving(stream, monkeypatch, [1, 2]) is None


async def test_a_segment_that_is_gone_behind_an_older_one_is_damage(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stream.trail.give_up(3)
    assert "00000002.jsonl is gone" in (verified_while_leaving(stream, monkeypatch, [2]) or "")


async def test_segments_are_given_up_under_load_as_well(stream: Stream) -> None:
    import asyncio

    over = False

    async def load() -> None:
        while not over:
            await asyncio.gather(*(stream.trail.append(RECORD % n) for n in range(8)))

    loads = [asyncio.create_task(load()) for _ in range(2)]
    age(stream, range(1, 3), 31)
    await keep_house(stream, Retention(days=30))
    over = True
    await asyncio.gather(*loads)
    assert stream.names()[0] == "00000003.jsonl.gz"
    stream.records()
