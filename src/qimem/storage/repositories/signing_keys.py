"""Published signing keys and when their next step is due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.kms.signing_keys import KeyState, SigningKeyRow
from qimem.storage.schema import Identifier, signing_key
from qimem.storage.statement import sql

_ROW = sa.select(signing_key.c.realm_id, signing_key.c.key_id, signing_key.c.state, signing_key.c.due_us)
_OF_REALM = sql(_ROW.where(signing_key.c.realm_id == sa.bindparam("realm_id")))
_DUE = sql(
    _ROW.where(signing_key.c.due_us <= sa.bindparam("now_us", type_=sa.BigInteger))
    .order_by(signing_key.c.due_us)
    .limit(sa.bindparam("count", type_=sa.Integer))
)
_INSERT = sql(
    sa.insert(signing_key).values({column.name: sa.bindparam(column.name) for column in signing_key.c})
)
_AS_GIVEN = (
    signing_key.c.realm_id == sa.bindparam("of_realm"),
    signing_key.c.key_id == sa.bindparam("of_key", type_=Identifier),
    signing_key.c.state == sa.bindparam("in_state"),
    signing_key.c.due_us == sa.bindparam("due_before", type_=sa.BigInteger),
)
_MOVE = sql(
    sa.update(signing_key)
    .where(*_AS_GIVEN)
    .values(state=sa.bindparam("to_state"), due_us=sa.bindparam("to_due", type_=sa.BigInteger))
)
_DELETE = sql(sa.delete(signing_key).where(*_AS_GIVEN))


class SigningKeyRepository:
    """Implements `kms.signing_keys.SigningKeyStore`."""

    def insert(self, tx: Tx, row: SigningKeyRow) -> None:
        """Add a row."""
        tx.run(_INSERT, realm_id=row.realm_id, key_id=row.key_id, state=row.state.value, due_us=row.due_us)

    def of_realm(self, tx: Tx, realm_id: RealmId) -> Sequence[SigningKeyRow]:
        """The published keys of a realm."""
        return [_known(row) for row in tx.all(_OF_REALM, realm_id=realm_id)]

    def move(self, tx: Tx, old: SigningKeyRow, new: SigningKeyRow) -> bool:
        """Put `new` in the place of `old`, if that stands there as it is given."""
        return tx.run(_MOVE, **_as_given(old), to_state=new.state.value, to_due=new.due_us) == 1

    def delete(self, tx: Tx, row: SigningKeyRow) -> bool:
        """Remove the row, if it stands there as it is given."""
        return tx.run(_DELETE, **_as_given(row)) == 1

    def due(self, tx: Tx, now_us: int, limit: int) -> Sequence[SigningKeyRow]:
        """Keys whose next step is due, over all realms, the longest overdue first."""
        return [_known(row) for row in tx.all(_DUE, now_us=now_us, count=limit)]


def _as_given(row: SigningKeyRow) -> dict[str, Any]:
    return {
        "of_realm": row.realm_id,
        "of_key": row.key_id,
        "in_state": row.state.value,
        "due_before": row.due_us,
    }


def _known(row: tuple[Any, ...]) -> SigningKeyRow:
    realm_id, key_id, state, due_us = row
    return SigningKeyRow(realm_id, key_id, KeyState(state), due_us)
