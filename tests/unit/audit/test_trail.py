"""What a trail says is on the disk is there, in order, and readable with the public key."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from qimem.audit import writer as writer_module
from qimem.audit.segment_file import StreamDirectory, StreamTaken
from qimem.audit.stream import StreamState
from qimem.audit.trail import AuditTrail, open_trail
from qimem.audit.verification import Altered, Reading, read_stream
from qimem.errors import Unavailable
from qimem.kernel.clock import SystemClock
from tests.unit.audit.logs import VERIFIER, signer

pytestmark = pytest.mark.anyio

SIZE = 16 * 1024


class Stream:
    """One stream as a worker opens it."""

    def __init__(self, path: Path, size: int = SIZE) -> None:
        self.seen: list[bytes] = []
        self.directory = StreamDirectory(path)
        self.state = StreamState("here", "0", signer(), SystemClock(), segment_bytes=size)
        self.trail = open_trail(self.state, self.directory, self.seen.append)

    def die(self) -> None:
        """As after kill -9: nothing is said any more."""
        self.trail._writer.close()
        self.directory.close()


def records(path: Path) -> list[bytes]:
    found: list[bytes] = []
    for file in sorted(path.glob("*.jsonl")):
        found += [line for line in file.read_bytes().split(b"\n") if line.startswith(b'{"n"')]
    return found


def verified(path: Path) -> Reading:
    return read_stream([(file.name, file.read_bytes()) for file in sorted(path.glob("*.jsonl"))], VERIFIER)


def line(number: int) -> bytes:
    return b'{"n":%d}\n' % number


async def test_what_was_acknowledged_is_on_the_disk(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "0")
    for number in range(20):
        await stream.trail.append(line(number))
        assert records(tmp_path / "0")[-1] == line(number).strip()
    stream.die()
    assert verified(tmp_path / "0").chain == stream.state.chain


async def test_records_that_come_at_once_share_a_batch(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "0")
    await asyncio.gather(*(stream.trail.append(line(number)) for number in range(100)))
    stream.die()
    assert records(tmp_path / "0") == [line(number).strip() for number in range(100)]
    assert (tmp_path / "0" / "00000001.jsonl").read_bytes().count(b'{"chain"') == 1


async def test_it_goes_on_in_the_next_segment_and_after_a_restart(tmp_path: Path) -> None:
    count = 0
    for _ in range(5):
        stream = Stream(tmp_path / "0")
        for _ in range(400):
            await stream.trail.append(line(count))
            count += 1
        stream.die()
    assert records(tmp_path / "0") == [line(number).strip() for number in range(count)]
    assert verified(tmp_path / "0").segment > 5
    sealed = sorted((tmp_path / "0").glob("*.jsonl"))[:-1]
    assert all(b"\0" not in file.read_bytes() for file in sealed)


async def test_two_processes_do_not_share_a_stream(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "0")
    with pytest.raises(StreamTaken):
        StreamDirectory(tmp_path / "0")
    stream.die()


async def test_a_failed_write_is_told_and_the_stream_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(tmp_path / "0")
    await stream.trail.append(line(0))
    with monkeypatch.context() as broken:
        broken.setattr(writer_module, "write_all", half_written)
        with pytest.raises(Unavailable, match="audit") as caught:
            await stream.trail.append(line(1))
        assert caught.value.code == "audit_unavailable"
        with pytest.raises(Unavailable):
            stream.trail.submit(line(2), print)
    await writable(stream.trail)
    await stream.trail.append(line(3))
    stream.die()
    assert records(tmp_path / "0") == [line(0).strip(), line(3).strip()]
    assert verified(tmp_path / "0").segment == 2


async def test_a_disk_that_hangs_is_told_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(tmp_path / "0")
    await stream.trail.append(line(0))
    released = threading.Event()
    original = writer_module.write_all

    def hang(descriptor: int, data: bytes, offset: int) -> None:
        released.wait(10)
        original(descriptor, data, offset)

    monkeypatch.setattr(writer_module, "write_all", hang)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(stream.trail.append(line(1)), 1.5)
    assert not stream.trail.writable
    released.set()
    await writable(stream.trail)
    await stream.trail.append(line(2))
    stream.die()
    assert records(tmp_path / "0") == [line(0).strip(), line(2).strip()]
    verified(tmp_path / "0")


async def test_an_idle_stream_is_signed(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "0")
    await stream.trail.append(line(0))
    assert verified(tmp_path / "0").unanchored == 1
    await asyncio.sleep(1.3)
    assert verified(tmp_path / "0").unanchored == 0
    stream.die()


@pytest.mark.parametrize("torn", [b'{"n":99}\n{"chain":"x', b'{"n":99}\n' * 300, b"{"])
async def test_a_torn_end_is_cut_and_what_was_acknowledged_stays(tmp_path: Path, torn: bytes) -> None:
    stream = Stream(tmp_path / "0")
    for number in range(3):
        await stream.trail.append(line(number))
    end = stream.state.offset
    stream.die()
    file = tmp_path / "0" / "00000001.jsonl"
    with file.open("r+b") as damaged:
        damaged.seek(end)
        damaged.write(torn)
    again = Stream(tmp_path / "0")
    assert again.seen == [line(number) for number in range(3)]
    await again.trail.append(line(3))
    again.die()
    assert records(tmp_path / "0") == [line(number).strip() for number in range(4)]
    verified(tmp_path / "0")


@pytest.mark.parametrize("header", [b"", b'{"qimem_audit":1'])
async def test_a_segment_that_was_never_begun_is_begun_again(tmp_path: Path, header: bytes) -> None:
    stream = Stream(tmp_path / "0")
    await stream.trail.append(line(0))
    stream.die()
    (tmp_path / "0" / "00000002.jsonl").write_bytes(header + bytes(SIZE))
    again = Stream(tmp_path / "0")
    await again.trail.append(line(1))
    again.die()
    assert records(tmp_path / "0") == [line(0).strip(), line(1).strip()]
    verified(tmp_path / "0")


async def test_a_changed_log_is_not_gone_on_with(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "0")
    for number in range(3):
        await stream.trail.append(line(number))
    stream.die()
    file = tmp_path / "0" / "00000001.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"n":1', b'"n":7'))
    with pytest.raises(Altered):
        Stream(tmp_path / "0")


def half_written(descriptor: int, data: bytes, offset: int) -> None:
    raise OSError(28, "No space left on device")


async def writable(trail: AuditTrail) -> None:
    async with asyncio.timeout(5):
        while not trail.writable:
            await asyncio.sleep(0.05)
