"""What the audit log needs of the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from qimem.kernel.transaction import Tx


class PendingIntent(NamedTuple):
    """A record in the database that may not stand in the log yet.

    Args:
        segment: Where its stream was when it was written: it stands in this segment, in a later one, or not.
    """

    record_id: str
    segment: int
    line: bytes


class IntentStore(Protocol):
    """Records beside their effects."""

    def put(self, tx: Tx, stream: str, intent: PendingIntent) -> None:
        """Write it in the transaction of its effect."""
        ...

    def pending(self, tx: Tx, stream: str) -> Sequence[PendingIntent]:
        """All of a stream, in the order they were made."""
        ...

    def delete(self, tx: Tx, stream: str, record_ids: Sequence[str]) -> None:
        """Forget those that stand in the log."""
        ...
