"""Realms and their epoch rows."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from qimem.kernel.ids import RealmId
from qimem.kernel.limits import PASSWORD_CHARS_MIN, REFRESH_GRACE_SECONDS
from qimem.kernel.transaction import Tx
from qimem.realms.models import RealmRecord
from qimem.storage.schema import epoch, realm, realm_kek, realm_remains
from qimem.storage.statement import insert_if_absent, sql

_INSERT = insert_if_absent(realm, returning=realm.c.realm_id)
_INSERT_EPOCH = sql(sa.insert(epoch).values(realm_id=sa.bindparam("realm_id"), n=sa.bindparam("n")))
_REALM = sa.select(
    realm.c.realm_id,
    realm.c.name,
    realm.c.enabled,
    realm.c.created_us,
    sa.func.coalesce(realm.c.password_min_length, PASSWORD_CHARS_MIN),
    sa.func.coalesce(realm.c.allow_password_grant, sa.true()),
    sa.func.coalesce(realm.c.refresh_grace_seconds, REFRESH_GRACE_SECONDS),
).where(realm.c.deleted_us.is_(None))
_FIND = sql(_REALM.where(realm.c.realm_id == sa.bindparam("realm_id")))
_PAGE = sql(
    _REALM.where(realm.c.realm_id > sa.bindparam("after", type_=sa.Text))
    .order_by(realm.c.realm_id)
    .limit(sa.bindparam("count", type_=sa.Integer))
)
_OF_REALM = realm.c.realm_id == sa.bindparam("of_realm")
_UPDATE = sql(
    sa.update(realm)
    .where(_OF_REALM)
    .values(
        name=sa.bindparam("to_name"),
        enabled=sa.bindparam("to_enabled"),
        password_min_length=sa.bindparam("to_password_min_length"),
        allow_password_grant=sa.bindparam("to_allow_password_grant"),
        refresh_grace_seconds=sa.bindparam("to_refresh_grace_seconds"),
    )
)
_KEKS = sql(
    sa.select(realm_kek.c.version, realm_kek.c.wrapped).where(
        realm_kek.c.realm_id == sa.bindparam("realm_id")
    )
)
_OVERWRITE_KEK = sql(
    sa.update(realm_kek)
    .where(
        realm_kek.c.realm_id == sa.bindparam("of_realm"), realm_kek.c.version == sa.bindparam("of_version")
    )
    .values(wrapped=sa.bindparam("with_zeros"))
)
_DELETE_EPOCH = sql(sa.delete(epoch).where(epoch.c.realm_id == sa.bindparam("of_realm")))
_END = sql(
    sa.update(realm)
    .where(_OF_REALM)
    .values(enabled=sa.false(), deleted_us=sa.bindparam("at_us", type_=sa.BigInteger))
)
_INSERT_REMAINS = sql(
    sa.insert(realm_remains).values(realm_id=sa.bindparam("realm_id"), deleted_us=sa.bindparam("deleted_us"))
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
            deleted_us=None,
            password_min_length=record.password_min_length,
            allow_password_grant=record.allow_password_grant,
            refresh_grace_seconds=record.refresh_grace_seconds,
        )
        if added is not None:
            tx.run(_INSERT_EPOCH, realm_id=record.realm_id, n=1)
        return added is not None

    def find(self, tx: Tx, realm_id: RealmId) -> RealmRecord | None:
        """The realm, or None."""
        row = tx.one(_FIND, realm_id=realm_id)
        return None if row is None else RealmRecord(*row)

    def page(self, tx: Tx, *, after: str | None, limit: int) -> Sequence[RealmRecord]:
        """Realms in order of their ids, which are never empty."""
        return [RealmRecord(*row) for row in tx.all(_PAGE, after=after or "", count=limit)]

    def update(self, tx: Tx, record: RealmRecord) -> None:
        """Write name, settings and whether it is enabled."""
        tx.run(
            _UPDATE,
            of_realm=record.realm_id,
            to_name=record.name,
            to_enabled=record.enabled,
            to_password_min_length=record.password_min_length,
            to_allow_password_grant=record.allow_password_grant,
            to_refresh_grace_seconds=record.refresh_grace_seconds,
        )

    def destroy(self, tx: Tx, realm_id: RealmId, now_us: int) -> None:
        """Overwrite the realm's keys, and have it be no realm any more."""
        for version, wrapped in tx.all(_KEKS, realm_id=realm_id):
            # A row that is only deleted stays readable on its page until something else takes the place.
            tx.run(_OVERWRITE_KEK, of_realm=realm_id, of_version=version, with_zeros=bytes(len(wrapped)))
        tx.run(_DELETE_EPOCH, of_realm=realm_id)
        tx.run(_END, of_realm=realm_id, at_us=now_us)
        tx.run(_INSERT_REMAINS, realm_id=realm_id, deleted_us=now_us)
