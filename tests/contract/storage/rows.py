"""Statements and small functions that the storage tests share."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.storage.schema import epoch, instance, realm, role, spent
from qimem.storage.statement import sql

ACME = RealmId("acme")

INSERT_REALM = sql(sa.insert(realm).values({column.name: sa.bindparam(column.name) for column in realm.c}))
INSERT_EPOCH = sql(sa.insert(epoch).values(realm_id=sa.bindparam("realm_id"), n=1))
INSERT_ROLE = sql(sa.insert(role).values({column.name: sa.bindparam(column.name) for column in role.c}))
INSERT_INSTANCE = sql(
    sa.insert(instance).values({column.name: sa.bindparam(column.name) for column in instance.c})
)
REALM_NAMES = sql(sa.select(realm.c.name).order_by(realm.c.name))
COUNT_SPENT = sql(sa.select(sa.func.count()).select_from(spent))
CLAIM = sql(
    insert(spent)
    .values({column.name: sa.bindparam(column.name) for column in spent.c})
    .on_conflict_do_nothing()
    .returning(spent.c.kind)
)
EXPIRY = sql(
    sa.select(spent.c.expires_us).where(
        spent.c.realm_id == sa.bindparam("realm_id"), spent.c.key_digest == sa.bindparam("key_digest")
    )
)
SET_EXPIRY = sql(
    sa.update(spent)
    .where(spent.c.realm_id == sa.bindparam("of_realm"), spent.c.key_digest == sa.bindparam("of_key"))
    .values(expires_us=sa.bindparam("to_us"))
)


def add_realm(tx: Tx, name: str = "acme") -> None:
    """A realm with its epoch."""
    tx.run(
        INSERT_REALM,
        realm_id=name,
        name=name,
        enabled=True,
        created_us=1,
        deleted_us=None,
        password_min_length=8,
        allow_password_grant=True,
        refresh_grace_seconds=10,
    )
    tx.run(INSERT_EPOCH, realm_id=name)


def add_role(tx: Tx, name: str, realm_id: str = "acme") -> None:
    tx.run(INSERT_ROLE, realm_id=realm_id, name=name, built_in=False, created_us=1)


def names(tx: Tx) -> list[str]:
    """Names of all realms."""
    return [row[0] for row in tx.all(REALM_NAMES)]


def claim(tx: Tx, key: bytes, expires_us: int = 1) -> bool:
    """Whether this caller is the one for whom it happens."""
    row = tx.one(CLAIM, realm_id="acme", kind="code", key_digest=key, expires_us=expires_us)
    return row is not None
