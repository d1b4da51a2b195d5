"""Clients, the same on both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import ForeignKeyViolation, Tx, UniqueViolation
from qimem.oauth.models import AuthMethod
from qimem.storage.database import OpenDatabase
from tests.contract.repositories.rows import ACME, CLIENTS, OTHER, ROLES, a_client, a_role, race

pytestmark = pytest.mark.anyio


async def test_a_client_comes_back_as_it_was_registered(people: OpenDatabase) -> None:
    def add(tx: Tx) -> None:
        ROLES.insert(tx, a_role("a"))
        CLIENTS.insert(tx, a_client(roles=["clerk", "a"]))

    await people.write(add)
    assert await people.read(lambda tx: CLIENTS.find(tx, ACME, "app")) == a_client(roles=["clerk", "a"])


async def test_a_public_client_without_anything_comes_back_empty(people: OpenDatabase) -> None:
    bare = replace(
        a_client(),
        name=None,
        secret_digest=None,
        auth_method=AuthMethod.NONE,
        grant_types=(),
        redirect_uris=(),
        scope=None,
        enabled=False,
        metadata="{}",
    )
    await people.write(lambda tx: CLIENTS.insert(tx, bare))
    assert await people.read(lambda tx: CLIENTS.find(tx, ACME, "app")) == bare


async def test_a_client_is_found_inside_its_realm_only(people: OpenDatabase) -> None:
    def look(tx: Tx) -> list[object]:
        asked = [
            (OTHER, "app-acme"),
            (ACME, "app-other"),
            (ACME, "App-acme"),
            (ACME, ""),
            (RealmId("x"), "app-acme"),
        ]
        return [CLIENTS.find(tx, realm_id, client_id) for realm_id, client_id in asked]

    assert await people.read(look) == [None] * 5


async def test_an_id_leads_to_its_realm(people: OpenDatabase) -> None:
    def look(tx: Tx) -> list[RealmId | None]:
        return [CLIENTS.find_realm(tx, client_id) for client_id in ("app-acme", "app-other", "app", "")]

    assert await people.read(look) == [ACME, OTHER, None, None]


async def test_a_taken_id_is_refused_in_every_realm(people: OpenDatabase) -> None:
    """Else a client id would not lead to one realm."""
    for realm_id in (ACME, OTHER):
        with pytest.raises(UniqueViolation):
            await people.write(lambda tx: CLIENTS.insert(tx, a_client("app-acme", realm_id)))
    found = await people.read(lambda tx: CLIENTS.find(tx, ACME, "app-acme"))
    assert found == a_client("app-acme", roles=["clerk"])


async def test_of_eight_who_take_one_id_one_succeeds(workers: list[OpenDatabase]) -> None:
    async def take(database: OpenDatabase) -> bool:
        try:
            await race([database], lambda tx: CLIENTS.insert(tx, a_client("wanted")), 1)
        except UniqueViolation:
            return False
        return True

    taken = await asyncio.gather(*(take(workers[n % 4]) for n in range(8)))
    assert sorted(taken) == [False] * 7 + [True]


async def test_a_role_of_another_realm_is_refused_whole(people: OpenDatabase) -> None:
    await people.write(lambda tx: ROLES.insert(tx, a_role("theirs", OTHER)))
    for role in ("theirs", "absent"):
        with pytest.raises(ForeignKeyViolation):
            await people.write(lambda tx: CLIENTS.insert(tx, a_client(roles=["clerk", role])))
    assert await people.read(lambda tx: CLIENTS.find_realm(tx, "app")) is None


async def test_a_client_of_an_absent_realm_is_refused(people: OpenDatabase) -> None:
    with pytest.raises(ForeignKeyViolation):
        await people.write(lambda tx: CLIENTS.insert(tx, a_client("app", RealmId("nowhere"))))
