"""One database operation, between the caller who waits for it and the thread that does it.

The caller waits until the deadline and no longer. What it is told then is certain where it can be: an
operation that has not sent COMMIT never will, so nothing was changed; after that, nobody knows.
"""

from __future__ import annotations

import threading
import time

from qimem.errors import Unavailable, outcome_unknown, storage_unavailable


class Operation:
    """Who is first, the caller that leaves or the thread that commits, decides.

    Args:
        seconds: How long the caller waits.
    """

    __slots__ = ("_abandoned", "_committing", "_lock", "deadline", "since")

    def __init__(self, seconds: float) -> None:
        self.since = time.monotonic()
        self.deadline = self.since + seconds
        self._lock = threading.Lock()
        self._abandoned = False
        self._committing = False

    def check(self) -> None:
        """Not begin, or go on, with what nobody waits for any more.

        Raises:
            Unavailable: the caller has left, or leaves now.
        """
        if self._abandoned or time.monotonic() >= self.deadline:
            raise storage_unavailable()

    def begin_commit(self) -> None:
        """From here on the outcome is the database's.

        Raises:
            Unavailable: the caller was told that nothing has changed.
        """
        with self._lock:
            # Whoever waits leaves now, though it may not have come to saying so: nothing was sent yet.
            if self._abandoned or time.monotonic() >= self.deadline:
                raise storage_unavailable()
            self._committing = True

    def end_commit(self) -> None:
        """The database has refused: nothing was changed, and the operation may be tried again."""
        with self._lock:
            self._committing = False

    def abandon(self) -> Unavailable:
        """The caller leaves; what it is to be told."""
        with self._lock:
            self._abandoned = True
            return outcome_unknown() if self._committing else storage_unavailable()
