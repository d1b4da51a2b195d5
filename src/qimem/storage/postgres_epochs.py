"""The strict epoch read on PostgreSQL, batched.

At most one query is in flight per worker, and a request that arrives while it is waits for the
next one, which begins after the request arrived. Whatever was acknowledged before the request was
sent is therefore seen, at two round trips in the worst case.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg

from qimem.errors import storage_unavailable
from qimem.kernel.epochs import Epoch
from qimem.kernel.ids import RealmId
from qimem.storage.postgres_connection import PARAMETERS

_EPOCHS = "SELECT realm_id, n, (SELECT incarnation FROM instance) FROM epoch WHERE realm_id = ANY(%s::text[])"
_ANSWER_SECONDS = 1.0

_Connection = psycopg.AsyncConnection[tuple[Any, ...]]
_Waiting = dict[RealmId, asyncio.Future[Epoch | None]]


class EpochReader:
    """One query at a time for everyone who waits. Belongs to one event loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: _Connection | None = None
        self._waiting: _Waiting = {}
        self._since = 0.0
        self._serving: asyncio.Task[None] | None = None
        self._given_up: set[asyncio.Task[dict[RealmId, Epoch]]] = set()

    async def current(self, realm_id: RealmId) -> Epoch | None:
        """The realm's epoch, read after this call began.

        Raises:
            Unavailable: no answer within a second.
        """
        future = self._waiting.get(realm_id)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting[realm_id] = future
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        # Others may wait for the same answer: who leaves must not take it away from them.
        return await asyncio.shield(future)

    async def close(self) -> None:
        """Finish what runs and close the connection."""
        tasks = [task for task in (self._serving, *self._given_up) if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_ANSWER_SECONDS)
        if self._connection is not None:
            await self._connection.close()

    async def _serve(self) -> None:
        while self._waiting:
            # Taken before the query is sent: who arrives later belongs to the next one.
            waiting, self._waiting = self._waiting, {}
            patience = self._since + _ANSWER_SECONDS - time.monotonic()
            query = asyncio.create_task(self._query(list(waiting)))
            await asyncio.wait({query}, timeout=max(0.0, patience))
            if query.done():
                _answer(waiting, query)
            else:
                self._give_up(query)
                _refuse(waiting, None)

    def _give_up(self, query: asyncio.Task[dict[RealmId, Epoch]]) -> None:
        # Not awaited: the driver spends ten more seconds on asking a silent server to cancel.
        query.cancel()
        self._given_up.add(query)
        query.add_done_callback(self._given_up.discard)

    async def _query(self, realm_ids: list[RealmId]) -> dict[RealmId, Epoch]:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                return await self._ask(connection, realm_ids)
            except psycopg.Error:
                # It may have died while idle; a new one tells whether the server is there.
                connection = None
        connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True, **PARAMETERS)
        return await self._ask(connection, realm_ids)

    async def _ask(self, connection: _Connection, realm_ids: list[RealmId]) -> dict[RealmId, Epoch]:
        try:
            cursor = await connection.execute(_EPOCHS, (realm_ids,))
            rows = await cursor.fetchall()
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return {RealmId(row[0]): Epoch(bytes(row[2] or b""), row[1]) for row in rows}


def _answer(waiting: _Waiting, query: asyncio.Task[dict[RealmId, Epoch]]) -> None:
    error = None if query.cancelled() else query.exception()
    if query.cancelled() or error is not None:
        _refuse(waiting, error)
        return
    epochs = query.result()
    for realm_id, future in waiting.items():
        if not future.done():
            future.set_result(epochs.get(realm_id))


def _refuse(waiting: _Waiting, cause: BaseException | None) -> None:
    for future in waiting.values():
        if not future.done():
            refusal = storage_unavailable()
            refusal.__cause__ = cause
            future.set_exception(refusal)
