"""The process that writes one audit stream, and does nothing else.

    python -m qimem.audit.disk <socket> <directory of the stream> <its segment> <bytes of a segment>

A thread in its place has to take the interpreter from the event loop twice for each write, and the loop gives it away
at every callback: with 32 connections on two cores that was a quarter of the rate. It holds no secret, and ends when
its worker does; a signal to all processes of a service must not end it before.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from qimem.audit.segment_file import StreamFiles, write_all
from qimem.audit.steps import ANSWER, LENGTH, Step, decoded
from qimem.kernel.clock import Clock, SystemClock
from qimem.kernel.hardening import harden

_AGAIN_SECONDS = 10.0
"""After a spare segment could not be made: a full disk may have room again."""


class Disk:
    """The files of a stream that is being written.

    Args:
        segment: The last one, 0 when there is none.
    """

    def __init__(
        self, files: StreamFiles, segment: int, segment_bytes: int, clock: Clock | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        self._files = files
        self._segment = segment
        self._segment_bytes = segment_bytes
        self._spare_for = -1
        self._making = threading.Lock()
        self._waiting = threading.Event()
        self._failed_at = float("-inf")
        self._descriptor = -1

    def do(self, steps: Iterable[Step]) -> None:
        """Write durably.

        Raises:
            OSError: a step failed; those after it were not done.
        """
        self._check_place()
        for step in steps:
            if step.cut_to >= 0:
                self._go_back(step)
            elif self._descriptor < 0 and self._segment and (step.data or step.seal):
                # A segment that ends right behind its checkpoint is sealed without a byte more.
                self._descriptor = self._files.open_last(self._segment)
            if step.data:
                write_all(self._descriptor, step.data, step.offset)
            if step.seal:
                os.ftruncate(self._descriptor, step.offset + len(step.data))
                os.fsync(self._descriptor)
            if step.header:
                self._close()
                self._begin_next()
                write_all(self._descriptor, step.header, 0)
            if step.head:
                self._put_head(step.head)

    def prepare(self) -> None:
        """What nobody has to wait for: the next segment."""
        if (
            self._spare_for != self._segment
            and self._clock.monotonic_seconds() - self._failed_at > _AGAIN_SECONDS
        ):
            self._spare_for = self._segment
            # Beside the writes: what waits for them must not wait for 16 MiB of zeros.
            threading.Thread(target=self._prepare_spare, daemon=True).start()

    def _begin_next(self) -> None:
        self._waiting.set()
        try:
            with self._making:
                self._descriptor = self._files.open_new(self._segment + 1, self._segment_bytes)
        finally:
            self._waiting.clear()
        self._segment += 1

    def _put_head(self, head: bytes) -> None:
        try:
            self._files.put_head(head)
        except OSError as error:
            # Without it as well the log is whole; only a log that is cut short would be noticed later.
            _say(f"cannot put the head of the audit log aside: {error.strerror}")

    def _check_place(self) -> None:
        """Fail when the file that is written is not the one that others find: it was moved, removed or replaced."""
        if self._descriptor >= 0:
            ours = os.fstat(self._descriptor)
            try:
                theirs = self._files.file(self._segment).stat(follow_symlinks=False)
            except FileNotFoundError:
                theirs = None
            if theirs is None or (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino):
                self._close()
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _go_back(self, step: Step) -> None:
        self._close()
        for number in self._files.segments():
            if number > step.cut_to:
                self._files.remove(number)
        self._segment = step.cut_to
        if step.cut_to:
            try:
                self._files.cut(step.cut_to, step.offset)
            except FileNotFoundError:
                # It cannot be had back; the gap it leaves is found by everyone who verifies the log.
                _say(f"audit segment {step.cut_to} of {self._files.path.name} is gone")

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _prepare_spare(self) -> None:
        try:
            with self._making:
                self._files.prepare_spare(self._segment_bytes, self._waiting.is_set)
        except OSError as error:
            self._failed_at, self._spare_for = self._clock.monotonic_seconds(), -1
            # The segment in use has room; when it ends, the error is one that counts.
            _say(f"cannot prepare the next audit segment: {error.strerror}")


def main(arguments: list[str]) -> int:
    """Serve until the worker is gone; the exit code of the process."""
    harden()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    descriptor, path, segment, segment_bytes = arguments
    disk = Disk(StreamFiles(Path(path)), int(segment), int(segment_bytes))
    with socket.socket(fileno=int(descriptor)) as channel, channel.makefile("rb") as jobs:
        channel.sendall(ANSWER.pack(0))
        while (job := _next(jobs)) is not None:
            try:
                disk.do(decoded(job))
            except OSError as error:
                channel.sendall(ANSWER.pack(error.errno or -1))
            else:
                channel.sendall(ANSWER.pack(0))
                disk.prepare()
    return 0


def _next(jobs: BinaryIO) -> bytes | None:
    length = jobs.read(LENGTH.size)
    if len(length) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(length)
    job = jobs.read(size)
    return job if len(job) == size else None


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except ConnectionError:
        # The worker is gone and waits for no answer.
        code = 0
    sys.exit(code)
