"""The embedded database: what only it can do wrong."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from qimem.errors import Unavailable
from qimem.kernel.refusal import Refused
from qimem.storage import sqlite_writer
from qimem.storage.database import DatabaseLocation
from qimem.storage.inspection import inspect_sqlite
from qimem.storage.sqlite import SqliteDatabase
from qimem.storage.sqlite_connection import check_engine, open_writer
from tests.contract.storage import workers
from tests.contract.storage.rows import ACME, add_realm, claim, names

pytestmark = pytest.mark.anyio


class Double:
    """A connection that does as the real one does, except for one statement that fails."""

    def __init__(self, real: apsw.Connection, failing: str = "", error: Exception | None = None) -> None:
        self._real = real
        self._failing = failing
        self._error = error
        self.ran: list[str] = []

    def execute(self, text: str, *arguments: object) -> object:
        self.ran.append(text)
        if self._error is not None and text == self._failing:
            raise self._error
        return self._real.execute(text, *arguments)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def code_of(error: pytest.ExceptionInfo[Unavailable]) -> str:
    return error.value.code


async def test_writes_wait_for_the_disk_and_check_foreign_keys(sqlite_database: SqliteDatabase) -> None:
    connection = sqlite_database._writer._connection
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("synchronous") == 2
    assert connection.pragma("foreign_keys") == 1
    assert connection.pragma("temp_store") == 2


async def test_in_memory_nothing_waits_for_the_disk(tmp_path: Path) -> None:
    location = DatabaseLocation(tmp_path, durable=False)
    location.migrate()
    database = location.open()
    assert isinstance(database, SqliteDatabase)
    assert database._writer._connection.pragma("synchronous") == 0
    await database.close()


async def test_writes_at_once_share_commits(sqlite_database: SqliteDatabase) -> None:
    await sqlite_database.write(add_realm)
    writer = sqlite_database._writer
    double = writer._connection = Double(writer._connection)
    calls = [sqlite_database.write(lambda tx, n=n: claim(tx, b"%d" % n)) for n in range(256)]
    assert await asyncio.gather(*calls) == [True] * 256
    assert double.ran.count("SAVEPOINT operation") == 256
    assert double.ran.count("COMMIT") <= 8


async def test_an_error_in_commit_is_outcome_unknown_and_the_writer_recovers(
    sqlite_database: SqliteDatabase,
) -> None:
    writer = sqlite_database._writer
    writer._connection = Double(writer._connection, "COMMIT", apsw.IOError("disk gone"))
    with pytest.raises(Unavailable) as refusal:
        await sqlite_database.write(add_realm)
    assert code_of(refusal) == "outcome_unknown"
    await sqlite_database.write(lambda tx: add_realm(tx, "later"))
    assert await sqlite_database.read(names) == ["later"]
    assert await sqlite_database.current("later") is not None


async def test_a_transaction_that_cannot_begin_changes_nothing(sqlite_database: SqliteDatabase) -> None:
    writer = sqlite_database._writer
    real = writer._connection
    writer._connection = Double(real, "BEGIN IMMEDIATE", apsw.BusyError("busy"))
    with pytest.raises(Unavailable) as refusal:
        await sqlite_database.write(add_realm)
    assert code_of(refusal) == "storage_unavailable"
    writer._connection = real
    await sqlite_database.write(add_realm)


async def test_a_transaction_that_vanished_fails_its_whole_group(sqlite_database: SqliteDatabase) -> None:
    def lose_transaction(tx: object) -> None:
        sqlite_database._writer._connection.execute("ROLLBACK")
        raise Unavailable("disk full")

    running, release = threading.Event(), threading.Event()
    held = asyncio.create_task(sqlite_database.write(lambda tx: (running.set(), release.wait(10))))
    while not running.is_set():
        await asyncio.sleep(0)
    group = asyncio.gather(
        sqlite_database.write(lambda tx: add_realm(tx, "first")),
        sqlite_database.write(lose_transaction),
        sqlite_database.write(lambda tx: add_realm(tx, "third")),
        return_exceptions=True,
    )
    while sqlite_database._writer._queue.qsize() < 3:
        await asyncio.sleep(0)
    release.set()
    results = await group
    assert [getattr(result, "code", None) for result in results] == ["storage_unavailable"] * 3
    assert len({id(result) for result in results}) == 3
    assert await held
    assert await sqlite_database.read(names) == []
    await sqlite_database.write(lambda tx: add_realm(tx, "later"))


async def test_a_defect_in_the_writer_leaves_nobody_waiting(
    sqlite_database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object, **__: object) -> None:
        raise AssertionError("never")

    with monkeypatch.context() as broken:
        broken.setattr(sqlite_database._writer, "_end", defect)
        with pytest.raises(Unavailable) as refusal:
            await asyncio.wait_for(sqlite_database.write(add_realm), 5)
        assert code_of(refusal) == "outcome_unknown"
    await sqlite_database.write(add_realm)
    assert await sqlite_database.read(names) == ["acme"]


async def test_a_broken_reader_is_replaced(sqlite_database: SqliteDatabase) -> None:
    await sqlite_database.write(add_realm)

    class Broken:
        def execute(self, *_: object) -> object:
            raise apsw.IOError("disk gone")

    sqlite_database._reads = Broken()
    with pytest.raises(Unavailable) as refusal:
        await sqlite_database.current(ACME)
    assert code_of(refusal) == "storage_unavailable"
    assert await sqlite_database.current(ACME) is not None


async def test_a_reader_that_fails_inside_a_read_is_replaced(sqlite_database: SqliteDatabase) -> None:
    await sqlite_database.write(add_realm)
    broken = sqlite_database._reader

    def fail(tx: object) -> None:
        raise Unavailable("disk gone")

    with pytest.raises(Unavailable):
        await sqlite_database.read(fail)
    assert await sqlite_database.read(names) == ["acme"]
    assert sqlite_database._reader is not broken


# The write-ahead log under attack.


async def assert_fails_closed(database: SqliteDatabase) -> None:
    await asyncio.sleep(0.11)  # the read side asks at most ten times a second
    for attempt in (
        lambda: database.current(ACME),
        lambda: database.read(names),
        lambda: database.write(lambda tx: add_realm(tx, "never")),
    ):
        with pytest.raises(Unavailable) as refusal:
            await attempt()
        assert code_of(refusal) == "storage_unavailable"


async def test_a_log_that_was_unlinked_fails_everything(sqlite_database: SqliteDatabase) -> None:
    await sqlite_database.write(add_realm)
    os.unlink(f"{sqlite_database._path}-wal")
    await assert_fails_closed(sqlite_database)


async def test_a_process_that_never_wrote_notices_too(sqlite_location: DatabaseLocation) -> None:
    database = sqlite_location.open()
    os.unlink(f"{sqlite_location.file}-wal")
    await assert_fails_closed(database)
    await database.close()


async def test_a_log_that_was_replaced_fails_everything(sqlite_database: SqliteDatabase) -> None:
    await sqlite_database.write(add_realm)
    log = Path(f"{sqlite_database._path}-wal")
    log.rename(f"{log}.old")
    log.write_bytes(b"")
    await assert_fails_closed(sqlite_database)


async def test_a_database_file_that_was_replaced_fails_everything(sqlite_database: SqliteDatabase) -> None:
    await sqlite_database.write(add_realm)
    copy = sqlite_database._path.with_suffix(".restored")
    copy.write_bytes(b"")
    copy.rename(sqlite_database._path)
    await assert_fails_closed(sqlite_database)


async def test_a_log_lost_before_a_reopening_stays_lost(sqlite_database: SqliteDatabase) -> None:
    await sqlite_database.write(add_realm)
    os.unlink(f"{sqlite_database._path}-wal")
    Path(f"{sqlite_database._path}-wal").write_bytes(b"")  # another process has made a new one
    sqlite_database._guard.find()
    await assert_fails_closed(sqlite_database)


async def test_a_commit_into_a_lost_log_is_outcome_unknown(sqlite_database: SqliteDatabase) -> None:
    def lose_log(tx: object) -> None:
        os.unlink(f"{sqlite_database._path}-wal")

    with pytest.raises(Unavailable) as refusal:
        await sqlite_database.write(lose_log)
    assert code_of(refusal) == "outcome_unknown"


async def test_reopening_everything_is_not_mistaken_for_a_loss(
    sqlite_database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite_database._drop_reader()
    writer = sqlite_database._writer

    def look_and_open(path: Path, *, durable: bool) -> apsw.Connection:
        # The last connection that closes removes the log; somebody looks before there is another.
        assert not Path(f"{path}-wal").exists()
        assert sqlite_database._guard.intact()
        return open_writer(path, durable=durable)

    monkeypatch.setattr(sqlite_writer, "reopen_writer", look_and_open)
    writer._connection = Double(writer._connection, "COMMIT", apsw.IOError("disk gone"))
    with pytest.raises(Unavailable):
        await sqlite_database.write(add_realm)
    await asyncio.sleep(0.11)
    await sqlite_database.write(add_realm)
    assert await sqlite_database.current(ACME) is not None


@pytest.mark.parametrize("failures", [1, 3])
async def test_whoever_writes_first_on_a_disk_that_is_sound_again_is_not_refused(
    sqlite_database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    writer, left = sqlite_database._writer, [apsw.CantOpenError("disk gone")] * failures

    def open_later(path: Path, *, durable: bool) -> apsw.Connection:
        if left:
            raise left.pop()
        return open_writer(path, durable=durable)

    monkeypatch.setattr(sqlite_writer, "reopen_writer", open_later)
    writer._connection = Double(writer._connection, "COMMIT", apsw.IOError("disk gone"))
    codes = []
    for _ in range(failures):
        with pytest.raises(Unavailable) as refusal:
            await sqlite_database.write(add_realm)
        codes.append(code_of(refusal))
    # While it is away, each write tries once and is told that nothing was done.
    assert codes == ["outcome_unknown"] + ["storage_unavailable"] * (failures - 1)
    assert left == []
    await sqlite_database.write(add_realm)


TRY_TO_WRITE = """
import apsw, sys
connection = apsw.Connection(sys.argv[1])
try:
    connection.execute("BEGIN IMMEDIATE")
