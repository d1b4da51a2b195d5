from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from qimem.crypto.mac import key_check_value
from qimem.crypto.wrap import UnwrapFailed
from qimem.errors import Internal, Unavailable, storage_unavailable
from qimem.kernel.secret import SecretBytes
from qimem.kms.keyring import Lru
from qimem.kms.models import KeyVersion, Purpose, WrappedMaterial
from qimem.kms.root_keys import Generation
from tests.unit.kms.fakes import (
    ACME,
    INSTANCE,
    NO_TX,
    NOW_US,
    OTHER,
    FakeDatabase,
    Worker,
    a_version,
    an_installation,
)

pytestmark = pytest.mark.anyio


def stored(worker: Worker, version: KeyVersion, material: bytes) -> KeyVersion:
    """A key with known material."""
    wrapped = worker.store.find_kek(NO_TX, version.realm_id, 1)
    assert wrapped is not None
    root = worker.keyring._root_keys.find(wrapped.root_check)
    assert root is not None
    kek = root.unwrap_kek(version.realm_id, 1, wrapped.wrapped)
    row = WrappedMaterial(kek.wrap_material(version, SecretBytes(material)), 1)
    assert worker.store.insert_key(NO_TX, version, row)
    return version


def copied(material: SecretBytes) -> bytes:
    return bytes(material.reveal())


async def test_a_handle_is_built_from_the_material_once() -> None:
    worker = an_installation()
    version = stored(worker, a_version(), b"m" * 32)
    built = []
    for _ in range(3):
        handle = await worker.keyring.handle(version, lambda secret: built.append(copied(secret)) or "handle")
        assert handle == "handle"
    assert built == [b"m" * 32]
    assert worker.keyring.find(ACME, version.key_id) == "handle"


async def test_a_known_handle_costs_no_look_up() -> None:
    worker = an_installation()
    version = stored(worker, a_version(), b"m" * 32)
    await worker.keyring.handle(version, copied)
    before = worker.database.reads
    worker.database.failure = storage_unavailable()
    assert await worker.keyring.handle(version, copied) == b"m" * 32
    assert worker.database.reads == before


async def test_material_is_wiped_after_building() -> None:
    worker = an_installation()
    version = stored(worker, a_version(), b"m" * 32)
    seen: list[SecretBytes] = []
    await worker.keyring.handle(version, lambda secret: seen.append(secret) or "handle")
    assert seen[0].equals(bytes(32))


async def test_material_is_wiped_when_building_fails_and_nothing_is_kept() -> None:
    worker = an_installation()
    version = stored(worker, a_version(), b"m" * 32)
    seen: list[SecretBytes] = []

    def fail(secret: SecretBytes) -> object:
        seen.append(secret)
        raise ValueError

    with pytest.raises(ValueError):
        await worker.keyring.handle(version, fail)
    assert seen[0].equals(bytes(32))
    assert worker.keyring.find(ACME, version.key_id) is None
    assert await worker.keyring.handle(version, copied) == b"m" * 32


async def test_two_requests_that_build_at_once_share_one_handle() -> None:
    worker = an_installation()
    version = stored(worker, a_version(), b"m" * 32)
    handles = await asyncio.gather(*(worker.keyring.handle(version, lambda _: object()) for _ in range(10)))
    assert len(set(map(id, handles))) == 1
    assert worker.keyring.handles() == [handles[0]]


async def test_the_same_id_in_two_realms_is_two_keys() -> None:
    worker = an_installation()
    here = stored(worker, a_version(1, ACME), b"a" * 32)
    there = stored(worker, a_version(1, OTHER), b"b" * 32)
    assert await worker.keyring.handle(here, copied) == b"a" * 32
    assert await worker.keyring.handle(there, copied) == b"b" * 32


async def test_a_version_without_material_is_our_fault() -> None:
    worker = an_installation()
    with pytest.raises(Internal):
        await worker.keyring.handle(a_version(5), copied)
    assert worker.keyring.find(ACME, UUID(int=5)) is None


async def test_a_realm_without_a_kek_is_our_fault() -> None:
    worker = Worker(FakeDatabase())
    with pytest.raises(Internal):
        await worker.keyring.record_sealer(ACME)
    with pytest.raises(Internal):
        await worker.keyring.kek(ACME, 1)


