"""The one thread that writes, and group commit.

Requests that arrive while a commit waits for the disk share the next one. Each has a savepoint of
its own: a refusal or a constraint undoes only its own work. When the transaction itself is gone
(disk full) all of its requests fail and nothing was changed; when COMMIT itself fails, nobody can
know, and they are told so.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from qimem.errors import Unavailable, outcome_unknown, storage_unavailable
from qimem.kernel.limits import GROUP_COMMIT_MAX, WRITE_QUEUE_MAX
from qimem.kernel.transaction import Tx
from qimem.storage.sqlite_connection import SqliteTx, close, open_writer
from qimem.storage.sqlite_guard import WalGuard


@dataclass(slots=True)
class _Operation:
    work: Callable[[Tx], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    value: Any = None
    error: BaseException | None = None


class SqliteWriter:
    """Runs write transactions one group at a time."""

    def __init__(self, path: Path, guard: WalGuard, *, durable: bool) -> None:
        self._path = path
        self._guard = guard
        self._durable = durable
        self._connection = open_writer(path, durable=durable)
        self._closed = False
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="sqlite-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Callable[[Tx], Any]) -> Any:
        """Run `work` durably.

        Raises:
            Unavailable: `overloaded`, `storage_unavailable` or `outcome_unknown`.
        """
        if self._closed:
            raise storage_unavailable()
        if self._queue.qsize() >= WRITE_QUEUE_MAX:
            raise Unavailable("too many writes at once", code="overloaded")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        # Retrieved here once, so that a caller who left does not turn its error into a warning.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._queue.put(_Operation(work, future, loop))
        # A caller that goes away must neither undo nor half-do what it asked for.
        return await asyncio.shield(future)

    def close(self) -> None:
        """Finish what is queued and close the connection."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _serve(self) -> None:
        open_for_more = True
        while open_for_more:
            first = self._queue.get()
            if first is None:
                break
            group = [first]
            while len(group) < GROUP_COMMIT_MAX:
                try:
                    operation = self._queue.get_nowait()
                except queue.Empty:
                    break
                if operation is None:
                    open_for_more = False
                    break
                group.append(operation)
            try:
                self._commit(group)
            except Exception as error:  # noqa: BLE001 - a defect of ours; without this thread all later writes would hang
                for operation in group:
                    operation.error = outcome_unknown()
                    operation.error.__cause__ = error
            _deliver(group)
        close(self._connection, keep_log=not self._guard.shares_locks())

    def _commit(self, group: list[_Operation]) -> None:
        try:
            self._begin()
            for operation in group:
                self._apply(operation)
            succeeded = any(operation.error is None for operation in group)
        except Unavailable as error:
            self._roll_back()
            _refuse(group, error)
            return
        self._end(group, succeeded=succeeded)

    def _begin(self) -> None:
        if not self._guard.intact():
            raise storage_unavailable()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            raise storage_unavailable() from error

    def _apply(self, operation: _Operation) -> None:
        try:
            self._connection.execute("SAVEPOINT operation")
            tx = SqliteTx(self._connection)
            try:
                operation.value = operation.work(tx)
                tx.check()
            except BaseException as error:  # noqa: BLE001 - handed to the caller whose work raised it
                # A future does not take StopIteration; its other callers would wait for ever.
                operation.error = RuntimeError() if isinstance(error, StopIteration) else error
                # If SQLite rolled everything back by itself, the savepoint is gone and this fails: what
                # went before is undone too.
                self._connection.execute("ROLLBACK TO operation")
            self._connection.execute("RELEASE operation")
        except apsw.Error as error:
            raise storage_unavailable() from error

    def _end(self, group: list[_Operation], *, succeeded: bool) -> None:
        try:
            self._connection.execute("COMMIT" if succeeded else "ROLLBACK")
        except apsw.FullError as error:
            # The disk took no whole commit frame, so no recovery will ever find this transaction.
            self._roll_back()
            _refuse(group, error)
            return
        except apsw.Error:
            self._fail_unknown(group)
            self._reopen()
            return
        if not self._guard.intact():
            # The commit went into a log that nobody will ever read again.
            self._fail_unknown(group)

    def _fail_unknown(self, group: list[_Operation]) -> None:
        for operation in group:
            if operation.error is None:
                operation.error = outcome_unknown()

    def _roll_back(self) -> None:
        try:
            if not self._connection.get_autocommit():
                self._connection.execute("ROLLBACK")
        except apsw.Error:
            self._reopen()

    def _reopen(self) -> None:
        try:
            self._guard.forget()
            self._connection.close(True)
            self._connection = open_writer(self._path, durable=self._durable)
            self._guard.find()
        except apsw.Error:
            # The next group finds a closed connection, fails as unavailable and tries again here.
            return


def _refuse(group: list[_Operation], cause: Exception) -> None:
    for operation in group:
        # One each: an exception that several callers raise would gather all their tracebacks.
        operation.error = storage_unavailable()
        operation.error.__cause__ = cause


def _deliver(group: list[_Operation]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Operation]] = {}
    for operation in group:
        by_loop.setdefault(operation.loop, []).append(operation)
    for loop, operations in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, operations)
        except RuntimeError:
            # The loop is closed: its process is ending and nobody waits any more.
            continue


def _settle(operations: list[_Operation]) -> None:
    for operation in operations:
        if operation.future.done():
            continue
        if operation.error is not None:
            operation.future.set_exception(operation.error)
        else:
            operation.future.set_result(operation.value)
