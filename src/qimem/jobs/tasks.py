"""What happens in the background."""

from __future__ import annotations

from qimem.jobs.ports import ExpiredRows
from qimem.kernel.clock import MICROSECONDS, Clock, SteadyTime
from qimem.kernel.transaction import Database

MARGIN_SECONDS = 3600
_ROWS_PER_RUN = 1_000
_RUNS_MAX = 100


class ExpiredSweep:
    """Deletes rows whose subject has been dead for a margin, by the clock on the wall and by the clock that ran.

    A wall clock that jumps a day ahead would otherwise delete the record of a revocation, and when it
    jumps back the revoked token would live again. So nothing is deleted before this process has itself
    seen the margin pass.
    """

    def __init__(self, database: Database, rows: ExpiredRows, clock: Clock) -> None:
        self._database = database
        self._rows = rows
        self._time = SteadyTime(clock)

    async def run(self) -> None:
        """Delete in small transactions until nothing old is left, or enough for one run."""
        if self._time.elapsed_seconds < MARGIN_SECONDS:
            return
        before_us = self._time.now_us() - MARGIN_SECONDS * MICROSECONDS
        for _ in range(_RUNS_MAX):
            deleted = await self._database.write(
                lambda tx: self._rows.delete_expired(tx, before_us=before_us, limit=_ROWS_PER_RUN)
            )
            if deleted == 0:
                return
