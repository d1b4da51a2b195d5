"""The epoch row of each realm: read with the incarnation, moved by one inside mutating transactions."""

from __future__ import annotations

from typing import ClassVar, cast

import sqlalchemy as sa

from qimem.kernel.epochs import Epoch, EpochSource
from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Statement, Tx
from qimem.storage.schema import epoch, instance
from qimem.storage.statement import sql

_INCARNATION = sa.select(instance.c.incarnation).scalar_subquery()

READ = sql(sa.select(_INCARNATION, epoch.c.n).where(epoch.c.realm_id == sa.bindparam("realm_id")))
_BUMP = sql(sa.update(epoch).where(epoch.c.realm_id == sa.bindparam("of_realm")).values(n=epoch.c.n + 1))


class EpochRows:
    """The part of an epoch source that works inside a transaction, the same on every database."""

    reading: ClassVar[Statement] = READ
    losses: bytes = b""
    """Longer each time that commits may have been lost under this process; part of every epoch that it tells."""

    @property
    def deciding(self) -> EpochSource:
        """Where decisions ask."""
        return cast("EpochSource", self)

    def at(self, tx: Tx, realm_id: RealmId) -> Epoch | None:
        """The realm's epoch in this snapshot."""
        row = tx.one(self.reading, realm_id=realm_id)
        return None if row is None else Epoch((row[0] or b"") + self.losses, row[1])

    def bump(self, tx: Tx, realm_id: RealmId) -> None:
        """Make every worker forget what it knows of the realm, from this commit on."""
        tx.run(_BUMP, of_realm=realm_id)
