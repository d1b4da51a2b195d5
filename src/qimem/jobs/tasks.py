"""What happens in the background."""

from __future__ import annotations

from qimem.jobs.ports import ExpiredRows, RealmRemains
from qimem.kernel.clock import MICROSECONDS, Clock, SteadyTime
from qimem.kernel.ids import RealmId
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


class RemainsSweep:
    """Removes what deleted realms left behind: rows that nothing can decrypt any more."""

    def __init__(self, database: Database, remains: RealmRemains, clock: Clock) -> None:
        self._database = database
        self._remains = remains
        self._clock = clock

    async def run(self) -> None:
        """Delete in small transactions until nothing is left, or enough for one run."""
        left = _RUNS_MAX
        realm_id = await self._next("")
        while realm_id is not None and left > 0:
            left -= await self._sweep(realm_id, left)
            realm_id = await self._next(realm_id)

    async def _next(self, after: str) -> RealmId | None:
        return await self._database.read(lambda tx: self._remains.next(tx, after))

    async def _sweep(self, realm_id: RealmId, runs_max: int) -> int:
        before_us = self._clock.now_us() - MARGIN_SECONDS * MICROSECONDS
        for run in range(runs_max):
            deleted = await self._database.write(
                lambda tx: self._remains.delete_some(tx, realm_id, _ROWS_PER_RUN)
            )
            if deleted == 0:
                await self._database.write(lambda tx: self._remains.done(tx, realm_id, before_us))
                return run + 1
        return runs_max
