"""Generations of the root key, and the rows that move from one to the next."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.kms.models import WrappedKek
from qimem.kms.root_keys import Generation
from qimem.kms.root_rotation import Position
from qimem.storage.repositories.kms_keys import KeyRepository
from qimem.storage.schema import instance, realm_kek, root_key
from qimem.storage.statement import insert_if_absent, sql

_KEYS = KeyRepository()
_BEGIN = insert_if_absent(root_key, returning=root_key.c.generation)
_OF_GENERATION = realm_kek.c.root_generation == sa.bindparam("of_generation")
_KEKS = sql(
    sa.select(realm_kek.c.realm_id, realm_kek.c.version, realm_kek.c.wrapped)
    .where(
        _OF_GENERATION,
        sa.tuple_(realm_kek.c.realm_id, realm_kek.c.version)
        > sa.tuple_(
            sa.bindparam("after_realm", type_=sa.Text), sa.bindparam("after_version", type_=sa.Integer)
        ),
    )
    .order_by(realm_kek.c.realm_id, realm_kek.c.version)
    .limit(sa.bindparam("count", type_=sa.Integer))
)
_COUNT = sql(sa.select(sa.func.count()).select_from(realm_kek).where(_OF_GENERATION))
_REWRAP = sql(
    sa.update(realm_kek)
    .where(
        realm_kek.c.realm_id == sa.bindparam("of_realm"),
        realm_kek.c.version == sa.bindparam("of_version"),
        realm_kek.c.wrapped == sa.bindparam("old_wrapped"),
    )
    .values(wrapped=sa.bindparam("new_wrapped"), root_generation=sa.bindparam("new_generation"))
)
_RETIRE = sql(
    sa.delete(root_key)
    .where(
        root_key.c.generation == sa.bindparam("of_generation"),
        ~sa.exists().where(_OF_GENERATION),
    )
    .returning(root_key.c.generation)
)
_IN_FORCE = sql(sa.update(instance).values(key_check=sa.bindparam("new_check")))


class RootKeyRepository:
    """Implements `kms.root_rotation.RootKeyStore`."""

    def generations(self, tx: Tx) -> Sequence[Generation]:
        """The root keys in use, newest first."""
        return _KEYS.root_generations(tx)

    def begin(self, tx: Tx, new: Generation) -> bool:
        """Add a generation; False when there is one of its number or its key."""
        given = {"generation": new.number, "key_check": new.check, "created_us": new.created_us}
        return tx.one(_BEGIN, **given) is not None

    def keks(
        self, tx: Tx, generation: int, after: Position, limit: int
    ) -> Sequence[tuple[RealmId, WrappedKek]]:
        """Keys wrapped under the generation, by realm and version, after a position."""
        rows = tx.all(
            _KEKS, of_generation=generation, after_realm=after[0], after_version=after[1], count=limit
        )
        return [(RealmId(realm), WrappedKek(version, bytes(kek), generation)) for realm, version, kek in rows]

    def count(self, tx: Tx, generation: int) -> int:
        """How many keys are wrapped under the generation."""
        row = tx.one(_COUNT, of_generation=generation)
        return 0 if row is None else int(row[0])

    def rewrap(self, tx: Tx, realm_id: RealmId, old: bytes, new: WrappedKek) -> bool:
        """Put `new` in the place of `old`; False when that is not what stands there."""
        changed = tx.run(
            _REWRAP,
            of_realm=realm_id,
            of_version=new.version,
            old_wrapped=old,
            new_wrapped=new.wrapped,
            new_generation=new.root_generation,
        )
        return changed == 1

    def retire(self, tx: Tx, old: Generation, new: Generation) -> bool:
        """Let the new generation be the only one; False while something is wrapped under the old one."""
        if tx.one(_RETIRE, of_generation=old.number) is None:
            return False
        tx.run(_IN_FORCE, new_check=new.check)
        return True
