"""A child process that goes on in the middle of the program: what its parent imported, it has.

Beside `subprocess.Popen`, with the part of its interface that a supervisor uses. Fork before there is anything that
two processes must not share: a thread, a connection, an open database, a drawn nonce.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable

_POLL_SECONDS = 0.005
_ANSWERED_BY_THE_PARENT = (signal.SIGTERM, signal.SIGINT)


class Forked:
    """A forked child; never returns in it.

    Args:
        run: What the child does; the exit code of its process.

    Raises:
        OSError: the system refuses another process.
    """

    def __init__(self, run: Callable[[], int]) -> None:
        self._code: int | None = None
        # A signal between the fork and the child's first line would find the parent's handlers in it, and be lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ANSWERED_BY_THE_PARENT)
        try:
            self.pid = os.fork()
            if self.pid == 0:
                for number in _ANSWERED_BY_THE_PARENT:
                    signal.signal(number, signal.SIG_DFL)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self.pid == 0:
            _end_with(run)

    def poll(self) -> int | None:
        """The exit code, negative the signal that ended it; None while it runs."""
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                # Started with SIGCHLD ignored, the system keeps no exit codes. `subprocess` says 0 as well.
                pid, status = self.pid, 0
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit code.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        """Send it, unless the process ended: its number may be another's by now."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def _end_with(run: Callable[[], int]) -> None:
    # Above this frame is the parent's program, which must not go on here, whatever fails: also saying so.
    code = 1
    try:
        try:
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            if nothing:
                os.close(nothing)
            os.dup2(2, 1)
            code = run()
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)
