"""Second factors beside the password: one row for the shared secret, one for the recovery codes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from qimem.identity.second_factor import SecondFactor
from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.storage.repositories.single_use import SingleUse, claim
from qimem.storage.schema import credential
from qimem.storage.statement import sql

_ACTIVE, _PENDING, _RECOVERY = "totp", "totp-pending", "recovery"
_FIND = sql(
    sa.select(credential.c.data, credential.c.created_us).where(
        credential.c.realm_id == sa.bindparam("realm_id"),
        credential.c.user_id == sa.bindparam("user_id"),
        credential.c.kind == sa.bindparam("kind"),
    )
)
_ONE = (
    credential.c.realm_id == sa.bindparam("of_realm"),
    credential.c.user_id == sa.bindparam("of_user"),
    credential.c.kind == sa.bindparam("of_kind"),
)
_INSERT = sql(
    sa.insert(credential).values({column.name: sa.bindparam(column.name) for column in credential.c})
)
_DELETE = sql(sa.delete(credential).where(*_ONE))
_TAKE = sql(sa.delete(credential).where(*_ONE, credential.c.data == sa.bindparam("of_data")))


class SecondFactorRepository:
    """Implements `identity.ports.FactorStore`."""

    def find(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> SecondFactor | None:
        """What the user has, if it was confirmed."""
        sealed = self._data(tx, realm_id, user_id, _ACTIVE)
        if sealed is None:
            return None
        codes = json.loads(self._data(tx, realm_id, user_id, _RECOVERY) or "[]")
        return SecondFactor(base64.b64decode(sealed), frozenset(bytes.fromhex(code) for code in codes))

    def find_pending(self, tx: Tx, realm_id: RealmId, user_id: UUID, since_us: int) -> bytes | None:
        """The sealed secret that waits to be confirmed, if it was made since then."""
        row = tx.one(_FIND, realm_id=realm_id, user_id=user_id, kind=_PENDING)
        return None if row is None or row[1] < since_us else base64.b64decode(row[0])

    def put_pending(self, tx: Tx, realm_id: RealmId, user_id: UUID, sealed: bytes, now_us: int) -> None:
        """Have a sealed secret wait, in the place of an earlier one."""
        self._put(tx, realm_id, user_id, _PENDING, _text(sealed), now_us)

    def put(self, tx: Tx, realm_id: RealmId, user_id: UUID, sealed: bytes, now_us: int) -> None:
        """Have a sealed secret count at once."""
        self._put(tx, realm_id, user_id, _ACTIVE, _text(sealed), now_us)

    def confirm(
        self, tx: Tx, realm_id: RealmId, user_id: UUID, sealed: bytes, recovery: Iterable[bytes], now_us: int
    ) -> bool:
        """Have exactly this secret count that waits; False when it does not wait any more."""
        if not tx.run(_TAKE, **_key(realm_id, user_id, _PENDING), of_data=_text(sealed)):
            return False
        self.put(tx, realm_id, user_id, sealed, now_us)
        self._put(tx, realm_id, user_id, _RECOVERY, _listed(recovery), now_us)
        return True

    def put_recovery_codes(
        self, tx: Tx, realm_id: RealmId, user_id: UUID, recovery: Iterable[bytes], now_us: int
    ) -> bool:
        """Replace the recovery codes; False when there is no second factor."""
        if self._data(tx, realm_id, user_id, _ACTIVE) is None:
            return False
        self._put(tx, realm_id, user_id, _RECOVERY, _listed(recovery), now_us)
        return True

    def delete(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> bool:
        """Remove all of it; whether there was one that counted."""
        for kind in (_PENDING, _RECOVERY):
            tx.run(_DELETE, **_key(realm_id, user_id, kind))
        return tx.run(_DELETE, **_key(realm_id, user_id, _ACTIVE)) == 1

    def claim_step(self, tx: Tx, realm_id: RealmId, user_id: UUID, step: int, expires_us: int) -> bool:
        """Whether this is the first use of a step of the user's."""
        return claim(tx, SingleUse.TOTP_STEP, realm_id, (user_id.hex, str(step)), expires_us)

    def claim_recovery_code(
        self, tx: Tx, realm_id: RealmId, user_id: UUID, code: bytes, expires_us: int
    ) -> bool:
        """Whether this is the first use of a recovery code of the user's."""
        return claim(tx, SingleUse.RECOVERY_CODE, realm_id, (user_id.hex, code.hex()), expires_us)

    def _data(self, tx: Tx, realm_id: RealmId, user_id: UUID, kind: str) -> str | None:
        row = tx.one(_FIND, realm_id=realm_id, user_id=user_id, kind=kind)
        return None if row is None else row[0]

    def _put(self, tx: Tx, realm_id: RealmId, user_id: UUID, kind: str, data: str, now_us: int) -> None:
        tx.run(_DELETE, **_key(realm_id, user_id, kind))
        tx.run(_INSERT, realm_id=realm_id, user_id=user_id, kind=kind, data=data, created_us=now_us)


def _key(realm_id: RealmId, user_id: UUID, kind: str) -> dict[str, Any]:
    return {"of_realm": realm_id, "of_user": user_id, "of_kind": kind}


def _text(sealed: bytes) -> str:
    return base64.b64encode(sealed).decode()


def _listed(recovery: Iterable[bytes]) -> str:
    return json.dumps(sorted(code.hex() for code in recovery))
