"""Appends records: all that arrive while the disk is busy share the next write.

Encoding and hashing happen on the loop, once for each batch; another process does the writing. Whoever waits
is told when the write is on the disk, or that it failed. A failed stream is not written to again: what the
disk holds behind the last acknowledged byte is unknown, so the segment is cut there and a new one begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Final

from qimem.audit.segment_file import StreamDirectory
from qimem.audit.steps import Step, cut
from qimem.audit.stream import StreamState, resume
from qimem.audit.writer import SegmentWriter
from qimem.errors import QimemError, audit_unavailable
from qimem.kernel.clock import Clock
from qimem.kernel.limits import (
    AUDIT_ANSWER_SECONDS,
    AUDIT_BATCH_BYTES_MAX,
    AUDIT_BATCH_RECORDS_MAX,
    AUDIT_CHECKPOINT_SECONDS,
    AUDIT_INTERVAL_SECONDS,
    AUDIT_RETRY_SECONDS,
    AUDIT_WAITING_MAX,
    AUDIT_WRITE_SECONDS,
)
from qimem.kernel.threads import run_to_its_end

_log = logging.getLogger(__name__)

_TURN_SECONDS: Final = 0.005

Done = Callable[[bool], None]
"""Told whether the record is on the disk. It must not raise."""


class AuditTrail:
    """The log of one worker.

    Args:
        strict: Write at once; otherwise let records gather for `AUDIT_INTERVAL_SECONDS`.
    """

    def __init__(
        self, state: StreamState, writer: SegmentWriter, clock: Clock, *, strict: bool = True
    ) -> None:
        self._state = state
        self._writer = writer
        self._clock = clock
        self.strict = strict
        self._waiting: list[tuple[bytes, Done]] = []
        self._written: list[tuple[bytes, Done]] = []
        self._since = 0.0
        """When the oldest of those who wait came, by the loop's clock."""
        self._busy = False
        self._failed = False
        self._closed = False
        self._head = b""
        self._signed_at = clock.monotonic_seconds()
        self._acknowledged = state.position()
        self._deadline: asyncio.TimerHandle | None = None
        self._checkpoint: asyncio.TimerHandle | None = None
        writer.watch(self._lost)

    @property
    def writable(self) -> bool:
        """Whether a record can be appended as far as is known."""
        return not self._failed and len(self._waiting) < AUDIT_WAITING_MAX

    @property
    def waiting(self) -> int:
        """Records that wait for the disk and are not on their way."""
        return len(self._waiting)

    @property
    def segment(self) -> int:
        """The segment that is being written."""
        return self._state.segment

    @property
    def sealed_below(self) -> int:
        """Segments below this one are sealed on the disk; the stream itself is ahead of a disk that fails."""
        return self._acknowledged.segment

    def require_writable(self) -> None:
        """Refuse what could not be recorded, before anything is done.

        Raises:
            Unavailable: `audit_unavailable`.
        """
        if not self.writable:
            raise audit_unavailable()

    def submit(self, line: bytes, done: Done) -> None:
        """Have a record written.

        Args:
            line: Encoded, with its line end.
            done: Called on the loop, once, unless this raises.

        Raises:
            Unavailable: `audit_unavailable`: it is not written.
        """
        self.require_writable()
        loop = asyncio.get_running_loop()
        if not self._waiting:
            self._since = loop.time()
        self._waiting.append((line, done))
        if not self._busy:
            self._busy = True
            if self.strict:
                # What else this turn of the loop brings goes along.
                loop.call_soon(self._write)
            else:
                loop.call_later(AUDIT_INTERVAL_SECONDS, self._write)

    async def append(self, line: bytes) -> None:
        """Have a record written, and wait for it.

        Raises:
            Unavailable: `audit_unavailable`: it may not be written.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.submit(line, lambda written: None if future.done() else future.set_result(written))
        if not await future:
            raise audit_unavailable()

    async def give_up(self, first: int) -> None:
        """Sign that segments below `first` are kept no longer.

        Raises:
            Unavailable: it could not be signed; they have to be kept.
        """
        self._state.first = max(self._state.first, first)
        before = self._state.checkpoints
        patience = self._clock.monotonic_seconds() + AUDIT_CHECKPOINT_SECONDS + 2 * AUDIT_WRITE_SECONDS
        while self._acknowledged.checkpoints <= before:
            self.require_writable()
            if self._clock.monotonic_seconds() > patience:
                raise audit_unavailable()
            if self._busy:
                await asyncio.sleep(_TURN_SECONDS)
            else:
                await self._seal_state()

    async def close(self) -> None:
        """Write what waits, sign it, and let the stream go."""
        if self._checkpoint is not None:
            self._checkpoint.cancel()
        with contextlib.suppress(QimemError):
            await self._quiet()
            if self.writable and self._state.unsigned:
                await self._seal_state()
        # Whatever comes now is told that it cannot be recorded.
        self._failed = self._closed = True
        await self._writer.close()

    async def _quiet(self) -> None:
        """Wait until nothing is being written."""
        patience = self._clock.monotonic_seconds() + 2 * AUDIT_WRITE_SECONDS
        while self._busy and not self._failed:
            await asyncio.sleep(_TURN_SECONDS)
            if self._clock.monotonic_seconds() > patience:
                raise audit_unavailable()

    async def _seal_state(self) -> None:
        """Write a checkpoint now, while nothing else is being written."""
        signed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._written = [(b"", lambda done: None if signed.done() else signed.set_result(done))]
        self._busy = True
        self._state.unsigned += 1
        self._since = asyncio.get_running_loop().time()
        self._hand_over([], sign=True)
        if not await signed:
            raise audit_unavailable()

    def _write(self) -> None:
        if self._failed:
            return
        count = _batch(self._waiting)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        now = self._clock.monotonic_seconds()
        sign = now - self._signed_at >= AUDIT_CHECKPOINT_SECONDS
        if sign:
            self._signed_at = now
        self._written = taken
        self._hand_over([line for line, _ in taken], sign=sign)

    def _hand_over(self, lines: list[bytes], *, sign: bool) -> None:
        loop = asyncio.get_running_loop()
        # Who came while the disk was busy has waited for the write before: for both no longer than a second.
        due = min(loop.time() + AUDIT_WRITE_SECONDS, self._since + AUDIT_ANSWER_SECONDS)
        self._deadline = loop.call_at(due, self._too_late)
        steps = list(self._state.steps(lines, sign=sign))
        self._head = self._state.take_head()
        self._writer.write(steps, self._done)

    def _done(self, error: OSError | None) -> None:
        self._settle_deadline()
        if error is not None:
            self._fail(error.strerror or str(error))
        if self._failed:
            # Also when it came too late: those who waited were told that nobody knows.
            self._retry_later()
            return
        self._acknowledged = self._state.position()
        self._busy = False
        if self._head:
            # Only now: one of a write that came too late would speak of what is cut away.
            self._writer.write([Step(b"", 0, head=self._head)], _nobody)
            self._head = b""
        written, self._written = self._written, []
        if self._waiting:
            self._busy = True
            self._write_next()
        else:
            self._sign_later()
        # Last, so that the disk is busy again while the answers are written.
        _tell_all(written, on_disk=True)

    def _sign_later(self) -> None:
        if self._state.unsigned and self._checkpoint is None:
            loop = asyncio.get_running_loop()
            self._checkpoint = loop.call_later(AUDIT_CHECKPOINT_SECONDS, self._sign)

    def _settle_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _write_next(self) -> None:
        if self.strict:
            self._write()
        else:
            asyncio.get_running_loop().call_later(AUDIT_INTERVAL_SECONDS, self._write)

    def _sign(self) -> None:
        self._checkpoint = None
        if not self._busy and not self._failed and self._state.unsigned:
            self._busy = True
            self._signed_at -= AUDIT_CHECKPOINT_SECONDS
            self._since = asyncio.get_running_loop().time()
            self._write()

    def _too_late(self) -> None:
        self._deadline = None
        self._fail("the disk does not answer")

    def _fail(self, reason: str) -> None:
        if not self._failed:
            _log.error("audit log cannot be written: %s", reason)
        self._failed = True
        self._head = b""
        waiting = [*self._written, *self._waiting]
        self._written, self._waiting = [], []
        _tell_all(waiting, on_disk=False)

    def _lost(self) -> None:
        """Take up the stream at once when the idle process is gone: the next request must not pay for it."""
        if self._busy or self._failed or self._closed:
            return
        self._busy = True
        self._deadline = asyncio.get_running_loop().call_later(AUDIT_WRITE_SECONDS, self._too_late)
        self._begin_anew()

    def _retry_later(self) -> None:
        asyncio.get_running_loop().call_later(AUDIT_RETRY_SECONDS, self._begin_anew)

    def _begin_anew(self) -> None:
        if self._closed:
            return
        known = self._acknowledged
        self._state.restore(known)
        steps = [cut(known.segment, known.offset), self._state.next_segment()]
        self._writer.begin_anew(known.segment, steps, self._begun_anew)

    def _begun_anew(self, error: OSError | None) -> None:
        self._settle_deadline()
        if error is not None:
            self._fail(error.strerror or str(error))
            self._retry_later()
            return
        _log.warning("audit log can be written again")
        self._acknowledged = self._state.position()
        self._failed = self._busy = False
        if self._waiting:
            self._busy = True
            self._write_next()
        else:
            # Nobody may come for long, and what is not signed could be cut off unseen.
            self._sign_later()


def _batch(waiting: list[tuple[bytes, Done]]) -> int:
    """How many records the next write holds."""
    size = 0
    for count, (line, _) in enumerate(waiting[:AUDIT_BATCH_RECORDS_MAX]):
        size += len(line)
        if size > AUDIT_BATCH_BYTES_MAX:
            return max(1, count)
    return min(len(waiting), AUDIT_BATCH_RECORDS_MAX)


def _nobody(_error: OSError | None) -> None:
    pass


def _tell_all(waiting: list[tuple[bytes, Done]], *, on_disk: bool) -> None:
    for _, done in waiting:
        try:
            done(on_disk)
        except Exception:  # noqa: BLE001 - a defect with one must not leave the others waiting for ever
            _log.exception("who waited for the audit log cannot be told")


def _find_end(
    state: StreamState, directory: StreamDirectory, visit: Callable[[bytes], None], since: int
) -> None:
    torn = resume(state, directory, visit, since)
    if torn:
        # Written over, its rest would stand behind what comes next.
        directory.clear(state.segment, state.offset, state.segment_bytes)
    if state.segment == 0:
        # Before its first record: from then on, a stream without a head was tampered with.
        directory.put_head(state.first_head())


async def open_trail(
    state: StreamState,
    directory: StreamDirectory,
    visit: Callable[[bytes], None],
    *,
    since: int = sys.maxsize,
    strict: bool = True,
) -> AuditTrail:
    """Take up a stream where it ends and go on with it.

    Args:
        state: Empty; where the stream is afterwards.
        directory: Its files, held by this process.
        visit: See `resume`.
        since: See `resume`.
        strict: See `AuditTrail`.

    Raises:
        Altered: they are not what was written.
        OSError: they cannot be read or written.
    """
    # It reads and hashes up to a whole segment, and the loop may be serving: a stream of another worker is taken up
    # while requests wait.
    await run_to_its_end(partial(_find_end, state, directory, visit, since))
    writer = SegmentWriter(directory, state.segment, state.segment_bytes)
    await writer.ready()
    return AuditTrail(state, writer, state.clock, strict=strict)
