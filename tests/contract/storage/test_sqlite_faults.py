"""The embedded database when the disk hangs, when its files are lost, and after a crash."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from qimem.errors import Unavailable
from qimem.storage import sqlite_writer
from qimem.storage.database import DatabaseLocation
from qimem.storage.sqlite import SqliteDatabase
from tests.contract.storage.rows import ACME, add_realm, names

pytestmark = pytest.mark.anyio

WRITE_SECONDS = 0.1
HOLDER = """
import apsw, sys
connection = apsw.Connection(sys.argv[1])
connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
print("open", flush=True)
sys.stdin.read()
"""


def impatient(location: DatabaseLocation) -> SqliteDatabase:
    opened = location.open(write_seconds=WRITE_SECONDS)
    assert isinstance(opened, SqliteDatabase)
    return opened


async def code_of(write: asyncio.Future[object]) -> str:
    with pytest.raises(Unavailable) as refusal:
        await asyncio.wait_for(write, WRITE_SECONDS * 5)
    return refusal.value.code


async def test_what_hangs_is_unknown_and_what_waits_behind_it_is_never_done(
    sqlite_location: DatabaseLocation,
) -> None:
    database, over = impatient(sqlite_location), threading.Event()

    def hang(tx: object) -> None:
        add_realm(tx)
        over.wait(10)

    first = asyncio.ensure_future(database.write(hang))
    await asyncio.sleep(WRITE_SECONDS / 2)
    behind = asyncio.ensure_future(database.write(lambda tx: add_realm(tx, "behind")))
    assert await code_of(first) == "outcome_unknown"
    assert await code_of(behind) == "storage_unavailable"
    # Whoever comes now is not even let wait.
    with pytest.raises(Unavailable):
        await asyncio.wait_for(database.write(add_realm), WRITE_SECONDS / 2)
    assert await database.read(names) == []
    over.set()
    await database.close()
    reopened = sqlite_location.open()
    assert await reopened.read(names) == ["acme"]
    await reopened.close()


async def test_a_lock_that_is_not_let_go_of_keeps_nobody_waiting(sqlite_location: DatabaseLocation) -> None:
    database = impatient(sqlite_location)
    other = apsw.Connection(str(sqlite_location.file))
    other.execute("BEGIN IMMEDIATE")
    assert await code_of(asyncio.ensure_future(database.write(add_realm))) == "storage_unavailable"
    other.execute("ROLLBACK")
    other.close()
    await until(lambda: database._writer._begun is None)
    assert await database.read(names) == []
    await database.write(lambda tx: add_realm(tx, "later"))
    await database.close()


async def test_who_opens_after_a_crash_brings_the_log_home(
    sqlite_location: DatabaseLocation, tmp_path: Path
) -> None:
    """A later power cut must not find a hole in the log before what is acknowledged from now on."""
    database = sqlite_location.open()
    await database.write(add_realm)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in tmp_path.glob("qimem.db*"):
        shutil.copy(file, crashed)
    await database.close()
    opened = DatabaseLocation(crashed).open()
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(crashed / "qimem.db", alone)
    await opened.close()
    without_log = DatabaseLocation(alone).open()
    assert await without_log.read(names) == ["acme"]
    await without_log.close()


async def test_a_long_log_is_copied_when_the_answer_is_gone(
    sqlite_location: DatabaseLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[bool] = []
    monkeypatch.setattr(sqlite_writer, "CHECKPOINT_PAGES", 1)
    monkeypatch.setattr(sqlite_writer, "checkpoint", lambda _: copied.append(done.is_set()))
    done = threading.Event()
    database = sqlite_location.open()
    deliver = sqlite_writer._deliver
    monkeypatch.setattr(sqlite_writer, "_deliver", lambda group: (deliver(group), done.set()))
    await database.write(add_realm)
    await until(lambda: copied == [True])
    await database.close()


async def test_files_in_use_by_others_are_waited_for(sqlite_location: DatabaseLocation) -> None:
    """Two processes with different shared memory would not lock each other out."""
    database = sqlite_location.open()
    await database.write(add_realm)
    before = await database.current(ACME)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, sqlite_location.file],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    sqlite_location.file.with_name("qimem.db-shm").unlink()
    await asyncio.sleep(1)
    with pytest.raises(Unavailable):
        await database.read(names)
    holder.communicate("")
    await until(lambda: not database._guard.lost)
    assert await database.read(names) == ["acme"]
    # Even where nothing changed: what was remembered came out of files that are gone.
    assert await database.current(ACME) != before
    await database.close()


@pytest.mark.parametrize("name", ["qimem.db-wal", "qimem.db-shm"])
async def test_lost_files_are_taken_up_again(sqlite_location: DatabaseLocation, name: str) -> None:
    database = sqlite_location.open()
    await database.write(add_realm)
    sqlite_location.file.with_name(name).unlink()
    with pytest.raises(Unavailable):
        await database.write(lambda tx: add_realm(tx, "refused"))
    await until(lambda: not database._guard.lost)
    await database.write(lambda tx: add_realm(tx, "later"))
    assert await database.read(names) == ["acme", "later"]
    await database.close()


async def test_another_database_is_never_taken_for_ours(sqlite_location: DatabaseLocation) -> None:
    database = sqlite_location.open()
    await database.write(add_realm)
    file = sqlite_location.file
    kept, copy = file.with_name("kept"), file.with_name("copy")
    shutil.copy(file, copy)
    file.rename(kept)
    copy.rename(file)
    await asyncio.sleep(1)
    with pytest.raises(Unavailable):
        await database.read(names)
    kept.rename(file)
    await until(lambda: not database._guard.lost)
    assert await database.read(names) == ["acme"]
    await database.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.02)
