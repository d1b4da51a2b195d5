"""Rows of a backup become a database: all of it in one transaction, or nothing.

Tables are made as they were when the backup was taken, filled, and brought up to date by the same migrations that the
database itself would have gone through. So a backup of an older version is restored by a newer one, and one of either
database into the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import apsw
import sqlalchemy as sa

from qimem.errors import Conflict, storage_unavailable
from qimem.kernel.transaction import ForeignKeyViolation, Tx, UniqueViolation
from qimem.storage.backup_file import Frame, TableHead, damaged
from qimem.storage.migrations.runner import (
    POSTGRES_LOCK,
    SCHEMA_TABLE,
    check_known,
    postgres_engine,
    upgrade,
)
from qimem.storage.sqlite_connection import SqliteTx, checkpoint, explained, open_writer

if TYPE_CHECKING:
    from pathlib import Path

    from qimem.storage.database import DatabaseLocation

LEFT_OUT = frozenset({"audit_intent", "job"})
"""Tables whose rows stay behind: they belong to nodes, and to their logs, and not to the data."""

_Convert = Callable[[Any], Any]


def restore(
    where: DatabaseLocation, schema: str, frames: Iterable[Frame], settle: Callable[[Tx], None]
) -> None:
    """Make a database of the frames of a backup.

    Args:
        where: An empty place.
        schema: Version of the schema of the rows.
        frames: Of the backup.
        settle: Called when all rows are there and up to date, before the commit.

    Raises:
        Conflict: `already_exists`: there are tables already.
        Invalid: the backup is damaged.
        SchemaTooNew: it was taken by a newer program.
        Unavailable: the database cannot be written.
    """
    check_known(schema)
    if where.url is None:
        _into_sqlite(where.file, schema, frames, settle)
    else:
        _into_postgres(where.url, schema, frames, settle)


def _into_sqlite(path: Path, schema: str, frames: Iterable[Frame], settle: Callable[[Tx], None]) -> None:
    from qimem.storage import sqlite_driver  # noqa: PLC0415 - only a migration needs it

    with explained(path):
        open_writer(path, durable=True).close()
    engine = sa.create_engine(f"sqlite:///{path}", module=sqlite_driver, poolclass=sa.NullPool)
    with _storage_errors(), engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA synchronous = FULL")
        # Rows are checked when all are there.
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        raw = connection.connection.driver_connection.raw  # type: ignore[union-attr]  # of our own driver

        def fill(head: TableHead, _: sa.Table, rows: Iterator[tuple[Any, ...]]) -> None:
            raw.executemany(_insert(head), rows)

        _fill(connection, schema, frames, fill)
        settle(SqliteTx(raw))
        if raw.execute("PRAGMA foreign_key_check").fetchall():
            raise damaged("rows refer to rows that are not in it")
        connection.commit()
    with explained(path):
        writer = open_writer(path, durable=True)
        checkpoint(writer)
        writer.close()


def _into_postgres(url: str, schema: str, frames: Iterable[Frame], settle: Callable[[Tx], None]) -> None:
    from qimem.storage.postgres_connection import PostgresTx  # noqa: PLC0415 - see storage.database

    with _postgres_errors(), postgres_engine(url).begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": POSTGRES_LOCK})
        raw: Any = connection.connection.driver_connection

        def fill(head: TableHead, table: sa.Table, rows: Iterator[tuple[Any, ...]]) -> None:
            converts = [_to_postgres(table.c[name].type) for name in head.columns]
            listed = ", ".join(f'"{name}"' for name in head.columns)
            with raw.cursor() as cursor, cursor.copy(f'COPY "{head.name}" ({listed}) FROM STDIN') as copy:
                for row in rows:
                    copy.write_row(
                        [
                            value if convert is None or value is None else convert(value)
                            for convert, value in zip(converts, row, strict=True)
                        ]
                    )

        _fill(connection, schema, frames, fill)
        settle(PostgresTx(raw))


def _fill(
    connection: sa.Connection,
    schema: str,
    frames: Iterable[Frame],
    fill: Callable[[TableHead, sa.Table, Iterator[tuple[Any, ...]]], None],
) -> None:
    if sa.inspect(connection).get_table_names():
        raise Conflict("the database is not empty", code="already_exists", hint="restore into an empty one")
    upgrade(connection, schema)
    there = sa.MetaData()
    there.reflect(connection)
    for head, rows in _by_table(frames):
        table = there.tables.get(head.name)
        if table is None or set(head.columns) != set(table.columns.keys()) or head.name == SCHEMA_TABLE:
            raise damaged(f"table {head.name} is not one of schema {schema}")
        if head.name in LEFT_OUT:
            for _ in rows:
                continue
        else:
            fill(head, table, rows)
    upgrade(connection, "head")


def _by_table(frames: Iterable[Frame]) -> Iterator[tuple[TableHead, Iterator[tuple[Any, ...]]]]:
    """Each table with its rows, which must be read before the next one is asked for."""
    remaining = iter(frames)
    following: list[TableHead] = []

    def rows() -> Iterator[tuple[Any, ...]]:
        for frame in remaining:
            if isinstance(frame, TableHead):
                following.append(frame)
                return
            yield from frame.rows

    for frame in remaining:
        assert isinstance(frame, TableHead), "a reader gives no rows before their table"
        following.append(frame)
        while following:
            yield following.pop(), rows()


def _insert(head: TableHead) -> str:
    # Its names were compared with those that the migrations have made.
    listed = ", ".join(f'"{name}"' for name in head.columns)
    return f'INSERT INTO "{head.name}" ({listed}) VALUES ({", ".join("?" * len(head.columns))})'  # noqa: S608


def _to_postgres(type_: sa.types.TypeEngine[Any]) -> _Convert | None:
    if isinstance(type_, sa.Uuid):
        return lambda value: UUID(bytes=value)
    return bool if isinstance(type_, sa.Boolean) else None


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Say in our words what the drivers say.

    Raises:
        Invalid: rows that break a rule of the schema are none of ours.
        Unavailable: anything else.
    """
    try:
        yield
    except (sa.exc.IntegrityError, apsw.ConstraintError, UniqueViolation, ForeignKeyViolation) as error:
        raise damaged("rows break a rule of its schema") from error
    except (sa.exc.DBAPIError, apsw.Error) as error:
        raise storage_unavailable() from error


@contextmanager
def _postgres_errors() -> Iterator[None]:
    import psycopg  # noqa: PLC0415 - see storage.database

    with _storage_errors():
        try:
            yield
        except psycopg.IntegrityError as error:
            raise UniqueViolation from error
        except psycopg.Error as error:
            raise storage_unavailable() from error
