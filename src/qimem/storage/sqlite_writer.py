"""The one thread that writes, and group commit.

Requests that arrive while a commit waits for the disk share the next one. Each has a savepoint of
its own: a refusal or a constraint undoes only its own work. When the transaction itself is gone
(disk full) all of its requests fail and nothing was changed; when COMMIT itself fails, nobody can
know, and they are told so.

Nobody waits longer than `WRITE_SECONDS` for a disk that does not answer, or for a process that holds the
lock and stands still: what was not begun by then never will be, and of what was begun nobody knows.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from qimem.errors import Unavailable, outcome_unknown, storage_unavailable
from qimem.kernel.limits import GROUP_COMMIT_MAX, QUEUE_AGE_SHARE, WRITE_QUEUE_MAX, WRITE_SECONDS
from qimem.kernel.transaction import Tx
from qimem.storage.sqlite_connection import (
    CHECKPOINT_PAGES,
    SqliteTx,
    checkpoint,
    close,
    mark_end_of_log,
    open_writer,
    reopen_writer,
)
from qimem.storage.sqlite_guard import WalGuard, in_use

_log = logging.getLogger(__name__)

_NONE_LEFT = -1


class _Signal(enum.Enum):
    CLOSE = enum.auto()
    REVIVE = enum.auto()


@dataclass(slots=True)
class _Operation:
    work: Callable[[Tx], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    since: float
    turn: list[None] = field(default_factory=lambda: [None])
    timer: asyncio.TimerHandle | None = None
    value: Any = None
    error: BaseException | None = None

    def take_turn(self) -> bool:
        """Begin it, or give it up: true for whoever of the two threads comes first."""
        try:
            # Atomic, and a tenth of a lock.
            self.turn.pop()
        except IndexError:
            return False
        return True

    def expire(self) -> None:
        """On the loop: its time is over."""
        if not self.future.done():
            self.future.set_exception(storage_unavailable() if self.take_turn() else outcome_unknown())


class SqliteWriter:
    """Runs write transactions one group at a time.

    Args:
        seconds: How long a caller waits at most.
    """

    def __init__(self, path: Path, guard: WalGuard, *, durable: bool, seconds: float = WRITE_SECONDS) -> None:
        self._seconds = seconds
        self._path = path
        self._guard = guard
        self._durable = durable
        self._connection = open_writer(path, durable=durable)
        self._closed = False
        self._shut = False
        """Whether the connection could not be opened again after a failure."""
        self._begun: float | None = None
        self._age = 0.0
        """How long the oldest of the group that was last begun had waited; 0 when nobody waits."""
        self._log_pages = 0
        self._connection.set_wal_hook(self._note_log)
        self._old_locks: int | None = None
        self._let_go = False
        self._queue: queue.SimpleQueue[_Operation | _Signal] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="sqlite-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Callable[[Tx], Any]) -> Any:
        """Run `work` durably.

        Raises:
            Unavailable: `overloaded`, `storage_unavailable` or `outcome_unknown`.
        """
        if self._closed:
            raise storage_unavailable()
        waiting, now = self._queue.qsize(), time.monotonic()
        # What fits into the next group has to wait for one commit alone.
        if waiting >= WRITE_QUEUE_MAX or (
            self._age > QUEUE_AGE_SHARE * self._seconds and waiting >= GROUP_COMMIT_MAX
        ):
            raise Unavailable("too many writes at once", code="overloaded")
        begun = self._begun
        if begun is not None and now - begun > self._seconds:
            # Who comes now would wait in vain.
            raise storage_unavailable()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        # Retrieved here once, so that a caller who left does not turn its error into a warning.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        operation = _Operation(work, future, loop, now)
        operation.timer = loop.call_later(self._seconds, operation.expire)
        self._queue.put(operation)
        # A caller that goes away must neither undo nor half-do what it asked for.
        return await asyncio.shield(future)

    def revive(self) -> None:
        """Have lost files taken up again as far as that is safe; no reader of this process is open."""
        self._queue.put(_Signal.REVIVE)

    def close(self) -> None:
        """Finish what is queued and close the connection."""
        self._closed = True
        self._queue.put(_Signal.CLOSE)
        self._thread.join()

    def _serve(self) -> None:
        signal: _Signal | None = None
        while signal is not _Signal.CLOSE:
            group, signal = self._gather()
            if group:
                self._begun = time.monotonic()
                self._age = self._begun - group[0].since
                self._run(group)
                if self._log_pages >= CHECKPOINT_PAGES and self._guard.intact():
                    checkpoint(self._connection)
                self._begun = None
                if self._queue.empty():
                    self._age = 0.0
            if signal is _Signal.REVIVE:
                self._revive()
        close(self._connection, keep_log=not self._guard.may_save_log())

    def _gather(self) -> tuple[list[_Operation], _Signal | None]:
        """The operations that wait, up to the first signal among them."""
        group: list[_Operation] = []
        while len(group) < GROUP_COMMIT_MAX:
            try:
                item = self._queue.get(block=not group)
            except queue.Empty:
                break
            if isinstance(item, _Signal):
                return group, item
            group.append(item)
        return group, None

    def _run(self, group: list[_Operation]) -> None:
        try:
            self._commit(group)
        except Exception as error:  # noqa: BLE001 - a defect of ours; without this thread all later writes would hang
            self._roll_back()
            for operation in group:
                operation.error = outcome_unknown()
                operation.error.__cause__ = error
        _deliver(group)

    def _note_log(self, _connection: object, _database: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _commit(self, group: list[_Operation]) -> None:
        try:
            self._begin()
            # Only now: it may have taken long.
            group[:] = [operation for operation in group if operation.take_turn()]
            for operation in group:
                self._apply(operation)
            succeeded = any(operation.error is None for operation in group)
        except Unavailable as error:
            self._roll_back()
            _refuse(group, error)
            return
        self._end(group, succeeded=succeeded)

    def _begin(self) -> None:
        if self._guard.lost:
            raise storage_unavailable()
        if self._shut:
            # The disk may be sound by now: whoever comes first then must not be refused for what was before.
            self._reopen()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            raise storage_unavailable() from error
        # With the lock in hand: whoever takes the files up anew waits until we have let go of them.
        if not self._guard.intact():
            raise storage_unavailable()

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
        mark_end_of_log(self._connection)

    def _fail_unknown(self, group: list[_Operation]) -> None:
        for operation in group:
            if operation.error is None:
                operation.error = outcome_unknown()

    def _roll_back(self) -> None:
        try:
            if not self._connection.get_autocommit():
                self._connection.execute("ROLLBACK")
        except apsw.ConnectionClosedError:
            return
        except apsw.Error:
            self._reopen()

    def _reopen(self) -> None:
        self._shut = True
        try:
            self._guard.forget()
            self._connection.close(True)
            self._open_again()
            self._guard.find()
        except apsw.Error:
            # The next group tries again.
            return

    def _open_again(self) -> None:
        self._connection = reopen_writer(self._path, durable=self._durable)
        self._shut = False
        self._log_pages = 0
        self._connection.set_wal_hook(self._note_log)

    def _revive(self) -> None:
        """Close the lost files, wait until all other processes have closed them, and open them anew.

        Called again until it is done. ADR 0011 says why in this order.
        """
        if not self._guard.lost or not self._guard.database_stands():
            return
        if self._old_locks is None:
            self._old_locks = self._guard.hold_locks()
        if self._old_locks is None or not (self._let_go or self._saved()):
            return
        if not self._let_go:
            close(self._connection, keep_log=True)
            self._let_go = True
        if self._old_locks >= 0:
            if in_use(self._old_locks):
                return
            # Before the opening: closing any descriptor of a file drops the locks on it.
            os.close(self._old_locks)
            self._old_locks = _NONE_LEFT
        try:
            self._open_again()
        except apsw.Error:
            return
        self._old_locks, self._let_go = None, False
        if self._guard.renewed():
            _log.warning("the database files are back")

    def _saved(self) -> bool:
        """Copy a log that only open descriptors still reach; whether the connection can be closed.

        Not left to the close: when two processes close at once, neither is the last, and neither copies.
        """
        if not self._guard.may_save_log():
            return True
        try:
            pages, copied = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            if copied == pages:
                self._guard.clear_places()
        except (apsw.Error, OSError):
            return False
        return bool(copied == pages)


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
        if operation.timer is not None:
            operation.timer.cancel()
        if operation.future.done():
            continue
        if operation.error is not None:
            operation.future.set_exception(operation.error)
        else:
            operation.future.set_result(operation.value)
