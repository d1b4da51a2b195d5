"""Connections to the embedded database, and transactions on them.

The engine is apsw's own SQLite: the one inside stock Python can lose committed pages to a
checkpoint race (fixed in 3.51.3) and unlinks a live write-ahead log, so older engines are refused.
Nothing but these connections ever opens the file: one plain open and close anywhere in the process
drops its POSIX locks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import apsw

from qimem.errors import storage_unavailable
from qimem.kernel.limits import BUSY_TIMEOUT_SECONDS
from qimem.kernel.refusal import Refused
from qimem.kernel.transaction import ForeignKeyViolation, Statement, UniqueViolation
from qimem.storage.statement import SQLITE, SQLStatement

ENGINE_MIN = (3, 51, 3)

_UNIQUE = frozenset({apsw.SQLITE_CONSTRAINT_UNIQUE, apsw.SQLITE_CONSTRAINT_PRIMARYKEY})
_OPEN = apsw.SQLITE_OPEN_READWRITE
_OPENING_BUSY_MS = 100
_RETRY_SECONDS = 0.005
_WAL_BYTES_KEPT = 64 * 1024 * 1024
_IN_MEMORY = 2
# Keys of a few hundred realms being made at once touch 5 MB of pages; of SQLite's usual 2 MB they fall out.
_WRITER_CACHE_KIB = 16 * 1024
# Each checkpoint writes every changed page once more and waits for the disk twice: with SQLite's usual 1,000
# pages, two of three had changed only once when keys were made in many realms. 32 MiB of log are read in 0.1 s.
CHECKPOINT_PAGES = 8_000


def check_engine(version: str) -> None:
    """Refuse an engine that can lose commits.

    Raises:
        Refused: older than 3.51.3.
    """
    if tuple(int(part) for part in version.split(".")[:3]) < ENGINE_MIN:
        raise Refused(
            f"SQLite {version} can lose commits; 3.51.3 or newer is needed", "install a newer apsw package"
        )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say in our words why a database cannot be opened.

    Raises:
        Refused: the file is not a database.
        Unavailable: anything else, such as a lock that is not released or a missing permission.
    """
    try:
        yield
    except apsw.NotADBError as error:
        raise Refused(f"{path} is not a database", "restore the file from a backup") from error
    except apsw.Error as error:
        raise storage_unavailable() from error


def open_writer(path: Path, *, durable: bool) -> apsw.Connection:
    """The connection that writes; makes the file if there is none.

    Args:
        path: The database file; its directory exists.
        durable: False only for data that lives in memory anyway: then nothing waits for the disk.
    """
    return _prepared(path, _OPEN | apsw.SQLITE_OPEN_CREATE, durable=durable)


def reopen_writer(path: Path, *, durable: bool) -> apsw.Connection:
    """As `open_writer`, of a file that was there before: it is never made anew."""
    return _prepared(path, _OPEN, durable=durable)


def _prepared(path: Path, flags: int, *, durable: bool) -> apsw.Connection:
    check_engine(apsw.sqlite_lib_version())
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(int(BUSY_TIMEOUT_SECONDS * 1000))
    _set_journal_mode(connection)
    connection.pragma("synchronous", "FULL" if durable else "OFF")
    connection.pragma("foreign_keys", True)
    connection.pragma("journal_size_limit", _WAL_BYTES_KEPT)
    # What is deleted or moved within a page is overwritten there, at no more I/O: of 3,000 keys that were wrapped
    # anew, 204 could still be found in the file under the root key that had been rotated away, and none with this.
    connection.pragma("secure_delete", "FAST")
    connection.pragma("cache_size", -_WRITER_CACHE_KIB)
    # By default the journal of a large statement, and what is sorted, spills to a file in /var/tmp: outside of the
    # private directory, on a disk that may be full or read-only.
    connection.pragma("temp_store", _IN_MEMORY)
    # The writer does it when the answers are gone: a commit must not wait for 32 MiB to be copied.
    connection.pragma("wal_autocheckpoint", 0)
    _open_log(connection)
    # What a crash left in the log may stand in memory alone, if it was a sync that failed before it: the kernel
    # reports that once and drops the pages. Later commits behind such a hole would be lost with the power.
    checkpoint(connection)
    return connection


