"""PostgreSQL for several nodes: a bounded pool of threads, and the strict epoch read.

The epoch read is batched: at most one query is in flight per worker, and a request that arrives
while it is waits for the next one, which begins after the request arrived. Whatever was
acknowledged before the request was sent is therefore seen, at two round trips in the worst case.
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
from qimem.kernel.limits import POSTGRES_POOL_MAX, POSTGRES_RETRIES_MAX, WRITE_QUEUE_MAX
from qimem.kernel.transaction import Tx
from qimem.storage.epochs import EpochRows
from qimem.storage.postgres_connection import (
    CONNECT_SECONDS,
    OPTIONS,
    PostgresConnection,
    PostgresTx,
    connect,
    is_retryable,
    unavailable,
)

T = TypeVar("T")

_WRITE = "BEGIN ISOLATION LEVEL SERIALIZABLE"
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_EPOCHS = "SELECT realm_id, n, (SELECT incarnation FROM instance) FROM epoch WHERE realm_id = ANY(%s::text[])"
_EPOCH_SECONDS = 1.0
_BACKOFF_SECONDS = 0.002


class PostgresDatabase(EpochRows):
    """Implements the database and epoch source ports on PostgreSQL."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._threads = ThreadPoolExecutor(POSTGRES_POOL_MAX, thread_name_prefix="postgres")
        self._local = threading.local()
        self._open: set[PostgresConnection] = set()
        self._queued = 0
        self._epoch_reader = _EpochReader(url)

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a serializable transaction; see `kernel.transaction.Database`."""
        return await self._on_thread(lambda: self._write(fn))

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in one snapshot."""
        return await self._on_thread(lambda: self._once(_READ, fn))

    async def current(self, realm_id: RealmId) -> Epoch | None:
        """The realm's epoch, read after this call began."""
        return await self._epoch_reader.current(realm_id)

    async def close(self) -> None:
        """Finish what runs and close every connection."""
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        for connection in self._open:
            connection.close()
        await self._epoch_reader.close()

    async def _on_thread(self, work: Callable[[], T]) -> T:
        if self._queued >= WRITE_QUEUE_MAX:
            raise Unavailable("too many database operations at once", code="overloaded")
        self._queued += 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        running.add_done_callback(self._done)
        # A caller that goes away must neither undo nor half-do what it asked for.
        return await asyncio.shield(running)

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._queued -= 1
        if not future.cancelled():
            future.exception()

    def _write(self, fn: Callable[[Tx], T]) -> T:
        for attempt in range(POSTGRES_RETRIES_MAX):
            try:
                return self._once(_WRITE, fn)
            except psycopg.Error as error:
                if not is_retryable(error):
                    raise
                # Jitter, or the same contenders meet again in the same order.
                time.sleep(_BACKOFF_SECONDS * (attempt + 1) * random.random())  # noqa: S311 - not a secret
        raise storage_unavailable()

    def _once(self, begin: str, fn: Callable[[Tx], T]) -> T:
        connection = self._begin(begin)
        try:
            value = fn(PostgresTx(connection))
        except psycopg.Error as error:
            self._abandon(connection)
            if is_retryable(error):
                raise
            raise unavailable(error) from error
        except BaseException:
            self._abandon(connection)
            raise
        self._commit(connection)
        return value

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


class _EpochReader:
    """One query at a time for everyone who waits."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._waiting: dict[RealmId, asyncio.Future[Epoch | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def current(self, realm_id: RealmId) -> Epoch | None:
        future = self._waiting.get(realm_id)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._waiting[realm_id] = future
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._answer_waiting())
        return await asyncio.shield(future)

    async def close(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])
        if self._connection is not None:
            await self._connection.close()

    async def _answer_waiting(self) -> None:
        while self._waiting:
            # Taken before the query is sent: who arrives later belongs to the next one.
            waiting, self._waiting = self._waiting, {}
            try:
                async with asyncio.timeout(_EPOCH_SECONDS):
                    epochs = await self._query(list(waiting))
            except (psycopg.Error, OSError, TimeoutError) as error:
                await self._drop()
                for future in waiting.values():
                    refusal = storage_unavailable()
                    refusal.__cause__ = error
                    _settle(future, refusal)
                continue
            for realm_id, future in waiting.items():
                _settle(future, epochs.get(realm_id))

    async def _query(self, realm_ids: list[RealmId]) -> dict[RealmId, Epoch]:
        for last in (False, True):
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await psycopg.AsyncConnection.connect(
                        self._url, autocommit=True, connect_timeout=CONNECT_SECONDS, options=OPTIONS
                    )
                cursor = await self._connection.execute(_EPOCHS, (realm_ids,))
                return {RealmId(row[0]): Epoch(bytes(row[2] or b""), row[1]) async for row in cursor}
            except psycopg.Error:
                await self._drop()
                if last:
                    raise
        return {}

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _settle(future: asyncio.Future[Epoch | None], result: Epoch | None | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
