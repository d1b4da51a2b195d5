"""PEP 249 over apsw, as much of it as SQLAlchemy asks for; migrations and reflection alone use it.

SQLAlchemy takes a DB-API module by `module=`. Handing it stdlib `sqlite3` would put a second SQLite
engine into the process, and two engines on one file lose each other's locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import apsw

from qimem.kernel.limits import MIGRATION_WAIT_SECONDS

T = TypeVar("T")

apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"
sqlite_version = apsw.sqlite_lib_version()
sqlite_version_info = tuple(int(part) for part in sqlite_version.split("."))

PARSE_DECLTYPES = 0
PARSE_COLNAMES = 0

Binary = bytes


# SQLAlchemy tells errors apart by these very names.
class Error(Exception):
    """Root of what goes wrong."""


class InterfaceError(Error):
    """The driver was used wrongly."""


class DatabaseError(Error):
    """The database refused."""


class DataError(DatabaseError):
    """A value does not fit."""


class OperationalError(DatabaseError):
    """Disk, locks, or a statement that does not fit the schema; stdlib's driver says it so, too."""


class IntegrityError(DatabaseError):
    """A constraint is violated."""


class InternalError(DatabaseError):
    """The engine is in a wrong state."""


class ProgrammingError(DatabaseError):
    """The statement or its parameters are wrong."""


class NotSupportedError(DatabaseError):
    """The engine cannot do this."""


def _translated(work: Callable[[], T]) -> T:
    try:
        return work()
    except apsw.ConstraintError as error:
        raise IntegrityError(str(error)) from error
    except apsw.BindingsError as error:
        raise ProgrammingError(str(error)) from error
    except apsw.Error as error:
        raise OperationalError(str(error)) from error


class Cursor:
    """DB-API cursor."""

    arraysize = 1

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: list[tuple[Any, ...]] = []
        self.description: Sequence[tuple[Any, ...]] | None = None
        self.rowcount = -1
        self.lastrowid = 0

    def execute(self, text: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Run one statement."""
        raw = self._connection.raw
        before = raw.total_changes()
        cursor = raw.cursor()
        columns: list[str] = []

        def note(traced: apsw.Cursor, _text: str, _bindings: object) -> bool:
            # The only moment at which an empty result still tells its columns.
            columns[:] = [column[0] for column in traced.get_description()]
            return True

        cursor.exec_trace = note
        self._rows = _translated(lambda: list(cursor.execute(text, tuple(parameters))))
        self.description = [(name, *(None,) * 6) for name in columns] or None
        self.rowcount = raw.total_changes() - before
        self.lastrowid = raw.last_insert_rowid()
        return self

    def executemany(self, text: str, parameters: Iterable[Sequence[Any]]) -> Cursor:
        """Run one statement for each parameter set."""
        for row in parameters:
            self.execute(text, row)
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row."""
        return self._rows.pop(0) if self._rows else None

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        """The next rows."""
        taken, self._rows = self._rows[:size], self._rows[size:]
        return taken

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The remaining rows."""
        taken, self._rows = self._rows, []
        return taken

    def close(self) -> None:
        """Forget the rows."""
        self._rows = []


class Connection:
    """DB-API connection; SQLAlchemy begins transactions by statement."""

    isolation_level = None

    def __init__(self, path: str) -> None:
        self.raw = _translated(lambda: apsw.Connection(path))
        self.raw.set_busy_timeout(int(MIGRATION_WAIT_SECONDS * 1000))

    def cursor(self) -> Cursor:
        """A new cursor."""
        return Cursor(self)

    def execute(self, text: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Run one statement on a new cursor."""
        return self.cursor().execute(text, parameters)

    def create_function(self, name: str, arguments: int, function: Any, **_: Any) -> None:
        """Register a function; SQLAlchemy adds regexp()."""
        self.raw.create_scalar_function(name, function, arguments)

    def commit(self) -> None:
        """End the open transaction, if there is one."""
        if not self.raw.get_autocommit():
            self.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the open transaction, if there is one."""
        if not self.raw.get_autocommit():
            self.execute("ROLLBACK")

    def close(self) -> None:
        """Close."""
        self.raw.close()


def connect(path: str, **_: Any) -> Connection:
    """DB-API connect."""
    return Connection(path)
