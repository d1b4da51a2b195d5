"""The embedded database: one writer thread, one inline reader, and epochs from `data_version`.

A request asks for `PRAGMA data_version` on the reader before its first decision (1.2 µs). In WAL
mode a commit publishes itself in memory shared by all processes before it returns, so a request
that was sent after an acknowledgement always sees the number move, on every worker of the host.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from qimem.errors import storage_unavailable
from qimem.kernel.epochs import Epoch
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import CACHED_REALMS_MAX
from qimem.kernel.transaction import Tx
from qimem.storage.epochs import READ, EpochRows
from qimem.storage.sqlite_connection import SqliteTx, open_reader
from qimem.storage.sqlite_guard import WalGuard
from qimem.storage.sqlite_writer import SqliteWriter
from qimem.storage.statement import SQLITE

T = TypeVar("T")


class SqliteDatabase(EpochRows):
    """Implements the database and epoch source ports on one SQLite file.

    Args:
        path: The database file; its directory exists.
        durable: False only where the file lives in memory.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._path = path
        self._pid = os.getpid()
        self._guard = WalGuard(path)
        self._writer = SqliteWriter(path, self._guard, durable=durable)
        self._reader: apsw.Connection | None = None
        self._reads: apsw.Cursor | None = None
        self._seen: object = None
        self._generation = 0
        self._known: dict[RealmId, tuple[int, Epoch | None]] = {}
        self._open_reader()

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a durable transaction; see `kernel.transaction.Database`."""
        self._check_process()
        value: T = await self._writer.write(fn)
        return value

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in one snapshot, on the calling thread: a hop to another costs more than the read."""
        self._check_process()
        connection = self._open_reader()
        try:
            connection.execute("BEGIN")
            try:
                return fn(SqliteTx(connection))
            finally:
                connection.execute("ROLLBACK")
        except apsw.Error as error:
            self._drop_reader()
            raise storage_unavailable() from error

    async def current(self, realm_id: RealmId) -> Epoch | None:
        """The realm's epoch, read after this call began."""
        self._check_process()
        if not self._guard.intact_lately():
            raise storage_unavailable()
        self._open_reader()
        reads = self._reads
        assert reads is not None
        try:
            version = reads.execute("PRAGMA data_version").fetchone()
            if version != self._seen:
                self._generation += 1
                self._seen = version
            known = self._known.get(realm_id)
            if known is not None and known[0] == self._generation:
                return known[1]
            compiled = READ.on(SQLITE)
            row = reads.execute(compiled.text, (realm_id,)).fetchone()
            reads.fetchall()
        except apsw.Error as error:
            self._drop_reader()
            raise storage_unavailable() from error
        epoch = None if row is None else Epoch(row[0] or b"", row[1])
        if len(self._known) >= CACHED_REALMS_MAX:
            self._known.clear()
        self._known[realm_id] = (self._generation, epoch)
        return epoch

    async def close(self) -> None:
        """Finish queued writes and let go of the file."""
        self._drop_reader()
        self._writer.close()

    def _open_reader(self) -> apsw.Connection:
        if self._reader is None:
            try:
                self._reader = open_reader(self._path)
            except apsw.Error as error:
                raise storage_unavailable() from error
            self._reads = self._reader.cursor()
            self._seen = None
        return self._reader

    def _drop_reader(self) -> None:
        reader, self._reader, self._reads = self._reader, None, None
        self._known.clear()
        if reader is not None:
            reader.close(True)  # noqa: FBT003 - apsw's "force"

    def _check_process(self) -> None:
        # A connection carried across fork corrupts the database: both halves hold the same locks.
        if os.getpid() != self._pid:
            raise RuntimeError("a database must be opened after fork, not before")
