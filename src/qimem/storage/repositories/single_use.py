"""Things that may happen once: one insert decides, whatever the number of workers and nodes.

Every entry has a kind from a closed set and a digest over a canonical tuple, inside one realm, so
that nothing of one kind or realm can stand for another's (Keycloak CVE-2026-4282). Nothing here
deletes an entry before what it stands for has expired by itself.
"""

from __future__ import annotations

import struct
from enum import StrEnum

import sqlalchemy as sa

from qimem.crypto.mac import digest
from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.storage.schema import spent
from qimem.storage.statement import insert_if_absent, sql


class SingleUse(StrEnum):
    """Kinds of things that happen once."""

    TOTP_STEP = "totp_step"
    RECOVERY_CODE = "recovery_code"
    REVOKED_TOKEN = "revoked_token"  # noqa: S105 - a kind, not a secret


_CLAIM = insert_if_absent(spent, returning=spent.c.kind)
_FIND = sql(
    sa.select(spent.c.expires_us).where(
        spent.c.realm_id == sa.bindparam("realm_id"),
        spent.c.kind == sa.bindparam("kind"),
        spent.c.key_digest == sa.bindparam("key_digest"),
    )
)


def claim(tx: Tx, kind: SingleUse, realm_id: RealmId, key: tuple[str, ...], expires_us: int) -> bool:
    """Whether this caller is the one and only for whom it happens.

    Args:
        tx: The transaction of the effect: if that is undone, so is the claim.
        kind: What sort of thing is used.
        realm_id: Where.
        key: What is used, as a tuple of parts.
        expires_us: When the thing could no longer be used anyway.
    """
    row = tx.one(_CLAIM, realm_id=realm_id, kind=kind.value, key_digest=digest_of(key), expires_us=expires_us)
    return row is not None


def is_claimed(tx: Tx, kind: SingleUse, realm_id: RealmId, key: tuple[str, ...]) -> bool:
    """Whether it has happened."""
    return tx.one(_FIND, realm_id=realm_id, kind=kind.value, key_digest=digest_of(key)) is not None


def digest_of(key: tuple[str, ...]) -> bytes:
    """What stands for a tuple of parts: lengths before parts, so that no two tuples share one."""
    parts = [part.encode() for part in key]
    return digest(b"".join(struct.pack(">I", len(part)) + part for part in parts))
