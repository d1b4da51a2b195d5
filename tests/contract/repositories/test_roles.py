"""Roles and permissions, the same on both databases."""

from __future__ import annotations

import pytest

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import ForeignKeyViolation, Tx, UniqueViolation
from qimem.storage.database import OpenDatabase
from tests.contract.repositories.rows import (
    ACME,
    CLIENTS,
    OTHER,
    ROLES,
    USERS,
    a_client,
    a_role,
    a_user,
    race,
    uid,
)

pytestmark = pytest.mark.anyio


async def test_a_role_comes_back_with_its_permissions_in_their_order(realms: OpenDatabase) -> None:
    role = a_role(permissions=["keys:read", "invoice.pay", "keys:encrypt"])
    assert await realms.write(lambda tx: ROLES.insert(tx, role))
    assert await realms.read(lambda tx: ROLES.find_many(tx, ACME, ["clerk"])) == [role]


async def test_a_role_may_permit_nothing(realms: OpenDatabase) -> None:
    assert await realms.write(lambda tx: ROLES.insert(tx, a_role()))
    assert await realms.read(lambda tx: ROLES.find_many(tx, ACME, ["clerk"])) == [a_role()]


async def test_only_roles_that_exist_in_the_realm_are_found(realms: OpenDatabase) -> None:
    def add(tx: Tx) -> None:
        for role in (a_role("a"), a_role("b"), a_role("c", OTHER)):
            assert ROLES.insert(tx, role)

    await realms.write(add)
    asked = ["b", "c", "absent", "A", "", "a"]
    assert await realms.read(lambda tx: ROLES.find_many(tx, ACME, asked)) == [a_role("b"), a_role("a")]
    assert await realms.read(lambda tx: ROLES.find_many(tx, ACME, [])) == []


async def test_a_taken_name_changes_nothing(realms: OpenDatabase) -> None:
    first = a_role(permissions=["keys:read"])

    def both(tx: Tx) -> tuple[bool, bool, bool]:
        again = a_role(permissions=["*"])
        return ROLES.insert(tx, first), ROLES.insert(tx, again), ROLES.insert(tx, a_role(realm_id=OTHER))

    assert await realms.write(both) == (True, False, True)
    assert await realms.read(lambda tx: ROLES.find_many(tx, ACME, ["clerk"])) == [first]


async def test_of_eight_who_make_one_role_one_succeeds(workers: list[OpenDatabase]) -> None:
    role = a_role("fresh", permissions=["keys:read"])
    assert sorted(await race(workers, lambda tx: ROLES.insert(tx, role), 8)) == [False] * 7 + [True]


async def test_a_repeated_permission_is_refused_whole(realms: OpenDatabase) -> None:
    with pytest.raises(UniqueViolation):
        await realms.write(lambda tx: ROLES.insert(tx, a_role(permissions=["keys:read", "keys:read"])))
    assert await realms.read(lambda tx: ROLES.find_many(tx, ACME, ["clerk"])) == []


async def test_a_role_of_an_absent_realm_is_refused(realms: OpenDatabase) -> None:
    with pytest.raises(ForeignKeyViolation):
        await realms.write(lambda tx: ROLES.insert(tx, a_role(realm_id=RealmId("nowhere"))))


async def test_permissions_are_those_of_all_roles_in_the_same_realm(realms: OpenDatabase) -> None:
    def add(tx: Tx) -> None:
        for realm_id, prefix in ((ACME, "here"), (OTHER, "there")):
            for name in ("a", "b", "unused"):
                assert ROLES.insert(tx, a_role(name, realm_id, [f"{prefix}.{name}", "common"]))
            roles = ["a", "b"] if realm_id == ACME else ["a"]
            assert USERS.insert(tx, a_user(1, realm_id, roles), "hash")
            CLIENTS.insert(tx, a_client(f"app-{realm_id}", realm_id, roles))

    await realms.write(add)

    def look(tx: Tx) -> list[frozenset[str]]:
        return [
            ROLES.permissions_of_user(tx, ACME, uid(1)),
            ROLES.permissions_of_user(tx, OTHER, uid(1)),
            ROLES.permissions_of_client(tx, ACME, "app-acme"),
            ROLES.permissions_of_client(tx, OTHER, "app-other"),
        ]

    here, there = frozenset({"here.a", "here.b", "common"}), frozenset({"there.a", "common"})
    assert await realms.read(look) == [here, there, here, there]


async def test_strangers_may_do_nothing(people: OpenDatabase) -> None:
    def look(tx: Tx) -> set[frozenset[str]]:
        return {
            ROLES.permissions_of_user(tx, ACME, uid(2)),
            ROLES.permissions_of_user(tx, RealmId("nowhere"), uid(1)),
            ROLES.permissions_of_client(tx, ACME, "app-other"),
            ROLES.permissions_of_client(tx, OTHER, "app-acme"),
            ROLES.permissions_of_client(tx, ACME, "absent"),
            ROLES.permissions_of_client(tx, ACME, str(uid(1))),
        }

    assert await people.read(look) == {frozenset()}
