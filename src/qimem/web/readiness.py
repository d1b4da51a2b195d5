"""Whether this process can serve, for whoever decides where requests go.

Anybody may ask, as often as they like. So what has to be asked of the database is asked twice a second, however many ask,
and never twice at once; what this process knows by itself is always as it is now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from qimem.kernel.clock import Clock
from qimem.kernel.limits import READY_REMEMBERED_SECONDS, READY_SECONDS
from qimem.kms.self_check import READINESS
from qimem.wire.common import Check

_OWN: Final = ("audit", "drain")


class Readiness:
    """The checks of this process.

    Args:
        look: Name → reason of the first of `READINESS` that fails.
        log_writable: Whether this process's audit log can be written.
        clock: For how long a look is good.
    """

    def __init__(
        self, look: Callable[[], Awaitable[Mapping[str, str]]], log_writable: Callable[[], bool], clock: Clock
    ) -> None:
        self._look = look
        self._log_writable = log_writable
        self._clock = clock
        self._looking: asyncio.Task[None] | None = None
        self._found: Mapping[str, str] = {}
        self._found_at: float | None = None
        self._draining = False

    def drain(self) -> None:
        """The process ends: from now on it is not ready."""
        self._draining = True

    async def failing(self) -> dict[str, str]:
        """Name → reason of every check that keeps this process from serving; empty when it can."""
        found = dict(await self._fresh())
        if not self._log_writable():
            found["audit"] = "the audit log cannot be written"
        if self._draining:
            found["drain"] = "the server is ending"
        return found

    async def checks(self) -> dict[str, Check]:
        """Every check, those that pass among them."""
        failing = await self.failing()
        checks: dict[str, Check] = {}
        for names in (READINESS, _OWN[:1], _OWN[1:]):
            otherwise = "ok"
            for name in names:
                if name in failing:
                    checks[name] = Check(state="failing", reason=failing[name])
                    # The same look went no further.
                    otherwise = "unknown"
                else:
                    checks[name] = Check(state=otherwise)
        return checks

    async def _fresh(self) -> Mapping[str, str]:
        now = self._clock.monotonic_seconds()
        if self._found_at is not None and now - self._found_at < READY_REMEMBERED_SECONDS:
            return self._found
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._do_look())
        # Only waited for: whoever asks and goes away must not end the look of the others.
        done, _ = await asyncio.wait({self._looking}, timeout=READY_SECONDS)
        if not done:
            return {"storage": "no answer in time"}
        self._looking.result()
        return self._found

    async def _do_look(self) -> None:
        self._found = await self._look()
        self._found_at = self._clock.monotonic_seconds()
