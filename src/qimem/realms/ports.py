"""What realms need from the rest: a store, and whoever must provision a new realm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.realms.models import RealmRecord


class RealmStore(Protocol):
    """Rows of realms and their epochs."""

    def insert(self, tx: Tx, realm: RealmRecord) -> bool:
        """Add the realm with its epoch row; False when the id is taken, and then nothing is changed."""
        ...

    def find(self, tx: Tx, realm_id: RealmId) -> RealmRecord | None:
        """The realm, or None; a deleted one is none."""
        ...

    def page(self, tx: Tx, *, after: str | None, limit: int) -> Sequence[RealmRecord]:
        """At most `limit` realms in order of their ids, after one of these."""
        ...

    def update(self, tx: Tx, realm: RealmRecord) -> None:
        """Write name, settings and whether it is enabled."""
        ...

    def destroy(self, tx: Tx, realm_id: RealmId, now_us: int) -> None:
        """Overwrite the realm's key-encryption keys, and have it be no realm any more."""
        ...


class RealmProvisioning(Protocol):
    """Everything a realm must have before it can serve: KEK, signing key, built-in roles."""

    def prepare(self, realm_id: RealmId, now_us: int) -> object:
        """Make key material outside the transaction; the value is handed to `provision`."""
        ...

    def forget(self, realm_id: RealmId) -> None:
        """The realm was destroyed: what this process knows of it is of no use any more."""
        ...

    def provision(self, tx: Tx, realm_id: RealmId, prepared: object, now_us: int) -> None:
        """Write it in the transaction that creates the realm."""
        ...
