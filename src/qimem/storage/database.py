"""Chooses the database from where the data is said to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from qimem.kernel.epochs import EpochSource
from qimem.kernel.limits import WRITE_SECONDS
from qimem.kernel.transaction import Database
from qimem.storage.migrations import runner
from qimem.storage.sqlite import SqliteDatabase

FILE_NAME = "qimem.db"


class OpenDatabase(Database, EpochSource, Protocol):
    """An open database of either kind; it tells the epochs of its realms as well."""

    @property
    def deciding(self) -> EpochSource:
        """Where decisions ask: itself, or leases of what it told."""
        ...

    async def close(self) -> None:
        """Finish what runs and let go of it."""
        ...


@dataclass(frozen=True, slots=True)
class DatabaseLocation:
    """Where the data is.

    Args:
        directory: Data directory of the embedded database.
        url: `postgresql://…`, or None for the embedded database.
        durable: False only for an embedded database that lives in memory.
        bounded: What changes nothing may be decided on state that is a lease old; PostgreSQL alone.
    """

    directory: Path
    url: str | None = field(default=None, repr=False)
    durable: bool = True
    bounded: bool = False

    @property
    def file(self) -> Path:
        """The embedded database file."""
        return self.directory / FILE_NAME

    def version(self) -> str | None:
        """The version of its schema, None where there is none.

        Raises:
            Refused: the file is not a database.
            Unavailable: it cannot be read or reached.
        """
        return runner.sqlite_version(self.file) if self.url is None else runner.postgres_version(self.url)

    def exists(self) -> bool:
        """Whether a schema is there already.

        Raises:
            Unavailable: PostgreSQL cannot be reached.
        """
        return self.version() is not None

    def is_current(self) -> bool:
        """Whether the schema is the one of this program.

        Raises:
            Unavailable: PostgreSQL cannot be reached.
        """
        version = runner.sqlite_version(self.file) if self.url is None else runner.postgres_version(self.url)
        return version == runner.HEAD

    def migrate(self) -> None:
        """Bring the schema up to date.

        Raises:
            SchemaTooNew: the data is newer than this program.
        """
        if self.url is None:
            runner.migrate_sqlite(self.file)
        else:
            runner.migrate_postgres(self.url)

    def open(self, *, write_seconds: float = WRITE_SECONDS) -> OpenDatabase:
        """Open it; in the process and thread that will use it.

        Args:
            write_seconds: How long a write into the embedded database takes at most before its caller is told.
        """
        if self.url is None:
            return SqliteDatabase(self.file, durable=self.durable, write_seconds=write_seconds)
        # The driver takes a seventh of the start of a server that has no use for it.
        if self.bounded:
            from qimem.storage.postgres_lease import BoundedPostgresDatabase  # noqa: PLC0415

            return BoundedPostgresDatabase(self.url)
        from qimem.storage.postgres import PostgresDatabase  # noqa: PLC0415

        return PostgresDatabase(self.url)
