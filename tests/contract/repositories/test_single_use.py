"""Things that happen once, the same on both databases."""

from __future__ import annotations

import itertools

import pytest

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.storage.database import OpenDatabase
from qimem.storage.repositories.single_use import SingleUse, claim, is_claimed
from tests.contract.repositories.rows import ACME, HOUR, NOW, OTHER, race

pytestmark = pytest.mark.anyio

KIND = SingleUse.REVOKED_TOKEN


async def claimed(database: OpenDatabase, key: tuple[str, ...], realm_id: RealmId = ACME) -> bool:
    return await database.read(lambda tx: is_claimed(tx, KIND, realm_id, key))


@pytest.mark.parametrize("round_", range(10))
async def test_of_eight_claims_at_once_one_is_granted(workers: list[OpenDatabase], round_: int) -> None:
    granted = await race(workers, lambda tx: claim(tx, KIND, ACME, ("code",), NOW), 8)
    assert sorted(granted) == [False] * 7 + [True]


async def test_every_realm_has_its_own_claims(people: OpenDatabase) -> None:
    assert await people.write(lambda tx: claim(tx, KIND, ACME, ("code",), NOW))
    assert not await claimed(people, ("code",), OTHER)
    assert await people.write(lambda tx: claim(tx, KIND, OTHER, ("code",), NOW))


async def test_no_two_tuples_share_a_claim(people: OpenDatabase) -> None:
    keys = [
        (),
        ("",),
        ("", ""),
        ("ab",),
        ("a", "b"),
        ("", "ab"),
        ("ab", ""),
        ("a:b",),
        ("a\x00b",),
        ("a", "", "b"),
        ("ä",),
    ]
    for key in keys:
        assert not await claimed(people, key)
        assert await people.write(lambda tx: claim(tx, KIND, ACME, key, NOW))
    for key in keys:
        assert not await people.write(lambda tx: claim(tx, KIND, ACME, key, NOW))


async def test_a_claim_outlives_its_expiry_until_it_is_swept(people: OpenDatabase) -> None:
    assert await people.write(lambda tx: claim(tx, KIND, ACME, ("code",), 0))
    assert not await people.write(lambda tx: claim(tx, KIND, ACME, ("code",), NOW + HOUR))
    assert await claimed(people, ("code",))


async def test_a_claim_goes_with_the_effect_it_stood_for(people: OpenDatabase) -> None:
    def fail(tx: Tx) -> None:
        assert claim(tx, KIND, ACME, ("code",), NOW)
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            await people.write(fail)
    assert not await claimed(people, ("code",))


async def test_many_different_claims_at_once_are_all_granted(workers: list[OpenDatabase]) -> None:
    numbers = itertools.count()
    granted = await race(workers, lambda tx: claim(tx, KIND, ACME, (str(next(numbers)),), NOW), 40)
    assert granted == [True] * 40
