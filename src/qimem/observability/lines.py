"""Lines for standard error, written by a thread of their own.

A pipe that nobody reads takes 64 KB and then keeps whoever writes waiting for ever: the event loop, and with it the
server. So a thread writes. Who logs waits for it for a moment, which is all it takes as long as somebody reads: what is
logged before a crash is on its way then. Afterwards lines gather without being waited for, and beyond a limit they are
dropped and counted.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque

from qimem.kernel.limits import LOG_LINE_SECONDS, LOG_LINES_WAITING_MAX


class Lines:
    """Of one process; a fork begins with none."""

    def __init__(self) -> None:
        self._process = 0
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()
        self._put = self._written = 0
        self._stuck = False
        self.dropped = 0
        """Lines that nobody will see."""

    def put(self, line: str) -> None:
        """Have a line written, or count it as dropped.

        Args:
            line: Without its end.
        """
        if self._process != os.getpid():
            self._begin()
        with self._changed:
            if len(self._waiting) >= LOG_LINES_WAITING_MAX:
                self.dropped += 1
                return
            self._waiting.append(line)
            self._put += 1
            number = self._put
            self._changed.notify_all()
            if not self._stuck:
                self._stuck = not self._changed.wait_for(lambda: self._written >= number, LOG_LINE_SECONDS)

    def _begin(self) -> None:
        # Threads do not come along in a fork, and what one of them held would be held for ever.
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._waiting = deque()
        self._put = self._written = self.dropped = 0
        self._stuck = False
        thread = threading.Thread(target=self._serve, args=(self._changed,), name="log", daemon=True)
        thread.start()

    def _serve(self, changed: threading.Condition) -> None:
        while True:
            with changed:
                changed.wait_for(lambda: self._waiting)
                line = self._waiting.popleft()
            _write(line)
            with changed:
                self._written += 1
                self._stuck = False
                changed.notify_all()


def _write(line: str) -> None:
    """One whole line. A log that nobody reads any more must not stop anything."""
    data = memoryview((line + "\n").encode(errors="backslashreplace"))
    try:
        # Not through the stream: a thread that waits in there would hold its lock, and the process could not end.
        descriptor = sys.stderr.fileno()
        while data:
            data = data[os.write(descriptor, data) :]
    except (OSError, ValueError, AttributeError):
        return


LINES = Lines()
"""Those of this process."""
