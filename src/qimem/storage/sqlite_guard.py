"""Notices when the write-ahead log was taken away under a running server.

An old SQLite in another program can unlink the log of a live database. The server would go on
acknowledging commits into a deleted file, and all of them would be gone at the next start. The
log's open descriptor still tells: its link count falls to zero. Found through /proc, never by
opening the file, which would drop this process's locks.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_CHECK_SECONDS = 0.1


class WalGuard:
    """Watches the log's own descriptor. Without /proc it sees nothing and says so by `watching`."""

    def __init__(self, database: Path) -> None:
        self._path = f"{database.resolve()}-wal"
        self._descriptor: int | None = None
        self._identity = (0, 0)
        self._checked = 0.0
        self.lost = False

    @property
    def watching(self) -> bool:
        """Whether the descriptor of the log was found."""
        return self._descriptor is not None

    def find(self) -> None:
        """Find the descriptor; to be called when the log is open and after every reopening."""
        self._descriptor = None
        try:
            names = os.listdir("/proc/self/fd")
        except OSError:
            return
        for name in names:
            try:
                if os.readlink(f"/proc/self/fd/{name}") == self._path:
                    status = os.fstat(int(name))
                    self._descriptor, self._identity = int(name), (status.st_dev, status.st_ino)
                    return
            except OSError:
                continue

    def intact(self) -> bool:
        """Whether the log is still the one that other processes see. Once lost, lost for good."""
        if self.lost or self._descriptor is None:
            return not self.lost
        try:
            status = os.fstat(self._descriptor)
        except OSError:
            self.find()
            return True
        if (status.st_dev, status.st_ino) != self._identity:
            # The number was closed and given to another file; the log has a new descriptor.
            self.find()
            return True
        self.lost = status.st_nlink == 0
        return not self.lost

    def intact_lately(self) -> bool:
        """As `intact`, asked of the system at most ten times a second: for the read path."""
        now = time.monotonic()
        if now - self._checked < _CHECK_SECONDS:
            return not self.lost
        self._checked = now
        return self.intact()