def checkpoint(connection: apsw.Connection) -> None:
    """Copy the log into the database as far as readers allow; what fails now is tried again the next time."""
    with suppress(apsw.Error):
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


def mark_end_of_log(connection: apsw.Connection) -> None:
    """Begin and end a read, so that no reader has to note in the shared memory how far it reads.

    The first read behind a commit writes that, and a write to a mapped file waits for the disk when the kernel
    has just written the page back: on a file system that was frozen in that moment the event loop stood still
    until the thaw (2 of 300 freezes).
    """
    with suppress(apsw.Error):
        connection.execute("PRAGMA data_version").fetchall()


def open_reader(path: Path) -> apsw.Connection:
    """A connection that cannot write, and never waits: it is used on the event loop."""
    check_engine(apsw.sqlite_lib_version())
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    # Opening may meet another process that recovers the log; after that no reader has to wait.
    connection.set_busy_timeout(_OPENING_BUSY_MS)
    connection.pragma("query_only", True)
    connection.pragma("temp_store", _IN_MEMORY)
    _open_log(connection)
    connection.set_busy_timeout(0)
    return connection


def close(connection: apsw.Connection, *, keep_log: bool) -> None:
    """Close a connection.

    Args:
        connection: May have statements open.
        keep_log: Leave the write-ahead log as it is: the last one to close copies it into the database and
            removes it, which must not be done by who shares no lock with the others that write.
    """
    if keep_log:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.close(True)


def _set_journal_mode(connection: apsw.Connection) -> None:
    # Asked first: the mode is kept in the file, and setting it takes a lock for which SQLite does
    # not wait, so that of several processes that make one file all but the first would fail.
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while connection.pragma("journal_mode") != "wal":
        try:
            connection.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def _open_log(connection: apsw.Connection) -> None:
    # The first read opens the log, which the guard wants to find.
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()


class SqliteTx:
    """A transaction on one connection. The first statement that fails ends it: `failure` tells why.

    SQLite would go on after a violation, and PostgreSQL would not; after a full disk SQLite has
    rolled back, and every further statement would commit by itself.
    """

    __slots__ = ("_connection", "_cursor", "failure")

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self.failure: Exception | None = None

    def one(self, statement: Statement, /, **params: object) -> tuple[Any, ...] | None:
        """The first row, or None."""
        compiled = cast("SQLStatement", statement).on(SQLITE)
        # A statement with RETURNING has its effect row by row, so all of them are fetched.
        rows = self._execute(compiled.text, compiled.arguments(params))
        return compiled.row(rows[0]) if rows else None

    def all(self, statement: Statement, /, **params: object) -> Sequence[tuple[Any, ...]]:
        """Every row."""
        compiled = cast("SQLStatement", statement).on(SQLITE)
        rows = self._execute(compiled.text, compiled.arguments(params))
        return [compiled.row(row) for row in rows]

    def run(self, statement: Statement, /, **params: object) -> int:
        """Execute; the number of rows changed."""
        compiled = cast("SQLStatement", statement).on(SQLITE)
        before = self._connection.total_changes()
        self._execute(compiled.text, compiled.arguments(params))
        return self._connection.total_changes() - before

    def run_each(self, statement: Statement, rows: Sequence[Mapping[str, object]]) -> None:
        """Execute once for each set of parameters."""
        for row in rows:
            self.run(statement, **row)

    def check(self) -> None:
        """Raise what ended the transaction, for the case that its error was caught."""
        if self.failure is not None:
            raise self.failure

    def _execute(self, text: str, arguments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        self.check()
        try:
            return self._cursor.execute(text, arguments).fetchall()
        except apsw.Error as error:
            self.failure = neutral(error)
            raise self.failure from error


def neutral(error: apsw.Error) -> Exception:
    """The driver's error in words that do not name a database."""
    if isinstance(error, apsw.ConstraintError):
        extended = getattr(error, "extendedresult", 0)
        if extended in _UNIQUE:
            return UniqueViolation()
        if extended == apsw.SQLITE_CONSTRAINT_FOREIGNKEY:
            return ForeignKeyViolation()
        return error
    if isinstance(error, apsw.SQLError | apsw.BindingsError):
        return error
    return storage_unavailable()