except apsw.BusyError:
    sys.exit(7)
"""


def others_are_locked_out(path: Path) -> bool:
    code = subprocess.run([sys.executable, "-c", TRY_TO_WRITE, str(path)], check=False).returncode
    assert code in (0, 7)
    return code == 7


async def test_the_guard_keeps_the_locks_of_the_process(sqlite_database: SqliteDatabase) -> None:
    def look_while_locked(tx: object) -> bool:
        sqlite_database._guard.find()
        assert sqlite_database._guard.intact()
        return others_are_locked_out(sqlite_database._path)

    assert await sqlite_database.write(look_while_locked)


async def test_a_plain_open_and_close_drops_the_locks(sqlite_database: SqliteDatabase) -> None:
    """The negative control: why the guard must not open anything."""

    def open_while_locked(tx: object) -> bool:
        with open(f"{sqlite_database._path}-shm", "rb"):
            pass
        return others_are_locked_out(sqlite_database._path)

    assert not await sqlite_database.write(open_while_locked)


# A full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.fail("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


async def test_a_full_disk_fails_cleanly_and_heals_by_itself(small_disk: Path) -> None:
    location = DatabaseLocation(small_disk)
    location.migrate()
    database = location.open()
    await database.write(add_realm)
    acknowledged: set[bytes] = set()

    async def fill() -> None:
        for number in range(4_000):
            key = b"%d" % number + bytes(8_000)
            assert await database.write(lambda tx, key=key: claim(tx, key))
            acknowledged.add(key)

    with pytest.raises(Unavailable) as refusal:
        await fill()
    assert code_of(refusal) == "storage_unavailable"
    assert acknowledged

    assert await database.read(names) == ["acme"]
    assert await database.current(ACME) is not None
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    assert await database.write(lambda tx: claim(tx, b"more" + bytes(8_000)))
    again = [await database.write(lambda tx, key=key: claim(tx, key)) for key in acknowledged]
    assert not any(again), "everything acknowledged is there"
    await database.close()
    assert inspect_sqlite(location.file).faults == ()


async def test_readers_never_meet_a_busy_database(
    sqlite_database: SqliteDatabase, sqlite_location: DatabaseLocation
) -> None:
    await sqlite_database.write(add_realm)
    process = workers.spawn(sqlite_location, "redeem", 3_000)
    workers.go(process)
    checks = 0
    while process.poll() is None and checks < 20_000:
        assert await sqlite_database.current(ACME) is not None
        checks += 1
        if checks % 50 == 0:
            other = sqlite_location.open()
            assert await other.current(ACME) is not None
            await other.close()
    assert len(workers.found(process)) == 3_000


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.9.99"])
def test_an_engine_that_can_lose_commits_is_refused(version: str) -> None:
    with pytest.raises(Refused, match=version.replace(".", r"\.")):
        check_engine(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.54.1", "4.0.0"])
def test_newer_engines_are_taken(version: str) -> None:
    check_engine(version)


def test_the_inspection_finds_a_damaged_page(sqlite_location: DatabaseLocation) -> None:
    assert inspect_sqlite(sqlite_location.file).faults == ()
    with sqlite_location.file.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096)
    try:
        found = inspect_sqlite(sqlite_location.file).faults
    except Unavailable:
        return
    assert found
