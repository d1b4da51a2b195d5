"""Rows of deleted realms, removed a few at a time."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.storage import schema
from qimem.storage.statement import SQLStatement, sql

_NEXT = sql(
    sa.select(schema.realm_remains.c.realm_id)
    .where(
        schema.realm_remains.c.realm_id > sa.bindparam("after", type_=sa.Text),
    )
    .order_by(schema.realm_remains.c.realm_id)
    .limit(1)
)
_DONE = sql(
    sa.delete(schema.realm_remains).where(
        schema.realm_remains.c.realm_id == sa.bindparam("of_realm"),
        schema.realm_remains.c.deleted_us <= sa.bindparam("before_us", type_=sa.BigInteger),
    )
)


def _delete_some(table: sa.Table) -> SQLStatement:
    key: list[Any] = list(table.primary_key.columns)
    some = (
        sa.select(*key)
        .where(table.c.realm_id == sa.bindparam("of_realm"))
        .limit(sa.bindparam("count", type_=sa.Integer))
    )
    return sql(
        sa.delete(table).where(table.c.realm_id == sa.bindparam("of_realm"), sa.tuple_(*key).in_(some))
    )


# What refers to others goes first.
_DELETE = tuple(
    _delete_some(table)
    for table in (
        schema.idempotency, schema.spent, schema.login_attempt, schema.oauth_grant, schema.signing_key, schema.client_role,
        schema.user_role, schema.credential, schema.client, schema.app_user, schema.role_permission, schema.role,
        schema.kms_version, schema.kms_key, schema.realm_kek,
    )
)  # fmt: skip


class RealmRemainsRepository:
    """Implements `jobs.ports.RealmRemains`."""

    def next(self, tx: Tx, after: str) -> RealmId | None:
        """The next deleted realm in order of ids that may have rows left."""
        row = tx.one(_NEXT, after=after)
        return None if row is None else RealmId(row[0])

    def delete_some(self, tx: Tx, realm_id: RealmId, limit: int) -> int:
        """Delete at most `limit` rows of the realm; how many there were."""
        for statement in _DELETE:
            deleted = tx.run(statement, of_realm=realm_id, count=limit)
            if deleted > 0:
                # The next table only when nothing here refers to it any more.
                return deleted
        return 0

    def done(self, tx: Tx, realm_id: RealmId, before_us: int) -> None:
        """Look after the realm no more, if it was deleted before: until then a straggler may still write."""
        tx.run(_DONE, of_realm=realm_id, before_us=before_us)
