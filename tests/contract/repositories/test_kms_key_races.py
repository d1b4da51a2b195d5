"""Rotation and message leases with several workers at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import sqlalchemy as sa

from qimem.kernel.limits import LEASE_BLOCK_MAX, MESSAGES_PER_VERSION_MAX
from qimem.kernel.transaction import Tx
from qimem.kms.models import Purpose
from qimem.storage.database import OpenDatabase
from qimem.storage.schema import kms_version
from qimem.storage.statement import sql
from tests.contract.repositories.rows import ACME, HOUR, KEYS, MATERIAL, OTHER, a_key, race, uid

pytestmark = pytest.mark.anyio

_OF_ACME = (kms_version.c.realm_id == "acme", kms_version.c.key_id == uid(1))
_SET_LEASED = sql(sa.update(kms_version).where(*_OF_ACME).values(messages_leased=sa.bindparam("leased")))
_LEASED = sql(sa.select(kms_version.c.messages_leased).where(*_OF_ACME))


async def with_key(database: OpenDatabase, leased: int = 0) -> None:
    def add(tx: Tx) -> None:
        for realm_id in (ACME, OTHER):
            assert KEYS.insert_key(tx, a_key(1, realm_id), MATERIAL)
        tx.run(_SET_LEASED, leased=leased)

    await database.write(add)


async def leased(database: OpenDatabase) -> int:
    row = await database.read(lambda tx: tx.one(_LEASED))
    assert row is not None
    return int(row[0])


async def lease(database: OpenDatabase, block: int) -> int:
    return await database.write(lambda tx: KEYS.lease_messages(tx, ACME, uid(1), block))


@pytest.mark.parametrize("round_", range(5))
async def test_of_eight_rotations_at_once_one_wins_and_nothing_forks(
    workers: list[OpenDatabase], round_: int
) -> None:
    old = a_key(1)
    await with_key(workers[0])
    numbers = iter(range(100, 100_000))

    def rotate(tx: Tx) -> bool:
        new = replace(old, key_id=uid(next(numbers)), version=2, created_us=old.created_us + HOUR)
        return KEYS.succeed(tx, old, new, MATERIAL)

    assert sorted(await race(workers, rotate, 8)) == [False] * 7 + [True]
    versions = await workers[0].read(lambda tx: KEYS.versions(tx, ACME, uid(1)))
    assert [(version.version, version.active) for version in versions] == [(1, False), (2, True)]


async def test_rotations_of_whatever_is_active_make_one_line(workers: list[OpenDatabase]) -> None:
    await with_key(workers[0])
    numbers = iter(range(100, 100_000))

    def rotate(tx: Tx) -> bool:
        old = KEYS.find_active(tx, ACME, Purpose.ENCRYPTION, lineage_id=uid(1))
        assert old is not None
        new = replace(old, key_id=uid(next(numbers)), version=old.version + 1)
        return KEYS.succeed(tx, old, new, MATERIAL)

    won = sum(await race(workers, rotate, 24))
    versions = await workers[0].read(lambda tx: KEYS.versions(tx, ACME, uid(1)))
    assert [version.version for version in versions] == list(range(1, won + 2))
    assert [version.active for version in versions] == [False] * won + [True]
    assert won == 24


async def test_a_lease_grants_whole_blocks_then_the_rest_then_nothing(workers: list[OpenDatabase]) -> None:
    database = workers[0]
    await with_key(database, MESSAGES_PER_VERSION_MAX - 2500)
    assert [await lease(database, 1024) for _ in range(5)] == [1024, 1024, 452, 0, 0]
    assert await leased(database) == MESSAGES_PER_VERSION_MAX


async def test_the_last_message_of_all_is_granted_once(workers: list[OpenDatabase]) -> None:
    await with_key(workers[0], MESSAGES_PER_VERSION_MAX - 1)
    granted = await race(workers, lambda tx: KEYS.lease_messages(tx, ACME, uid(1), LEASE_BLOCK_MAX), 8)
    assert sorted(granted) == [0] * 7 + [1]


@pytest.mark.parametrize("left", [0, 5_000, 20 * 1024, 20 * 1024 + 7])
async def test_leases_of_many_workers_never_pass_the_limit(workers: list[OpenDatabase], left: int) -> None:
    await with_key(workers[0], MESSAGES_PER_VERSION_MAX - left)
    granted = await race(workers, lambda tx: KEYS.lease_messages(tx, ACME, uid(1), 1024), 32)
    assert sum(granted) == left
    assert all(0 <= grant <= 1024 for grant in granted)
    assert await leased(workers[0]) == MESSAGES_PER_VERSION_MAX


async def test_returned_messages_can_be_leased_again_but_never_more(workers: list[OpenDatabase]) -> None:
    database = workers[0]
    await with_key(database)
    assert await lease(database, 1024) == 1024
    await database.write(lambda tx: KEYS.return_messages(tx, ACME, uid(1), 1000))
    assert await leased(database) == 24
    # More than was ever leased is no return; believing it would lift the limit.
    await database.write(lambda tx: KEYS.return_messages(tx, ACME, uid(1), 25))
    assert await leased(database) == 24


async def test_leases_and_returns_at_once_add_up(workers: list[OpenDatabase]) -> None:
    await with_key(workers[0], 10_000)

    def give_back(tx: Tx) -> int:
        KEYS.return_messages(tx, ACME, uid(1), 100)
        return 0

    granted, _ = await asyncio.gather(
        race(workers, lambda tx: KEYS.lease_messages(tx, ACME, uid(1), 1024), 8), race(workers, give_back, 8)
    )
    assert await leased(workers[0]) == 10_000 + sum(granted) - 800


async def test_there_is_no_lease_for_an_absent_version_or_another_realms(workers: list[OpenDatabase]) -> None:
    database = workers[0]
    await with_key(database, 5)
    assert await database.write(lambda tx: KEYS.lease_messages(tx, ACME, uid(9), 1024)) == 0
    assert await database.write(lambda tx: KEYS.lease_messages(tx, OTHER, uid(1), 1024)) == 1024
    assert await leased(database) == 5
    await database.write(lambda tx: KEYS.return_messages(tx, OTHER, uid(1), 3))
    assert await leased(database) == 5
