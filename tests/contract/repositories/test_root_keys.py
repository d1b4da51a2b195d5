"""Generations of the root key, the same on both databases: none goes while something is wrapped under it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import ForeignKeyViolation, Tx
from qimem.kms.models import StoredKek, WrappedKek
from qimem.kms.root_keys import Generation
from qimem.kms.root_rotation import Position
from qimem.storage.database import OpenDatabase
from tests.contract.repositories.rows import (
    ACME,
    FIRST_ROOT_KEY,
    KEYS,
    NOW,
    OTHER,
    REALMS,
    ROOT_KEYS,
    a_realm,
)

pytestmark = pytest.mark.anyio

SECOND = Generation(2, b"check of the second", NOW + 1)
START: Position = ("", 0)


async def generations(database: OpenDatabase) -> Sequence[Generation]:
    return await database.read(ROOT_KEYS.generations)


async def begun(database: OpenDatabase) -> None:
    assert await database.write(lambda tx: ROOT_KEYS.begin(tx, SECOND))


def moved(tx: Tx, realm_id: RealmId, old: bytes, generation: int = 2) -> bool:
    return ROOT_KEYS.rewrap(tx, realm_id, old, WrappedKek(1, b"anew", generation))


async def test_generations_come_newest_first(realms: OpenDatabase) -> None:
    assert await generations(realms) == [FIRST_ROOT_KEY]
    await begun(realms)
    assert await generations(realms) == [SECOND, FIRST_ROOT_KEY]


@pytest.mark.parametrize(
    "other", [SECOND, Generation(2, b"another", NOW), Generation(3, FIRST_ROOT_KEY.check, NOW)]
)
async def test_no_number_and_no_key_begins_twice(realms: OpenDatabase, other: Generation) -> None:
    await begun(realms)
    assert not await realms.write(lambda tx: ROOT_KEYS.begin(tx, other))
    assert await generations(realms) == [SECOND, FIRST_ROOT_KEY]


async def test_of_several_that_begin_at_once_one_does(workers: list[OpenDatabase]) -> None:
    async def begin(number: int) -> bool:
        new = Generation(2, f"check {number}".encode(), NOW)
        return await workers[number].write(lambda tx: ROOT_KEYS.begin(tx, new))

    assert sorted(await asyncio.gather(*map(begin, range(4)))) == [False, False, False, True]
    assert len(await generations(workers[0])) == 2


async def test_keys_come_by_realm_and_version(realms: OpenDatabase) -> None:
    await realms.write(lambda tx: KEYS.insert_kek(tx, ACME, WrappedKek(2, b"second", 1), NOW))

    async def some(after: Position, limit: int = 9, generation: int = 1) -> list[tuple[str, int]]:
        found = await realms.read(lambda tx: ROOT_KEYS.keks(tx, generation, after, limit))
        return [(realm_id, kek.version) for realm_id, kek in found]

    assert await some(START) == [(ACME, 1), (ACME, 2), (OTHER, 1)]
    assert await some(START, 2) == [(ACME, 1), (ACME, 2)]
    assert await some((ACME, 1)) == [(ACME, 2), (OTHER, 1)]
    assert await some((OTHER, 1)) == []
    assert await some(START, generation=2) == []
    assert await realms.read(lambda tx: (ROOT_KEYS.count(tx, 1), ROOT_KEYS.count(tx, 2))) == (3, 0)


async def test_a_key_moves_only_from_where_it_was_seen(realms: OpenDatabase) -> None:
    await begun(realms)
    assert not await realms.write(lambda tx: moved(tx, ACME, b"kek of other"))
    assert not await realms.write(lambda tx: moved(tx, RealmId("nowhere"), b"kek of acme"))
    assert await realms.write(lambda tx: moved(tx, ACME, b"kek of acme"))
    assert not await realms.write(lambda tx: moved(tx, ACME, b"kek of acme"))
    found = await realms.read(lambda tx: [KEYS.find_kek(tx, ACME, 1), KEYS.find_kek(tx, OTHER, 1)])
    assert found == [StoredKek(b"anew", SECOND.check), StoredKek(b"kek of other", FIRST_ROOT_KEY.check)]


async def test_the_key_of_a_destroyed_realm_does_not_come_back(realms: OpenDatabase) -> None:
    await begun(realms)
    await realms.write(lambda tx: REALMS.destroy(tx, ACME, NOW))
    assert not await realms.write(lambda tx: moved(tx, ACME, b"kek of acme"))
    (found,) = [
        kek for name, kek in await realms.read(lambda tx: ROOT_KEYS.keks(tx, 1, START, 9)) if name == ACME
    ]
    assert not any(found.wrapped)


async def test_a_root_key_stays_while_something_is_under_it(realms: OpenDatabase) -> None:
    await begun(realms)
    await realms.write(lambda tx: moved(tx, ACME, b"kek of acme"))
    assert not await realms.write(lambda tx: ROOT_KEYS.retire(tx, FIRST_ROOT_KEY, SECOND))
    assert len(await generations(realms)) == 2
    await realms.write(lambda tx: moved(tx, OTHER, b"kek of other"))
    assert await realms.write(lambda tx: ROOT_KEYS.retire(tx, FIRST_ROOT_KEY, SECOND))
    assert not await realms.write(lambda tx: ROOT_KEYS.retire(tx, FIRST_ROOT_KEY, SECOND))
    assert await generations(realms) == [SECOND]


@pytest.mark.parametrize("generation", [1, 3])
async def test_nothing_is_wrapped_under_a_root_key_that_is_not_in_use(
    realms: OpenDatabase, generation: int
) -> None:
    await begun(realms)
    for realm_id in (ACME, OTHER):
        await realms.write(lambda tx, r=realm_id: moved(tx, r, b"kek of " + r.encode()))  # type: ignore[misc]
    await realms.write(lambda tx: ROOT_KEYS.retire(tx, FIRST_ROOT_KEY, SECOND))

    def add(tx: Tx) -> None:
        assert REALMS.insert(tx, a_realm(RealmId("late")))
        KEYS.insert_kek(tx, RealmId("late"), WrappedKek(1, b"late", generation), NOW)

    with pytest.raises(ForeignKeyViolation):
        await realms.write(add)
    with pytest.raises(ForeignKeyViolation):
        await realms.write(lambda tx: moved(tx, ACME, b"anew", generation))


async def test_realms_are_made_while_the_root_key_retires(workers: list[OpenDatabase]) -> None:
    """Whoever is first: none is left under a root key that is gone."""
    await begun(workers[0])
    for realm_id in (ACME, OTHER):
        await workers[0].write(lambda tx, r=realm_id: moved(tx, r, b"kek of " + r.encode()))  # type: ignore[misc]

    async def make(number: int) -> bool:
        name = RealmId(f"late-{number}")

        def add(tx: Tx) -> None:
            assert REALMS.insert(tx, a_realm(name))
            # As who lacks the new one does: under the oldest that is there.
            oldest = ROOT_KEYS.generations(tx)[-1]
            KEYS.insert_kek(tx, name, WrappedKek(1, b"late", oldest.number), NOW)

        try:
            await workers[number % 4].write(add)
        except ForeignKeyViolation:
            return False
        return True

    async def retire() -> bool:
        return await workers[3].write(lambda tx: ROOT_KEYS.retire(tx, FIRST_ROOT_KEY, SECOND))

    *made, retired = await asyncio.gather(*map(make, range(6)), retire())
    found = await workers[0].read(lambda tx: [KEYS.find_kek(tx, RealmId(f"late-{n}"), 1) for n in range(6)])
    assert [kek is not None for kek in found] == made
    left = {kek.root_check for kek in found if kek is not None}
    assert left <= {generation.check for generation in await generations(workers[0])}
    assert retired == (len(await generations(workers[0])) == 1)
