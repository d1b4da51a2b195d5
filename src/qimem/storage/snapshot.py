"""All rows of a database in one snapshot, alike for both databases, of whatever version its schema is.

Servers go on writing meanwhile. On SQLite the log cannot begin anew while a snapshot is read, so rows are only read and
handed on here: nothing waits for anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any

import apsw

from qimem.errors import storage_unavailable
from qimem.kernel.limits import BACKUP_ROWS_AT_ONCE
from qimem.storage.backup_file import Frame, Rows, TableHead
from qimem.storage.schema import METADATA
from qimem.storage.sqlite_connection import explained, open_reader

if TYPE_CHECKING:
    from qimem.storage.database import DatabaseLocation
    from qimem.storage.postgres_connection import PostgresConnection

_VERSION = "SELECT version_num FROM schema_version"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The database at one moment.

    Args:
        schema: Version of its schema.
        tables: Table → its columns; a table stands behind all that it refers to.
        read: Gives the rows of a table in batches.
    """

    schema: str
    tables: dict[str, tuple[str, ...]]
    read: Callable[[str, tuple[str, ...]], Iterator[list[tuple[Any, ...]]]]

    def frames(self) -> Iterator[Frame]:
        """Every table with its rows."""
        for name, columns in self.tables.items():
            yield TableHead(name, columns)
            for rows in self.read(name, columns):
                yield Rows(rows)


@contextmanager
def snapshot(where: DatabaseLocation) -> Iterator[Snapshot]:
    """A snapshot; good as long as the context is open.

    Raises:
        Refused: the file is not a database.
        Unavailable: the database cannot be read.
    """
    opened = _of_sqlite(where) if where.url is None else _of_postgres(where.url)
    with opened as found:
        yield found


@contextmanager
def _of_sqlite(where: DatabaseLocation) -> Iterator[Snapshot]:
    with explained(where.file):
        connection = open_reader(where.file)
        try:
            connection.execute("BEGIN")
            ((schema,),) = connection.execute(_VERSION).fetchall()
            yield Snapshot(str(schema), _tables_of_sqlite(connection), _SqliteRows(connection))
        finally:
            connection.close(True)


def _tables_of_sqlite(connection: apsw.Connection) -> dict[str, tuple[str, ...]]:
    there = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    references = {
        name: {row[2] for row in connection.execute(f'PRAGMA foreign_key_list("{name}")')}
        for name in METADATA.tables
        if name in there
    }
    return {
        name: tuple(row[1] for row in connection.execute(f'PRAGMA table_info("{name}")'))
        for name in TopologicalSorter(references).static_order()
    }


@dataclass(frozen=True, slots=True)
class _SqliteRows:
    connection: apsw.Connection

    def __call__(self, name: str, columns: tuple[str, ...]) -> Iterator[list[tuple[Any, ...]]]:
        cursor = self.connection.execute(_select(name, columns))
        while rows := [row for _, row in zip(range(BACKUP_ROWS_AT_ONCE), cursor, strict=False)]:
            yield rows


@contextmanager
def _of_postgres(url: str) -> Iterator[Snapshot]:
    import psycopg  # noqa: PLC0415 - see storage.database

    from qimem.storage.postgres_connection import connect  # noqa: PLC0415

    try:
        with connect(url) as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # A backup waits for the disk that it goes to, and no request waits for the backup.
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            row = connection.execute(_VERSION).fetchone()
            assert row is not None
            yield Snapshot(str(row[0]), _tables_of_postgres(connection), _PostgresRows(connection))
    except psycopg.Error as error:
        raise storage_unavailable() from error


_COLUMNS = (
    "SELECT table_name, column_name FROM information_schema.columns "
    "WHERE table_schema = current_schema() ORDER BY table_name, ordinal_position"
)
_REFERENCES = (
    "SELECT one.relname, other.relname FROM pg_constraint AS c JOIN pg_class AS one ON one.oid = c.conrelid "
    "JOIN pg_class AS other ON other.oid = c.confrelid "
    "WHERE c.contype = 'f' AND one.relnamespace = current_schema()::regnamespace"
)


def _tables_of_postgres(connection: PostgresConnection) -> dict[str, tuple[str, ...]]:
    columns: dict[str, tuple[str, ...]] = {}
    for table, column in connection.execute(_COLUMNS):
        if table in METADATA.tables:
            columns[table] = (*columns.get(table, ()), column)
    references: dict[str, set[str]] = {table: set() for table in columns}
    for table, other in connection.execute(_REFERENCES):
        if table in references:
            references[table].add(other)
    return {name: columns[name] for name in TopologicalSorter(references).static_order()}


@dataclass(frozen=True, slots=True)
class _PostgresRows:
    connection: PostgresConnection

    def __call__(self, name: str, columns: tuple[str, ...]) -> Iterator[list[tuple[Any, ...]]]:
        # By a cursor of the server: the driver would take the whole table into memory first.
        with self.connection.cursor("backup") as cursor:
            cursor.execute(_select(name, columns).encode())
            described = cursor.description or ()
            foreign = [
                (at, _NEUTRAL[column.type_display])
                for at, column in enumerate(described)
                if column.type_display in _NEUTRAL
            ]
            while rows := cursor.fetchmany(BACKUP_ROWS_AT_ONCE):
                yield [_neutral(row, foreign) for row in rows] if foreign else rows


_NEUTRAL: dict[str, Callable[[Any], Any]] = {"uuid": lambda value: value.bytes, "bool": int}


def _neutral(row: tuple[Any, ...], foreign: list[tuple[int, Callable[[Any], Any]]]) -> tuple[Any, ...]:
    values = list(row)
    for at, convert in foreign:
        if values[at] is not None:
            values[at] = convert(values[at])
    return tuple(values)


def _select(name: str, columns: tuple[str, ...]) -> str:
    # Names come from the database's own list of what this program made, never from input.
    listed = ", ".join(f'"{column}"' for column in columns)
    return f'SELECT {listed} FROM "{name}"'  # noqa: S608
