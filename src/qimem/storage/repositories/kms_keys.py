"""Keys and their versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from qimem.crypto.algorithms import Algorithm
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import MESSAGES_PER_VERSION_MAX
from qimem.kernel.transaction import Tx
from qimem.kms.models import KeyVersion, Purpose, StoredKek, WrappedKek, WrappedMaterial
from qimem.kms.root_keys import Generation
from qimem.storage.schema import Identifier, kms_key, kms_version, realm_kek, root_key
from qimem.storage.statement import insert_if_absent, sql

_REALM: sa.BindParameter[str] = sa.bindparam("realm_id")
_JOIN = kms_version.join(
    kms_key,
    sa.and_(kms_key.c.realm_id == kms_version.c.realm_id, kms_key.c.lineage_id == kms_version.c.lineage_id),
)
_IS_ACTIVE = kms_key.c.active_key_id == kms_version.c.key_id
_VERSION = (
    sa.select(
        kms_version.c.realm_id,
        kms_version.c.key_id,
        kms_version.c.lineage_id,
        kms_version.c.version,
        _IS_ACTIVE.label("active"),
        kms_version.c.enabled,
        kms_key.c.purpose,
        kms_key.c.algorithm,
        kms_key.c.name,
        kms_version.c.created_us,
    )
    .select_from(_JOIN)
    .where(kms_version.c.realm_id == _REALM)
)
_OF_PURPOSE = _VERSION.where(kms_key.c.purpose == sa.bindparam("purpose"))

_FIND_VERSION = sql(_OF_PURPOSE.where(kms_version.c.key_id == sa.bindparam("key_id")))
_FIND_ACTIVE = sql(_OF_PURPOSE.where(_IS_ACTIVE, kms_key.c.lineage_id == sa.bindparam("lineage_id")))
_FIND_ACTIVE_BY_NAME = sql(_OF_PURPOSE.where(_IS_ACTIVE, kms_key.c.name == sa.bindparam("name")))
_FIND_INTERNAL = sql(_OF_PURPOSE.order_by(kms_version.c.version.desc()))
_VERSIONS = sql(
    _VERSION.where(kms_version.c.lineage_id == sa.bindparam("lineage_id")).order_by(kms_version.c.version)
)
# The position of a key in the list is its own creation, not that of its active version: a rotation
# between two pages must not move it to where it is seen twice or never.
_LISTED = _OF_PURPOSE.add_columns(kms_key.c.created_us.label("listed_us")).where(
    _IS_ACTIVE,
    sa.tuple_(kms_key.c.created_us, kms_key.c.lineage_id)
    > sa.tuple_(
        sa.bindparam("after_us", type_=sa.BigInteger),
        sa.bindparam("after_id", type_=kms_key.c.lineage_id.type),
    ),
)
_LIST = sql(
    _LISTED.order_by(kms_key.c.created_us, kms_key.c.lineage_id).limit(
        sa.bindparam("count", type_=sa.Integer)
    )
)
_LIST_ONE = sql(_LISTED.where(kms_version.c.lineage_id == sa.bindparam("lineage_id")))
_MATERIAL = sql(
    sa.select(kms_version.c.wrapped, kms_version.c.kek_version).where(
        kms_version.c.realm_id == _REALM, kms_version.c.key_id == sa.bindparam("key_id")
    )
)
_INSERT_KEY = insert_if_absent(kms_key, returning=kms_key.c.lineage_id)
_INSERT_VERSION = sql(
    sa.insert(kms_version).values({column.name: sa.bindparam(column.name) for column in kms_version.c})
)
_SUCCEED = sql(
    sa.update(kms_key)
    .where(
        kms_key.c.realm_id == sa.bindparam("of_realm"),
        kms_key.c.lineage_id == sa.bindparam("of_lineage"),
        kms_key.c.active_key_id == sa.bindparam("old_key", type_=Identifier),
    )
    .values(active_key_id=sa.bindparam("new_key", type_=Identifier))
    .returning(kms_key.c.lineage_id)
)
_SET_ENABLED = (
    sa.update(kms_version)
    .where(kms_version.c.realm_id == sa.bindparam("of_realm"))
    .values(enabled=sa.bindparam("to_enabled"))
)
_SET_VERSION = sql(_SET_ENABLED.where(kms_version.c.key_id == sa.bindparam("of_key")))
_SET_LINEAGE = sql(_SET_ENABLED.where(kms_version.c.lineage_id == sa.bindparam("of_lineage")))

_BLOCK = sa.bindparam("block", type_=sa.BigInteger)
_LIMIT = sa.literal(MESSAGES_PER_VERSION_MAX, type_=sa.BigInteger)
_LEFT = _LIMIT - kms_version.c.messages_leased
_ONE = (
    kms_version.c.realm_id == sa.bindparam("of_realm"),
    kms_version.c.key_id == sa.bindparam("of_key"),
)
# A whole block while one is left, else the rest: two statements, each a single conditional update, so
# that no number of workers together passes the limit.
_LEASE_BLOCK = sql(
    sa.update(kms_version)
    .where(*_ONE, _LEFT >= _BLOCK)
    .values(messages_leased=kms_version.c.messages_leased + _BLOCK)
    .returning(kms_version.c.messages_leased)
)
_LEFTOVER = sql(sa.select(_LEFT).where(*_ONE))
_RETURN = sql(
    sa.update(kms_version)
    .where(*_ONE, kms_version.c.messages_leased >= _BLOCK)
    .values(messages_leased=kms_version.c.messages_leased - _BLOCK)
)
_INSERT_KEK = sql(
    sa.insert(realm_kek).values({column.name: sa.bindparam(column.name) for column in realm_kek.c})
)
_FIND_KEK = sql(
    sa.select(realm_kek.c.wrapped, root_key.c.key_check)
    .select_from(realm_kek.join(root_key))
    .where(realm_kek.c.realm_id == _REALM, realm_kek.c.version == sa.bindparam("version"))
)
_ROOT_GENERATIONS = sql(
    sa.select(root_key.c.generation, root_key.c.key_check, root_key.c.created_us).order_by(
        root_key.c.generation.desc()
    )
)
_NEWEST_KEK = sql(sa.select(sa.func.max(realm_kek.c.version)).where(realm_kek.c.realm_id == _REALM))


class KeyRepository:
    """Implements `kms.ports.KeyStore`."""

    def root_generations(self, tx: Tx) -> Sequence[Generation]:
        """The root keys in use, newest first."""
        rows = tx.all(_ROOT_GENERATIONS)
        return [Generation(number, bytes(check), created_us) for number, check, created_us in rows]

    def insert_kek(self, tx: Tx, realm_id: RealmId, kek: WrappedKek, now_us: int) -> None:
        """Add a wrapped key-encryption key of the realm."""
        tx.run(_INSERT_KEK, realm_id=realm_id, **kek._asdict(), created_us=now_us)

    def find_kek(self, tx: Tx, realm_id: RealmId, version: int) -> StoredKek | None:
        """The wrapped key-encryption key."""
        row = tx.one(_FIND_KEK, realm_id=realm_id, version=version)
        return None if row is None else StoredKek(bytes(row[0]), bytes(row[1]))

    def newest_kek_version(self, tx: Tx, realm_id: RealmId) -> int | None:
        """The version that new material is wrapped with."""
        row = tx.one(_NEWEST_KEK, realm_id=realm_id)
        return None if row is None else row[0]

    def insert_key(self, tx: Tx, version: KeyVersion, material: WrappedMaterial) -> bool:
        """Add a key with its first version; False when the name is taken."""
        added = tx.one(
            _INSERT_KEY,
            realm_id=version.realm_id,
            lineage_id=version.lineage_id,
            purpose=version.purpose.value,
            algorithm=version.algorithm.value,
            name=version.name,
            active_key_id=version.key_id,
            created_us=version.created_us,
        )
        if added is not None:
            self.add_version(tx, version, material)
        return added is not None

    def succeed(self, tx: Tx, old: KeyVersion, new: KeyVersion, material: WrappedMaterial) -> bool:
        """Put `new` in the place of `old` if that is still active."""
        if not self.activate(tx, old, new.key_id):
            return False
        self.add_version(tx, new, material)
        return True

    def activate(self, tx: Tx, old: KeyVersion, key_id: UUID) -> bool:
        """Put a version of the lineage in the place of `old` if that is still active."""
        place = {"of_realm": old.realm_id, "of_lineage": old.lineage_id}
        return tx.one(_SUCCEED, **place, old_key=old.key_id, new_key=key_id) is not None

    def add_version(self, tx: Tx, version: KeyVersion, material: WrappedMaterial) -> None:
        """Add an inactive version to its lineage."""
        tx.run(
            _INSERT_VERSION,
            realm_id=version.realm_id,
            key_id=version.key_id,
            lineage_id=version.lineage_id,
            version=version.version,
            enabled=version.enabled,
            wrapped=material.wrapped,
            kek_version=material.kek_version,
            messages_leased=0,
            created_us=version.created_us,
        )

    def find_version(self, tx: Tx, realm_id: RealmId, key_id: UUID, purpose: Purpose) -> KeyVersion | None:
        """One version by its own id."""
        return _version(tx.one(_FIND_VERSION, realm_id=realm_id, key_id=key_id, purpose=purpose.value))

    def find_active(
        self,
        tx: Tx,
        realm_id: RealmId,
        purpose: Purpose,
        *,
        lineage_id: UUID | None = None,
        name: str | None = None,
    ) -> KeyVersion | None:
        """The active version of a lineage, by the lineage's id or its name."""
        if lineage_id is not None:
            row = tx.one(_FIND_ACTIVE, realm_id=realm_id, purpose=purpose.value, lineage_id=lineage_id)
        else:
            row = tx.one(_FIND_ACTIVE_BY_NAME, realm_id=realm_id, purpose=purpose.value, name=name)
        return _version(row)

    def find_internal(self, tx: Tx, realm_id: RealmId, purpose: Purpose) -> Sequence[KeyVersion]:
        """All versions of the realm's key of an internal purpose, newest first."""
        rows = tx.all(_FIND_INTERNAL, realm_id=realm_id, purpose=purpose.value)
        return [_known(row) for row in rows]

    def versions(self, tx: Tx, realm_id: RealmId, lineage_id: UUID) -> Sequence[KeyVersion]:
        """All versions of a lineage, oldest first."""
        return [_known(row) for row in tx.all(_VERSIONS, realm_id=realm_id, lineage_id=lineage_id)]

    def list_keys(
        self,
        tx: Tx,
        realm_id: RealmId,
        *,
        after: tuple[int, UUID] | None,
        limit: int,
        lineages: frozenset[UUID] | None,
    ) -> Sequence[KeyVersion]:
        """Active versions of encryption keys by (lineage's created_us, lineage_id), after a position."""
        after_us, after_id = after or (-1, UUID(int=0))
        position = {
            "realm_id": realm_id,
            "purpose": Purpose.ENCRYPTION.value,
            "after_us": after_us,
            "after_id": after_id,
        }
        if lineages is None:
            rows = list(tx.all(_LIST, **position, count=limit))
        else:
            # One point select each: a caller with few keys must not make a scan over all of a realm's.
            found = (tx.one(_LIST_ONE, **position, lineage_id=lineage_id) for lineage_id in lineages)
            rows = sorted((row for row in found if row is not None), key=_position)[:limit]
        return [_known(row[:-1]) for row in rows]

    def material(self, tx: Tx, realm_id: RealmId, key_id: UUID) -> WrappedMaterial | None:
        """The wrapped material of one version."""
        row = tx.one(_MATERIAL, realm_id=realm_id, key_id=key_id)
        return None if row is None else WrappedMaterial(bytes(row[0]), row[1])

    def set_enabled(
        self,
        tx: Tx,
        realm_id: RealmId,
        *,
        enabled: bool,
        key_id: UUID | None = None,
        lineage_id: UUID | None = None,
    ) -> int:
        """Enable or disable one version, or all of a lineage."""
        if key_id is not None:
            return tx.run(_SET_VERSION, of_realm=realm_id, to_enabled=enabled, of_key=key_id)
        return tx.run(_SET_LINEAGE, of_realm=realm_id, to_enabled=enabled, of_lineage=lineage_id)

    def lease_messages(self, tx: Tx, realm_id: RealmId, key_id: UUID, block: int) -> int:
        """Take up to `block` message counts of the version's limit."""
        one = {"of_realm": realm_id, "of_key": key_id}
        if tx.one(_LEASE_BLOCK, **one, block=block) is not None:
            return block
        row = tx.one(_LEFTOVER, **one)
        left = 0 if row is None else row[0]
        if left > 0 and tx.one(_LEASE_BLOCK, **one, block=left) is not None:
            return int(left)
        return 0

    def return_messages(self, tx: Tx, realm_id: RealmId, key_id: UUID, unused: int) -> None:
        """Give back counts of a lease that were never used."""
        tx.run(_RETURN, of_realm=realm_id, of_key=key_id, block=unused)


def _version(row: tuple[Any, ...] | None) -> KeyVersion | None:
    return None if row is None else _known(row)


def _position(row: tuple[Any, ...]) -> tuple[int, UUID]:
    return row[-1], row[2]


def _known(row: tuple[Any, ...]) -> KeyVersion:
    realm_id, key_id, lineage_id, version, active, enabled, purpose, algorithm, name, created_us = row
    return KeyVersion(
        realm_id=realm_id,
        key_id=key_id,
        lineage_id=lineage_id,
        version=version,
        active=active,
        enabled=enabled,
        purpose=Purpose(purpose),
        algorithm=Algorithm(algorithm),
        name=name,
        created_us=created_us,
    )
