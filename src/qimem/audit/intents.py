"""Records of changes, written in the transaction of the change: no effect is ever without its record.

They stand in the database until they stand in the log. What a crash leaves between the two is appended when
the stream is taken up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from qimem.audit.ports import IntentStore, PendingIntent
from qimem.audit.record import line_of, recovered
from qimem.crypto.randomness import nonce12
from qimem.kernel.audit_draft import AuditDraft, Intent
from qimem.kernel.clock import Clock
from qimem.kernel.limits import AUDIT_OPEN_SECONDS, AUDIT_SETTLE_SECONDS
from qimem.kernel.transaction import Database, Tx

APPENDED_TOGETHER = 1_000
"""So many recovered records are one write at most."""


class Intents:
    """The intents of one stream.

    Args:
        stream: Whose log they will stand in.
        segment: Tells the segment that the stream is in.
    """

    def __init__(self, store: IntentStore, clock: Clock, stream: str, segment: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock
        self._stream = stream
        self._segment = segment
        # Filled by the threads that run transactions, emptied by the loop.
        self._open: dict[str, float] = {}
        self._logged: list[str] = []
        self._inherited: list[tuple[str, str]] = []
        self._doubt = False
        self._settled_at = clock.monotonic_seconds()

    def put(self, tx: Tx, draft: AuditDraft) -> Intent:
        """Write the record of the draft beside its effect."""
        record_id = new_record_id()
        line = line_of(draft, record_id, self._clock.now_us(), draft.outcome)
        self._open[record_id] = self._clock.monotonic_seconds()
        self._store.put(tx, self._stream, PendingIntent(record_id, self._segment(), line))
        return Intent(record_id, line)

    def undone(self, intent: Intent) -> None:
        """The transaction did not happen."""
        self._open.pop(intent.record_id, None)

    def in_doubt(self, intent: Intent) -> None:
        """Whether the transaction happened, or whether its record is in the log, is not known yet."""
        self._open.pop(intent.record_id, None)
        self._doubt = True

    def logged(self, intent: Intent) -> None:
        """It stands in the log."""
        self._open.pop(intent.record_id, None)
        self._logged.append(intent.record_id)

    def inherit(self, left: Sequence[tuple[str, str]]) -> None:
        """Stream and record id of what stands in the log, and that the database could not forget at the start."""
        self._inherited += left

    async def tidy(self, database: Database, append: Callable[[bytes], Awaitable[None]]) -> None:
        """Forget what stands in the log, and append what nobody knows to stand there.

        Args:
            database: Where they are.
            append: Has a line written; raises when it cannot be.

        Raises:
            Unavailable: the next call tries again.
        """
        logged, self._logged = self._logged, []
        try:
            if logged:
                await database.write(lambda tx: self._store.delete(tx, self._stream, logged))
        except BaseException:
            self._logged += logged
            raise
        if self._inherited:
            await database.write(self._forget_inherited)
            self._inherited = []
        now = self._clock.monotonic_seconds()
        # From time to time without a doubt: on PostgreSQL a commit can come after the doubt was settled.
        if self._doubt or now - self._settled_at > AUDIT_SETTLE_SECONDS:
            self._doubt, self._settled_at = False, now
            await self._settle(database, append, now - AUDIT_OPEN_SECONDS)

    def _forget_inherited(self, tx: Tx) -> None:
        for stream, record_id in self._inherited:
            self._store.delete(tx, stream, [record_id])

    async def _settle(
        self, database: Database, append: Callable[[bytes], Awaitable[None]], given_up_before: float
    ) -> None:
        try:
            # A write, though nothing is written: it has its turn behind a commit that still hangs.
            pending = await database.write(lambda tx: self._store.pending(tx, self._stream))
            lost = [
                intent
                for intent in pending
                if self._open.get(intent.record_id, given_up_before) <= given_up_before
            ]
            for start in range(0, len(lost), APPENDED_TOGETHER):
                # One that took long may have come while those before it were written.
                logged = set(self._logged)
                part = lost[start : start + APPENDED_TOGETHER]
                await self._append_all([each for each in part if each.record_id not in logged], append)
        except BaseException:
            self._doubt = True
            raise

    async def _append_all(
        self, lost: Sequence[PendingIntent], append: Callable[[bytes], Awaitable[None]]
    ) -> None:
        # One after the other each would wait for a write of its own, in mode interval a fifth of a second.
        # They go on when this is cancelled, as nobody can call them back from the log.
        each = asyncio.gather(*(self._append(intent, append) for intent in lost), return_exceptions=True)
        for failure in await asyncio.shield(each):
            if failure is not None:
                raise failure

    async def _append(self, intent: PendingIntent, append: Callable[[bytes], Awaitable[None]]) -> None:
        self._open[intent.record_id] = self._clock.monotonic_seconds()
        try:
            await append(recovered(intent.line))
        except BaseException:
            self._open.pop(intent.record_id, None)
            raise
        self._open.pop(intent.record_id, None)
        self._logged.append(intent.record_id)


def new_record_id() -> str:
    """96 random bits: no two records share one."""
    return nonce12().hex()
