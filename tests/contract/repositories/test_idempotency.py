"""Answered requests, the same on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import ForeignKeyViolation, Tx, UniqueViolation
from qimem.kernel.unit_of_work import IdempotencyRow, Slot
from qimem.storage.database import OpenDatabase
from qimem.storage.repositories.idempotency import IdempotencyRepository
from tests.contract.repositories.rows import ACME, HOUR, NOW, OTHER, race

pytestmark = pytest.mark.anyio

ANSWERS = IdempotencyRepository()
SLOT = Slot(ACME, "alice", "POST /v1/security/keys", "k1")
ROW = IdempotencyRow(
    slot=SLOT,
    body_digest=b"\x00digest\xff",
    answer_sealed=b"\x00sealed\xff",
    object_id="id-1",
    created_us=NOW,
    expires_us=NOW + HOUR,
)


async def put(database: OpenDatabase, row: IdempotencyRow) -> None:
    await database.write(lambda tx: ANSWERS.put(tx, row))


async def find(database: OpenDatabase, row: IdempotencyRow = ROW) -> IdempotencyRow | None:
    return await database.read(lambda tx: ANSWERS.find(tx, row.slot))


@pytest.mark.parametrize("row", [ROW, replace(ROW, answer_sealed=None), replace(ROW, expires_us=0)])
async def test_an_answer_comes_back_as_it_was_put_expired_or_not(
    realms: OpenDatabase, row: IdempotencyRow
) -> None:
    await put(realms, row)
    assert await find(realms) == row


async def test_an_answer_belongs_to_one_caller_route_and_key_in_one_realm(realms: OpenDatabase) -> None:
    await put(realms, ROW)
    others = [
        replace(ROW, slot=SLOT._replace(realm_id=OTHER)),
        replace(ROW, slot=SLOT._replace(subject="bob")),
        replace(ROW, slot=SLOT._replace(route="POST /v1/security/rotate")),
        replace(ROW, slot=SLOT._replace(subject="alic", route="ePOST /v1/security/keys")),
        replace(ROW, slot=SLOT._replace(key="k2")),
        replace(ROW, slot=SLOT._replace(key="K1")),
    ]
    for row in others:
        assert await find(realms, row) is None
        await put(realms, row)
        assert await find(realms, row) == row
    assert await find(realms) == ROW


async def test_a_live_answer_is_never_replaced(realms: OpenDatabase) -> None:
    await put(realms, ROW)
    for created_us in (NOW, NOW + 1, ROW.expires_us - 1):
        with pytest.raises(UniqueViolation):
            await put(realms, replace(ROW, object_id="id-2", created_us=created_us))
    assert await find(realms) == ROW


@pytest.mark.parametrize("late_us", [0, 1, 48 * HOUR])
async def test_an_expired_answer_makes_room(realms: OpenDatabase, late_us: int) -> None:
    bystander = replace(ROW, slot=SLOT._replace(subject="bob"))
    await put(realms, ROW)
    await put(realms, bystander)
    now_us = ROW.expires_us + late_us
    new = replace(ROW, object_id="id-2", answer_sealed=None, created_us=now_us, expires_us=now_us + HOUR)
    await put(realms, new)
    assert await find(realms) == new
    assert await find(realms, bystander) == bystander


async def test_of_eight_answers_at_once_one_stays(workers: list[OpenDatabase]) -> None:
    def answer(tx: Tx) -> bool:
        if ANSWERS.find(tx, SLOT) is not None:
            return False
        ANSWERS.put(tx, ROW)
        return True

    assert sorted(await race(workers, answer, 8)) == [False] * 7 + [True]


async def test_an_answer_in_an_absent_realm_is_refused(realms: OpenDatabase) -> None:
    with pytest.raises(ForeignKeyViolation):
        await put(realms, replace(ROW, slot=SLOT._replace(realm_id=RealmId("nowhere"))))
