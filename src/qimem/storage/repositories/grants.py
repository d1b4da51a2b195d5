"""Grants, and access tokens that died early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.oauth.models import GrantRecord
from qimem.storage.repositories.single_use import SingleUse, claim, is_claimed
from qimem.storage.schema import Identifier, oauth_grant
from qimem.storage.statement import sql

_ONE = (
    oauth_grant.c.realm_id == sa.bindparam("of_realm"),
    oauth_grant.c.grant_id == sa.bindparam("of_grant"),
)
_INSERT = sql(
    sa.insert(oauth_grant).values({column.name: sa.bindparam(column.name) for column in oauth_grant.c})
)
_FIND = sql(sa.select(*oauth_grant.c).where(*_ONE))
# The whole rule of rotation in one statement: the current generation, alive, moves on by one.
_ROTATE = sql(
    sa.update(oauth_grant)
    .where(
        *_ONE,
        oauth_grant.c.generation == sa.bindparam("presented"),
        oauth_grant.c.revoked_us.is_(None),
        oauth_grant.c.expires_us > sa.bindparam("now_us", type_=sa.BigInteger),
    )
    .values(
        generation=oauth_grant.c.generation + 1,
        rotated_us=sa.bindparam("now_us", type_=sa.BigInteger),
        rotated_by_client=sa.bindparam("by_client"),
    )
    .returning(*oauth_grant.c)
)
_REVOKE = sql(
    sa.update(oauth_grant)
    .where(*_ONE, oauth_grant.c.revoked_us.is_(None))
    .values(revoked_us=sa.bindparam("now_us"))
    .returning(oauth_grant.c.grant_id)
)

_OF_USER = (
    oauth_grant.c.realm_id == sa.bindparam("of_realm"),
    oauth_grant.c.user_id == sa.bindparam("of_user"),
    oauth_grant.c.revoked_us.is_(None),
)
_LIST = sql(
    sa.select(*oauth_grant.c)
    .where(
        *_OF_USER,
        oauth_grant.c.grant_id > sa.bindparam("after", type_=Identifier),
        oauth_grant.c.expires_us > sa.bindparam("now_us", type_=sa.BigInteger),
    )
    .order_by(oauth_grant.c.grant_id)
    .limit(sa.bindparam("count", type_=sa.Integer))
)
_REVOKE_ALL = sql(sa.update(oauth_grant).where(*_OF_USER).values(revoked_us=sa.bindparam("now_us")))
_REVOKE_OF_USER = sql(
    sa.update(oauth_grant)
    .where(*_OF_USER, oauth_grant.c.grant_id == sa.bindparam("of_grant"))
    .values(revoked_us=sa.bindparam("now_us"))
)


class GrantRepository:
    """Implements `oauth.ports.GrantStore`."""

    def insert(self, tx: Tx, grant: GrantRecord) -> None:
        """Add a grant."""
        tx.run(_INSERT, **{column: getattr(grant, column) for column in oauth_grant.c.keys()})  # noqa: SIM118

    def find(self, tx: Tx, realm_id: RealmId, grant_id: UUID) -> GrantRecord | None:
        """The grant as it stands."""
        return _grant(tx.one(_FIND, of_realm=realm_id, of_grant=grant_id))

    def rotate(
        self, tx: Tx, realm_id: RealmId, grant_id: UUID, *, presented: int, now_us: int, by_client: bool
    ) -> GrantRecord | None:
        """Move to the next generation if `presented` is the current one and the grant lives."""
        row = tx.one(
            _ROTATE,
            of_realm=realm_id,
            of_grant=grant_id,
            presented=presented,
            now_us=now_us,
            by_client=by_client,
        )
        return _grant(row)

    def revoke(self, tx: Tx, realm_id: RealmId, grant_id: UUID, now_us: int) -> bool:
        """Revoke; whether it was alive before."""
        return tx.one(_REVOKE, of_realm=realm_id, of_grant=grant_id, now_us=now_us) is not None

    def of_user(
        self, tx: Tx, realm_id: RealmId, user_id: UUID, *, now_us: int, after: UUID | None, limit: int
    ) -> Sequence[GrantRecord]:
        """Living grants of a user in order of their ids."""
        of_user = {"of_realm": realm_id, "of_user": user_id}
        rows = tx.all(_LIST, **of_user, after=after or UUID(int=0), now_us=now_us, count=limit)
        return [GrantRecord(*row) for row in rows]

    def revoke_of_user(
        self, tx: Tx, realm_id: RealmId, user_id: UUID, *, grant_id: UUID | None, now_us: int
    ) -> int:
        """Revoke one grant of the user, or all of theirs."""
        of_user = {"of_realm": realm_id, "of_user": user_id, "now_us": now_us}
        if grant_id is None:
            return tx.run(_REVOKE_ALL, **of_user)
        return tx.run(_REVOKE_OF_USER, **of_user, of_grant=grant_id)

    def revoke_access_token(self, tx: Tx, realm_id: RealmId, token_id: str, expires_us: int) -> bool:
        """Remember a dead token until it would have expired; False when it was dead already."""
        return claim(tx, SingleUse.REVOKED_TOKEN, realm_id, (token_id,), expires_us)

    def is_access_token_revoked(self, tx: Tx, realm_id: RealmId, token_id: str) -> bool:
        """Whether the token died early."""
        return is_claimed(tx, SingleUse.REVOKED_TOKEN, realm_id, (token_id,))


def _grant(row: tuple[Any, ...] | None) -> GrantRecord | None:
    return None if row is None else GrantRecord(*row)
