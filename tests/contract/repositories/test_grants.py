"""Grants and early deaths of access tokens, the same on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.transaction import ForeignKeyViolation, Tx, UniqueViolation
from qimem.oauth.models import GrantRecord
from qimem.storage.database import OpenDatabase
from qimem.storage.repositories.grants import GrantRepository
from tests.contract.repositories.rows import ACME, HOUR, NOW, OTHER, a_grant, race, uid

pytestmark = pytest.mark.anyio

GRANTS = GrantRepository()
ROUNDS = 200


def grant_in(realm_id: RealmId, number: int = 1) -> GrantRecord:
    return a_grant(number, realm_id, f"app-{realm_id}")


HERE, THERE = grant_in(ACME), grant_in(OTHER)


async def add(database: OpenDatabase, *grants: GrantRecord) -> None:
    def insert(tx: Tx) -> None:
        for grant in grants:
            GRANTS.insert(tx, grant)

    await database.write(insert)


async def find(database: OpenDatabase, realm_id: RealmId = ACME, number: int = 1) -> GrantRecord | None:
    return await database.read(lambda tx: GRANTS.find(tx, realm_id, uid(number)))


async def rotate(
    database: OpenDatabase, presented: int, now_us: int = NOW + 1, realm_id: RealmId = ACME
) -> GrantRecord | None:
    return await database.write(
        lambda tx: GRANTS.rotate(tx, realm_id, uid(1), presented=presented, now_us=now_us, by_client=True)
    )


async def test_a_grant_comes_back_as_it_was_given(people: OpenDatabase) -> None:
    full = replace(
        HERE, grant_id=uid(2), scope="read", rotated_us=NOW, rotated_by_client=True, revoked_us=NOW, generation=2**40
    )  # fmt: skip
    nobody = replace(HERE, grant_id=uid(3), user_id=None)
    await add(people, HERE, full, nobody)
    assert [await find(people, number=n) for n in (1, 2, 3, 4)] == [HERE, full, nobody, None]


async def test_a_grant_is_found_inside_its_realm_only(people: OpenDatabase) -> None:
    await add(people, HERE)
    assert await find(people, OTHER) is None
    await add(people, THERE)
    assert await find(people, OTHER) == THERE
    assert await find(people) == HERE


@pytest.mark.parametrize(
    "broken",
    [
        replace(HERE, user_id=uid(99)),
        replace(HERE, client_id=ClientId("absent")),
        replace(HERE, client_id=ClientId("app-other")),
        replace(HERE, realm_id=RealmId("nowhere")),
    ],
)
async def test_a_grant_of_strangers_is_refused(people: OpenDatabase, broken: GrantRecord) -> None:
    with pytest.raises(ForeignKeyViolation):
        await add(people, broken)
    assert await find(people) is None


async def test_a_taken_grant_id_is_refused(people: OpenDatabase) -> None:
    await add(people, HERE)
    with pytest.raises(UniqueViolation):
        await add(people, replace(HERE, scope="everything"))
    assert await find(people) == HERE


async def test_rotation_moves_one_generation_on_and_says_how(people: OpenDatabase) -> None:
    await add(people, HERE, THERE)
    moved = replace(HERE, generation=2, rotated_us=NOW + 1, rotated_by_client=True)
    assert await rotate(people, 1) == moved
    assert await find(people) == moved
    assert await find(people, OTHER) == THERE


@pytest.mark.parametrize("presented", [0, 1, 3, -1, 2**40])
async def test_another_generation_than_the_current_one_moves_nothing(
    people: OpenDatabase, presented: int
) -> None:
    current = replace(HERE, generation=2)
    await add(people, current)
    assert await rotate(people, presented) is None
    assert await find(people) == current


@pytest.mark.parametrize("late_us", [0, 1, HOUR])
async def test_an_expired_grant_moves_nothing(people: OpenDatabase, late_us: int) -> None:
    await add(people, HERE)
    assert await rotate(people, 1, HERE.expires_us + late_us) is None
    assert await find(people) == HERE
    assert await rotate(people, 1, HERE.expires_us - 1) is not None


async def test_a_revoked_grant_moves_nothing(people: OpenDatabase) -> None:
    await add(people, HERE)
    assert await people.write(lambda tx: GRANTS.revoke(tx, ACME, uid(1), NOW + 5))
    assert await rotate(people, 1, NOW + 6) is None
    assert await find(people) == replace(HERE, revoked_us=NOW + 5)


async def test_a_grant_of_another_realm_moves_nothing(people: OpenDatabase) -> None:
    await add(people, HERE)
    assert await rotate(people, 1, realm_id=OTHER) is None
    assert not await people.write(lambda tx: GRANTS.revoke(tx, OTHER, uid(1), NOW))
    assert await find(people) == HERE


async def test_revoking_twice_keeps_the_first_time(people: OpenDatabase) -> None:
    await add(people, HERE, THERE)
    assert await people.write(lambda tx: GRANTS.revoke(tx, ACME, uid(1), NOW + 5))
    assert not await people.write(lambda tx: GRANTS.revoke(tx, ACME, uid(1), NOW + 9))
    assert not await people.write(lambda tx: GRANTS.revoke(tx, ACME, uid(2), NOW + 9))
    assert await find(people) == replace(HERE, revoked_us=NOW + 5)
    assert await find(people, OTHER) == THERE


async def test_of_eight_refreshes_at_once_one_moves_two_hundred_times_over(
    workers: list[OpenDatabase],
) -> None:
    await add(workers[0], HERE)
    for generation in range(1, ROUNDS + 1):
        moved = await race(
            workers,
            lambda tx: GRANTS.rotate(tx, ACME, uid(1), presented=generation, now_us=NOW, by_client=False),
            8,
        )
        assert [grant.generation for grant in moved if grant is not None] == [generation + 1]
    found = await find(workers[0])
    assert found is not None
    assert found.generation == ROUNDS + 1


async def test_of_eight_revocations_at_once_one_finds_it_alive(workers: list[OpenDatabase]) -> None:
    await add(workers[0], HERE)
    revoked = await race(workers, lambda tx: GRANTS.revoke(tx, ACME, uid(1), NOW), 8)
    assert sorted(revoked) == [False] * 7 + [True]


async def test_a_dead_token_is_dead_in_its_realm_and_under_its_exact_id(people: OpenDatabase) -> None:
    def revoke(tx: Tx) -> list[bool]:
        return [GRANTS.revoke_access_token(tx, ACME, "jti-1", NOW + HOUR) for _ in range(2)]

    assert await people.write(revoke) == [True, False]

    def look(tx: Tx) -> list[bool]:
        asked = [
            (ACME, "jti-1"),
            (OTHER, "jti-1"),
            (ACME, "jti-2"),
            (ACME, "JTI-1"),
            (ACME, "jti-1 "),
            (ACME, ""),
        ]
        return [GRANTS.is_access_token_revoked(tx, realm_id, token_id) for realm_id, token_id in asked]

    assert await people.read(look) == [True] + [False] * 5


async def test_a_token_of_an_absent_realm_cannot_die(people: OpenDatabase) -> None:
    with pytest.raises(ForeignKeyViolation):
        await people.write(lambda tx: GRANTS.revoke_access_token(tx, RealmId("nowhere"), "jti", NOW))
