"""Counts of attempts on both databases."""

from __future__ import annotations

import asyncio

import pytest

from qimem.errors import Limited
from qimem.identity.login.attempts import AttemptKind, AttemptRow, LoginAttempts
from qimem.kernel.clock import SystemClock
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import ATTEMPTS_PER_ADDRESS_MAX
from qimem.storage.database import OpenDatabase
from qimem.storage.repositories.attempts import AttemptRepository
from tests.contract.repositories.rows import ACME, OTHER

pytestmark = pytest.mark.anyio

STORE = AttemptRepository()


def a_row(
    realm_id: RealmId = ACME, kind: AttemptKind = AttemptKind.BY_NAME, *key: str, count: int = 1
) -> AttemptRow:
    return AttemptRow(realm_id, kind, key or ("ada",), count, 5, 10)


async def test_what_is_put_is_found_and_takes_the_place_of_the_one_before(realms: OpenDatabase) -> None:
    await realms.write(lambda tx: STORE.put(tx, a_row()))
    await realms.write(lambda tx: STORE.put(tx, a_row(count=2)))
    found = await realms.read(lambda tx: STORE.find(tx, ACME, AttemptKind.BY_NAME, ("ada",)))
    assert found == a_row(count=2)
    await realms.write(lambda tx: STORE.delete(tx, ACME, AttemptKind.BY_NAME, ("ada",)))
    assert await realms.read(lambda tx: STORE.find(tx, ACME, AttemptKind.BY_NAME, ("ada",))) is None


async def test_nothing_stands_for_another(realms: OpenDatabase) -> None:
    await realms.write(lambda tx: STORE.put(tx, a_row(ACME, AttemptKind.BY_ADDRESS, "ab", "c")))
    for realm_id, kind, key in (
        (OTHER, AttemptKind.BY_ADDRESS, ("ab", "c")),
        (ACME, AttemptKind.KNOWN_ADDRESS, ("ab", "c")),
        (ACME, AttemptKind.BY_ADDRESS, ("a", "bc")),
        (ACME, AttemptKind.BY_ADDRESS, ("abc",)),
    ):
        assert await realms.read(lambda tx, r=realm_id, k=kind, y=key: STORE.find(tx, r, k, y)) is None


async def test_of_many_at_once_exactly_so_many_are_counted(realms: OpenDatabase) -> None:
    attempts = [LoginAttempts(realms, STORE, SystemClock()) for _ in range(2)]

    async def knock(number: int) -> bool:
        try:
            await attempts[number % 2].begin(ACME, "ada", "10.0.0.1")
        except Limited:
            return False
        return True

    answers = []
    for start in range(0, 60, 4):
        answers += await asyncio.gather(*(knock(number) for number in range(start, start + 4)))
    assert answers.count(True) == ATTEMPTS_PER_ADDRESS_MAX
