"""Connections to PostgreSQL and transactions on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import psycopg
from psycopg import errors

from qimem.errors import storage_unavailable
from qimem.kernel.limits import STATEMENT_TIMEOUT_SECONDS
from qimem.kernel.refusal import Refused
from qimem.kernel.transaction import ForeignKeyViolation, Statement, UniqueViolation
from qimem.storage.statement import POSTGRESQL, SQLStatement

_TIMEOUT_MS = STATEMENT_TIMEOUT_SECONDS * 1000
PARAMETERS: Mapping[str, Any] = {
    "options": f"-c statement_timeout={_TIMEOUT_MS} -c lock_timeout={_TIMEOUT_MS} "
    f"-c idle_in_transaction_session_timeout={_TIMEOUT_MS}",
    "connect_timeout": 3,
    # Never a replica: it lags, and would tell of permissions that are gone.
    "target_session_attrs": "read-write",
    # The server's own timeouts do not reach us through a network that swallows packets.
    "tcp_user_timeout": 2 * _TIMEOUT_MS,
    "keepalives_idle": STATEMENT_TIMEOUT_SECONDS,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""What every connection is opened with, whatever the URL says."""

PostgresConnection = psycopg.Connection[tuple[Any, ...]]


def connect(url: str) -> PostgresConnection:
    """A connection whose transactions are begun and ended by explicit statements.

    Raises:
        psycopg.OperationalError: the server cannot be reached.
        Refused: the URL is malformed.
    """
    try:
        return psycopg.connect(url, autocommit=True, **PARAMETERS)
    except psycopg.ProgrammingError as error:
        # Raised before anything is sent; its text repeats the URL, which may hold a password.
        raise Refused("the database URL cannot be read", "postgresql://user@host:port/database") from error


class PostgresTx:
    """A transaction on one connection. The first statement that fails ends it: `failure` tells why.

    Its COMMIT would then be a ROLLBACK that reports success.
    """

    __slots__ = ("_cursor", "failure")

    def __init__(self, connection: PostgresConnection) -> None:
        self._cursor = connection.cursor()
        self.failure: Exception | None = None

    def one(self, statement: Statement, /, **params: object) -> tuple[Any, ...] | None:
        """The first row, or None."""
        compiled = cast("SQLStatement", statement).on(POSTGRESQL)
        self._execute(compiled.text, compiled.arguments(params))
        row = self._cursor.fetchone()
        return None if row is None else compiled.row(row)

    def all(self, statement: Statement, /, **params: object) -> Sequence[tuple[Any, ...]]:
        """Every row."""
        compiled = cast("SQLStatement", statement).on(POSTGRESQL)
        self._execute(compiled.text, compiled.arguments(params))
        return [compiled.row(row) for row in self._cursor.fetchall()]

    def run(self, statement: Statement, /, **params: object) -> int:
        """Execute; the number of rows changed."""
        compiled = cast("SQLStatement", statement).on(POSTGRESQL)
        self._execute(compiled.text, compiled.arguments(params))
        return self._cursor.rowcount

    def run_each(self, statement: Statement, rows: Sequence[Mapping[str, object]]) -> None:
        """Execute once for each set of parameters."""
        for row in rows:
            self.run(statement, **row)

    def check(self) -> None:
        """Raise what ended the transaction, for the case that its error was caught."""
        if self.failure is not None:
            raise self.failure

    def _execute(self, text: str, arguments: tuple[Any, ...]) -> None:
        self.check()
        try:
            # The text is compiled from an expression in this package, never from input.
            self._cursor.execute(cast("Any", text), arguments)
        except psycopg.Error as error:
            self.failure = _neutral(error)
            if self.failure is error:
                raise
            raise self.failure from error


def _neutral(error: psycopg.Error) -> Exception:
    if isinstance(error, errors.UniqueViolation):
        return UniqueViolation()
    if isinstance(error, errors.ForeignKeyViolation):
        return ForeignKeyViolation()
    return error


def is_retryable(error: BaseException) -> bool:
    """Whether the transaction surely did nothing and may be run again."""
    return isinstance(error, errors.SerializationFailure | errors.DeadlockDetected)


def unavailable(error: psycopg.Error) -> Exception:
    """What a failure before COMMIT means: faults of storage are that, anything else is a defect of ours."""
    storage_faults = (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        errors.ReadOnlySqlTransaction,
        errors.InternalError,
    )
    return storage_unavailable() if isinstance(error, storage_faults) else error
