"""What the job runner needs from storage."""

from __future__ import annotations

from typing import Protocol

from qimem.kernel.transaction import Tx


class JobStore(Protocol):
    """Leases and last runs of the node-wide jobs."""

    def take(self, tx: Tx, name: str, *, holder: str, now_us: int, lease_us: int, due_before_us: int) -> bool:
        """Lease the job if nobody holds it and it last ran at or before `due_before_us`; one statement."""
        ...

    def finish(self, tx: Tx, name: str, *, holder: str, now_us: int) -> None:
        """Release the lease of this holder and note the run."""
        ...


class ExpiredRows(Protocol):
    """Deletion of rows that can no longer matter."""

    def delete_expired(self, tx: Tx, *, before_us: int, limit: int) -> int:
        """Delete at most `limit` rows of spent ids, idempotency answers and dead grants that expired before."""
        ...
