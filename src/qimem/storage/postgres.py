"""PostgreSQL for several nodes: a bounded pool of threads, one connection each.

Writes are serializable and tried again when they lose against another. What was lost before COMMIT
was sent did not happen; what was lost after it may have. Callers have their answer in time, also from
a server that gives none; no thread waits longer than they do.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg

from qimem.errors import Unavailable, outcome_unknown, storage_unavailable
from qimem.kernel import patience
from qimem.kernel.clock import seconds_since_boot
from qimem.kernel.epochs import Epoch
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import (
    POSTGRES_IDLE_SECONDS,
    POSTGRES_POOL_MAX,
    POSTGRES_RETRIES_MAX,
    QUEUE_AGE_SHARE,
    WRITE_QUEUE_MAX,
)
from qimem.kernel.transaction import Tx, UniqueViolation
from qimem.storage.epochs import EpochRows
from qimem.storage.fork_guard import ForkGuard
from qimem.storage.postgres_connection import (
    PostgresConnection,
    PostgresTx,
    check_primary,
    connect,
    is_retryable,
    unavailable,
)
from qimem.storage.postgres_epochs import READ, EpochReader
from qimem.storage.postgres_operation import Operation
from qimem.storage.postgres_servers import Servers

T = TypeVar("T")

_WRITE = "BEGIN ISOLATION LEVEL SERIALIZABLE"
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_BACKOFF_SECONDS = 0.002
_BACKOFF_MAX_SECONDS = 0.1


class PostgresDatabase(EpochRows):
    """Implements the database and epoch source ports on PostgreSQL.

    Attributes:
        changed_at: Seconds since boot, when this process last ended a transaction that moved an epoch.
    """

    reading = READ

    def __init__(self, url: str) -> None:
        self._url = url
        self._servers = Servers(url)
        self.changed_at = -math.inf
        self._fork_guard = ForkGuard()
        self._closed = False
        self._threads = ThreadPoolExecutor(POSTGRES_POOL_MAX, thread_name_prefix="postgres")
        self._local = threading.local()
        self._open: set[PostgresConnection] = set()
        self._queued = 0
        self._age = 0.0
        """How long the operation that was last begun had waited for a thread; 0 while threads are free."""
        self._distrusted = 0.0
        self._epoch_reader = EpochReader(url, self._servers, self._distrust)

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a serializable transaction; see `kernel.transaction.Database`."""
        return await self._on_thread(lambda operation: self._write(operation, fn))

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in one snapshot."""
        return await self._on_thread(lambda operation: self._read(operation, fn))

    async def current(self, realm_id: RealmId) -> Epoch | None:
        """The realm's epoch, read after this call began."""
        self._fork_guard.check()
        return await self._epoch_reader.current(realm_id)

    async def current_of_all(self, realm_ids: Sequence[RealmId]) -> Mapping[RealmId, Epoch]:
        """The epochs of those that there are, read after this call began."""
        self._fork_guard.check()
        return await self._epoch_reader.current_of_all(realm_ids)

    def bump(self, tx: Tx, realm_id: RealmId) -> None:
        """Make every worker forget what it knows of the realm, from this commit on."""
        super().bump(tx, realm_id)
        self._local.moved = True

    async def close(self) -> None:
        """Finish what runs and close every connection."""
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        for connection in self._open:
            connection.close()
        await self._epoch_reader.close()

    async def _on_thread(self, work: Callable[[Operation], T]) -> T:
        self._fork_guard.check()
        if self._closed:
            raise storage_unavailable()
        # As many as there are threads wait for one operation alone.
        seconds = patience.seconds()
        late = self._age > QUEUE_AGE_SHARE * seconds and self._queued >= 2 * POSTGRES_POOL_MAX
        if late or self._queued >= WRITE_QUEUE_MAX:
            raise Unavailable("too many database operations at once", code="overloaded")
        self._queued += 1
        operation = Operation(seconds)
        running = asyncio.get_running_loop().run_in_executor(self._threads, self._do, work, operation)
        running.add_done_callback(self._done)
        # Only waited for: a caller that goes away must neither undo nor half-do what it asked for.
        await asyncio.wait({running}, timeout=seconds)
        patience.spend(time.monotonic() - operation.since)
        if not running.done():
            raise operation.abandon()
        return running.result()

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._queued -= 1
        if self._queued < POSTGRES_POOL_MAX:
            self._age = 0.0
        if not future.cancelled():
            future.exception()

    def _do(self, work: Callable[[Operation], T], operation: Operation) -> T:
        self._age = time.monotonic() - operation.since
        operation.check()
        return work(operation)

    def _read(self, operation: Operation, fn: Callable[[Tx], T]) -> T:
        try:
            connection, value = self._run(operation, _READ, fn)
        except psycopg.Error as error:
            if is_retryable(error):
                raise storage_unavailable() from error
            raise
        self._abandon(connection)
        return value

    def _write(self, operation: Operation, fn: Callable[[Tx], T]) -> T:
        self._local.moved = False
        try:
            return self._write_again(operation, fn)
        finally:
            # Also where the outcome is unknown, and before anybody is told of it.
            if self._local.moved:
                self.changed_at = seconds_since_boot()

    def _write_again(self, operation: Operation, fn: Callable[[Tx], T]) -> T:
        surprised = False
        for attempt in range(POSTGRES_RETRIES_MAX):
            try:
                connection, value = self._run(operation, _WRITE, fn)
                self._commit(operation, connection)
            except psycopg.Error as error:
                if not is_retryable(error):
                    raise
                # Doubling with jitter: two dozen writers of one row all come through. Evenly spaced
                # attempts would let the same contenders meet again in the same order.
                time.sleep(min(_BACKOFF_SECONDS * 2**attempt, _BACKOFF_MAX_SECONDS) * random.random())  # noqa: S311 - not a secret
            except _Surprised as surprise:
                if surprised:
                    raise surprise.meant from None
                surprised = True
            else:
                return value
        raise storage_unavailable()

    def _run(self, operation: Operation, begin: str, fn: Callable[[Tx], T]) -> tuple[PostgresConnection, T]:
        operation.check()
        connection = self._begin(operation, begin)
        tx = PostgresTx(connection)
        try:
            value = fn(tx)
            tx.check()
        except psycopg.Error as error:
            self._abandon(connection)
            if is_retryable(error):
                raise
            raise unavailable(error) from error
        except BaseException as error:
            self._abandon(connection)
            if isinstance(tx.failure, UniqueViolation) and isinstance(error, Exception):
                raise _Surprised(error) from error
            raise
        return connection, value

    def _begin(self, operation: Operation, begin: str) -> PostgresConnection:
        # An idle connection may have died unnoticed; nothing was sent on it, so one retry is safe.
        for last in (False, True):
            # Both outside the judgement of the connection: that a caller has left says nothing about it, and one
            # that took long to open is there for the next.
            operation.check()
            try:
                connection = self._connection()
                operation.check()
                connection.deadline = operation.deadline if last else _probe(connection, operation.deadline)
                connection.execute(begin)
                check_primary(connection)
                connection.deadline = operation.deadline
                return connection
            except psycopg.Error as error:
                self._lose()
                if last:
                    raise storage_unavailable() from error
        raise storage_unavailable()

    def _commit(self, operation: Operation, connection: PostgresConnection) -> None:
        try:
            operation.begin_commit()
        except Unavailable:
            self._abandon(connection)
            raise
        connection.warned = False
        try:
            connection.execute("COMMIT")
        except psycopg.Error as error:
            if is_retryable(error):
                operation.end_commit()
                self._abandon(connection)
                raise
            self._lose()
            raise outcome_unknown() from error
        if connection.warned:
            # The wait for the standby was canceled: it is on the primary alone, and gone if another takes over.
            raise outcome_unknown()

    def _connection(self) -> PostgresConnection:
        connection: PostgresConnection | None = getattr(self._local, "connection", None)
        if connection is not None and connection.opened < self._distrusted:
            # Another one fell silent or broke: whatever cut it, a proxy or a fail-over, may have cut this one.
            self._drop()
            connection = None
        if connection is None or connection.closed:
            connection = connect(self._url, self._servers)
            self._local.connection = connection
            self._open.add(connection)
        return connection

    def _abandon(self, connection: PostgresConnection) -> None:
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            self._lose()

    def _lose(self) -> None:
        connection: PostgresConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            if not connection.merely_slow:
                self._distrust()
            self._drop()

    def _drop(self) -> None:
        connection: PostgresConnection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            self._open.discard(connection)
            connection.close()

    def _distrust(self) -> None:
        self._distrusted = time.monotonic()


def _probe(connection: PostgresConnection, deadline: float) -> float:
    now = time.monotonic()
    if now - connection.heard < POSTGRES_IDLE_SECONDS:
        return deadline
    # Whatever stands between may have forgotten it, and swallow all that is said; time is left for a new one.
    return now + (deadline - now) / 3


class _Surprised(Exception):
    """A row came between a transaction's look and its insert: in the next snapshot it is seen.

    Serializable transactions may report it as a violated key instead of a serialization failure.
    """

    def __init__(self, meant: Exception) -> None:
        super().__init__()
        self.meant = meant
