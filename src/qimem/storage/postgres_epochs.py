"""The strict epoch read on PostgreSQL, batched.

A request never takes the answer of a query that began before it arrived: it waits for the next one.
Whatever was acknowledged before the request was sent is therefore seen. While answers come soon, one
query is in flight per worker, so a request costs two round trips in the worst case; a slow query is
not waited for, but overtaken on another connection.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import psycopg
import sqlalchemy as sa

from qimem.errors import storage_unavailable
from qimem.kernel import patience
from qimem.kernel.epochs import Epoch
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import (
    EPOCH_CONNECTIONS,
    EPOCH_OVERTAKE_SECONDS,
    EPOCH_QUERIES_MAX,
    POSTGRES_IDLE_SECONDS,
    STORAGE_ANSWER_SECONDS,
)
from qimem.storage.postgres_connection import PARAMETERS, AsyncPostgresConnection, check_primary
from qimem.storage.postgres_servers import Servers
from qimem.storage.schema import epoch, instance
from qimem.storage.statement import sql

# With the start of the server: one that took over without all commits of the one before it may count to the same number
# for another change.
_INCARNATION = "incarnation || int8send((extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint)"
READ = sql(
    sa.select(
        sa.select(sa.literal_column(_INCARNATION, sa.LargeBinary)).select_from(instance).scalar_subquery(),
        epoch.c.n,
    ).where(epoch.c.realm_id == sa.bindparam("realm_id"))
)
_EPOCHS = (
    f"SELECT realm_id, n, (SELECT {_INCARNATION} FROM instance)"  # noqa: S608 - a constant
    " FROM epoch WHERE realm_id = ANY(%s::text[])"
)
T = TypeVar("T")

_DOUBT_SECONDS = 2 * EPOCH_OVERTAKE_SECONDS
_SPARE_SECONDS = EPOCH_OVERTAKE_SECONDS


class _Batch:
    """Those who wait for the same query."""

    __slots__ = ("also", "asked", "deadline", "over", "repeated", "timer", "waiting", "whole")

    def __init__(self) -> None:
        self.deadline = time.monotonic() + STORAGE_ANSWER_SECONDS
        self.waiting: dict[RealmId, asyncio.Future[Epoch | None]] = {}
        self.also: tuple[RealmId, ...] = ()
        self.whole: asyncio.Future[Mapping[RealmId, Epoch]] | None = None
        self.asked = 0
        """Queries under way for it."""
        self.repeated = False
        self.over = False
        # Kept by the batch alone: it may find no connection at all.
        self.timer = asyncio.get_running_loop().call_later(STORAGE_ANSWER_SECONDS, self.refuse, None)

    def join(self, realm_id: RealmId) -> asyncio.Future[Epoch | None]:
        future = self.waiting.get(realm_id)
        if future is None:
            future = self.waiting[realm_id] = _future()
        return future

    def join_all(self, realm_ids: Sequence[RealmId]) -> asyncio.Future[Mapping[RealmId, Epoch]]:
        """One future for a thousand realms. There is one caller of this, and it waits."""
        self.also = tuple(realm_ids)
        self.whole = self.whole or _future()
        return self.whole

    def wanted(self) -> list[RealmId]:
        return list(dict.fromkeys((*self.waiting, *self.also)))

    def answer(self, epochs: dict[RealmId, Epoch]) -> None:
        self._end()
        for realm_id, future in self.waiting.items():
            if not future.done():
                future.set_result(epochs.get(realm_id))
        if self.whole is not None and not self.whole.done():
            self.whole.set_result(epochs)

    def refuse(self, cause: BaseException | None) -> None:
        self._end()
        whole = () if self.whole is None else (self.whole,)
        for future in (*self.waiting.values(), *whole):
            if not future.done():
                refusal = storage_unavailable()
                refusal.__cause__ = cause
                future.set_exception(refusal)

    def _end(self) -> None:
        self.over = True
        self.timer.cancel()


class EpochReader:
    """One query for everyone who waits, and as few at once as the database's speed allows. Belongs to one loop.

    Args:
        lost: Told when a connection broke or fell silent.
    """

    def __init__(self, url: str, servers: Servers, lost: Callable[[], None]) -> None:
        self._url = url
        self._servers = servers
        self._lost = lost
        self._idle: list[AsyncPostgresConnection] = []
        self._next: _Batch | None = None
        self._queue: deque[_Batch] = deque()
        self._asking: set[asyncio.Task[None]] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._overtaking: asyncio.TimerHandle | None = None
        self._spare_at = 0.0

    async def current(self, realm_id: RealmId) -> Epoch | None:
        """The realm's epoch, read after this call began.

        Raises:
            Unavailable: no answer in time.
        """
        return await self._answer_to(lambda batch: batch.join(realm_id))

    async def current_of_all(self, realm_ids: Sequence[RealmId]) -> Mapping[RealmId, Epoch]:
        """The epochs of those that there are, read after this call began.

        Raises:
            Unavailable: no answer in time.
        """
        return await self._answer_to(lambda batch: batch.join_all(realm_ids))

    async def _answer_to(self, join: Callable[[_Batch], asyncio.Future[T]]) -> T:
        began, seconds = time.monotonic(), patience.seconds()
        future = join(self._next_batch())
        if not self._asking:
            self._send()
        elif self._overtaking is None:
            self._overtake_later()
        try:
            if seconds < STORAGE_ANSWER_SECONDS:
                await asyncio.wait({future}, timeout=seconds)
                if not future.done():
                    raise storage_unavailable()
            # Others may wait for the same answer: who leaves must not take it away from them.
            return await asyncio.shield(future)
        finally:
            patience.spend(time.monotonic() - began)

    def _next_batch(self) -> _Batch:
        batch = self._next
        if batch is None or batch.over:
            batch = self._next = _Batch()
            self._queue.append(batch)
        return batch

    async def close(self) -> None:
        """Finish what runs and close every connection."""
        if self._overtaking is not None:
            self._overtaking.cancel()
        if self._asking:
            await asyncio.wait(self._asking, timeout=STORAGE_ANSWER_SECONDS)
        opening = set(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for connection in self._idle:
            await connection.close()

    def _send(self) -> None:
        """Ask for the oldest batch that was not asked for, or see to it that this can be done."""
        if not self._take_up() and not self._opening:
            self._open()

    def _overtake_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._overtaking = loop.call_later(EPOCH_OVERTAKE_SECONDS, self._overtake)

    def _overtake(self) -> None:
        self._overtaking = None
        if len(self._asking) + len(self._opening) < EPOCH_QUERIES_MAX and not self._take_up():
            self._open()
        if self._queue:
            self._overtake_later()

    def _take_up(self) -> bool:
        """Whether nobody waits for a connection."""
        while self._queue and self._queue[0].over:
            self._forget(self._queue.popleft())
        while self._idle and self._idle[-1].closed:
            self._idle.pop()
        if not self._queue:
            return True
        if not self._idle:
            return False
        batch = self._queue.popleft()
        # Taken before the query is sent: who arrives later belongs to the next one.
        self._forget(batch)
        self._asking.add(asyncio.create_task(self._ask(self._idle.pop(), batch)))
        return True

    def _forget(self, batch: _Batch) -> None:
        if batch is self._next:
            self._next = None

    def _open(self) -> None:
        self._opening.add(asyncio.create_task(self._connect()))
        if self._overtaking is None:
            self._overtake_later()

    async def _connect(self) -> None:
        began = time.monotonic()
        try:
            options = {**PARAMETERS, **self._servers.in_order()}
            connection = await AsyncPostgresConnection.connect(self._url, autocommit=True, **options)
            self._servers.found(connection)
            connection.deadline = began + STORAGE_ANSWER_SECONDS
            if time.monotonic() - began < EPOCH_OVERTAKE_SECONDS:
                await _prepare(connection)
        except psycopg.Error as error:
            self._opening.discard(_this_task())
            if not self._asking and not self._opening:
                # Nobody else can serve those who wait.
                self._refuse_all(error)
            return
        self._opening.discard(_this_task())
        connection.heard = time.monotonic()
        self._idle.append(connection)
        self._send()

    def _refuse_all(self, error: psycopg.Error) -> None:
        while self._queue:
            batch = self._queue.popleft()
            self._forget(batch)
            batch.refuse(error)

    async def _ask(self, connection: AsyncPostgresConnection, batch: _Batch) -> None:
        began = time.monotonic()
        connection.deadline = batch.deadline
        doubt = asyncio.get_running_loop().call_later(_DOUBT_SECONDS, self._doubt, connection, batch)
        batch.asked += 1
        try:
            cursor = await connection.execute(_EPOCHS, (batch.wanted(),), prepare=connection.prepared)
            rows = await cursor.fetchall()
            check_primary(connection)
        except psycopg.Error as error:
            batch.asked -= 1
            await self._give_up(connection, batch, error, began)
        else:
            batch.answer({RealmId(row[0]): Epoch(bytes(row[2] or b""), row[1]) for row in rows})
            await self._put_back(connection, prompt=time.monotonic() - began < EPOCH_OVERTAKE_SECONDS)
        finally:
            doubt.cancel()
            self._asking.discard(_this_task())
        self._send()

    def _doubt(self, connection: AsyncPostgresConnection, batch: _Batch) -> None:
        """Ask on a new connection as well, where one that was idle for long may be dead without a sign."""
        idle = time.monotonic() - _DOUBT_SECONDS - connection.heard > POSTGRES_IDLE_SECONDS
        if idle and not batch.repeated and len(self._asking) + len(self._opening) < EPOCH_QUERIES_MAX:
            batch.repeated = True
            self._queue.appendleft(batch)
            self._open()

    async def _put_back(self, connection: AsyncPostgresConnection, *, prompt: bool) -> None:
        # One that was opened while the database was slow, and is not any more, makes room for one that is prepared.
        fit = connection.prepared or not prompt
        if not fit or len(self._idle) >= (EPOCH_CONNECTIONS if prompt else EPOCH_QUERIES_MAX):
            await connection.close()
        else:
            self._idle.append(connection)
        now = time.monotonic()
        held = len(self._idle) + len(self._asking) + len(self._opening)
        if prompt and held <= EPOCH_CONNECTIONS and now >= self._spare_at:
            # In advance: when the database becomes slow, it is too late to open what overtakes. Not often:
            # it may have no connection to spare.
            self._spare_at = now + _SPARE_SECONDS
            self._open()

    async def _give_up(
        self, connection: AsyncPostgresConnection, batch: _Batch, error: psycopg.Error, began: float
    ) -> None:
        await connection.close()
        if not connection.merely_slow:
            self._lost()
            for other in [other for other in self._idle if other.heard < began]:
                # Whatever cut this one may have cut those.
                self._idle.remove(other)
                await other.close()
        if not batch.repeated and batch.deadline > time.monotonic():
            # It may have died while idle; a new one tells whether the server is there.
            batch.repeated = True
            self._queue.appendleft(batch)
        elif not batch.asked and batch not in self._queue:
            batch.refuse(error)


async def _prepare(connection: AsyncPostgresConnection) -> None:
    """Let the server plan the query once.

    Never by the driver's own count: that costs one request two answers, and with half a second for each
    every fifth query of a connection came too late and took the connection with it.
    """
    try:
        await connection.execute(_EPOCHS, ([],), prepare=True)
    except BaseException:
        await connection.close()
        raise
    connection.prepared = True


def _future() -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


def _this_task() -> asyncio.Task[None]:
    return cast("asyncio.Task[None]", asyncio.current_task())
