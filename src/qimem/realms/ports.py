"""What realms need from the rest: a store, and whoever must provision a new realm."""

from __future__ import annotations

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
        """The realm, or None."""
        ...


class RealmProvisioning(Protocol):
    """Everything a realm must have before it can serve: KEK, signing key, built-in roles."""

    def prepare(self, realm_id: RealmId, now_us: int) -> object:
        """Make key material outside the transaction; the value is handed to `provision`."""
        ...

    def provision(self, tx: Tx, realm_id: RealmId, prepared: object, now_us: int) -> None:
        """Write it in the transaction that creates the realm."""
        ...
