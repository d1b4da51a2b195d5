"""Counts of attempts to sign in."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from qimem.identity.login.attempts import AttemptKind, AttemptRow
from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.storage.repositories.single_use import digest_of
from qimem.storage.schema import login_attempt
from qimem.storage.statement import sql

_ONE = (
    login_attempt.c.realm_id == sa.bindparam("of_realm"),
    login_attempt.c.kind == sa.bindparam("of_kind"),
    login_attempt.c.key_digest == sa.bindparam("of_key"),
)
_FIND = sql(
    sa.select(login_attempt.c.count, login_attempt.c.updated_us, login_attempt.c.expires_us).where(*_ONE)
)
_INSERT = sql(
    sa.insert(login_attempt).values({column.name: sa.bindparam(column.name) for column in login_attempt.c})
)
_DELETE = sql(sa.delete(login_attempt).where(*_ONE))


class AttemptRepository:
    """Implements `identity.ports.AttemptStore`."""

    def find(self, tx: Tx, realm_id: RealmId, kind: AttemptKind, key: tuple[str, ...]) -> AttemptRow | None:
        """The count as it was written."""
        row = tx.one(_FIND, **_one(realm_id, kind, key))
        return None if row is None else AttemptRow(realm_id, kind, key, *row)

    def put(self, tx: Tx, row: AttemptRow) -> None:
        """Write the count, in the place of the one before."""
        tx.run(_DELETE, **_one(row.realm_id, row.kind, row.key))
        tx.run(
            _INSERT,
            realm_id=row.realm_id,
            kind=row.kind.value,
            key_digest=digest_of(row.key),
            count=row.count,
            updated_us=row.updated_us,
            expires_us=row.expires_us,
        )

    def delete(self, tx: Tx, realm_id: RealmId, kind: AttemptKind, key: tuple[str, ...]) -> None:
        """Remove the count."""
        tx.run(_DELETE, **_one(realm_id, kind, key))


def _one(realm_id: RealmId, kind: AttemptKind, key: tuple[str, ...]) -> dict[str, Any]:
    return {"of_realm": realm_id, "of_kind": kind.value, "of_key": digest_of(key)}
