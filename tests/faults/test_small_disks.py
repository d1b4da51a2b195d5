"""Real file systems that fill up, freeze or go read-only while the server serves. Needs root: it mounts them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import crash_and_start, judge
from tests.faults.test_failing_disk import ALL_BUT_WRITES, READING, UNDONE, UNKNOWN, UNRECORDED
from tests.support.fault_load import Watch
from tests.support.load import a_world, tireless, worker_pids
from tests.support.mounts import Ext4, ext4_disk, filled, memory_disk
from tests.support.processes import alive, eventually
from tests.support.server import Server
from tests.support.volume import volume

MEBIBYTES = 96
"""Room for two workers' audit segments of 16 MiB, with a spare one each."""


@contextlib.contextmanager
def tmpfs(place: Path) -> Iterator[Path]:
    with memory_disk(place, MEBIBYTES):
        yield place


@contextlib.contextmanager
def ext4(place: Path) -> Iterator[Path]:
    with ext4_disk(place, MEBIBYTES + 24):
        yield place


@contextlib.contextmanager
def running(place: Path, workers: int) -> Iterator[Watch]:
    """Clients of a server whose whole home is on the disk, but for its log: that is another matter."""
    server = Server(place, workers=workers, log_file=place.with_name("log.txt"))
    with a_world(server) as world:
        person = tireless(world)
        with Watch(server, person) as watch:
            yield watch


DISKS = pytest.mark.parametrize("disk", [tmpfs, ext4][: volume(2, share=0.5)], ids=lambda disk: disk.__name__)
WORKERS = pytest.mark.parametrize("workers", [1, 2][: volume(2, share=0.5)], ids="{} workers".format)


@WORKERS
@DISKS
@pytest.mark.acceptance
def test_a_full_disk_stops_writes_alone(
    tmp_path: Path, disk: Callable[[Path], contextlib.AbstractContextManager[Path]], workers: int
) -> None:
    with disk(tmp_path / "home") as place, running(place, workers) as watch:
        for _ in range(volume(10, least=1)):
            time.sleep(0.3)
            with filled(place), watch.during("full"):
                time.sleep(volume(5_000, share=0.2) / 1000)
            watch.recovers()
        seen = watch.seen("full")
        assert seen["create", 503, UNDONE] > 0, seen
        # Leases of messages are taken in blocks: a key goes on until its block runs out, and the next has to be written.
        assert seen["encrypt", 200, None] > 0, seen
        # The audit log has its room.
        judge(watch, unaffected=ALL_BUT_WRITES - {"encrypt"})


def stop_and_start(server: Server) -> None:
    address = server.url.removeprefix("http://")
    assert server.stop() == 0
    server.start(address)


@WORKERS
@DISKS
@pytest.mark.acceptance
def test_a_server_starts_again_on_a_full_disk(
    tmp_path: Path, disk: Callable[[Path], contextlib.AbstractContextManager[Path]], workers: int
) -> None:
    with disk(tmp_path / "home") as place, running(place, workers) as watch:
        time.sleep(0.3)
        with filled(place):
            for again in (crash_and_start, stop_and_start):
                again(watch.server)
                with watch.during(again.__name__):
                    time.sleep(0.5)
                seen = watch.seen(again.__name__)
                assert {kind for kind, status, _ in seen if status == 200} >= READING, seen
        watch.recovers()
        watch.answers[:] = [answer for answer in watch.answers if answer.status]
        judge(watch, unaffected=READING)


@WORKERS
@pytest.mark.acceptance
def test_a_frozen_disk_keeps_nobody_waiting(tmp_path: Path, workers: int) -> None:
    with ext4_disk(tmp_path / "home", MEBIBYTES + 24) as disk, running(disk.place, workers) as watch:
        time.sleep(0.3)
        with watch.during("frozen"), disk.frozen():
            time.sleep(volume(10_000, share=0.2) / 1000)
        watch.recovers()
        codes = {code for kind, status, code in watch.seen("frozen") if kind == "create" and status == 503}
        assert codes
        assert codes <= {UNDONE, UNKNOWN, UNRECORDED}
        judge(watch, unaffected=READING)


def _stop_repair_start(disk: Ext4, server: Server) -> None:
    address, workers = server.url.removeprefix("http://"), worker_pids(server)
    server.kill()
    eventually(lambda: not any(alive(pid) for pid in workers))
    disk.unmount()
    disk.repair()
    disk.mount()
    server.start(address)


@WORKERS
@pytest.mark.acceptance
def test_a_disk_that_went_read_only_by_itself_is_still_read(tmp_path: Path, workers: int) -> None:
    """ext4 after an error of its own; what an operator's `remount,ro` would do is refused while files are open."""
    with ext4_disk(tmp_path / "home", MEBIBYTES + 24) as disk, running(disk.place, workers) as watch:
        time.sleep(0.3)
        disk.break_down()
        with watch.during("read-only"):
            time.sleep(1)
        codes = {code for kind, status, code in watch.seen("read-only") if kind == "create" and status == 503}
        assert codes
        assert codes <= {UNDONE, UNKNOWN, UNRECORDED}
        _stop_repair_start(disk, watch.server)
        watch.recovers()
        watch.answers[:] = [answer for answer in watch.answers if answer.status]
        judge(watch, unaffected=READING)
