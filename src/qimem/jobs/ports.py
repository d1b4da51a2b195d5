"""What the job runner needs from storage."""

from __future__ import annotations

from typing import Protocol

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx


class JobStore(Protocol):
    """Leases and last runs of the node-wide jobs."""

    def take(self, tx: Tx, name: str, *, holder: str, now_us: int, lease_us: int, due_before_us: int) -> bool:
        """Lease the job if nobody holds it and it last ran at or before `due_before_us`; one statement."""
        ...

    def finish(self, tx: Tx, name: str, *, holder: str, now_us: int) -> None:
        """Release the lease of this holder and note the run."""
        ...

    def release(self, tx: Tx, name: str, *, holder: str) -> None:
        """Release the lease of this holder; there was no run."""
        ...


class RealmRemains(Protocol):
    """Rows of deleted realms."""

    def next(self, tx: Tx, after: str) -> RealmId | None:
        """The next deleted realm in order of ids that may have rows left."""
        ...

    def delete_some(self, tx: Tx, realm_id: RealmId, limit: int) -> int:
        """Delete at most `limit` rows of the realm; how many there were."""
        ...

    def done(self, tx: Tx, realm_id: RealmId, before_us: int) -> None:
        """Look after the realm no more, if it was deleted before that time."""
        ...


class ExpiredRows(Protocol):
    """Deletion of rows that can no longer matter."""

    def delete_expired(self, tx: Tx, *, before_us: int, limit: int) -> int:
        """Delete at most `limit` rows of spent ids, idempotency answers and dead grants that expired before."""
        ...
