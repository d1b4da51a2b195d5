"""PostgreSQL for several nodes: a bounded pool of threads, one connection each.

Writes are serializable and tried again when they lose against another. What was lost before COMMIT
was sent did not happen; what was lost after it may have.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg

from qimem.errors import Unavailable, outcome_unknown, storage_unavailable
from qimem.kernel.epochs import Epoch
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import (
    POSTGRES_POOL_MAX,
    POSTGRES_RETRIES_MAX,
    STATEMENT_TIMEOUT_SECONDS,
    WRITE_QUEUE_MAX,
)
from qimem.kernel.transaction import Tx
from qimem.storage.epochs import EpochRows
from qimem.storage.fork_guard import ForkGuard
from qimem.storage.postgres_connection import (
    PostgresConnection,
    PostgresTx,
    connect,
    is_retryable,
    unavailable,
)
from qimem.storage.postgres_epochs import EpochReader

T = TypeVar("T")

_WRITE = "BEGIN ISOLATION LEVEL SERIALIZABLE"
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_ANSWER_SECONDS = 2.0 * STATEMENT_TIMEOUT_SECONDS
"""The server ends what takes too long; this is for a server that does not answer at all."""
_BACKOFF_SECONDS = 0.002


class PostgresDatabase(EpochRows):
    """Implements the database and epoch source ports on PostgreSQL."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._fork_guard = ForkGuard()
        self._closed = False
        self._threads = ThreadPoolExecutor(POSTGRES_POOL_MAX, thread_name_prefix="postgres")
        self._local = threading.local()
        self._open: set[PostgresConnection] = set()
        self._queued = 0
        self._epoch_reader = EpochReader(url)

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a serializable transaction; see `kernel.transaction.Database`."""
        return await self._on_thread(lambda: self._write(fn), outcome_unknown)

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in one snapshot."""
        return await self._on_thread(lambda: self._read(fn), storage_unavailable)

    async def current(self, realm_id: RealmId) -> Epoch | None:
        """The realm's epoch, read after this call began."""
        self._fork_guard.check()
        return await self._epoch_reader.current(realm_id)

    async def close(self) -> None:
        """Finish what runs and close every connection."""
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        for connection in self._open:
            connection.close()
        await self._epoch_reader.close()

    async def _on_thread(self, work: Callable[[], T], too_late: Callable[[], Unavailable]) -> T:
        self._fork_guard.check()
        if self._closed:
            raise storage_unavailable()
        if self._queued >= WRITE_QUEUE_MAX:
            raise Unavailable("too many database operations at once", code="overloaded")
        self._queued += 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        running.add_done_callback(self._done)
        # Only waited for: a caller that goes away must neither undo nor half-do what it asked for.
        await asyncio.wait({running}, timeout=_ANSWER_SECONDS)
        if not running.done():
            raise too_late()
        return running.result()

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._queued -= 1
        if not future.cancelled():
            future.exception()

    def _read(self, fn: Callable[[Tx], T]) -> T:
        try:
            connection, value = self._run(_READ, fn)
        except psycopg.Error as error:
            if is_retryable(error):
                raise storage_unavailable() from error
            raise
        self._abandon(connection)
        return value

    def _write(self, fn: Callable[[Tx], T]) -> T:
        for attempt in range(POSTGRES_RETRIES_MAX):
            try:
                connection, value = self._run(_WRITE, fn)
                self._commit(connection)
            except psycopg.Error as error:
                if not is_retryable(error):
                    raise
                # Doubling with jitter: two dozen writers of one row all come through. Evenly spaced
                # attempts would let the same contenders meet again in the same order.
                time.sleep(_BACKOFF_SECONDS * 2**attempt * random.random())  # noqa: S311 - not a secret
            else:
                return value
        raise storage_unavailable()

    def _run(self, begin: str, fn: Callable[[Tx], T]) -> tuple[PostgresConnection, T]:
        connection = self._begin(begin)
        tx = PostgresTx(connection)
        try:
            value = fn(tx)
            tx.check()
        except psycopg.Error as error:
            self._abandon(connection)
            if is_retryable(error):
                raise
            raise unavailable(error) from error
        except BaseException:
            self._abandon(connection)
            raise
        return connection, value

    def _begin(self, begin: str) -> PostgresConnection:
        # An idle connection may have died unnoticed; nothing was sent on it, so one retry is safe.
        for last in (False, True):
            try:
                connection = self._connection()
                connection.execute(begin)
                return connection
            except psycopg.Error as error:
                self._drop()
                if last:
                    raise storage_unavailable() from error
        raise storage_unavailable()

    def _commit(self, connection: PostgresConnection) -> None:
        try:
            connection.execute("COMMIT")
        except psycopg.Error as error:
            if is_retryable(error):
                self._abandon(connection)
                raise
            self._drop()
            raise outcome_unknown() from error

    def _connection(self) -> PostgresConnection:
        connection: PostgresConnection | None = getattr(self._local, "connection", None)
        if connection is None or connection.closed:
            connection = connect(self._url)
            self._local.connection = connection
            self._open.add(connection)
        return connection

    def _abandon(self, connection: PostgresConnection) -> None:
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            self._drop()

    def _drop(self) -> None:
        connection: PostgresConnection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            self._open.discard(connection)
            connection.close()
