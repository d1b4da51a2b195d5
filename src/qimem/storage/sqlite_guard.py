"""Notices when the database, its write-ahead log or its shared memory was taken away under a running server.

An old SQLite in another program can unlink the log of a live database, and a hurried operator can
move a restored copy over it. The server would go on acknowledging commits into a file that nobody
else sees, and all of them would be gone at the next start. Which files are really open is read from
/proc, never by opening them, which would drop this process's locks; after that it is enough to see
that the same files still stand at their paths, since an open file's inode number is not given away.

When it was only the log or the shared memory, the server can go on by itself: see ADR 0011.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from pathlib import Path

_CHECK_SECONDS = 0.1
_DELETED = " (deleted)"
_LOCK = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: type, whence, start, length, holder."""
_DEAD_MAN_SWITCH = 128
"""The byte of -shm on which every process that has the database open holds a lock (os_unix.c, UNIX_SHM_DMS)."""

_Identity = tuple[int, int]


class WalGuard:
    """Compares the open files with those at their paths."""

    def __init__(self, database: Path) -> None:
        resolved = str(database.resolve())
        # The locks between processes lie in -shm: who makes a new one shares no lock with us.
        self._paths = (resolved, f"{resolved}-wal", f"{resolved}-shm")
        self._open: dict[str, _Identity] = {}
        self._database: _Identity | None = None
        self._checked = 0.0
        self.lost = False

    def find(self) -> None:
        """Note which files are open; to be called after every opening, when something was read."""
        found = _open_files(self._paths)
        self.lost = self.lost or any(path.endswith(_DELETED) for path in found)
        for path in self._paths:
            # Without /proc: what stands there now, a moment after it was opened.
            identity = found.get(path) or _identity_at(path)
            if identity is not None:
                self._open[path] = identity
        opened = self._open.get(self._paths[0])
        self._database = self._database or opened
        # Another database at the same path is never taken for ours.
        self.lost = self.lost or opened != self._database

    def forget(self) -> None:
        """Stop watching; the last connection that closes removes the log itself."""
        self._open.clear()

    def renewed(self) -> bool:
        """Everything was closed and opened again: watch anew; whether all is as it should be."""
        self.lost = False
        self.forget()
        self.find()
        return not self.lost

    def intact(self) -> bool:
        """Whether the open files are still those that other processes see. Once lost, lost until `renewed`."""
        if not self.lost:
            self.lost = any(_identity_at(path) != known for path, known in list(self._open.items()))
        return not self.lost

    def database_stands(self) -> bool:
        """Whether the database file itself is at its place."""
        return self._database is not None and _identity_at(self._paths[0]) == self._database

    def may_save_log(self) -> bool:
        """Whether the last one to close may copy the log into the database.

        Who shares no lock with others must not: they may have written unseen. Where neither of their files
        is left, or the log is an empty one, there was nobody who wrote.
        """
        _, log, memory = self._paths
        if memory not in self._open or _identity_at(memory) == self._open[memory]:
            return True
        if log in self._open and _identity_at(log) == self._open[log]:
            return False
        try:
            return Path(log).stat().st_size == 0
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def clear_places(self) -> None:
        """Take away what whoever opens the database next must not find, once the log was saved.

        The shared memory, so that a new one tells those who opened it anew from those who have not closed the
        lost files yet; and a log that is not ours, which recovery would copy over what was saved.
        """
        _, log, memory = self._paths
        if memory in self._open and _identity_at(memory) == self._open[memory]:
            Path(memory).unlink(missing_ok=True)
        if _identity_at(log) != self._open.get(log):
            Path(log).unlink(missing_ok=True)

    def hold_locks(self) -> int | None:
        """A descriptor of the open shared memory, to ask about its locks when it is closed; None: not to be had."""
        known = self._open.get(self._paths[-1])
        for descriptor, identity in _identities():
            if identity == known:
                return os.dup(descriptor)
        return None

    def intact_lately(self) -> bool:
        """As `intact`, asked of the system at most ten times a second: for the read path."""
        now = time.monotonic()
        if now - self._checked < _CHECK_SECONDS:
            return not self.lost
        self._checked = now
        return self.intact()


def in_use(descriptor: int) -> bool:
    """Whether another process has the database open by this shared memory."""
    asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _DEAD_MAN_SWITCH, 1, 0)
    found: int = _LOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[0]
    return found != fcntl.F_UNLCK


def _identity_at(path: str) -> _Identity | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def descriptors(paths: tuple[str, ...]) -> dict[str, int]:
    """Path → an open descriptor of this process, with ` (deleted)` behind paths that are gone.

    Empty where there is no /proc.
    """
    found: dict[str, int] = {}
    try:
        listed = list(Path("/proc/self/fd").iterdir())
    except OSError:
        return found
    for entry in listed:
        try:
            target = str(entry.readlink())
        except OSError:
            # Closed by another thread between the listing and the look.
            continue
        if target.removesuffix(_DELETED) in paths:
            found[target] = int(entry.name)
    return found


def _open_files(paths: tuple[str, ...]) -> dict[str, _Identity]:
    found: dict[str, _Identity] = {}
    for target, descriptor in descriptors(paths).items():
        try:
            status = os.fstat(descriptor)
        except OSError:
            continue
        found[target] = status.st_dev, status.st_ino
    return found


def _identities() -> list[tuple[int, _Identity]]:
    found: list[tuple[int, _Identity]] = []
    try:
        numbers = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    except OSError:
        return found
    for number in numbers:
        try:
            status = os.fstat(number)
        except OSError:
            continue
        found.append((number, (status.st_dev, status.st_ino)))
    return found
