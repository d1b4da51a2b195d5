"""Users, their passwords and their roles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from qimem.identity.models import UserRecord
from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.storage.schema import Identifier, app_user, credential, oauth_grant, user_role
from qimem.storage.statement import insert_if_absent, sql

_REALM: sa.BindParameter[str] = sa.bindparam("realm_id")
_USER = sa.select(*app_user.c).where(app_user.c.realm_id == _REALM)
_FIND = sql(_USER.where(app_user.c.user_id == sa.bindparam("user_id")))
_FIND_BY_NAME = sql(_USER.where(app_user.c.username_key == sa.bindparam("username_key")))
_ROLES = sql(
    sa.select(user_role.c.role)
    .where(user_role.c.realm_id == _REALM, user_role.c.user_id == sa.bindparam("user_id"))
    .order_by(user_role.c.position)
)
_PASSWORD = sql(
    sa.select(credential.c.data).where(
        credential.c.realm_id == _REALM,
        credential.c.user_id == sa.bindparam("user_id"),
        credential.c.kind == sa.bindparam("kind"),
    )
)
_AFTER = sa.bindparam("after", type_=sa.Text)
_PAGE = sql(
    _USER.where(app_user.c.username_key > _AFTER)
    .order_by(app_user.c.username_key)
    .limit(sa.bindparam("count", type_=sa.Integer))
)
# One question for the roles of a whole page: by name and not by id, so that it is a range.
_ROLES_OF_PAGE = sql(
    sa.select(user_role.c.user_id, user_role.c.role)
    .join(
        app_user,
        sa.and_(app_user.c.realm_id == user_role.c.realm_id, app_user.c.user_id == user_role.c.user_id),
    )
    .where(
        app_user.c.realm_id == _REALM,
        user_role.c.realm_id == _REALM,
        app_user.c.username_key > _AFTER,
        app_user.c.username_key <= sa.bindparam("last", type_=sa.Text),
    )
    .order_by(app_user.c.username_key, user_role.c.position)
)
_SET_ENABLED = sql(
    sa.update(app_user)
    .where(app_user.c.realm_id == sa.bindparam("of_realm"), app_user.c.user_id == sa.bindparam("of_user"))
    .values(enabled=sa.bindparam("to_enabled"))
)
_ONE = (app_user.c.realm_id == sa.bindparam("of_realm"), app_user.c.user_id == sa.bindparam("of_user"))
# The name is looked for first: two databases tell of a violated constraint in two ways, and one of them late.
_TAKEN = sql(
    sa.select(app_user.c.user_id).where(
        app_user.c.realm_id == sa.bindparam("of_realm"),
        app_user.c.username_key == sa.bindparam("key"),
        app_user.c.user_id != sa.bindparam("of_user", type_=Identifier),
    )
)
_UPDATE = sql(
    sa.update(app_user)
    .where(*_ONE)
    .values(
        username=sa.bindparam("to_username"),
        username_key=sa.bindparam("to_key"),
        email=sa.bindparam("to_email", type_=sa.Text),
    )
)
_CLEAR_ROLES = sql(
    sa.delete(user_role).where(
        user_role.c.realm_id == sa.bindparam("of_realm"), user_role.c.user_id == sa.bindparam("of_user")
    )
)
_SET_PASSWORD = sql(
    sa.update(credential)
    .where(
        credential.c.realm_id == sa.bindparam("of_realm"),
        credential.c.user_id == sa.bindparam("of_user"),
        credential.c.kind == sa.bindparam("of_kind"),
    )
    .values(data=sa.bindparam("to_data"), created_us=sa.bindparam("to_created", type_=sa.BigInteger))
)
_RENEW_PASSWORD = sql(
    sa.update(credential)
    .where(
        credential.c.realm_id == sa.bindparam("of_realm"),
        credential.c.user_id == sa.bindparam("of_user"),
        credential.c.kind == sa.bindparam("of_kind"),
        credential.c.data == sa.bindparam("of_data"),
    )
    .values(data=sa.bindparam("to_data"))
)
# What refers to the user goes first.
_DELETE = tuple(
    sql(
        sa.delete(table).where(
            table.c.realm_id == sa.bindparam("of_realm"), table.c.user_id == sa.bindparam("of_user")
        )
    )
    for table in (oauth_grant, user_role, credential, app_user)
)
_INSERT = insert_if_absent(app_user, returning=app_user.c.user_id)
_INSERT_CREDENTIAL = sql(
    sa.insert(credential).values({column.name: sa.bindparam(column.name) for column in credential.c})
)
_INSERT_ROLE = sql(
    sa.insert(user_role).values({column.name: sa.bindparam(column.name) for column in user_role.c})
)
_KIND = "password"
_KEY_COLUMN = list(app_user.c.keys()).index("username_key")


class UserRepository:
    """Implements `identity.ports.UserStore`."""

    def insert(self, tx: Tx, user: UserRecord, password_hash: str) -> bool:
        """Add a user with password and roles; False when the username is taken."""
        one: dict[str, Any] = {"realm_id": user.realm_id, "user_id": user.user_id}
        added = tx.one(
            _INSERT,
            **one,
            username=user.username,
            username_key=user.username_key,
            email=user.email,
            enabled=user.enabled,
            created_us=user.created_us,
        )
        if added is None:
            return False
        tx.run(_INSERT_CREDENTIAL, **one, kind=_KIND, data=password_hash, created_us=user.created_us)
        self._add_roles(tx, one, user.roles)
        return True

    def find(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> UserRecord | None:
        """The user by id."""
        row = tx.one(_FIND, realm_id=realm_id, user_id=user_id)
        return None if row is None else self._user(tx, row)

    def page(self, tx: Tx, realm_id: RealmId, *, after: str | None, limit: int) -> Sequence[UserRecord]:
        """Users in order of their canonical names, which are never empty."""
        begin = {"realm_id": realm_id, "after": after or ""}
        rows = list(tx.all(_PAGE, **begin, count=limit))
        if not rows:
            return []
        roles: dict[UUID, list[str]] = {}
        for user_id, role in tx.all(_ROLES_OF_PAGE, **begin, last=rows[-1][_KEY_COLUMN]):
            roles.setdefault(user_id, []).append(role)
        return [_known(row, roles.get(row[1], ())) for row in rows]

    def set_enabled(self, tx: Tx, realm_id: RealmId, user_id: UUID, *, enabled: bool) -> None:
        """Let the user in, or not."""
        tx.run(_SET_ENABLED, of_realm=realm_id, of_user=user_id, to_enabled=enabled)

    def update(self, tx: Tx, user: UserRecord) -> bool:
        """Write name and e-mail address; False when another user has the name."""
        one: dict[str, Any] = {"of_realm": user.realm_id, "of_user": user.user_id}
        if tx.one(_TAKEN, **one, key=user.username_key) is not None:
            return False
        tx.run(_UPDATE, **one, to_username=user.username, to_key=user.username_key, to_email=user.email)
        return True

    def set_roles(self, tx: Tx, realm_id: RealmId, user_id: UUID, roles: Sequence[str]) -> None:
        """Give the user these roles and no others."""
        tx.run(_CLEAR_ROLES, of_realm=realm_id, of_user=user_id)
        self._add_roles(tx, {"realm_id": realm_id, "user_id": user_id}, roles)

    def set_password(self, tx: Tx, realm_id: RealmId, user_id: UUID, phc: str, now_us: int) -> None:
        """Replace the password."""
        tx.run(
            _SET_PASSWORD, of_realm=realm_id, of_user=user_id, of_kind=_KIND, to_data=phc, to_created=now_us
        )

    def renew_password(self, tx: Tx, realm_id: RealmId, user_id: UUID, old: str, new: str) -> None:
        """Store another hash of the same password; nothing if the old one is not stored any more."""
        tx.run(_RENEW_PASSWORD, of_realm=realm_id, of_user=user_id, of_kind=_KIND, of_data=old, to_data=new)

    def password(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> str | None:
        """The stored password hash."""
        row = tx.one(_PASSWORD, realm_id=realm_id, user_id=user_id, kind=_KIND)
        return None if row is None else row[0]

    def delete(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> None:
        """Remove the user with credentials, roles and grants."""
        for statement in _DELETE:
            tx.run(statement, of_realm=realm_id, of_user=user_id)

    def find_by_username(self, tx: Tx, realm_id: RealmId, username_key: str) -> tuple[UserRecord, str] | None:
        """The user by canonical name, with the stored password hash."""
        row = tx.one(_FIND_BY_NAME, realm_id=realm_id, username_key=username_key)
        if row is None:
            return None
        user = self._user(tx, row)
        password = tx.one(_PASSWORD, realm_id=realm_id, user_id=user.user_id, kind=_KIND)
        return None if password is None else (user, password[0])

    def _add_roles(self, tx: Tx, one: dict[str, Any], roles: Sequence[str]) -> None:
        for position, role in enumerate(roles):
            tx.run(_INSERT_ROLE, **one, role=role, position=position)

    def _user(self, tx: Tx, row: tuple[Any, ...]) -> UserRecord:
        roles = tx.all(_ROLES, realm_id=row[0], user_id=row[1])
        return _known(row, [role for (role,) in roles])


def _known(row: tuple[Any, ...], roles: Sequence[str]) -> UserRecord:
    realm_id, user_id, username, username_key, email, enabled, created_us = row
    return UserRecord(
        realm_id=realm_id,
        user_id=user_id,
        username=username,
        username_key=username_key,
        email=email,
        enabled=enabled,
        roles=tuple(roles),
        created_us=created_us,
    )
