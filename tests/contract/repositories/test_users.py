"""Users and their passwords, the same on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import ForeignKeyViolation, Tx
from qimem.storage.database import OpenDatabase
from tests.contract.repositories.rows import ACME, OTHER, ROLES, USERS, a_role, a_user, race, uid

pytestmark = pytest.mark.anyio


async def test_a_user_comes_back_as_added_by_id_and_by_name(realms: OpenDatabase) -> None:
    user = replace(
        a_user(1, roles=["clerk", "admin"]), username="Jörg", username_key="jörg", email="j@example", enabled=False
    )  # fmt: skip

    def add(tx: Tx) -> bool:
        for name in ("admin", "clerk"):
            ROLES.insert(tx, a_role(name))
        return USERS.insert(tx, user, "$argon2id$…")

    assert await realms.write(add)
    assert await realms.read(lambda tx: USERS.find(tx, ACME, uid(1))) == user
    assert await realms.read(lambda tx: USERS.find_by_username(tx, ACME, "jörg")) == (user, "$argon2id$…")


async def test_absent_users_are_none(people: OpenDatabase) -> None:
    for name in ("User1", "user1 ", "user", "user_", "user%", ""):
        assert await people.read(lambda tx: USERS.find_by_username(tx, ACME, name)) is None
    assert await people.read(lambda tx: USERS.find(tx, ACME, uid(2))) is None
    assert await people.read(lambda tx: USERS.find(tx, RealmId("nowhere"), uid(1))) is None


async def test_a_taken_name_changes_neither_user_nor_password_nor_roles(people: OpenDatabase) -> None:
    again = replace(a_user(2), username_key="user1", roles=())

    def both(tx: Tx) -> tuple[bool, bool]:
        return USERS.insert(tx, again, "hash of an impostor"), USERS.insert(tx, a_user(3), "hash")

    assert await people.write(both) == (False, True)
    found = await people.read(lambda tx: USERS.find_by_username(tx, ACME, "user1"))
    assert found == (a_user(1, roles=["clerk"]), "hash of acme")
    assert await people.read(lambda tx: USERS.find(tx, ACME, uid(2))) is None


async def test_a_taken_id_is_refused_and_keeps_the_password(people: OpenDatabase) -> None:
    again = replace(a_user(1), username_key="somebody")
    assert not await people.write(lambda tx: USERS.insert(tx, again, "hash of an impostor"))
    assert await people.read(lambda tx: USERS.find_by_username(tx, ACME, "somebody")) is None


async def test_of_eight_who_take_one_name_one_succeeds(workers: list[OpenDatabase]) -> None:
    numbers = iter(range(100, 100_000))

    def add(tx: Tx) -> bool:
        return USERS.insert(tx, replace(a_user(next(numbers)), username_key="wanted"), "hash")

    assert sorted(await race(workers, add, 8)) == [False] * 7 + [True]


async def test_a_role_of_another_realm_is_refused_whole(people: OpenDatabase) -> None:
    await people.write(lambda tx: ROLES.insert(tx, a_role("theirs", OTHER)))
    for role in ("theirs", "absent"):
        with pytest.raises(ForeignKeyViolation):
            await people.write(lambda tx: USERS.insert(tx, a_user(2, roles=["clerk", role]), "hash"))
    assert await people.read(lambda tx: USERS.find(tx, ACME, uid(2))) is None
    assert await people.write(lambda tx: USERS.insert(tx, a_user(2), "hash"))


async def test_a_user_of_an_absent_realm_is_refused(people: OpenDatabase) -> None:
    with pytest.raises(ForeignKeyViolation):
        await people.write(lambda tx: USERS.insert(tx, a_user(2, RealmId("nowhere")), "hash"))


async def test_the_same_id_and_name_in_two_realms_are_two_users(people: OpenDatabase) -> None:
    for realm_id in (ACME, OTHER):
        found = await people.read(lambda tx: USERS.find_by_username(tx, realm_id, "user1"))
        assert found == (a_user(1, realm_id, ["clerk"]), f"hash of {realm_id}")
        user = await people.read(lambda tx: USERS.find(tx, realm_id, uid(1)))
        assert user is not None
        assert user.realm_id == realm_id
