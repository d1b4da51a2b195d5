"""What somebody did to the files, or a power cut left, is told for what it is, also after the next start."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qimem.audit.events import AuditEvents, Wanted
from qimem.audit.log import PublicKey, verify_log
from qimem.audit.record import ids_in
from qimem.audit.segment import Checkpoint
from qimem.audit.segment_file import StreamDirectory, heads_of, read_heads, segment_name, segment_numbers
from qimem.audit.stream import StreamState
from qimem.audit.trail import AuditTrail, open_trail
from qimem.audit.verification import Altered, StreamReader, opened_checkpoint
from qimem.errors import Unavailable
from qimem.kernel.clock import SystemClock
from tests.unit.audit.logs import signer, verifier_of

KEY = PublicKey.of(signer().public_bytes(), "here")
RECORD = b'{"at":"2026-11-26T12:00:00.000000Z","event":"keys.encrypt","outcome":"ok","id":"%024d"}\n'
SIZE = 8 * 1024


def ignored(_lines: bytes) -> None:
    pass


async def opened(
    log: Path, size: int = SIZE, visit: Callable[[bytes], None] = ignored, since: int = sys.maxsize
) -> tuple[StreamDirectory, AuditTrail]:
    directory = StreamDirectory(log / "s000000000001")
    state = StreamState(
        "here", "s000000000001", signer(), verifier_of(signer()), SystemClock(), segment_bytes=size
    )
    try:
        return directory, await open_trail(state, directory, visit, since=since)
    except Altered:
        directory.close()
        raise


def work(log: Path, records: int, visit: Callable[[bytes], None] = ignored, since: int = sys.maxsize) -> None:
    """A worker starts, writes and ends in order."""

    async def run() -> None:
        directory, trail = await opened(log, SIZE, visit, since)
        for number in range(records):
            await trail.append(RECORD % number)
        await trail.close()
        directory.close()

    asyncio.run(run())


def faults(log: Path, anchors: dict[str, bytes] | None = None) -> list[str]:
    return [report.fault for report in verify_log(log, KEY, anchors or {}) if report.fault]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of many segments, signed in three runs."""
    for _ in range(3):
        work(tmp_path / "log", 60)
    assert faults(tmp_path / "log") == []
    return tmp_path / "log"


def drop(log: Path, numbers: list[int]) -> None:
    for number in numbers:
        for file in (log / "s000000000001").glob(f"{number:08}*"):
            file.unlink()


def forge(log: Path) -> None:
    """Keep the first batch and put another behind it; the chain needs no key."""
    drop(log, segment_numbers(log / "s000000000001")[1:])
    segment = log / "s000000000001" / "00000001.jsonl"
    data = segment.read_bytes()
    end = data.find(b"\n", data.find(b'\n{"chain":') + 1) + 1
    reader = StreamReader(None)
    reader.segment("x", data[:end])
    forged = RECORD % 666
    segment.write_bytes(data[:end] + forged + reader.reading.chain.close_batch(forged, 1))