async def test_absence_and_damage_are_not_remembered() -> None:
    worker = an_installation()
    good = worker.database.state.keks[ACME, 1]
    del worker.database.state.keks[ACME, 1]
    with pytest.raises(Internal):
        await worker.keyring.record_sealer(ACME)
    worker.database.state.keks[ACME, 1] = worker.database.state.keks[OTHER, 1]
    with pytest.raises(UnwrapFailed):
        await worker.keyring.record_sealer(ACME)
    worker.database.state.keks[ACME, 1] = good
    assert (await worker.keyring.record_sealer(ACME)).version == 1


async def test_damaged_material_builds_nothing() -> None:
    worker = an_installation()
    version = stored(worker, a_version(), b"m" * 32)
    row = worker.database.state.material[ACME, version.key_id]
    worker.database.state.material[ACME, version.key_id] = replace(
        row, wrapped=row.wrapped[:-1] + bytes((row.wrapped[-1] ^ 1,))
    )
    with pytest.raises(UnwrapFailed):
        await worker.keyring.handle(version, copied)
    worker.database.state.material[ACME, version.key_id] = row
    assert await worker.keyring.handle(version, copied) == b"m" * 32


@pytest.mark.parametrize("change", [{"version": 2}, {"purpose": Purpose.REFRESH_MAC}, {"realm_id": OTHER}])
async def test_material_is_not_built_for_a_row_that_says_something_else(change) -> None:
    worker = an_installation()
    version = stored(worker, a_version(), b"m" * 32)
    moved = replace(version, **change)
    worker.database.state.material[moved.realm_id, moved.key_id] = worker.database.state.material[
        ACME, version.key_id
    ]
    with pytest.raises(UnwrapFailed):
        await worker.keyring.handle(moved, copied)


async def test_another_root_key_opens_nothing() -> None:
    worker = an_installation()
    version = stored(worker, a_version(), b"m" * 32)
    thief = Worker(worker.database, root=b"x" * 32)
    for opening in (thief.keyring.record_sealer(ACME), thief.keyring.handle(version, copied)):
        with pytest.raises(Unavailable) as caught:
            await opening
        assert caught.value.code == "sealed"


async def test_another_root_key_opens_nothing_where_the_database_was_made_to_expect_it() -> None:
    worker = an_installation()
    version = stored(worker, a_version(), b"m" * 32)
    check = key_check_value(SecretBytes(b"x" * 32), INSTANCE.bytes)
    worker.database.state.generations[:] = [Generation(1, check, NOW_US)]
    thief = Worker(worker.database, root=b"x" * 32)
    for opening in (thief.keyring.record_sealer(ACME), thief.keyring.handle(version, copied)):
        with pytest.raises(UnwrapFailed):
            await opening


async def test_a_kek_is_fetched_once() -> None:
    worker = an_installation()
    first = await worker.keyring.record_sealer(ACME)
    before = worker.database.reads
    assert await worker.keyring.record_sealer(ACME) is first
    assert await worker.keyring.kek(ACME, 1) is first
    assert worker.database.reads == before


async def test_without_the_database_nothing_new_is_unwrapped() -> None:
    worker = an_installation()
    version = stored(worker, a_version(), b"m" * 32)
    worker.database.failure = storage_unavailable()
    for unwrapping in (worker.keyring.record_sealer(ACME), worker.keyring.handle(version, copied)):
        with pytest.raises(Unavailable):
            await unwrapping


async def test_closing_forgets_and_wipes() -> None:
    worker = an_installation()
    version = stored(worker, a_version(), b"m" * 32)
    await worker.keyring.handle(version, copied)
    kek = await worker.keyring.record_sealer(ACME)
    worker.keyring.close()
    assert kek.key.equals(bytes(32))
    assert all(known.key.equals(bytes(32)) for known in worker.root_keys._known.values())
    assert worker.keyring.handles() == []
    assert worker.keyring.find(ACME, version.key_id) is None
    with pytest.raises(UnwrapFailed):
        await worker.keyring.handle(version, copied)


async def test_closing_wipes_the_secrets_that_were_handed_out() -> None:
    worker = an_installation()
    pepper = await worker.internal.pepper(ACME)
    assert not pepper.equals(bytes(32))
    worker.keyring.close()
    assert pepper.equals(bytes(32))


def test_a_full_memory_forgets_the_oldest_entry() -> None:
    memory: Lru[int, str] = Lru(3)
    for number in range(5):
        memory.put(number, str(number))
    assert memory.items() == [(2, "2"), (3, "3"), (4, "4")]
    assert memory.get(0) is None


def test_the_first_of_two_entries_stays() -> None:
    memory: Lru[int, str] = Lru(3)
    assert memory.put_if_absent(1, "first") == "first"
    assert memory.put_if_absent(1, "second") == "first"
    assert memory.values() == ["first"]
