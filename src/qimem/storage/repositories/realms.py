"""Realms and their epoch rows."""

from __future__ import annotations

import sqlalchemy as sa

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.realms.models import RealmRecord
from qimem.storage.schema import epoch, realm
from qimem.storage.statement import insert_if_absent, sql

_INSERT = insert_if_absent(realm, returning=realm.c.realm_id)
_INSERT_EPOCH = sql(sa.insert(epoch).values(realm_id=sa.bindparam("realm_id"), n=sa.bindparam("n")))
_FIND = sql(
    sa.select(realm.c.realm_id, realm.c.name, realm.c.enabled, realm.c.created_us).where(
        realm.c.realm_id == sa.bindparam("realm_id")
    )
)


class RealmRepository:
    """Implements `realms.ports.RealmStore`."""

    def insert(self, tx: Tx, record: RealmRecord) -> bool:
        """Add the realm with its epoch row; False when the id is taken."""
        added = tx.one(
            _INSERT,
            realm_id=record.realm_id,
            name=record.name,
            enabled=record.enabled,
            created_us=record.created_us,
        )
        if added is not None:
            tx.run(_INSERT_EPOCH, realm_id=record.realm_id, n=1)
        return added is not None

    def find(self, tx: Tx, realm_id: RealmId) -> RealmRecord | None:
        """The realm, or None."""
        row = tx.one(_FIND, realm_id=realm_id)
        return None if row is None else RealmRecord(*row)
