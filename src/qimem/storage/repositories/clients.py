"""Clients and the roles of their service accounts."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.transaction import Tx
from qimem.oauth.models import AuthMethod, ClientRecord
from qimem.storage.schema import client, client_role
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
_INSERT = sql(sa.insert(client).values({column.name: sa.bindparam(column.name) for column in client.c}))
_INSERT_ROLE = sql(
    sa.insert(client_role).values({column.name: sa.bindparam(column.name) for column in client_role.c})
)


class ClientRepository:
    """Implements `oauth.ports.ClientStore`."""

    def insert(self, tx: Tx, record: ClientRecord) -> None:
        """Add a client with the roles of its service account."""
        tx.run(
            _INSERT,
            realm_id=record.realm_id,
            client_id=record.client_id,
            name=record.name,
            secret_digest=record.secret_digest,
            auth_method=record.auth_method.value,
            grant_types=json.dumps(record.grant_types),
            redirect_uris=json.dumps(record.redirect_uris),
            scope=record.scope,
            tier=record.tier,
            metadata=record.metadata,
            enabled=record.enabled,
            created_us=record.created_us,
        )
        for position, role in enumerate(record.roles):
            tx.run(
                _INSERT_ROLE,
                realm_id=record.realm_id,
                client_id=record.client_id,
                role=role,
                position=position,
            )

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


def _client(row: tuple[Any, ...], roles: tuple[str, ...]) -> ClientRecord:
    named = dict(zip(client.c.keys(), row, strict=True))
    return ClientRecord(
        realm_id=RealmId(named["realm_id"]),
        client_id=ClientId(named["client_id"]),
        name=named["name"],
        secret_digest=None if named["secret_digest"] is None else bytes(named["secret_digest"]),
        auth_method=AuthMethod(named["auth_method"]),
        grant_types=tuple(json.loads(named["grant_types"])),
        redirect_uris=tuple(json.loads(named["redirect_uris"])),
        scope=named["scope"],
        tier=named["tier"],
        enabled=named["enabled"],
        roles=roles,
        metadata=named["metadata"],
        created_us=named["created_us"],
    )
