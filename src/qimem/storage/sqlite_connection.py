"""Connections to the embedded database, and transactions on them.

The engine is apsw's own SQLite: the one inside stock Python can lose committed pages to a
checkpoint race (fixed in 3.51.3) and unlinks a live write-ahead log, so older engines are refused.
Nothing but these connections ever opens the file: one plain open and close anywhere in the process
drops its POSIX locks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import apsw

from qimem.errors import storage_unavailable
from qimem.kernel.limits import BUSY_TIMEOUT_SECONDS
from qimem.kernel.transaction import ForeignKeyViolation, Statement, UniqueViolation
from qimem.storage.statement import SQLITE, SQLStatement

ENGINE_MIN = (3, 51, 3)

_UNIQUE = frozenset({apsw.SQLITE_CONSTRAINT_UNIQUE, apsw.SQLITE_CONSTRAINT_PRIMARYKEY})
_READER_BUSY_MS = 100
_WAL_BYTES_KEPT = 64 * 1024 * 1024


class EngineTooOld(Exception):  # noqa: N818 - says what is wrong
    """The SQLite engine has known ways to lose commits."""


def check_engine(version: str) -> None:
    """Refuse an engine that can lose commits.

    Raises:
        EngineTooOld: older than 3.51.3.
    """
    if tuple(int(part) for part in version.split(".")[:3]) < ENGINE_MIN:
        raise EngineTooOld(f"SQLite {version} can lose commits; 3.51.3 or newer is needed")


def open_writer(path: Path, *, durable: bool) -> apsw.Connection:
    """The connection that writes; makes the file if there is none.

    Args:
        durable: False only for data that lives in memory anyway: then nothing waits for the disk.
    """
    check_engine(apsw.sqlite_lib_version())
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(int(BUSY_TIMEOUT_SECONDS * 1000))
    # Asked first: setting the mode again takes locks that a busy database may refuse.
    if connection.pragma("journal_mode") != "wal":
        connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "FULL" if durable else "OFF")
    connection.pragma("foreign_keys", True)
    connection.pragma("journal_size_limit", _WAL_BYTES_KEPT)
    return connection


def open_reader(path: Path) -> apsw.Connection:
    """A connection that cannot write."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(_READER_BUSY_MS)
    connection.pragma("query_only", True)
    return connection


class SqliteTx:
    """A transaction on one connection."""

    __slots__ = ("_connection", "_cursor")

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._cursor = connection.cursor()

    def one(self, statement: Statement, /, **params: object) -> tuple[Any, ...] | None:
        """The first row, or None."""
        compiled = cast("SQLStatement", statement).on(SQLITE)
        try:
            row = self._cursor.execute(compiled.text, compiled.arguments(params)).fetchone()
            # A statement with RETURNING has its effect row by row; the rest must run too.
            self._cursor.fetchall()
        except apsw.Error as error:
            raise neutral(error) from error
        return None if row is None else compiled.row(row)

    def all(self, statement: Statement, /, **params: object) -> Sequence[tuple[Any, ...]]:
        """Every row."""
        compiled = cast("SQLStatement", statement).on(SQLITE)
        try:
            rows = self._cursor.execute(compiled.text, compiled.arguments(params)).fetchall()
        except apsw.Error as error:
            raise neutral(error) from error
        return [compiled.row(row) for row in rows]

    def run(self, statement: Statement, /, **params: object) -> int:
        """Execute; the number of rows changed."""
        compiled = cast("SQLStatement", statement).on(SQLITE)
        before = self._connection.total_changes()
        try:
            self._cursor.execute(compiled.text, compiled.arguments(params)).fetchall()
        except apsw.Error as error:
            raise neutral(error) from error
        return self._connection.total_changes() - before

    def run_each(self, statement: Statement, rows: Sequence[Mapping[str, object]]) -> None:
        """Execute once for each set of parameters."""
        for row in rows:
            self.run(statement, **row)


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
