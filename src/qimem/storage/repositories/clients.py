"""Clients and the roles of their service accounts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.transaction import Tx
from qimem.oauth.models import AuthMethod, ClientRecord
from qimem.storage.schema import client, client_role, oauth_grant
from qimem.storage.statement import sql

_FIND = sql(
    sa.select(*client.c).where(
        client.c.realm_id == sa.bindparam("realm_id"), client.c.client_id == sa.bindparam("client_id")
    )
)
_FIND_REALM = sql(sa.select(client.c.realm_id).where(client.c.client_id == sa.bindparam("client_id")))
_ROLES = sql(
    sa.select(client_role.c.role)
    .where(
        client_role.c.realm_id == sa.bindparam("realm_id"),
        client_role.c.client_id == sa.bindparam("client_id"),
    )
    .order_by(client_role.c.position)
)
_PAGE = sql(
    sa.select(*client.c)
    .where(
        client.c.realm_id == sa.bindparam("realm_id"),
        client.c.client_id > sa.bindparam("after", type_=sa.Text),
    )
    .order_by(client.c.client_id)
    .limit(sa.bindparam("count", type_=sa.Integer))
)
# One question for the roles of a whole page.
_ROLES_OF_PAGE = sql(
    sa.select(client_role.c.client_id, client_role.c.role)
    .where(
        client_role.c.realm_id == sa.bindparam("realm_id"),
        client_role.c.client_id > sa.bindparam("after", type_=sa.Text),
        client_role.c.client_id <= sa.bindparam("last", type_=sa.Text),
    )
    .order_by(client_role.c.client_id, client_role.c.position)
)
_UPDATABLE = (
    "name", "secret_digest", "previous_digest", "previous_until_us", "auth_method", "grant_types", "redirect_uris",
    "scope", "tier", "metadata", "enabled", "refresh_grace_seconds", "refresh_requires_client",
)  # fmt: skip
_UPDATE = sql(
    sa.update(client)
    .where(client.c.realm_id == sa.bindparam("of_realm"), client.c.client_id == sa.bindparam("of_client"))
    .values({name: sa.bindparam(f"to_{name}", type_=client.c[name].type) for name in _UPDATABLE})
)
# What refers to the client goes first.
_DELETE = tuple(
    sql(
        sa.delete(table).where(
            table.c.realm_id == sa.bindparam("of_realm"), table.c.client_id == sa.bindparam("of_client")
        )
    )
    for table in (oauth_grant, client_role, client)
)
_CLEAR_ROLES = _DELETE[1]
_INSERT = sql(sa.insert(client).values({column.name: sa.bindparam(column.name) for column in client.c}))
_INSERT_ROLE = sql(
    sa.insert(client_role).values({column.name: sa.bindparam(column.name) for column in client_role.c})
)

_ID_COLUMN = list(client.c.keys()).index("client_id")


class ClientRepository:
    """Implements `oauth.ports.ClientStore`."""

    def insert(self, tx: Tx, record: ClientRecord) -> None:
        """Add a client with the roles of its service account."""
        tx.run(_INSERT, **_columns(record))
        self._add_roles(tx, record.realm_id, record.client_id, record.roles)

    def page(self, tx: Tx, realm_id: RealmId, *, after: str | None, limit: int) -> Sequence[ClientRecord]:
        """Clients in order of their ids, which are never empty."""
        begin = {"realm_id": realm_id, "after": after or ""}
        rows = list(tx.all(_PAGE, **begin, count=limit))
        if not rows:
            return []
        roles: dict[str, list[str]] = {}
        for client_id, role in tx.all(_ROLES_OF_PAGE, **begin, last=rows[-1][_ID_COLUMN]):
            roles.setdefault(client_id, []).append(role)
        return [_client(row, tuple(roles.get(row[_ID_COLUMN], ()))) for row in rows]

    def update(self, tx: Tx, record: ClientRecord) -> None:
        """Write all of it but its roles."""
        values = _columns(record)
        tx.run(
            _UPDATE,
            of_realm=record.realm_id,
            of_client=record.client_id,
            **{f"to_{name}": values[name] for name in _UPDATABLE},
        )

    def set_roles(self, tx: Tx, realm_id: RealmId, client_id: str, roles: Sequence[str]) -> None:
        """Give the client these roles and no others."""
        tx.run(_CLEAR_ROLES, of_realm=realm_id, of_client=client_id)
        self._add_roles(tx, realm_id, client_id, roles)

    def delete(self, tx: Tx, realm_id: RealmId, client_id: str) -> None:
        """Remove the client with its roles and every grant through it."""
        for statement in _DELETE:
            tx.run(statement, of_realm=realm_id, of_client=client_id)

    def _add_roles(self, tx: Tx, realm_id: RealmId, client_id: str, roles: Sequence[str]) -> None:
        for position, role in enumerate(roles):
            tx.run(_INSERT_ROLE, realm_id=realm_id, client_id=client_id, role=role, position=position)

    def find(self, tx: Tx, realm_id: RealmId, client_id: str) -> ClientRecord | None:
        """The client inside this realm."""
        row = tx.one(_FIND, realm_id=realm_id, client_id=client_id)
        if row is None:
            return None
        roles = tx.all(_ROLES, realm_id=realm_id, client_id=client_id)
        return _client(row, tuple(role for (role,) in roles))

    def find_realm(self, tx: Tx, client_id: str) -> RealmId | None:
        """The realm a client id belongs to."""
        row = tx.one(_FIND_REALM, client_id=client_id)
        return None if row is None else RealmId(row[0])


def _columns(record: ClientRecord) -> dict[str, Any]:
    return {
        "realm_id": record.realm_id,
        "client_id": record.client_id,
        "name": record.name,
        "secret_digest": record.secret_digest,
        "previous_digest": record.previous_digest,
        "previous_until_us": record.previous_until_us,
        "auth_method": record.auth_method.value,
        "grant_types": json.dumps(record.grant_types),
        "redirect_uris": json.dumps(record.redirect_uris),
        "scope": record.scope,
        "tier": record.tier,
        "metadata": record.metadata,
        "enabled": record.enabled,
        "created_us": record.created_us,
        "refresh_grace_seconds": record.refresh_grace_seconds,
        "refresh_requires_client": record.refresh_requires_client,
    }


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _client(row: tuple[Any, ...], roles: tuple[str, ...]) -> ClientRecord:
    named = dict(zip(client.c.keys(), row, strict=True))
    return ClientRecord(
        realm_id=RealmId(named["realm_id"]),
        client_id=ClientId(named["client_id"]),
        name=named["name"],
        secret_digest=_bytes(named["secret_digest"]),
        previous_digest=_bytes(named["previous_digest"]),
        previous_until_us=named["previous_until_us"],
        auth_method=AuthMethod(named["auth_method"]),
        grant_types=tuple(json.loads(named["grant_types"])),
        redirect_uris=tuple(json.loads(named["redirect_uris"])),
        scope=named["scope"],
        tier=named["tier"],
        enabled=named["enabled"],
        roles=roles,
        metadata=named["metadata"],
        created_us=named["created_us"],
        refresh_grace_seconds=named["refresh_grace_seconds"],
        refresh_requires_client=bool(named["refresh_requires_client"]),
    )
