"""Changes are seen in the header of the log's index, in this process and from others, or by the pragma."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from qimem.storage import wal_index
from qimem.storage.database import DatabaseLocation
from qimem.storage.sqlite import SqliteDatabase
from qimem.storage.wal_index import WalIndex
from tests.contract.storage import workers
from tests.contract.storage.rows import ACME, add_realm

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["index", "pragma"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How changes are seen."""
    if request.param == "pragma":
        monkeypatch.setattr(WalIndex, "of", classmethod(lambda cls, database: None))
    return request.param


async def opened(location: DatabaseLocation) -> SqliteDatabase:
    database = location.open()
    assert isinstance(database, SqliteDatabase)
    await database.write(add_realm)
    return database


async def test_each_way_is_really_taken(way: str, sqlite_location: DatabaseLocation) -> None:
    database = await opened(sqlite_location)
    assert (database._index is not None) is (way == "index")
    await database.close()


async def test_every_commit_of_another_process_is_seen_by_the_very_next_check(
    way: str, sqlite_location: DatabaseLocation
) -> None:
    database = await opened(sqlite_location)
    count = 300
    seen = [await database.current(ACME)]
    process = workers.spawn(sqlite_location, "bump", count)
    workers.go(process)
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(count):
        assert process.stdout.readline() == f"{number}\n"
        seen.append(await database.current(ACME))
        process.stdin.write("next\n")
        process.stdin.flush()
    assert workers.found(process) == []
    assert len(set(seen)) == count + 1
    await database.close()


async def test_a_commit_of_this_process_is_seen_and_a_checkpoint_hides_none(
    way: str, sqlite_location: DatabaseLocation
) -> None:
    database = await opened(sqlite_location)
    for number in range(2, 30):
        await database.write(lambda tx: database.bump(tx, ACME))
        if number % 7 == 0:
            checkpoint = database._writer._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            assert checkpoint[0][0] == 0
        epoch = await database.current(ACME)
        assert epoch is not None
        assert epoch.number == number
    await database.close()


async def test_nothing_is_asked_of_the_database_while_nothing_changes(
    sqlite_location: DatabaseLocation,
) -> None:
    database = await opened(sqlite_location)
    before = await database.current(ACME)

    class Silent:
        def execute(self, *_: object) -> None:
            raise AssertionError

    database._reads = Silent()  # type: ignore[assignment]
    assert await database.current(ACME) == before
    await database.write(lambda tx: database.bump(tx, ACME))
    with pytest.raises(AssertionError):
        await database.current(ACME)
    await database.close()


async def test_after_the_reader_was_opened_again_changes_are_still_seen(
    sqlite_location: DatabaseLocation,
) -> None:
    database = await opened(sqlite_location)
    for _ in range(3):
        before = await database.current(ACME)
        database._drop_reader()
        assert await database.current(ACME) == before
        await database.write(lambda tx: database.bump(tx, ACME))
        assert await database.current(ACME) != before
    await database.close()


async def test_looking_and_closing_the_view_keep_the_locks_of_the_process(
    sqlite_location: DatabaseLocation,
) -> None:
    database = await opened(sqlite_location)
    path = sqlite_location.directory / "qimem.db"
    descriptors = sorted(os.listdir("/proc/self/fd"))
    view = WalIndex.of(path)
    assert view is not None
    view.header()
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    connection = apsw.Connection(str(path))
    connection.execute("BEGIN IMMEDIATE")
    held = sorted(os.listdir("/proc/self/fd"))
    view.close()
    assert sorted(os.listdir("/proc/self/fd")) == held
    intruder = (
        "import apsw, sys\nc = apsw.Connection(sys.argv[1])\n"
        "try:\n    c.execute('BEGIN IMMEDIATE')\nexcept apsw.BusyError:\n    print('locked')\n"
    )
    command = [sys.executable, "-c", intruder, str(path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "locked\n"
    connection.execute("ROLLBACK")
    connection.close()
    await database.close()


_READ_MARKS = struct.Struct("=16xI80x5I")
"""Number of the last frame, and how far each reader reads (https://www.sqlite.org/walformat.html §2.1)."""


async def test_no_reader_has_to_write_to_the_shared_memory_after_a_commit(
    sqlite_location: DatabaseLocation,
) -> None:
    database = await opened(sqlite_location)
    index = database._index
    assert index is not None
    ends = set()
    for _ in range(5):
        await database.write(lambda tx: database.bump(tx, ACME))
        end, *marks = _READ_MARKS.unpack(ctypes.string_at(index._address, _READ_MARKS.size))
        assert end in marks
        ends.add(end)
    assert len(ends) == 5
    await database.close()


def test_a_database_that_is_not_open_has_no_index(tmp_path: Path) -> None:
    assert WalIndex.of(tmp_path / "qimem.db") is None
    (tmp_path / "qimem.db-shm").write_bytes(b"")
    with (tmp_path / "qimem.db-shm").open("rb"):
        assert WalIndex.of(tmp_path / "qimem.db") is None


def test_a_layout_of_another_version_is_left_to_the_pragma(tmp_path: Path) -> None:
    path = tmp_path / "qimem.db-shm"
    start = wal_index._START.pack(3_007_000, 1)
    for content, known in ((start, True), (wal_index._START.pack(3_008_000, 1), False), (bytes(13), False)):
        path.write_bytes(content.ljust(32_768, b"\0"))
        with path.open("rb"):
            assert (WalIndex.of(tmp_path / "qimem.db") is not None) is known
