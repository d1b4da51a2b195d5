"""Chooses the database from where the data is said to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qimem.storage.migrations.runner import (
    migrate_postgres,
    migrate_sqlite,
    postgres_version,
    sqlite_version,
)
from qimem.storage.postgres import PostgresDatabase
from qimem.storage.sqlite import SqliteDatabase

FILE_NAME = "qimem.db"

OpenDatabase = SqliteDatabase | PostgresDatabase


@dataclass(frozen=True, slots=True)
class DatabaseLocation:
    """Where the data is.

    Args:
        directory: Data directory of the embedded database.
        url: `postgresql://…`, or None for the embedded database.
        durable: False only for an embedded database that lives in memory.
    """

    directory: Path
    url: str | None = None
    durable: bool = True

    @property
    def file(self) -> Path:
        """The embedded database file."""
        return self.directory / FILE_NAME

    def exists(self) -> bool:
        """Whether a schema is there already.

        Raises:
            psycopg.OperationalError: PostgreSQL cannot be reached.
        """
        version = sqlite_version(self.file) if self.url is None else postgres_version(self.url)
        return version is not None

    def migrate(self) -> None:
        """Bring the schema up to date.

        Raises:
            SchemaTooNew: the data is newer than this program.
        """
        if self.url is None:
            migrate_sqlite(self.file)
        else:
            migrate_postgres(self.url)

    def open(self) -> OpenDatabase:
        """Open it; in the process and thread that will use it."""
        if self.url is None:
            return SqliteDatabase(self.file, durable=self.durable)
        return PostgresDatabase(self.url)
