"""Streams that nobody writes are looked after like those that somebody writes, and are in nobody's way."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from qimem.audit import trail as trail_module
from qimem.audit.log import (
    PublicKey,
    new_stream,
    only_keeper,
    ownerless_streams,
    taking_streams,
    verify_log,
    visiting,
    write_public_key,
)
from qimem.audit.ownerless import OwnerlessKeeper
from qimem.audit.retention import Retention, Retirement
from qimem.audit.segment_file import StreamDirectory, StreamFiles, heads_of
from qimem.audit.stream import StreamState
from qimem.audit.trail import AuditTrail, open_trail
from qimem.kernel.clock import SystemClock
from tests.unit.audit.logs import VERIFIER, signer, verifier_of

pytestmark = pytest.mark.anyio
SIZE = 8 * 1024
RECORD = b'{"at":"2026-11-26T12:00:00.000000Z","event":"keys.encrypt","outcome":"ok","id":"%d"}\n'
KEY = PublicKey.of(signer().public_bytes(), "here")
OLD = Retention(days=30)


async def take_up(directory: StreamDirectory) -> AuditTrail:
    name = directory.path.name
    state = StreamState("here", name, signer(), verifier_of(signer()), SystemClock(), segment_bytes=SIZE)
    return await open_trail(state, directory, lambda line: None)


async def abandoned(log: Path, records: int = 200) -> StreamFiles:
    """A stream whose worker ended and is not started again."""
    directory = new_stream(log)
    trail = await take_up(directory)
    for number in range(records):
        await trail.append(RECORD % number)
    await trail.close()
    directory.close()
    write_public_key(log, KEY)
    return StreamFiles(directory.path)


def keeper(log: Path, retention: Retention = Retention()) -> OwnerlessKeeper:
    return OwnerlessKeeper(log, VERIFIER, take_up, Retirement(SystemClock(), retention))


async def keep_house(log: Path, retention: Retention = Retention(), times: int = 1) -> None:
    keeping = keeper(log, retention)
    for _ in range(times):
        await keeping.keep_house()
    keeping.close()


def names(files: StreamFiles) -> list[str]:
    return sorted(file.name for file in files.path.glob("0*"))


def age(files: StreamFiles, *numbers: int) -> None:
    then = time.time() - 31 * 86_400
    for number in numbers:
        for file in files.path.glob(f"{number:08}*"):
            os.utime(file, (then, then))


def faults(log: Path) -> list[str]:
    return [report.fault for report in verify_log(log, KEY, {}) if report.fault]


async def test_its_sealed_segments_are_compressed_one_at_a_time(tmp_path: Path) -> None:
    files = await abandoned(tmp_path)
    before = names(files)
    await keep_house(tmp_path)
    assert names(files) == [f"{before[0]}.gz", *before[1:]]
    await keep_house(tmp_path, times=len(before))
    assert names(files) == [f"{name}.gz" for name in before[:-1]] + before[-1:]
    assert faults(tmp_path) == []


async def test_its_old_segments_are_archived_and_given_up_and_the_rest_verifies(tmp_path: Path) -> None:
    files, shelf = await abandoned(tmp_path / "log"), tmp_path / "shelf"
    shelf.mkdir()
    numbers = files.segments()
    age(files, 1, 2)
    await keep_house(
        tmp_path / "log", Retention(days=30, archive=("cp", "-t", str(shelf))), times=len(numbers)
    )
    assert sorted(file.name for file in shelf.iterdir()) == ["00000001.jsonl.gz", "00000002.jsonl.gz"]
    assert files.segments() == numbers[2:]
    assert faults(tmp_path / "log") == []


async def test_the_last_segment_stays_however_old_it_is(tmp_path: Path) -> None:
    files = await abandoned(tmp_path)
    numbers = files.segments()
    age(files, *numbers)
    await keep_house(tmp_path, OLD, times=len(numbers))
    assert files.segments() == numbers[-1:]
    assert faults(tmp_path) == []


async def test_what_nobody_gave_up_is_still_missed(tmp_path: Path) -> None:
    files = await abandoned(tmp_path)
    age(files, 1)
    await keep_house(tmp_path, OLD, times=len(files.segments()))
    files.remove(2)
    assert faults(tmp_path) != []


async def test_whoever_starts_goes_on_in_it(tmp_path: Path) -> None:
    files = await abandoned(tmp_path)
    age(files, 1, 2)
    await keep_house(tmp_path, OLD, times=len(files.segments()))
    (directory,) = ownerless_streams(tmp_path)
    trail = await take_up(directory)
    await trail.append(RECORD % 999)
    await trail.close()
    directory.close()
    assert faults(tmp_path) == []


async def test_a_stream_with_a_writer_is_left_alone(tmp_path: Path) -> None:
    files = await abandoned(tmp_path)
    age(files, 1, 2)
    before, held = names(files), StreamDirectory(files.path)
    await keep_house(tmp_path, OLD, times=9)
    held.close()
    assert names(files) == before


async def test_while_another_process_keeps_house_nothing_is_done(tmp_path: Path) -> None:
    files = await abandoned(tmp_path)
    before = names(files)
    with only_keeper(tmp_path) as alone:
        assert alone
        await keep_house(tmp_path)
    assert names(files) == before


async def test_what_comes_behind_a_head_is_not_sealed(tmp_path: Path) -> None:
    """After a crash the last segments may have to be cut: they are left to whoever takes the stream up."""
    directory = new_stream(tmp_path)
    trail = await take_up(directory)
    head = heads_of(tmp_path) / directory.path.name
    known = b""
    for number in range(200):
        await trail.append(RECORD % number)
        if trail.segment == 2:
            known = known or head.read_bytes()
    await trail.close()
    directory.close()
    head.write_bytes(known)
    await keep_house(tmp_path, times=5)
    assert [name for name in names(directory) if name.endswith(".gz")] == []


async def test_a_start_does_not_wait_for_an_archive_command(tmp_path: Path) -> None:
    """And nothing is given up in a stream that was taken up in the meantime."""
    log, began, end = tmp_path / "log", tmp_path / "began", tmp_path / "end"
    files = await abandoned(log)
    age(files, 1)
    await keep_house(log, times=len(files.segments()))
    script = f"touch {began}; while [ ! -e {end} ]; do sleep 0.05; done"
    keeping = keeper(log, Retention(days=30, archive=("sh", "-c", script)))
    task = asyncio.create_task(keeping.keep_house())
    while not began.exists():
        await asyncio.sleep(0.01)
    async with asyncio.timeout(5), taking_streams(log):
        (taken,) = ownerless_streams(log)
    end.touch()
    await task
    taken.close()
    keeping.close()
    assert files.segments()[0] == 1


async def test_an_archive_command_does_not_outlive_its_server(tmp_path: Path) -> None:
    log, began = tmp_path / "log", tmp_path / "began"
    files = await abandoned(log)
    age(files, 1)
    await keep_house(log, times=len(files.segments()))
    keeping = keeper(log, Retention(days=30, archive=("sh", "-c", f"touch {began}; sleep 50")))
    task = asyncio.create_task(keeping.keep_house())
    while not began.exists():
        await asyncio.sleep(0.01)
    keeping.close()
    async with asyncio.timeout(5):
        await task
    assert files.segments()[0] == 1


async def test_a_stream_that_was_changed_is_left_as_it_is_and_the_others_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = sorted([await abandoned(tmp_path), await abandoned(tmp_path)], key=lambda files: files.path)
    head = heads_of(tmp_path) / one.path.name
    head.write_bytes(head.read_bytes().replace(b'"segment":', b'"segment":9'))
    before = names(one)
    await keep_house(tmp_path, times=2)
    assert names(one) == before
    assert names(two)[0].endswith(".gz")
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        f"audit stream {one.path.name} was changed by somebody"
    ]


@pytest.mark.parametrize(
    "retention", [Retention(days=30), Retention(total_bytes=-1, archive=("true",))], ids=["age", "size"]
)
async def test_whoever_gives_segments_up_meanwhile_has_changed_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, retention: Retention
) -> None:
    files = await abandoned(tmp_path)
    age(files, 1)
    await keep_house(tmp_path, times=len(files.segments()))
    keeping = keeper(tmp_path, retention)
    leaving = keeping._retirement.leaving

    def late(of: StreamFiles, sealed: Sequence[int]) -> list[int]:
        with visiting(tmp_path, of.path) as directory:
            assert directory is not None
            directory.remove_all(sealed)
        return leaving(of, sealed)

    keeping._retirement.leaving = late  # type: ignore[method-assign]
    await keeping.keep_house()
    keeping.close()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
    assert keeping._altered == set()


async def test_a_stream_is_taken_up_beside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at: list[threading.Thread] = []
    before = trail_module.resume
    monkeypatch.setattr(
        trail_module, "resume", lambda *given: (at.append(threading.current_thread()), before(*given))[1]
    )
    files = await abandoned(tmp_path)
    age(files, 1)
    await keep_house(tmp_path, Retention(days=30), times=len(files.segments()) + 1)
    assert files.segments()[0] > 1
    assert threading.main_thread() not in at
    assert len(at) > 1


async def test_a_disk_that_fails_keeps_nothing_from_being_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = await abandoned(tmp_path)
    keeping = keeper(tmp_path)
    with monkeypatch.context() as failing:
        failing.setattr(StreamFiles, "compress", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        await keeping.keep_house()
    await keeping.keep_house()
    assert names(files)[0].endswith(".gz")


async def test_a_stream_is_held_until_what_is_done_to_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await abandoned(tmp_path)
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        begun.set()
        go_on.wait(20)

    monkeypatch.setattr(StreamFiles, "compress", slow)
    task = asyncio.create_task(keeper(tmp_path).keep_house())
    await asyncio.to_thread(begun.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(ownerless_streams(tmp_path)) == []
    with visiting(tmp_path, tmp_path / "another") as nothing:
        assert nothing is None
    go_on.set()
    async with asyncio.timeout(20), taking_streams(tmp_path):
        (free,) = ownerless_streams(tmp_path)
    free.close()


async def test_a_stream_is_held_until_what_was_given_up_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = await abandoned(tmp_path)
    age(files, 1)
    await keep_house(tmp_path, times=len(files.segments()))
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        begun.set()
        go_on.wait(20)

    monkeypatch.setattr(StreamFiles, "remove", slow)
    task = asyncio.create_task(keeper(tmp_path, OLD).keep_house())
    await asyncio.to_thread(begun.wait, 20)
    task.cancel()
    await asyncio.sleep(0.05)
    assert list(ownerless_streams(tmp_path)) == []
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    (free,) = ownerless_streams(tmp_path)
    free.close()
