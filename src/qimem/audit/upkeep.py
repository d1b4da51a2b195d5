"""What is done to the log beside the requests: intents are settled, refusals recorded, segments looked after."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from qimem.audit.intents import Intents
from qimem.audit.refusals import RefusalCounts
from qimem.audit.trail import AuditTrail
from qimem.errors import QimemError
from qimem.kernel.limits import AUDIT_REFUSALS_SECONDS, AUDIT_SEGMENTS_SECONDS, AUDIT_TIDY_SECONDS
from qimem.kernel.transaction import Database

_log = logging.getLogger(__name__)


class Keeper(Protocol):
    """Looks after sealed segments."""

    async def keep_house(self) -> None:
        """Compress them, and give up those that are kept no longer."""
        ...

    def close(self) -> None:
        """Start nothing more."""
        ...


class Upkeep:
    """Looks after the log of one worker."""

    def __init__(
        self,
        trail: AuditTrail,
        intents: Intents,
        refusals: RefusalCounts,
        keepers: Sequence[Keeper],
        database: Database,
    ) -> None:
        self._trail = trail
        self._intents = intents
        self._refusals = refusals
        self._keepers = keepers
        self._database = database
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; ends with `close`."""
        for seconds, duty in (
            (AUDIT_TIDY_SECONDS, self.tidy),
            (AUDIT_REFUSALS_SECONDS, self.count),
            *((AUDIT_SEGMENTS_SECONDS, keeper.keep_house) for keeper in self._keepers),
        ):
            self._tasks.append(asyncio.create_task(_again_and_again(seconds, duty)))

    async def close(self) -> None:
        """Stop, and do once more what must not wait for the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for keeper in self._keepers:
            keeper.close()
        for duty in (self.count, self.tidy):
            with contextlib.suppress(QimemError):
                await duty()

    async def tidy(self) -> None:
        """Let the database forget what stands in the log."""
        await self._intents.tidy(self._database, self._trail.append)

    async def count(self) -> None:
        """Record the refusals of the last minute."""
        await self._refusals.flush(self._trail.append)


async def _again_and_again(seconds: float, duty: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await duty()
        except QimemError as error:
            _log.warning("audit upkeep waits: %s", error.message)
        except OSError as error:
            _log.warning("audit upkeep waits: %s", error.strerror)
        except Exception:  # noqa: BLE001 - logged with its traceback
            # A defect must not end the upkeep of a log for good.
            _log.exception("audit upkeep failed")
