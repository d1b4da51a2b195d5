"""The single row that makes a database an installation."""

from __future__ import annotations

import sqlalchemy as sa

from qimem.kernel.transaction import Tx
from qimem.kms.instance import Instance
from qimem.storage.migrations.runner import KNOWN
from qimem.storage.schema import instance
from qimem.storage.statement import sql

_FIND = sql(
    sa.select(
        instance.c.instance_id,
        instance.c.incarnation,
        instance.c.key_check,
        instance.c.external_url,
        instance.c.created_us,
    )
)
_INSERT = sql(sa.insert(instance).values({column.name: sa.bindparam(column.name) for column in instance.c}))
_SET_URL = sql(
    sa.update(instance).where(instance.c.external_url.is_(None)).values(external_url=sa.bindparam("url"))
)

_SCHEMA = sql(sa.select(sa.column("version_num", sa.String)).select_from(sa.table("schema_version")))


def schema_is_known(tx: Tx) -> bool:
    """Whether this code can work with the schema, which another node may have moved on meanwhile."""
    row = tx.one(_SCHEMA)
    return row is not None and row[0] in KNOWN


class InstanceRepository:
    """Implements `kms.instance.InstanceStore`."""

    def find(self, tx: Tx) -> Instance | None:
        """The instance, or None in an empty database."""
        row = tx.one(_FIND)
        return None if row is None else Instance(row[0], bytes(row[1]), bytes(row[2]), row[3], row[4])

    def insert(self, tx: Tx, record: Instance) -> None:
        """Make the database this instance's."""
        tx.run(
            _INSERT,
            singleton=1,
            instance_id=record.instance_id,
            incarnation=record.incarnation,
            key_check=record.key_check,
            external_url=record.external_url,
            created_us=record.created_us,
        )

    def set_external_url(self, tx: Tx, external_url: str) -> bool:
        """Store it if none is stored yet; False when one was."""
        return tx.run(_SET_URL, url=external_url) == 1
