"""The single row that makes a database an installation, the same on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from qimem.kernel.transaction import UniqueViolation
from qimem.kms.instance import Instance
from qimem.storage.database import OpenDatabase
from qimem.storage.repositories.instance import InstanceRepository, schema_is_known
from qimem.storage.statement import sql
from tests.contract.repositories.rows import NOW, race, uid

pytestmark = pytest.mark.anyio

INSTANCES = InstanceRepository()
MOVED_ON = sql(sa.update(sa.table("schema_version", sa.column("version_num"))).values(version_num="9999"))
OURS = Instance(uid(7), b"\x00incarnation\xff", b"\x01check\x00", None, NOW)


async def test_an_empty_database_belongs_to_nobody(database: OpenDatabase) -> None:
    assert await database.read(INSTANCES.find) is None
    assert not await database.write(lambda tx: INSTANCES.set_external_url(tx, "https://a.example"))
    assert await database.read(INSTANCES.find) is None


async def test_the_instance_comes_back_as_it_was_added(database: OpenDatabase) -> None:
    ours = replace(OURS, external_url="https://a.example")
    await database.write(lambda tx: INSTANCES.insert(tx, ours))
    assert await database.read(INSTANCES.find) == ours


async def test_a_schema_that_another_node_has_moved_on_is_seen(database: OpenDatabase) -> None:
    assert await database.read(schema_is_known)
    await database.write(lambda tx: tx.run(MOVED_ON))
    assert not await database.read(schema_is_known)


async def test_a_second_instance_is_refused(database: OpenDatabase) -> None:
    await database.write(lambda tx: INSTANCES.insert(tx, OURS))
    for second in (OURS, replace(OURS, instance_id=uid(8))):
        with pytest.raises(UniqueViolation):
            await database.write(lambda tx: INSTANCES.insert(tx, second))
    assert await database.read(INSTANCES.find) == OURS


async def test_the_external_url_is_stored_once(database: OpenDatabase) -> None:
    await database.write(lambda tx: INSTANCES.insert(tx, OURS))
    assert await database.write(lambda tx: INSTANCES.set_external_url(tx, "https://a.example"))
    assert not await database.write(lambda tx: INSTANCES.set_external_url(tx, "https://b.example"))
    found = await database.read(INSTANCES.find)
    assert found == replace(OURS, external_url="https://a.example")


async def test_of_eight_workers_that_start_one_stores_its_url(workers: list[OpenDatabase]) -> None:
    await workers[0].write(lambda tx: INSTANCES.insert(tx, OURS))
    stored = await race(workers, lambda tx: INSTANCES.set_external_url(tx, "https://a.example"), 8)
    assert sorted(stored) == [False] * 7 + [True]
