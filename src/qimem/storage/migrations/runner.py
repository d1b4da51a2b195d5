"""Brings a database to the schema of this code, under a lock, or refuses one from the future.

The version is read first with the raw driver: a start on an up-to-date database imports neither
Alembic nor an engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qimem.errors import storage_unavailable
from qimem.kernel.limits import POSTGRES_CONNECT_SECONDS
from qimem.storage import sqlite_connection

HEAD = "0009"
KNOWN = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009")
"""Every version this code can open or upgrade from, oldest first."""

POSTGRES_LOCK = 0x51494D454D  # "QIMEM": one migration at a time over all nodes
SCHEMA_TABLE = "schema_version"
_VERSION = "SELECT version_num FROM schema_version"


class SchemaTooNew(Exception):
    """The database was written by a newer version of this program."""


def sqlite_version(path: Path) -> str | None:
    """Schema version of an embedded database, None when it is empty or absent.

    Raises:
        Refused: the file is not a database, or the SQLite engine can lose commits.
        Unavailable: it cannot be read.
    """
    if not path.exists():
        return None
    with sqlite_connection.explained(path):
        connection = sqlite_connection.open_reader(path)
        try:
            if not connection.table_exists(None, SCHEMA_TABLE):
                return None
            row = connection.execute(_VERSION).fetchone()
            return None if row is None else str(row[0])
        finally:
            connection.close()


def postgres_version(url: str) -> str | None:
    """Schema version of a PostgreSQL database, None when it is empty.

    Raises:
        Unavailable: the server cannot be reached, or refuses the connection.
    """
    import psycopg  # noqa: PLC0415 - see storage.database

    from qimem.storage.postgres_connection import connect  # noqa: PLC0415

    try:
        connecting = connect(url)
    except psycopg.OperationalError as error:
        raise storage_unavailable() from error
    with connecting as connection:
        try:
            row = connection.execute(_VERSION).fetchone()
        except psycopg.errors.UndefinedTable:
            return None
        return None if row is None else str(row[0])


def migrate_sqlite(path: Path) -> None:
    """Bring an embedded database up to date.

    Raises:
        SchemaTooNew: it is newer than this code.
        Refused: the file is not a database, or the SQLite engine can lose commits.
        Unavailable: it cannot be opened.
    """
    # Makes the file and sets its journal mode, which cannot be changed inside a transaction.
    with sqlite_connection.explained(path):
        sqlite_connection.open_writer(path, durable=True).close()
    if not _is_old(sqlite_version(path)):
        return
    import sqlalchemy as sa  # noqa: PLC0415 - only a migration needs an engine

    from qimem.storage import sqlite_driver  # noqa: PLC0415

    engine = sa.create_engine(f"sqlite:///{path}", module=sqlite_driver, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        upgrade(connection, "head")
        connection.commit()


def migrate_postgres(url: str) -> None:
    """Bring a PostgreSQL database up to date; several nodes may try at once.

    Raises:
        SchemaTooNew: it is newer than this code.
    """
    if not _is_old(postgres_version(url)):
        return
    import sqlalchemy as sa  # noqa: PLC0415 - only a migration needs an engine

    engine = postgres_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": POSTGRES_LOCK})
        upgrade(connection, "head")


def postgres_engine(url: str) -> Any:
    """SQLAlchemy's engine for changes to the whole of a database: of the servers that the URL names, on the primary.

    Without a limit for statements: these take what they take.
    """
    import psycopg  # noqa: PLC0415 - see storage.database
    import sqlalchemy as sa  # noqa: PLC0415 - only a migration needs an engine

    def connected() -> psycopg.Connection[Any]:
        return psycopg.connect(
            url, target_session_attrs="read-write", connect_timeout=POSTGRES_CONNECT_SECONDS
        )

    return sa.create_engine("postgresql+psycopg://", creator=connected, poolclass=sa.NullPool)


def check_known(version: str) -> None:
    """Refuse a schema from the future.

    Raises:
        SchemaTooNew: this code does not know it.
    """
    if version not in KNOWN:
        raise SchemaTooNew(
            f"the database has schema version {version}, this program knows up to {HEAD}: use the newer program"
        )


def pending(version: str | None) -> tuple[str, ...]:
    """The versions that a schema of this one has still to go through; of an absent one all."""
    return KNOWN if version is None else KNOWN[KNOWN.index(version) + 1 :]


def upgrade(connection: Any, target: str) -> None:
    """Bring a database to a version, in the transaction of its caller.

    Args:
        connection: SQLAlchemy's, in a transaction.
        target: A version not older than its own, or `head`.
    """
    from alembic import command  # noqa: PLC0415 - 0.2 s to import, and seldom needed
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "qimem:storage/migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def _is_old(version: str | None) -> bool:
    if version is not None:
        check_known(version)
    return version != HEAD
