"""Strangers who were refused: counted, and recorded once a minute for each address and reason.

A record for each would let anybody fill the disk, and would make the log the slowest part of saying no.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from qimem.audit.intents import new_record_id
from qimem.audit.record import encoded
from qimem.kernel.addresses import customer_of
from qimem.kernel.clock import Clock, rfc3339
from qimem.kernel.ids import SYSTEM_REALM
from qimem.kernel.limits import AUDIT_REFUSALS_MAX
from qimem.wire.audit import AuditRecord

EVENT: Final = "authentication.refused"
_ELSEWHERE: Final = "others"
"""Stands for the addresses that came after too many others in one minute."""


class RefusalCounts:
    """Refusals of the minute that is running."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: dict[tuple[str, str, str], int] = {}

    def add(self, address: str, event: str, reason: str) -> None:
        """Count one.

        Args:
            address: The peer's; IPv6 is counted by its /64, which is one customer's.
            event: What was asked for.
            reason: Code of the error.
        """
        key = customer_of(address), event, reason
        count = self._counts.get(key)
        if count is None and len(self._counts) >= AUDIT_REFUSALS_MAX:
            key = _ELSEWHERE, event, reason
            count = self._counts.get(key)
        self._counts[key] = (count or 0) + 1

    async def flush(self, append: Callable[[bytes], Awaitable[None]]) -> None:
        """Have the minute recorded.

        Args:
            append: Has a line written; when it raises, the counts go into the next minute.
        """
        counts, self._counts = self._counts, {}
        merged: dict[tuple[str, str, str], int] = {}
        for (address, event, reason), count in counts.items():
            key = customer_of(address), event, reason
            merged[key] = merged.get(key, 0) + count
        at = rfc3339(self._clock.now_us())
        try:
            while merged:
                key = next(iter(merged))
                await append(_line(at, *key, merged[key]))
                del merged[key]
        finally:
            for key, count in merged.items():
                self._counts[key] = self._counts.get(key, 0) + count


def _line(at: str, address: str, event: str, reason: str, count: int) -> bytes:
    record = AuditRecord(
        at=at,
        event=EVENT,
        outcome=reason,
        id=new_record_id(),
        # Nobody knows whose realm they meant: it is the operators' concern.
        realm=SYSTEM_REALM,
        target=event,
        address=address,
        count=count,
    )
    return encoded(record)
