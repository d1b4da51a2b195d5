"""Keys and versions, the same on both databases."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from qimem.crypto.algorithms import Algorithm
from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import ForeignKeyViolation, Tx, UniqueViolation
from qimem.kms.models import KeyVersion, Purpose, StoredKek, WrappedKek, WrappedMaterial
from qimem.storage.database import OpenDatabase
from tests.contract.repositories.rows import (
    ACME,
    FIRST_ROOT_KEY,
    HOUR,
    KEYS,
    MATERIAL,
    NOW,
    OTHER,
    a_key,
    uid,
)

pytestmark = pytest.mark.anyio


async def add(database: OpenDatabase, *versions: KeyVersion) -> None:
    def insert(tx: Tx) -> None:
        for version in versions:
            assert KEYS.insert_key(tx, version, MATERIAL)

    await database.write(insert)


def successor(old: KeyVersion, number: int) -> KeyVersion:
    return replace(old, key_id=uid(number), version=old.version + 1, created_us=old.created_us + HOUR)


async def rotate(database: OpenDatabase, old: KeyVersion, number: int) -> KeyVersion:
    new = successor(old, number)
    assert await database.write(lambda tx: KEYS.succeed(tx, old, new, MATERIAL))
    return new


async def active(database: OpenDatabase, lineage_id: UUID, realm_id: RealmId = ACME) -> KeyVersion | None:
    return await database.read(
        lambda tx: KEYS.find_active(tx, realm_id, Purpose.ENCRYPTION, lineage_id=lineage_id)
    )


async def test_a_key_comes_back_as_it_was_added(realms: OpenDatabase) -> None:
    key = a_key(1, name="payroll")
    material = WrappedMaterial(b"\x00wrapped\xff", 1)
    assert await realms.write(lambda tx: KEYS.insert_key(tx, key, material))
    assert await realms.read(lambda tx: KEYS.find_version(tx, ACME, uid(1), Purpose.ENCRYPTION)) == key
    assert await realms.read(lambda tx: KEYS.material(tx, ACME, uid(1))) == material
    assert await active(realms, uid(1)) == key


async def test_a_key_is_found_by_its_name_in_its_realm_only(realms: OpenDatabase) -> None:
    await add(realms, a_key(1, name="payroll"))

    def look(tx: Tx) -> list[KeyVersion | None]:
        asked = [(ACME, "payroll"), (OTHER, "payroll"), (ACME, "payrol"), (ACME, "")]
        return [KEYS.find_active(tx, realm, Purpose.ENCRYPTION, name=name) for realm, name in asked]

    assert await realms.read(look) == [a_key(1, name="payroll"), None, None, None]


async def test_a_taken_name_is_refused_and_changes_nothing(realms: OpenDatabase) -> None:
    await add(realms, a_key(1, name="payroll"))

    def again(tx: Tx) -> tuple[bool, bool]:
        # The transaction must go on after the refusal, which on PostgreSQL a failed statement would end.
        return KEYS.insert_key(tx, a_key(2, name="payroll"), MATERIAL), KEYS.insert_key(
            tx, a_key(3), MATERIAL
        )

    assert await realms.write(again) == (False, True)
    assert await active(realms, uid(2)) is None
    assert await realms.read(lambda tx: KEYS.material(tx, ACME, uid(2))) is None
    assert await realms.read(lambda tx: KEYS.versions(tx, ACME, uid(2))) == []
    assert await active(realms, uid(1)) == a_key(1, name="payroll")


async def test_a_taken_id_is_refused_and_keeps_the_first_material(realms: OpenDatabase) -> None:
    await add(realms, a_key(1))
    assert not await realms.write(lambda tx: KEYS.insert_key(tx, a_key(1), WrappedMaterial(b"other", 1)))
    assert await realms.read(lambda tx: KEYS.material(tx, ACME, uid(1))) == MATERIAL


async def test_names_may_repeat_in_another_realm_and_absent_names_everywhere(realms: OpenDatabase) -> None:
    await add(realms, a_key(1, name="payroll"), a_key(2), a_key(3), a_key(1, OTHER, name="payroll"))


async def test_a_key_of_an_absent_realm_is_refused(realms: OpenDatabase) -> None:
    with pytest.raises(ForeignKeyViolation):
        await add(realms, a_key(1, RealmId("nowhere")))


async def test_material_wrapped_by_an_absent_kek_is_refused_whole(realms: OpenDatabase) -> None:
    with pytest.raises(ForeignKeyViolation):
        await realms.write(lambda tx: KEYS.insert_key(tx, a_key(1, name="payroll"), WrappedMaterial(b"w", 2)))
    await add(realms, a_key(2, name="payroll"))


async def test_rotation_leaves_one_active_version(realms: OpenDatabase) -> None:
    first = a_key(1, name="payroll")
    await add(realms, first)
    second = await rotate(realms, first, 11)
    third = await rotate(realms, second, 12)
    assert await active(realms, uid(1)) == third
    versions = await realms.read(lambda tx: KEYS.versions(tx, ACME, uid(1)))
    assert versions == [replace(first, active=False), replace(second, active=False), third]


async def test_an_inactive_version_has_no_second_successor(realms: OpenDatabase) -> None:
    first = a_key(1)
    await add(realms, first)
    second = await rotate(realms, first, 11)
    assert not await realms.write(lambda tx: KEYS.succeed(tx, first, successor(first, 12), MATERIAL))
    assert await active(realms, uid(1)) == second
    assert await realms.read(lambda tx: KEYS.material(tx, ACME, uid(12))) is None


async def test_an_absent_version_and_one_of_another_realm_have_no_successor(realms: OpenDatabase) -> None:
    await add(realms, a_key(1))
    for old in (a_key(9), a_key(1, OTHER)):
        new = successor(old, 12)
        assert not await realms.write(lambda tx: KEYS.succeed(tx, old, new, MATERIAL))
    assert await active(realms, uid(1)) == a_key(1)


async def test_a_successor_that_cannot_be_added_leaves_the_old_version_active(realms: OpenDatabase) -> None:
    first = a_key(1)
    await add(realms, first, a_key(2))
    with pytest.raises(UniqueViolation):
        await realms.write(lambda tx: KEYS.succeed(tx, first, successor(first, 2), MATERIAL))
    assert await active(realms, uid(1)) == first


async def test_a_second_active_version_is_impossible(realms: OpenDatabase) -> None:
    """Even for code that forgets to end the old one: the schema has room for one."""
    first = a_key(1)
    await add(realms, first)
    await realms.write(lambda tx: KEYS.add_version(tx, successor(first, 11), MATERIAL))
    versions = await realms.read(lambda tx: KEYS.versions(tx, ACME, uid(1)))
    assert [(version.version, version.active) for version in versions] == [(1, True), (2, False)]
    with pytest.raises(UniqueViolation):
        await realms.write(lambda tx: KEYS.add_version(tx, successor(first, 12), MATERIAL))


async def test_a_purpose_hides_keys_of_every_other(realms: OpenDatabase) -> None:
    signing = replace(a_key(5), purpose=Purpose.TOKEN_SIGNING, algorithm=Algorithm.ES256)
    await add(realms, signing, a_key(1))

    def look(tx: Tx) -> list[object]:
        return [
            KEYS.find_version(tx, ACME, uid(5), Purpose.ENCRYPTION),
            KEYS.find_active(tx, ACME, Purpose.ENCRYPTION, lineage_id=uid(5)),
            KEYS.find_version(tx, ACME, uid(1), Purpose.TOKEN_SIGNING),
            KEYS.find_version(tx, ACME, uid(5), Purpose.TOKEN_SIGNING),
            [key.key_id for key in KEYS.list_keys(tx, ACME, after=None, limit=9, lineages=None)],
            list(KEYS.list_keys(tx, ACME, after=None, limit=9, lineages=frozenset({uid(5)}))),
        ]

    assert await realms.read(look) == [None, None, None, signing, [uid(1)], []]


async def test_internal_versions_come_newest_first_and_of_one_realm(realms: OpenDatabase) -> None:
    first = replace(a_key(5), purpose=Purpose.REFRESH_MAC, algorithm=Algorithm.HMAC_SHA256)
    await add(realms, first, replace(first, realm_id=OTHER))
    second = await rotate(realms, first, 15)
    found = await realms.read(lambda tx: KEYS.find_internal(tx, ACME, Purpose.REFRESH_MAC))
    assert found == [second, replace(first, active=False)]
    assert await realms.read(lambda tx: KEYS.find_internal(tx, ACME, Purpose.TOKEN_SIGNING)) == []


async def test_disabling_reaches_one_version_or_the_whole_lineage(realms: OpenDatabase) -> None:
    first = a_key(1)
    await add(realms, first, a_key(2), a_key(1, OTHER))
    await rotate(realms, first, 11)

    async def states() -> list[bool]:
        def read(tx: Tx) -> list[KeyVersion]:
            return [
                *KEYS.versions(tx, ACME, uid(1)),
                *KEYS.versions(tx, ACME, uid(2)),
                *KEYS.versions(tx, OTHER, uid(1)),
            ]

        return [version.enabled for version in await realms.read(read)]

    assert await realms.write(lambda tx: KEYS.set_enabled(tx, ACME, enabled=False, key_id=uid(1))) == 1
    assert await states() == [False, True, True, True]
    assert await realms.write(lambda tx: KEYS.set_enabled(tx, ACME, enabled=True, key_id=uid(1))) == 1
    assert await realms.write(lambda tx: KEYS.set_enabled(tx, ACME, enabled=False, lineage_id=uid(1))) == 2
    assert await states() == [False, False, True, True]


async def test_disabling_what_is_not_there_changes_nothing(realms: OpenDatabase) -> None:
    await add(realms, a_key(1))
    for realm_id, target in (
        (OTHER, {"key_id": uid(1)}),
        (OTHER, {"lineage_id": uid(1)}),
        (ACME, {"key_id": uid(9)}),
    ):
        changed = await realms.write(lambda tx: KEYS.set_enabled(tx, realm_id, enabled=False, **target))
        assert changed == 0
    assert await realms.write(lambda tx: KEYS.set_enabled(tx, ACME, enabled=False)) == 0
    found = await active(realms, uid(1))
    assert found is not None
    assert found.enabled


def stored(wrapped: bytes) -> StoredKek:
    return StoredKek(wrapped, FIRST_ROOT_KEY.check)


async def test_key_encryption_keys_are_found_by_realm_and_version(realms: OpenDatabase) -> None:
    await realms.write(lambda tx: KEYS.insert_kek(tx, ACME, WrappedKek(2, b"\x00second", 1), NOW))

    def look(tx: Tx) -> list[object]:
        versions = [KEYS.newest_kek_version(tx, realm) for realm in (ACME, OTHER, RealmId("nowhere"))]
        keks = [KEYS.find_kek(tx, ACME, 1), KEYS.find_kek(tx, ACME, 2), KEYS.find_kek(tx, OTHER, 2)]
        return [*versions, *keks]

    assert await realms.read(look) == [2, 1, None, stored(b"kek of acme"), stored(b"\x00second"), None]


async def test_a_key_encryption_key_is_never_replaced(realms: OpenDatabase) -> None:
    with pytest.raises(UniqueViolation):
        await realms.write(lambda tx: KEYS.insert_kek(tx, ACME, WrappedKek(1, b"other", 1), NOW))
    assert await realms.read(lambda tx: KEYS.find_kek(tx, ACME, 1)) == stored(b"kek of acme")


async def test_the_same_ids_in_two_realms_never_meet(realms: OpenDatabase) -> None:
    here, there = (
        a_key(1, name="payroll"),
        replace(a_key(1, OTHER, name="payroll"), algorithm=Algorithm.CHACHA20_POLY1305),
    )
    await add(realms, here)
    assert await realms.write(lambda tx: KEYS.insert_key(tx, there, WrappedMaterial(b"theirs", 1)))
    await rotate(realms, here, 11)

    def look(tx: Tx) -> list[object]:
        return [
            KEYS.find_active(tx, OTHER, Purpose.ENCRYPTION, lineage_id=uid(1)),
            KEYS.find_active(tx, OTHER, Purpose.ENCRYPTION, name="payroll"),
            KEYS.find_version(tx, OTHER, uid(11), Purpose.ENCRYPTION),
            KEYS.material(tx, OTHER, uid(11)),
            KEYS.material(tx, OTHER, uid(1)),
            list(KEYS.versions(tx, OTHER, uid(1))),
        ]

    assert await realms.read(look) == [there, there, None, None, WrappedMaterial(b"theirs", 1), [there]]
