"""Roles, what they permit and who has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from qimem.identity.models import RoleRecord
from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.storage.schema import client_role, role, role_permission, user_role
from qimem.storage.statement import insert_if_absent, sql

_REALM: sa.BindParameter[str] = sa.bindparam("realm_id")
_INSERT = insert_if_absent(role, returning=role.c.name)
_INSERT_PERMISSION = sql(
    sa.insert(role_permission).values(
        {column.name: sa.bindparam(column.name) for column in role_permission.c}
    )
)
_FIND = sql(
    sa.select(role.c.realm_id, role.c.name, role.c.built_in, role.c.created_us).where(
        role.c.realm_id == _REALM, role.c.name == sa.bindparam("name")
    )
)
_PERMISSIONS = sql(
    sa.select(role_permission.c.permission)
    .where(role_permission.c.realm_id == _REALM, role_permission.c.role == sa.bindparam("role"))
    .order_by(role_permission.c.position)
)
_AFTER: sa.BindParameter[str] = sa.bindparam("after", type_=sa.Text)
_PAGE = sql(
    sa.select(role.c.realm_id, role.c.name, role.c.built_in, role.c.created_us)
    .where(role.c.realm_id == _REALM, role.c.name > _AFTER)
    .order_by(role.c.name)
    .limit(sa.bindparam("count", type_=sa.Integer))
)
# One question for the permissions of a whole page.
_PERMISSIONS_OF_PAGE = sql(
    sa.select(role_permission.c.role, role_permission.c.permission)
    .where(
        role_permission.c.realm_id == _REALM,
        role_permission.c.role > _AFTER,
        role_permission.c.role <= sa.bindparam("last", type_=sa.Text),
    )
    .order_by(role_permission.c.role, role_permission.c.position)
)
_CLEAR = sql(
    sa.delete(role_permission).where(
        role_permission.c.realm_id == sa.bindparam("of_realm"),
        role_permission.c.role == sa.bindparam("of_role"),
    )
)
# What refers to the role goes first.
_DELETE = (
    *(
        sql(
            sa.delete(table).where(
                table.c.realm_id == sa.bindparam("of_realm"), table.c.role == sa.bindparam("of_role")
            )
        )
        for table in (user_role, client_role, role_permission)
    ),
    sql(
        sa.delete(role).where(
            role.c.realm_id == sa.bindparam("of_realm"), role.c.name == sa.bindparam("of_role")
        )
    ),
)
_OF_USER = sql(
    sa.select(role_permission.c.permission).where(
        user_role.c.realm_id == _REALM,
        user_role.c.user_id == sa.bindparam("user_id"),
        role_permission.c.realm_id == user_role.c.realm_id,
        role_permission.c.role == user_role.c.role,
    )
)
_OF_CLIENT = sql(
    sa.select(role_permission.c.permission).where(
        client_role.c.realm_id == _REALM,
        client_role.c.client_id == sa.bindparam("client_id"),
        role_permission.c.realm_id == client_role.c.realm_id,
        role_permission.c.role == client_role.c.role,
    )
)


class RoleRepository:
    """Implements `identity.ports.RoleStore`."""

    def insert(self, tx: Tx, record: RoleRecord) -> bool:
        """Add a role with its permissions; False when the name is taken."""
        added = tx.one(
            _INSERT,
            realm_id=record.realm_id,
            name=record.name,
            built_in=record.built_in,
            created_us=record.created_us,
        )
        if added is None:
            return False
        self._add_permissions(tx, record)
        return True

    def page(self, tx: Tx, realm_id: RealmId, *, after: str | None, limit: int) -> Sequence[RoleRecord]:
        """Roles in order of their names, which are never empty."""
        begin = {"realm_id": realm_id, "after": after or ""}
        rows = list(tx.all(_PAGE, **begin, count=limit))
        if not rows:
            return []
        permissions: dict[str, list[str]] = {}
        for name, permission in tx.all(_PERMISSIONS_OF_PAGE, **begin, last=rows[-1][1]):
            permissions.setdefault(name, []).append(permission)
        return [_known(row, permissions.get(row[1], ())) for row in rows]

    def set_permissions(self, tx: Tx, record: RoleRecord) -> None:
        """Have the role carry what the record says."""
        tx.run(_CLEAR, of_realm=record.realm_id, of_role=record.name)
        self._add_permissions(tx, record)

    def delete(self, tx: Tx, realm_id: RealmId, name: str) -> None:
        """Remove the role, and from all who have it."""
        for statement in _DELETE:
            tx.run(statement, of_realm=realm_id, of_role=name)

    def _add_permissions(self, tx: Tx, record: RoleRecord) -> None:
        for position, permission in enumerate(record.permissions):
            tx.run(
                _INSERT_PERMISSION,
                realm_id=record.realm_id,
                role=record.name,
                permission=permission,
                position=position,
            )

    def find_many(self, tx: Tx, realm_id: RealmId, names: Sequence[str]) -> Sequence[RoleRecord]:
        """The roles that exist among the names."""
        found = []
        for name in names:
            row = tx.one(_FIND, realm_id=realm_id, name=name)
            if row is not None:
                permissions = tx.all(_PERMISSIONS, realm_id=realm_id, role=name)
                found.append(_known(row, [permission for (permission,) in permissions]))
        return found

    def permissions_of_user(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> frozenset[str]:
        """Every permission of every role the user has."""
        rows = tx.all(_OF_USER, realm_id=realm_id, user_id=user_id)
        return frozenset(permission for (permission,) in rows)

    def permissions_of_client(self, tx: Tx, realm_id: RealmId, client_id: str) -> frozenset[str]:
        """Every permission of every role of the client's own service account."""
        rows = tx.all(_OF_CLIENT, realm_id=realm_id, client_id=client_id)
        return frozenset(permission for (permission,) in rows)


def _known(row: tuple[Any, ...], permissions: Sequence[str]) -> RoleRecord:
    realm_id, name, built_in, created_us = row
    return RoleRecord(realm_id, name, tuple(permissions), built_in=built_in, created_us=created_us)
