"""The thread that writes an audit stream; it does nothing else, and knows nothing of records."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from qimem.audit.segment_file import StreamDirectory, write_all
from qimem.audit.stream import Step

_log = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 2.0


Done = Callable[[OSError | None], None]


@dataclass(frozen=True, slots=True)
class _Cut:
    segment: int
    length: int


class SegmentWriter:
    """The one thread that writes a stream."""

    def __init__(self, directory: StreamDirectory, segment: int, segment_bytes: int) -> None:
        self._directory = directory
        self._segment = segment
        self._segment_bytes = segment_bytes
        self._spare_for = -1
        # Beside the writes: what waits for them must not wait for 16 MiB of zeros.
        self._spare = ThreadPoolExecutor(1, "audit-spare")
        self._making = threading.Lock()
        self._descriptor = directory.open_last(segment) if segment else -1
        self._jobs: queue.SimpleQueue[tuple[Sequence[Step | _Cut], Done] | None]
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="audit-writer", daemon=True)
        self._thread.start()

    def write(self, steps: list[Step], done: Done) -> None:
        """Have the steps written; `done` is called on the thread."""
        self._jobs.put((steps, done))

    def close(self) -> None:
        """Let the thread end after what it has; does not wait for a disk that hangs."""
        self._jobs.put(None)
        self._thread.join(timeout=_CLOSE_SECONDS)
        self._spare.shutdown(wait=False, cancel_futures=True)

    def begin_anew(self, segment: int, length: int, steps: list[Step], done: Done) -> None:
        """Have a segment cut at what is known of it, whatever was begun behind it removed, and go on."""
        self._jobs.put(([_Cut(segment, length), *steps], done))

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            steps, done = job
            try:
                for step in steps:
                    if isinstance(step, _Cut):
                        self._cut(step)
                    else:
                        self._write(step)
            except OSError as error:
                done(error)
            else:
                done(None)
                self._prepare(steps)
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _write(self, step: Step) -> None:
        if step.data:
            write_all(self._descriptor, step.data, step.offset)
        if step.seal:
            os.ftruncate(self._descriptor, step.offset + len(step.data))
            os.fsync(self._descriptor)
        if step.header:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            self._segment += 1
            with self._making:
                self._descriptor = self._directory.open_new(self._segment, self._segment_bytes)
            write_all(self._descriptor, step.header, 0)

    def _cut(self, known: _Cut) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        for number in self._directory.segments():
            if number > known.segment:
                self._directory.file(number).unlink()
        if known.segment:
            self._directory.cut(known.segment, known.length)
        self._segment = known.segment

    def _prepare(self, steps: Sequence[Step | _Cut]) -> None:
        """What nobody has to wait for."""
        head = next((step.head for step in steps if isinstance(step, Step) and step.head), b"")
        try:
            if head:
                self._directory.put_head(head)
        except OSError as error:
            _log.warning("cannot put the head of the audit log aside: %s", error.strerror)
        if self._spare_for != self._segment:
            self._spare_for = self._segment
            self._spare.submit(self._prepare_spare)

    def _prepare_spare(self) -> None:
        try:
            with self._making:
                self._directory.prepare_spare(self._segment_bytes)
        except OSError as error:
            # The segment in use has room; when it ends, the error is one that counts.
            _log.warning("cannot prepare the next audit segment: %s", error.strerror)
