"""The embedded database: one writer thread, one inline reader, and epochs from the log's index.

A request looks at the index before its first decision. In WAL mode a commit publishes itself there, in
memory shared by all processes, before it returns, so a request that was sent after an acknowledgement
always sees it changed, on every worker of the host.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw

from qimem.errors import Unavailable, storage_unavailable
from qimem.kernel.epochs import Epoch
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import CACHED_REALMS_MAX, WRITE_SECONDS
from qimem.kernel.transaction import Tx
from qimem.storage.epochs import READ, EpochRows
from qimem.storage.fork_guard import ForkGuard
from qimem.storage.sqlite_connection import SqliteTx, close, explained, open_reader
from qimem.storage.sqlite_guard import WalGuard
from qimem.storage.sqlite_writer import SqliteWriter
from qimem.storage.statement import SQLITE
from qimem.storage.wal_index import WalIndex

T = TypeVar("T")

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 0.25


class SqliteDatabase(EpochRows):
    """Implements the database and epoch source ports on one SQLite file.

    Args:
        path: The database file; its directory exists.
        durable: False only where the file lives in memory.
        write_seconds: How long a write takes at most before its caller is told.

    Raises:
        Refused: the file is not a database, or the SQLite engine can lose commits.
        Unavailable: it cannot be opened.
    """

    def __init__(self, path: Path, *, durable: bool = True, write_seconds: float = WRITE_SECONDS) -> None:
        self._path = path
        self._fork_guard = ForkGuard()
        self._guard = WalGuard(path)
        with explained(path):
            self._writer = SqliteWriter(path, self._guard, durable=durable, seconds=write_seconds)
        self._reader: apsw.Connection | None = None
        self._reads: apsw.Cursor | None = None
        self._seen: object = None
        self._generation = 0
        self._index: WalIndex | None = None
        self._known: dict[RealmId, tuple[int, Epoch | None]] = {}
        self._watch: asyncio.TimerHandle | None = None
        self._losing = False
        self._open_reader()

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a durable transaction; see `kernel.transaction.Database`."""
        self._fork_guard.check()
        self._watch_files()
        value: T = await self._writer.write(fn)
        return value

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in one snapshot, on the calling thread: a hop to another costs more than the read."""
        self._fork_guard.check()
        self._watch_files()
        self._check_files()
        connection = self._open_reader()
        try:
            connection.execute("BEGIN")
            try:
                return fn(SqliteTx(connection))
            finally:
                connection.execute("ROLLBACK")
        except Unavailable:
            self._drop_reader()
            raise
        except apsw.Error as error:
            self._drop_reader()
            raise storage_unavailable() from error

    async def current(self, realm_id: RealmId) -> Epoch | None:
        """The realm's epoch, read after this call began."""
        self._fork_guard.check()
        self._check_files()
        self._open_reader()
        reads = self._reads
        assert reads is not None
        try:
            # Before the rows: a commit that comes in between is then seen by the next request.
            seen = self._index.header() if self._index is not None else _data_version(reads)
            if seen != self._seen:
                self._generation += 1
                self._seen = seen
            known = self._known.get(realm_id)
            if known is not None and known[0] == self._generation:
                return known[1]
            compiled = READ.on(SQLITE)
            rows: Sequence[tuple[Any, ...]] = reads.execute(compiled.text, (realm_id,)).fetchall()
        except apsw.Error as error:
            self._drop_reader()
            raise storage_unavailable() from error
        epoch = Epoch((rows[0][0] or b"") + self.losses, rows[0][1]) if rows else None
        if len(self._known) >= CACHED_REALMS_MAX:
            self._known.clear()
        self._known[realm_id] = (self._generation, epoch)
        return epoch

    async def close(self) -> None:
        """Finish queued writes and let go of the file."""
        if self._watch is not None:
            self._watch.cancel()
        self._drop_reader()
        self._writer.close()

    def _open_reader(self) -> apsw.Connection:
        if self._reader is None:
            try:
                self._reader = open_reader(self._path)
            except apsw.Error as error:
                raise storage_unavailable() from error
            self._guard.find()
            self._reads = self._reader.cursor()
            self._index = WalIndex.of(self._path)
            self._seen = None
        return self._reader

    def _drop_reader(self) -> None:
        reader, self._reader, self._reads = self._reader, None, None
        self._known.clear()
        if self._index is not None:
            self._index.close()
            self._index = None
        if reader is not None:
            close(reader, keep_log=not self._guard.may_save_log())

    def _watch_files(self) -> None:
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(_WATCH_SECONDS, self._look)

    def _look(self) -> None:
        """See to the files also when nobody asks: other workers wait for this one to close what was lost."""
        self._watch = asyncio.get_running_loop().call_later(_WATCH_SECONDS, self._look)
        lost = not self._guard.intact()
        if lost and not self._losing:
            _log.error("a database file was taken away or replaced: storage is unavailable until it is back")
            # A commit that is lost with its log moved an epoch to a number that another will move it to again.
            self.losses += b"+"
        self._losing = lost
        if not lost:
            return
        self._drop_reader()
        self._writer.revive()

    def _check_files(self) -> None:
        if not self._guard.intact_lately():
            raise storage_unavailable()


def _data_version(reads: apsw.Cursor) -> object:
    # To its end: a statement left open keeps its snapshot, and later reads would see the past.
    return reads.execute("PRAGMA data_version").fetchall()
