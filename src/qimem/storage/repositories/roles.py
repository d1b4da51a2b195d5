"""Roles, what they permit and who has them."""

from __future__ import annotations

from collections.abc import Sequence
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
        for position, permission in enumerate(record.permissions):
            tx.run(
                _INSERT_PERMISSION,
                realm_id=record.realm_id,
                role=record.name,
                permission=permission,
                position=position,
            )
        return True

    def find_many(self, tx: Tx, realm_id: RealmId, names: Sequence[str]) -> Sequence[RoleRecord]:
        """The roles that exist among the names."""
        found = []
        for name in names:
            row = tx.one(_FIND, realm_id=realm_id, name=name)
            if row is not None:
                permissions = tx.all(_PERMISSIONS, realm_id=realm_id, role=name)
                found.append(
                    RoleRecord(
                        realm_id=row[0],
                        name=row[1],
                        permissions=tuple(permission for (permission,) in permissions),
                        built_in=row[2],
                        created_us=row[3],
                    )
                )
        return found

    def permissions_of_user(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> frozenset[str]:
        """Every permission of every role the user has."""
        rows = tx.all(_OF_USER, realm_id=realm_id, user_id=user_id)
        return frozenset(permission for (permission,) in rows)

    def permissions_of_client(self, tx: Tx, realm_id: RealmId, client_id: str) -> frozenset[str]:
        """Every permission of every role of the client's own service account."""
        rows = tx.all(_OF_CLIENT, realm_id=realm_id, client_id=client_id)
        return frozenset(permission for (permission,) in rows)