DEEDS: dict[str, Callable[[Path], None]] = {
    "all segments dropped": lambda log: drop(log, segment_numbers(log / "s000000000001")),
    "the oldest dropped": lambda log: drop(log, segment_numbers(log / "s000000000001")[:-2]),
    "the newest dropped": lambda log: drop(log, segment_numbers(log / "s000000000001")[-2:]),
    "forged behind the first batch": forge,
    "head dropped": lambda log: (heads_of(log) / "s000000000001").unlink(),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_a_start_signs_nothing_that_was_changed(log: Path, deed: str) -> None:
    anchors = read_heads(heads_of(log))
    DEEDS[deed](log)
    assert faults(log)
    with pytest.raises(Altered):
        work(log, 1)
    assert faults(log)
    assert faults(log, anchors)


def file_of_head(log: Path) -> Path:
    """The segment that the head is about; the start reads from the head on."""
    return log / "s000000000001" / segment_name(_decoded_head(log).segment)


def _decoded_head(log: Path) -> Checkpoint:
    return opened_checkpoint("head", read_heads(heads_of(log))["s000000000001"], None)


def change(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def head_at(log: Path) -> int:
    return file_of_head(log).read_bytes().index(read_heads(heads_of(log))["s000000000001"])


@pytest.mark.parametrize("place", ["in an earlier segment", "before the head", "the one between dropped"])
def test_a_start_reads_from_the_head_on_and_hides_no_change_before_it(log: Path, place: str) -> None:
    anchors = read_heads(heads_of(log))
    last = _decoded_head(log).segment
    if place == "the one between dropped":
        drop(log, [last - 1])
    else:
        earlier = log / "s000000000001" / segment_name(last - 1)
        change(
            *((earlier, 600) if place == "in an earlier segment" else (file_of_head(log), head_at(log) - 200))
        )
    work(log, 40)
    assert _decoded_head(log).segment > last
    assert faults(log)
    assert faults(log, anchors)


@pytest.mark.parametrize("part", ["its number", "its signature", "the line behind it"])
def test_a_head_that_does_not_stand_as_it_was_put_aside_is_missed_by_a_start(log: Path, part: str) -> None:
    head = read_heads(heads_of(log))["s000000000001"]
    offsets = {"its number": head.index(b'"number":') + 9, "its signature": len(head) - 20}
    change(file_of_head(log), head_at(log) + offsets.get(part, len(head) + 20))
    with pytest.raises(Altered):
        work(log, 1)


def killed_with(log: Path, records: int) -> None:
    """A worker writes, and dies before it signs what it wrote."""

    async def run() -> None:
        directory, trail = await opened(log, 64 * 1024)
        for number in range(records):
            await trail.append(RECORD % (1000 + number))
        await trail._writer.close()
        directory.close()

    asyncio.run(run())


def test_a_batch_that_was_changed_behind_the_head_stops_a_start(log: Path) -> None:
    killed_with(log, 20)
    assert faults(log) == []
    change(file_of_head(log), head_at(log) + len(read_heads(heads_of(log))["s000000000001"]) + 400)
    with pytest.raises(Altered):
        work(log, 1)


def test_a_start_shows_what_it_was_asked_for_and_all_that_is_not_signed(log: Path) -> None:
    killed_with(log, 5)
    seen: list[bytes] = []
    work(log, 0, seen.append)
    assert seen == [RECORD % (1000 + number) for number in range(5)]
    assert _decoded_head(log).segment > 3
    numbers = segment_numbers(log / "s000000000001")
    for since in (1, 2, numbers[-1]):
        seen.clear()
        work(log, 0, seen.append, since)
        written = [
            (log / "s000000000001" / segment_name(number)).read_bytes()
            for number in numbers
            if number >= since
        ]
        shown, kept = ids_in(b"".join(seen)), ids_in(b"".join(written))
        assert shown == kept
        assert len(kept) > 0


def test_the_beginning_that_was_dropped_is_missed_by_an_older_anchor(tmp_path: Path) -> None:
    log = tmp_path / "log"
    work(log, 60)
    anchors = read_heads(heads_of(log))
    work(log, 300)
    assert faults(log, anchors) == []
    drop(log, segment_numbers(log / "s000000000001")[:-2])
    assert faults(log, anchors)


def test_a_write_that_comes_too_late_leaves_no_head_behind(tmp_path: Path) -> None:
    log = tmp_path / "log"

    async def run() -> None:
        directory, trail = await opened(log, 64 * 1024)
        await trail.append(RECORD % 1)
        await asyncio.sleep(2.5)
        disk = trail._writer._processes[-1].pid
        os.kill(disk, signal.SIGSTOP)
        with pytest.raises(Unavailable):
            await trail.append(RECORD % 2)
        os.kill(disk, signal.SIGCONT)
        await asyncio.sleep(1.5)
        assert trail.writable
        assert faults(log) == []
        await trail.close()
        directory.close()

    asyncio.run(run())
    assert faults(log) == []


@pytest.mark.parametrize("hole", [512, 4096])
def test_a_hole_in_the_last_write_is_its_torn_end(tmp_path: Path, hole: int) -> None:
    log = tmp_path / "log"

    async def run() -> int:
        directory, trail = await opened(log, 256 * 1024)
        await trail.append(RECORD % 1)
        start = trail._state.offset
        await asyncio.gather(*(trail.append(RECORD % number) for number in range(200)))
        await trail._writer.close()
        directory.close()
        return start

    start = asyncio.run(run())
    segment = log / "s000000000001" / "00000001.jsonl"
    data = bytearray(segment.read_bytes())
    at = (start // hole + 1) * hole
    data[at : at + hole] = bytes(hole)
    segment.write_bytes(data)
    (report,) = verify_log(log, KEY, {})
    assert report.fault is None
    assert report.reading is not None
    assert (report.reading.records, report.reading.torn_bytes > 0) == (1, True)
    assert len(AuditEvents(log).find(Wanted(), None, 10)[0]) == 1
    work(log, 1)
    (report,) = verify_log(log, KEY, {})
    assert report.reading is not None
    assert (report.fault, report.reading.records, report.reading.torn_bytes) == (None, 2, 0)


def unlink(segment: Path) -> None:
    segment.unlink()


def replace_by_pipe(segment: Path) -> None:
    segment.unlink()
    os.mkfifo(segment)


def move_away(segment: Path) -> None:
    segment.rename(segment.with_name("elsewhere"))


@pytest.mark.parametrize("deed", [unlink, replace_by_pipe, move_away])
def test_nothing_is_acknowledged_into_a_file_that_others_do_not_find(
    tmp_path: Path, deed: Callable[[Path], None]
) -> None:
    log = tmp_path / "log"

    async def run() -> None:
        directory, trail = await opened(log, 64 * 1024)
        try:
            await trail.append(RECORD % 1)
            deed(log / "s000000000001" / "00000001.jsonl")
            with pytest.raises(Unavailable):
                await trail.append(RECORD % 2)
            async with asyncio.timeout(5):
                while not trail.writable:
                    await asyncio.sleep(0.05)
            await trail.append(RECORD % 3)
        finally:
            await trail.close()
            directory.close()

    if deed is replace_by_pipe:
        # A pipe stays in the way until somebody takes it away; until then nothing is acknowledged.
        with pytest.raises(TimeoutError):
            asyncio.run(run())
        return
    asyncio.run(run())
    assert faults(log)
    assert b'"id":"%024d"' % 3 in b"".join(file.read_bytes() for file in (log / "s000000000001").glob("0*"))


@pytest.mark.parametrize("place", [0, 12, 30, 100, 0.5, -2])
def test_a_damaged_segment_hides_no_other(log: Path, place: float) -> None:
    directory = StreamDirectory(log / "s000000000001")
    directory.compress(1)
    directory.close()
    packed = log / "s000000000001" / "00000001.jsonl.gz"
    data = bytearray(packed.read_bytes())
    data[int(len(data) * place) if place == 0.5 else int(place)] ^= 255
    packed.write_bytes(data)
    assert AuditEvents(log).find(Wanted(), None, 200)[0]
    assert faults(log)
