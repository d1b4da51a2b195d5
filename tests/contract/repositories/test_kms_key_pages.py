"""Pages of keys: complete, without repetition, whatever happens between two pages."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.kms.models import KeyVersion
from qimem.storage.database import OpenDatabase
from tests.contract.repositories.rows import ACME, HOUR, KEYS, MATERIAL, NOW, OTHER, a_key, uid

pytestmark = pytest.mark.anyio

Position = tuple[int, UUID]


def at(number: int, created_us: int, realm_id: RealmId = ACME) -> KeyVersion:
    return replace(a_key(number, realm_id), created_us=created_us)


async def add(database: OpenDatabase, *versions: KeyVersion) -> None:
    def insert(tx: Tx) -> None:
        for version in versions:
            assert KEYS.insert_key(tx, version, MATERIAL)

    await database.write(insert)


async def page(
    database: OpenDatabase, after: Position | None, limit: int, lineages: frozenset[UUID] | None = None
) -> list[KeyVersion]:
    return list(
        await database.read(lambda tx: KEYS.list_keys(tx, ACME, after=after, limit=limit, lineages=lineages))
    )


async def test_keys_come_in_order_of_creation_then_id(realms: OpenDatabase) -> None:
    await add(realms, at(3, NOW), at(1, NOW + 1), at(2, NOW), at(4, NOW - 1), at(9, NOW, OTHER))
    assert [key.lineage_id for key in await page(realms, None, 10)] == [uid(4), uid(2), uid(3), uid(1)]


@pytest.mark.parametrize("limit", [1, 2, 7, 40, 41])
async def test_pages_together_are_the_whole_without_repetition(realms: OpenDatabase, limit: int) -> None:
    # Four keys a moment: a page often ends between keys that only their ids tell apart.
    await add(realms, *(at(1000 - n, NOW + n // 4) for n in range(40)))
    seen: list[UUID] = []
    after = None
    while found := await page(realms, after, limit):
        assert len(found) <= limit
        seen += [key.lineage_id for key in found]
        after = (found[-1].created_us, found[-1].lineage_id)
    assert len(seen) == len(set(seen)) == 40
    assert seen == [key.lineage_id for key in await page(realms, None, 100)]


async def test_keys_added_between_pages_neither_repeat_nor_displace_others(realms: OpenDatabase) -> None:
    await add(realms, *(at(n, NOW + 10 * n) for n in range(1, 31)))
    seen: list[UUID] = []
    after = None
    added = 100
    while found := await page(realms, after, 4):
        seen += [key.lineage_id for key in found]
        after = (found[-1].created_us, found[-1].lineage_id)
        if added < 110:
            # One before the position, which may be missed, and one behind it, which may not.
            await add(realms, at(added, after[0] - 5), at(added + 100, NOW + HOUR + added))
            added += 1
    assert len(seen) == len(set(seen))
    assert set(seen) >= {uid(n) for n in range(1, 31)} | {uid(n + 100) for n in range(100, added)}


async def test_a_rotation_between_pages_moves_nothing(realms: OpenDatabase) -> None:
    keys = [at(n, NOW + n) for n in range(1, 7)]
    await add(realms, *keys)
    first = await page(realms, None, 3)

    def rotate(tx: Tx) -> None:
        for old in keys:
            new = replace(old, key_id=uid(50 + old.key_id.int), version=2, created_us=NOW + HOUR)
            assert KEYS.succeed(tx, old, new, MATERIAL)

    await realms.write(rotate)
    second = await page(realms, (first[-1].created_us, first[-1].lineage_id), 3)
    assert [key.lineage_id for key in first + second] == [uid(n) for n in range(1, 7)]
    assert [key.version for key in second] == [2, 2, 2]
    assert await page(realms, (NOW + 6, uid(6)), 3) == []


async def test_a_page_of_chosen_lineages_holds_only_those_of_the_realm(realms: OpenDatabase) -> None:
    await add(realms, *(at(n, NOW + n) for n in range(1, 21)), at(90, NOW, OTHER))
    chosen = frozenset({uid(19), uid(3), uid(11), uid(90), uid(999)})
    first = await page(realms, None, 2, chosen)
    assert [key.lineage_id for key in first] == [uid(3), uid(11)]
    second = await page(realms, (first[-1].created_us, first[-1].lineage_id), 2, chosen)
    assert [key.lineage_id for key in second] == [uid(19)]
    assert await page(realms, None, 5, frozenset()) == []


async def test_chosen_lineages_keep_the_order_of_their_creation_through_rotations(
    realms: OpenDatabase,
) -> None:
    young, old = at(1, NOW + 5), at(2, NOW)
    await add(realms, young, old)

    def rotate(tx: Tx) -> None:
        assert KEYS.succeed(tx, old, replace(old, key_id=uid(50), version=2, created_us=NOW + HOUR), MATERIAL)

    await realms.write(rotate)
    chosen = frozenset({uid(1), uid(2)})
    assert [key.lineage_id for key in await page(realms, None, 5, chosen)] == [uid(2), uid(1)]
    assert [key.lineage_id for key in await page(realms, (NOW, uid(2)), 5, chosen)] == [uid(1)]


async def test_an_empty_realm_has_an_empty_page(realms: OpenDatabase) -> None:
    await add(realms, a_key(1, OTHER))
    assert await page(realms, None, 5) == []
