"""The worker's side of the process that writes its stream: jobs go out, answers come back, in order."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from qimem.audit.segment_file import StreamDirectory
from qimem.audit.steps import ANSWER, Step, encoded
from qimem.kernel.hardening import harmless_environment

_log = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 2.0
_ANSWERS_BYTES: Final = 4_096

Done = Callable[[OSError | None], None]


class SegmentWriter:
    """Has a stream written by a process of its own; used from the loop alone.

    Args:
        directory: Held by this process; the other one holds it too, as long as it lives.
        segment: The last one, 0 when there is none.
    """

    def __init__(self, directory: StreamDirectory, segment: int, segment_bytes: int) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._waiting: deque[Done] = deque()
        self._unsent = b""
        self._answers = b""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._closed = False
        self._channel: socket.socket | None = None
        self._watcher: Callable[[], None] | None = None
        self._begin(segment)

    def watch(self, lost: Callable[[], None]) -> None:
        """Have `lost` called when the process is gone, after those who wait for it."""
        self._watcher = lost

    async def ready(self) -> None:
        """Wait for the process to listen: the first request must not wait for its start.

        Raises:
            OSError: it did not start.
        """
        started: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
        # Its greeting has the form of an answer.
        self._waiting.append(lambda error: None if started.done() else started.set_result(error))
        error = await started
        if error is not None:
            raise error

    def write(self, steps: Sequence[Step], done: Done) -> None:
        """Have the steps written; `done` is called on the loop, always later."""
        if self._channel is None:
            asyncio.get_running_loop().call_soon(done, _error(errno.EPIPE))
            return
        self._waiting.append(done)
        data = encoded(steps)
        if self._unsent:
            self._unsent += data
        else:
            self._unsent = data
            self._send()

    def begin_anew(self, segment: int, steps: Sequence[Step], done: Done) -> None:
        """Go on after a failure, in a new process where the last one is gone.

        Args:
            segment: The last one that is known.
            steps: The first of them goes back to it.
            done: As with `write`.
        """
        if self._channel is None and not self._closed:
            try:
                self._begin(segment)
            except OSError as error:
                told = error
                asyncio.get_running_loop().call_soon(lambda: done(told))
                return
            self._waiting.append(_greeted)
        self.write(steps, done)

    async def close(self) -> None:
        """Let the process end after what it has; does not wait for a disk that hangs."""
        self._closed = True
        self._end()
        for process in self._processes:
            try:
                await asyncio.to_thread(process.wait, _CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                _log.error("the process that writes the audit log does not end")

    def _begin(self, segment: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # CWE-427: without -P, files of the working directory would be imported in place of ours.
            command = [sys.executable, "-P", "-m", "qimem.audit.disk"]
            command += [
                str(theirs.fileno()),
                str(self._directory.path),
                str(segment),
                str(self._segment_bytes),
            ]
            started = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(), self._directory.lock),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                env=harmless_environment(),
            )
        # Asking takes those that have ended out of the system's table.
        self._processes = [*(process for process in self._processes if process.poll() is None), started]
        ours.setblocking(False)
        self._channel = ours
        self._unsent = self._answers = b""
        asyncio.get_running_loop().add_reader(ours.fileno(), self._answered)

    def _send(self) -> None:
        assert self._channel is not None
        try:
            sent = self._channel.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            asyncio.get_running_loop().call_soon(self._lost, self._channel)
            return
        self._unsent = self._unsent[sent:]
        if self._unsent:
            loop = asyncio.get_running_loop()
            loop.add_writer(self._channel.fileno(), self._go_on)

    def _go_on(self) -> None:
        if self._channel is None:
            return
        asyncio.get_running_loop().remove_writer(self._channel.fileno())
        self._send()

    def _answered(self) -> None:
        if self._channel is None:
            return
        try:
            received = self._channel.recv(_ANSWERS_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            _log.error("the process that writes the audit log is gone")
            self._lost(self._channel)
            return
        answers = self._answers + received
        whole = len(answers) - len(answers) % ANSWER.size
        self._answers = answers[whole:]
        for (code,) in ANSWER.iter_unpack(answers[:whole]):
            self._waiting.popleft()(None if code == 0 else _error(code))

    def _lost(self, channel: socket.socket) -> None:
        if channel is not self._channel:
            # Told twice, by a write and by a read; meanwhile there is another process.
            return
        self._end()
        waiting, self._waiting = self._waiting, deque()
        for done in waiting:
            done(_error(errno.EPIPE))
        if self._watcher is not None and not self._closed:
            self._watcher()

    def _end(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(channel.fileno())
            loop.remove_writer(channel.fileno())
            channel.close()


def _greeted(_error: OSError | None) -> None:
    pass


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code) if code > 0 else "unknown error")
