"""Connections to PostgreSQL and transactions on them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import Dialect

from qimem.errors import storage_unavailable
from qimem.kernel.limits import (
    ABANDONED_STATEMENT_SECONDS,
    POSTGRES_CONNECT_SECONDS,
    POSTGRES_IDLE_SECONDS,
    STATEMENT_TIMEOUT_SECONDS,
)
from qimem.kernel.refusal import Refused
from qimem.kernel.transaction import ForeignKeyViolation, Statement, UniqueViolation
from qimem.storage.postgres_servers import Servers
from qimem.storage.statement import SQLStatement

if TYPE_CHECKING:
    from psycopg.abc import PQGen

R = TypeVar("R")

# Here and not beside the other one: importing it takes 80 ms, which a start on SQLite does not owe.
POSTGRESQL: Dialect = PGDialect_psycopg(paramstyle="format")  # type: ignore[no-untyped-call]  # SQLAlchemy has no hint here

_TIMEOUT_MS = STATEMENT_TIMEOUT_SECONDS * 1000
PARAMETERS: Mapping[str, Any] = {
    "options": f"-c statement_timeout={_TIMEOUT_MS} -c lock_timeout={_TIMEOUT_MS} "
    f"-c idle_in_transaction_session_timeout={_TIMEOUT_MS} "
    f"-c client_connection_check_interval={ABANDONED_STATEMENT_SECONDS * 1000}",
    "connect_timeout": POSTGRES_CONNECT_SECONDS,
    # Never a replica: it lags, and would tell of permissions that are gone.
    "target_session_attrs": "read-write",
    # The server's own timeouts do not reach us through a network that swallows packets.
    "tcp_user_timeout": 2 * _TIMEOUT_MS,
    "keepalives_idle": STATEMENT_TIMEOUT_SECONDS,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""What every connection is opened with, whatever the URL says."""

_READ_ONLY = ("default_transaction_read_only", "in_hot_standby")


class PostgresConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that waits for answers until `deadline`, in monotonic seconds, and is closed then.

    What a closed connection may still have to say is read by nobody: no answer is taken for a later one.
    """

    deadline: float = math.inf
    opened: float = 0.0
    heard: float = 0.0
    merely_slow: bool = False
    """It ended because the caller's time was over, and not because anything broke."""
    warned: bool = False
    """Something was not as it should be, and the statement went on all the same."""

    def wait(self, gen: PQGen[R], interval: float = 0.1, timeout: float | None = None) -> R:
        """Run one exchange with the server.

        Raises:
            psycopg.OperationalError: no answer before the deadline, or `timeout` seconds if that is sooner.
        """
        asked = time.monotonic()
        left = _left(self, timeout)
        try:
            found = super().wait(gen, interval, left)
        except psycopg.OperationalError:
            self.merely_slow = _merely_slow(self, asked)
            _close_if_busy(self)
            raise
        self.heard = time.monotonic()
        return found

    def note(self, notice: psycopg.errors.Diagnostic) -> None:
        """Remember that there was a warning."""
        self.warned = self.warned or notice.severity_nonlocalized == "WARNING"


class AsyncPostgresConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """The same, for the event loop."""

    deadline: float = math.inf
    heard: float = 0.0
    merely_slow: bool = False
    prepared: bool = False
    """Its query was planned by the server, and is asked for by name."""

    async def wait(
        self,
        gen: PQGen[R],
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109 - as the driver calls it
    ) -> R:
        """Run one exchange with the server.

        Raises:
            psycopg.OperationalError: no answer before the deadline, or `timeout` seconds if that is sooner.
        """
        asked = time.monotonic()
        left = _left(self, timeout)
        try:
            found = await super().wait(gen, interval, left)
        except psycopg.OperationalError:
            self.merely_slow = _merely_slow(self, asked)
            _close_if_busy(self)
            raise
        self.heard = time.monotonic()
        return found


def _left(connection: PostgresConnection | AsyncPostgresConnection, timeout: float | None) -> float | None:
    if connection.deadline == math.inf:
        return timeout
    left = connection.deadline - time.monotonic()
    if left <= 0:
        connection.merely_slow = True
        raise psycopg.OperationalError("no time is left to ask")
    return left if timeout is None else min(left, timeout)


def _merely_slow(connection: PostgresConnection | AsyncPostgresConnection, asked: float) -> bool:
    # What was heard a moment before is alive: a locked row or a busy server must not cost the other connections.
    # One that was idle for long may be dead without a sign, and then the others may be as well.
    return time.monotonic() >= connection.deadline and asked - connection.heard < POSTGRES_IDLE_SECONDS


def _close_if_busy(connection: PostgresConnection | AsyncPostgresConnection) -> None:
    # An answer that is still owed would be taken for that of the next question.
    if connection.pgconn.transaction_status == TransactionStatus.ACTIVE:
        connection.pgconn.finish()


def connect(url: str, servers: Servers | None = None) -> PostgresConnection:
    """A connection whose transactions are begun and ended by explicit statements.

    Args:
        url: Where the database is.
        servers: Those that the URL names; None where this is the only connection.

    Raises:
        psycopg.OperationalError: the server cannot be reached.
        Refused: the URL is malformed.
    """
    servers = servers or Servers(url)
    try:
        connection = PostgresConnection.connect(url, autocommit=True, **{**PARAMETERS, **servers.in_order()})
    except psycopg.ProgrammingError as error:
        # Raised before anything is sent; its text repeats the URL, which may hold a password.
        raise Refused("the database URL cannot be read", "postgresql://user@host:port/database") from error
    servers.found(connection)
    connection.opened = connection.heard = time.monotonic()
    connection.add_notice_handler(connection.note)
    return connection


def check_primary(connection: PostgresConnection | AsyncPostgresConnection) -> None:
    """Refuse a server that was made read-only since the connection was opened: a demoted primary.

    The server reports the setting with its next answer; asking for it costs nothing.

    Raises:
        psycopg.OperationalError: it takes no writes, so another server may.
    """
    for name in _READ_ONLY:
        if connection.info.parameter_status(name) == "on":
            raise psycopg.OperationalError(f"the server has {name} = on")


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
