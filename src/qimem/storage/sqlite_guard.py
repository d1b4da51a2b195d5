"""Notices when the database, its write-ahead log or its shared memory was taken away under a running server.

An old SQLite in another program can unlink the log of a live database, and a hurried operator can
move a restored copy over it. The server would go on acknowledging commits into a file that nobody
else sees, and all of them would be gone at the next start. Which files are really open is read from
/proc, never by opening them, which would drop this process's locks; after that it is enough to see
that the same files still stand at their paths, since an open file's inode number is not given away.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_CHECK_SECONDS = 0.1
_DELETED = " (deleted)"

_Identity = tuple[int, int]


class WalGuard:
    """Compares the open files with those at their paths."""

    def __init__(self, database: Path) -> None:
        resolved = str(database.resolve())
        # The locks between processes lie in -shm: who makes a new one shares no lock with us.
        self._paths = (resolved, f"{resolved}-wal", f"{resolved}-shm")
        self._open: dict[str, _Identity] = {}
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

    def forget(self) -> None:
        """Stop watching; the last connection that closes removes the log itself."""
        self._open.clear()

    def intact(self) -> bool:
        """Whether the open files are still those that other processes see. Once lost, lost for good."""
        if not self.lost:
            self.lost = any(_identity_at(path) != known for path, known in list(self._open.items()))
        return not self.lost

    def shares_locks(self) -> bool:
        """Whether the locks are still those of other processes; if not, they may have written unseen."""
        path = self._paths[-1]
        return path not in self._open or _identity_at(path) == self._open[path]

    def intact_lately(self) -> bool:
        """As `intact`, asked of the system at most ten times a second: for the read path."""
        now = time.monotonic()
        if now - self._checked < _CHECK_SECONDS:
            return not self.lost
        self._checked = now
        return self.intact()


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
