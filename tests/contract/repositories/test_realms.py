"""Realms and their epochs, the same on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.storage.database import OpenDatabase
from tests.contract.repositories.rows import ACME, OTHER, REALMS, a_realm, race

pytestmark = pytest.mark.anyio

FRESH = RealmId("fresh")


async def test_a_realm_comes_back_as_it_was_added_and_has_an_epoch(database: OpenDatabase) -> None:
    realm = replace(a_realm(FRESH), enabled=False, name="Frische Fische")
    assert await database.write(lambda tx: REALMS.insert(tx, realm))
    assert await database.read(lambda tx: REALMS.find(tx, FRESH)) == realm
    assert await database.current(FRESH) is not None


async def test_an_absent_realm_is_none_and_has_no_epoch(realms: OpenDatabase) -> None:
    for absent in (FRESH, RealmId("acm"), RealmId("ACME"), RealmId("acme "), RealmId("")):
        assert await realms.read(lambda tx: REALMS.find(tx, absent)) is None
        assert await realms.current(absent) is None


async def test_a_taken_id_changes_neither_realm_nor_epoch(realms: OpenDatabase) -> None:
    before = await realms.current(ACME)

    def again(tx: Tx) -> tuple[bool, bool]:
        return REALMS.insert(tx, replace(a_realm(), name="Impostor")), REALMS.insert(tx, a_realm(FRESH))

    assert await realms.write(again) == (False, True)
    assert await realms.read(lambda tx: REALMS.find(tx, ACME)) == a_realm()
    assert await realms.current(ACME) == before


async def test_a_realm_whose_transaction_fails_was_never_there(realms: OpenDatabase) -> None:
    def fail(tx: Tx) -> None:
        REALMS.insert(tx, a_realm(FRESH))
        raise KeyError(FRESH)

    with pytest.raises(KeyError):
        await realms.write(fail)
    assert await realms.read(lambda tx: REALMS.find(tx, FRESH)) is None
    assert await realms.current(FRESH) is None


async def test_of_eight_who_make_one_realm_one_succeeds(workers: list[OpenDatabase]) -> None:
    made = await race(workers, lambda tx: REALMS.insert(tx, a_realm(FRESH)), 8)
    assert sorted(made) == [False] * 7 + [True]


async def test_a_bump_is_seen_by_every_worker_as_soon_as_it_is_acknowledged(
    workers: list[OpenDatabase],
) -> None:
    for _ in range(5):
        before = [await worker.current(ACME) for worker in workers]
        elsewhere = await workers[3].current(OTHER)
        await workers[0].write(lambda tx: workers[0].bump(tx, ACME))
        after = [await worker.current(ACME) for worker in workers]
        assert all(old != new for old, new in zip(before, after, strict=True))
        assert len(set(after)) == 1
        assert await workers[3].current(OTHER) == elsewhere


async def test_a_bump_that_is_undone_is_seen_by_nobody(workers: list[OpenDatabase]) -> None:
    before = await workers[1].current(ACME)

    def fail(tx: Tx) -> None:
        workers[0].bump(tx, ACME)
        raise KeyError

    with pytest.raises(KeyError):
        await workers[0].write(fail)
    assert await workers[1].current(ACME) == before


async def test_a_snapshot_knows_its_own_epoch(workers: list[OpenDatabase]) -> None:
    now = await workers[0].current(ACME)
    assert await workers[1].read(lambda tx: workers[1].at(tx, ACME)) == now
    assert await workers[1].read(lambda tx: workers[1].at(tx, FRESH)) is None


async def test_no_bump_is_lost_among_many_at_once(workers: list[OpenDatabase]) -> None:
    before = await workers[0].current(ACME)
    await race(workers, lambda tx: workers[0].bump(tx, ACME), 16)
    after = await workers[0].current(ACME)
    assert before is not None
    assert after is not None
    assert after.number == before.number + 16
