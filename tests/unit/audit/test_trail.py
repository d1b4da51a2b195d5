"""What a trail says is on the disk is there, in order, and readable with the public key."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from qimem.audit.segment_file import StreamDirectory, StreamTaken
from qimem.audit.stream import StreamState
from qimem.audit.trail import AuditTrail, open_trail
from qimem.audit.verification import Altered, Reading, read_stream
from qimem.errors import Unavailable
from qimem.kernel.clock import SystemClock
from qimem.kernel.limits import AUDIT_BATCH_BYTES_MAX, AUDIT_CHECKPOINT_SECONDS
from tests.unit.audit.logs import VERIFIER, signer, verifier_of

pytestmark = pytest.mark.anyio

SIZE = 16 * 1024


class Stream:
    """One stream as a worker opens it."""

    trail: AuditTrail

    def __init__(self, path: Path, size: int = SIZE) -> None:
        self.seen: list[bytes] = []
        self.directory = StreamDirectory(path)
        self.state = StreamState(
            "here", "0", signer(), verifier_of(signer()), SystemClock(), segment_bytes=size
        )

    @classmethod
    async def open(cls, path: Path, size: int = SIZE) -> Stream:
        stream = cls(path, size)
        stream.trail = await open_trail(stream.state, stream.directory, stream.seen.append)
        return stream

    @property
    def disk(self) -> psutil.Process:
        """The process that writes."""
        return psutil.Process(self.trail._writer._processes[-1].pid)

    async def die(self) -> None:
        """As after kill -9: nothing is said any more."""
        await self.trail._writer.close()
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
    stream = await Stream.open(tmp_path / "0")
    for number in range(20):
        await stream.trail.append(line(number))
        assert records(tmp_path / "0")[-1] == line(number).strip()
    await stream.die()
    assert verified(tmp_path / "0").chain == stream.state.chain


async def test_records_that_come_at_once_share_a_batch(tmp_path: Path) -> None:
    stream = await Stream.open(tmp_path / "0")
    await asyncio.gather(*(stream.trail.append(line(number)) for number in range(100)))
    await stream.die()
    assert records(tmp_path / "0") == [line(number).strip() for number in range(100)]
    # One more when a second passed, and a checkpoint was due.
    assert (tmp_path / "0" / "00000001.jsonl").read_bytes().count(b'{"chain"') <= 2


async def test_it_goes_on_in_the_next_segment_and_after_a_restart(tmp_path: Path) -> None:
    count = 0
    for _ in range(5):
        stream = await Stream.open(tmp_path / "0")
        for _ in range(400):
            await stream.trail.append(line(count))
            count += 1
        await stream.die()
    assert records(tmp_path / "0") == [line(number).strip() for number in range(count)]
    assert verified(tmp_path / "0").segment > 5
    sealed = sorted((tmp_path / "0").glob("*.jsonl"))[:-1]
    assert all(b"\0" not in file.read_bytes() for file in sealed)


async def test_two_processes_do_not_share_a_stream(tmp_path: Path) -> None:
    stream = await Stream.open(tmp_path / "0")
    with pytest.raises(StreamTaken):
        StreamDirectory(tmp_path / "0")
    await stream.die()


@contextlib.contextmanager
def full(stream: Stream) -> Iterator[None]:
    """The process that writes can write no more: no file may grow beyond a byte."""
    stream.disk.rlimit(psutil.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    yield
    stream.disk.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextlib.contextmanager
def hanging(stream: Stream) -> Iterator[None]:
    stream.disk.suspend()
    yield
    stream.disk.resume()


@contextlib.contextmanager
def killed(stream: Stream) -> Iterator[None]:
    stream.disk.kill()
    yield


@pytest.mark.parametrize("fault", [full, hanging, killed])
async def test_what_cannot_be_written_is_told_within_a_second_and_the_stream_begins_anew(
    tmp_path: Path, fault: Callable[[Stream], contextlib.AbstractContextManager[None]]
) -> None:
    stream = await Stream.open(tmp_path / "0")
    await stream.trail.append(line(0))
    with fault(stream):
        with pytest.raises(Unavailable, match="audit") as caught:
            await asyncio.wait_for(stream.trail.append(line(1)), 1.0)
        assert caught.value.code == "audit_unavailable"
        with pytest.raises(Unavailable):
            stream.trail.submit(line(2), print)
        await asyncio.sleep(0.6)
    await writable(stream.trail)
    await stream.trail.append(line(3))
    await stream.trail.close()
    await stream.die()
    assert records(tmp_path / "0") == [line(0).strip(), line(3).strip()]
    assert verified(tmp_path / "0").segment == 2


async def test_nobody_pays_for_an_idle_process_that_is_gone(tmp_path: Path) -> None:
    stream = await Stream.open(tmp_path / "0")
    await stream.trail.append(line(0))
    await asyncio.sleep(AUDIT_CHECKPOINT_SECONDS + 0.2)
    for number in range(1, 4):
        gone = stream.disk
        gone.kill()
        await asyncio.to_thread(gone.wait, 5)
        await asyncio.gather(*(stream.trail.append(line(10 * number + other)) for other in range(3)))
        assert stream.disk != gone
        await asyncio.sleep(AUDIT_CHECKPOINT_SECONDS + 0.2)
    await stream.trail.close()
    await stream.die()
    written = [0, *(10 * number + other for number in range(1, 4) for other in range(3))]
    assert records(tmp_path / "0") == [line(number).strip() for number in written]
    assert verified(tmp_path / "0").segment == 4


async def test_what_was_not_signed_when_the_process_died_is_signed_by_the_next_one(tmp_path: Path) -> None:
    stream = await Stream.open(tmp_path / "0")
    await stream.trail.append(line(0))
    # So that the hour of signing comes while nobody can write.
    await asyncio.sleep(AUDIT_CHECKPOINT_SECONDS - 0.03)
    stream.disk.kill()
    await asyncio.sleep(AUDIT_CHECKPOINT_SECONDS + 1.0)
    assert stream.state.unsigned == 0
    await stream.trail.close()
    await stream.die()


async def test_who_comes_while_a_slow_disk_is_busy_waits_for_both_writes_no_longer_than_a_second(
    tmp_path: Path,
) -> None:
    stream = await Stream.open(tmp_path / "0")
    await stream.trail.append(line(0))

    async def told(number: int) -> float:
        begun = time.monotonic()
        with contextlib.suppress(Unavailable):
            await stream.trail.append(line(number))
        return time.monotonic() - begun

    first = asyncio.ensure_future(told(1))
    stream.disk.suspend()
    await asyncio.sleep(0.05)
    second = asyncio.ensure_future(told(2))
    await asyncio.sleep(0.6)
    # The first write is done in the end, and the second hangs.
    stream.disk.resume()
    await first
    stream.disk.suspend()
    assert await asyncio.wait_for(second, 3) < 1.0
    stream.disk.resume()
    await writable(stream.trail)
    await stream.trail.close()
    await stream.die()


async def test_an_idle_process_that_is_gone_for_good_is_told_within_a_second(tmp_path: Path) -> None:
    stream = await Stream.open(tmp_path / "0")
    stream.trail._writer._begin = no_process  # type: ignore[method-assign]
    stream.disk.kill()
    await asyncio.sleep(0.1)
    with pytest.raises(Unavailable, match="audit"):
        await asyncio.wait_for(stream.trail.append(line(1)), 1.0)
    await stream.trail.close()
    await stream.die()


def no_process(_segment: int) -> None:
    raise OSError(errno.EAGAIN, "no process")


async def test_a_write_is_bounded_in_bytes(tmp_path: Path) -> None:
    stream = await Stream.open(tmp_path / "0", size=8 * AUDIT_BATCH_BYTES_MAX)
    large = [b'{"n":"%s"}\n' % (str(number).encode() * (AUDIT_BATCH_BYTES_MAX // 3)) for number in range(7)]
    await asyncio.gather(*(stream.trail.append(one) for one in large))
    await stream.die()
    assert records(tmp_path / "0") == [one.strip() for one in large]
    assert b"".join(file.read_bytes() for file in (tmp_path / "0").glob("*.jsonl")).count(b'{"chain"') >= 4


@pytest.mark.parametrize("fault", [full, hanging, killed])
async def test_a_stream_that_cannot_even_begin_begins_later(
    tmp_path: Path, fault: Callable[[Stream], contextlib.AbstractContextManager[None]]
) -> None:
    stream = await Stream.open(tmp_path / "0")
    with fault(stream):
        with pytest.raises(Unavailable):
            await stream.trail.append(line(0))
        await asyncio.sleep(0.3)
    await writable(stream.trail)
    await stream.trail.append(line(1))
    await stream.trail.close()
    await stream.die()
    assert records(tmp_path / "0") == [line(1).strip()]
    verified(tmp_path / "0")


async def test_the_process_that_writes_is_not_taken_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gzip.py", "qimem/__init__.py", "qimem/audit/__init__.py", "qimem/audit/disk.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("import os; os._exit(66)\n")
    monkeypatch.chdir(tmp_path)
    stream = await Stream.open(tmp_path / "0")
    await stream.trail.append(line(0))
    await stream.die()
    assert records(tmp_path / "0") == [line(0).strip()]


async def test_more_than_the_socket_takes_at_once_arrives(tmp_path: Path) -> None:
    stream = await Stream.open(tmp_path / "0", 16 * 1024 * 1024)
    long = b'{"n":1,"x":"%b"}\n' % (b"x" * 60_000)
    await asyncio.gather(*(stream.trail.append(long) for _ in range(100)))
    await stream.trail.close()
    await stream.die()
    assert records(tmp_path / "0") == [long.strip()] * 100
    verified(tmp_path / "0")


async def test_the_process_that_writes_ends_with_its_worker(tmp_path: Path) -> None:
    stream = await Stream.open(tmp_path / "0")
    await stream.trail.append(line(0))
    disk = stream.disk
    for number in (signal.SIGTERM, signal.SIGINT):
        disk.send_signal(number)
    await stream.trail.append(line(1))
    await stream.die()
    assert not disk.is_running()


async def test_an_idle_stream_is_signed(tmp_path: Path) -> None:
    stream = await Stream.open(tmp_path / "0")
    await stream.trail.append(line(0))
    assert verified(tmp_path / "0").unanchored == 1
    await asyncio.sleep(1.3)
    assert verified(tmp_path / "0").unanchored == 0
    await stream.die()


@pytest.mark.parametrize("torn", [b'{"n":99}\n{"chain":"x', b'{"n":99}\n' * 300, b"{"])
async def test_a_torn_end_is_cut_and_what_was_acknowledged_stays(tmp_path: Path, torn: bytes) -> None:
    stream = await Stream.open(tmp_path / "0")
    for number in range(3):
        await stream.trail.append(line(number))
    end = stream.state.offset
    await stream.die()
    file = tmp_path / "0" / "00000001.jsonl"
    with file.open("r+b") as damaged:
        damaged.seek(end)
        damaged.write(torn)
    again = await Stream.open(tmp_path / "0")
    assert again.seen == [line(number) for number in range(3)]
    await again.trail.append(line(3))
    await again.die()
    assert records(tmp_path / "0") == [line(number).strip() for number in range(4)]
    verified(tmp_path / "0")


@pytest.mark.parametrize("header", [b"", b'{"qimem_audit":1'])
async def test_a_segment_that_was_never_begun_is_begun_again(tmp_path: Path, header: bytes) -> None:
    stream = await Stream.open(tmp_path / "0")
    await stream.trail.append(line(0))
    await stream.die()
    (tmp_path / "0" / "00000002.jsonl").write_bytes(header + bytes(SIZE))
    again = await Stream.open(tmp_path / "0")
    await again.trail.append(line(1))
    await again.die()
    assert records(tmp_path / "0") == [line(0).strip(), line(1).strip()]
    verified(tmp_path / "0")


async def test_a_stream_that_ends_at_the_end_of_a_segment_right_behind_a_checkpoint_is_gone_on_with(
    tmp_path: Path,
) -> None:
    stream = await Stream.open(tmp_path / "0")
    while stream.state.offset < SIZE - 3 * 1024:
        await stream.trail.append(line(0))
    await stream.trail.close()
    stream.directory.close()
    again = await Stream.open(tmp_path / "0")
    assert again.state.unsigned == 0
    long = b'{"n":1,"x":"%b"}\n' % (b"x" * 2 * 1024)
    await again.trail.append(long)
    await again.die()
    assert again.state.segment == 2
    assert records(tmp_path / "0")[-1] == long.strip()
    verified(tmp_path / "0")


async def test_a_changed_log_is_not_gone_on_with(tmp_path: Path) -> None:
    stream = await Stream.open(tmp_path / "0")
    for number in range(3):
        await stream.trail.append(line(number))
    await stream.die()
    file = tmp_path / "0" / "00000001.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"n":1', b'"n":7'))
    with pytest.raises(Altered):
        await Stream.open(tmp_path / "0")


async def writable(trail: AuditTrail) -> None:
    async with asyncio.timeout(5):
        while not trail.writable:
            await asyncio.sleep(0.05)
