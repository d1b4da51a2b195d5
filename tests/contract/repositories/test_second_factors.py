"""Second factors on both databases; every step and every recovery code once, whatever comes at once."""

from __future__ import annotations

from uuid import UUID

import pytest

from qimem.identity.second_factor import SecondFactor
from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.storage.database import OpenDatabase
from qimem.storage.repositories.second_factors import SecondFactorRepository
from qimem.storage.repositories.users import UserRepository
from tests.contract.repositories.rows import ACME, HOUR, NOW, OTHER, a_user, race, uid
from tests.support.volume import volume

pytestmark = pytest.mark.anyio

STORE = SecondFactorRepository()
ADA = uid(1)
CODES = frozenset({bytes([number]) * 32 for number in range(10)})


async def found(database: OpenDatabase, realm_id: RealmId = ACME, user_id: UUID = ADA) -> SecondFactor | None:
    return await database.read(lambda tx: STORE.find(tx, realm_id, user_id))


async def enrolled(database: OpenDatabase, sealed: bytes = b"sealed") -> None:
    def enrol(tx: Tx) -> None:
        STORE.put_pending(tx, ACME, ADA, sealed, NOW)
        assert STORE.confirm(tx, ACME, ADA, sealed, CODES, NOW)

    await database.write(enrol)


async def test_nothing_counts_before_it_is_confirmed(people: OpenDatabase) -> None:
    await people.write(lambda tx: STORE.put_pending(tx, ACME, ADA, b"first", NOW))
    await people.write(lambda tx: STORE.put_pending(tx, ACME, ADA, b"second", NOW))
    assert await found(people) is None
    assert await people.read(lambda tx: STORE.find_pending(tx, ACME, ADA, 0)) == b"second"
    assert not await people.write(lambda tx: STORE.confirm(tx, ACME, ADA, b"first", CODES, NOW))
    assert await people.write(lambda tx: STORE.confirm(tx, ACME, ADA, b"second", CODES, NOW))
    assert await found(people) == SecondFactor(b"second", CODES)
    assert await people.read(lambda tx: STORE.find_pending(tx, ACME, ADA, 0)) is None
    assert not await people.write(lambda tx: STORE.confirm(tx, ACME, ADA, b"second", CODES, NOW))


async def test_it_belongs_to_one_user_of_one_realm(people: OpenDatabase) -> None:
    await enrolled(people)
    await people.write(lambda tx: UserRepository().insert(tx, a_user(2), "hash"))
    assert await found(people, OTHER) is None
    assert await found(people, ACME, uid(2)) is None
    for realm_id, user_id in ((OTHER, ADA), (ACME, uid(2))):
        assert not await people.write(lambda tx, r=realm_id, u=user_id: STORE.delete(tx, r, u))
        assert not await people.write(
            lambda tx, r=realm_id, u=user_id: STORE.put_recovery_codes(tx, r, u, CODES, NOW)
        )
    assert await found(people) == SecondFactor(b"sealed", CODES)
    # A step of one is no step of another.
    assert await people.write(lambda tx: STORE.claim_step(tx, ACME, ADA, 7, NOW + HOUR))
    assert await people.write(lambda tx: STORE.claim_step(tx, ACME, uid(2), 7, NOW + HOUR))
    assert await people.write(lambda tx: STORE.claim_step(tx, OTHER, ADA, 7, NOW + HOUR))
    assert not await people.write(lambda tx: STORE.claim_step(tx, ACME, ADA, 7, NOW + HOUR))


async def test_a_secret_that_somebody_brings_counts_at_once_without_recovery_codes(
    people: OpenDatabase,
) -> None:
    await people.write(lambda tx: STORE.put(tx, ACME, ADA, b"brought", NOW))
    assert await found(people) == SecondFactor(b"brought", frozenset())
    assert await people.write(lambda tx: STORE.put_recovery_codes(tx, ACME, ADA, CODES, NOW))
    assert await found(people) == SecondFactor(b"brought", CODES)


async def test_who_does_without_has_nothing_left(people: OpenDatabase) -> None:
    await enrolled(people)
    await people.write(lambda tx: STORE.put_pending(tx, ACME, ADA, b"next", NOW))
    assert await people.write(lambda tx: STORE.delete(tx, ACME, ADA))
    assert await found(people) is None
    assert await people.read(lambda tx: STORE.find_pending(tx, ACME, ADA, 0)) is None
    assert not await people.write(lambda tx: STORE.delete(tx, ACME, ADA))


async def test_with_the_user_it_goes(people: OpenDatabase) -> None:
    await enrolled(people)
    await people.write(lambda tx: UserRepository().delete(tx, ACME, ADA))
    assert await found(people) is None


@pytest.mark.acceptance
async def test_of_eight_uses_at_once_of_a_step_one_is_granted(workers: list[OpenDatabase]) -> None:
    for step in range(volume(100_000, share=0.0002)):
        granted = await race(workers, lambda tx, s=step: STORE.claim_step(tx, ACME, ADA, s, NOW + HOUR), 8)
        assert sorted(granted) == [False] * 7 + [True], step


@pytest.mark.acceptance
async def test_of_eight_uses_at_once_of_a_recovery_code_one_is_granted(workers: list[OpenDatabase]) -> None:
    for number in range(volume(100_000, share=0.0002)):
        code = number.to_bytes(32, "big")
        granted = await race(
            workers, lambda tx, c=code: STORE.claim_recovery_code(tx, ACME, ADA, c, NOW + HOUR), 8
        )
        assert sorted(granted) == [False] * 7 + [True], number


async def test_of_several_confirmations_at_once_one_counts(workers: list[OpenDatabase]) -> None:
    await workers[0].write(lambda tx: STORE.put_pending(tx, ACME, ADA, b"sealed", NOW))
    granted = await race(workers, lambda tx: STORE.confirm(tx, ACME, ADA, b"sealed", CODES, NOW), 8)
    assert sorted(granted) == [False] * 7 + [True]
