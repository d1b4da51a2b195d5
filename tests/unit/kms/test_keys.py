from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from qimem.crypto.algorithms import Algorithm
from qimem.errors import (
    Conflict,
    Forbidden,
    InvalidFields,
    NotFound,
    QimemError,
    Unavailable,
    storage_unavailable,
)
from qimem.kernel.context import IdempotencyKey
from qimem.kms.models import KeyRef
from tests.unit.kms.fakes import ACME, OTHER, Worker, an_installation

pytestmark = pytest.mark.anyio

AES = Algorithm.AES256_GCM


def epoch(worker: Worker) -> int:
    return worker.database.state.epochs[ACME].number


def rows(worker: Worker) -> int:
    return len(worker.database.state.versions)


async def refused(kind: type[QimemError], call) -> str:
    with pytest.raises(kind) as refusal:
        await call
    return refusal.value.code


async def test_a_new_key_is_the_first_version_of_its_own_lineage() -> None:
    worker = an_installation()
    made = await worker.keys.create(await worker.context(), Algorithm.CHACHA20_POLY1305, "orders")
    assert (made.lineage_id, made.version, made.active, made.enabled) == (made.key_id, 1, True, True)
    assert (made.algorithm, made.name, made.created_at) == (
        "chacha20_poly1305",
        "orders",
        "2027-01-15T08:00:00.000000Z",
    )


async def test_every_version_has_material_of_its_own() -> None:
    worker = an_installation()
    refs = [await worker.new_key() for _ in range(3)]
    newer = await worker.keys.rotate(await worker.context(), refs[0])
    seen = set()
    for key_id in (*(ref.key_id for ref in refs), newer.key_id):
        version = worker.database.state.versions[ACME, key_id]
        kek = await worker.keyring.record_sealer(ACME)
        wrapped = worker.database.state.material[ACME, key_id].wrapped
        seen.add(bytes(kek.unwrap_material(version, wrapped).reveal()))
    assert len(seen) == 4
    assert {len(material) for material in seen} == {32}


async def test_creating_changes_nothing_that_others_remember() -> None:
    worker = an_installation()
    before = epoch(worker)
    await worker.new_key()
    assert epoch(worker) == before


@pytest.mark.parametrize("name", ["", "A", "a b", "a" * 64, str(UUID(int=1)), UUID(int=1).hex, "a\0", "-a"])
async def test_a_bad_name_is_refused(name: str) -> None:
    worker = an_installation()
    before = rows(worker)
    with pytest.raises(InvalidFields) as refusal:
        await worker.new_key(name=name)
    assert list(refusal.value.fields) == ["/name"]
    assert rows(worker) == before


async def test_a_taken_name_is_a_conflict() -> None:
    worker = an_installation()
    await worker.new_key(name="orders")
    before = rows(worker)
    assert await refused(Conflict, worker.new_key(name="orders")) == "already_exists"
    assert rows(worker) == before
    await worker.new_key(OTHER, name="orders")


@pytest.mark.parametrize(
    "permissions", [("keys:read",), (f"keys:create:{UUID(int=1)}",), ("keys:manage", "keys:rotate")]
)
async def test_creating_needs_the_permission_without_a_scope(permissions: tuple[str, ...]) -> None:
    worker = an_installation()
    creating = worker.keys.create(await worker.context(*permissions), AES, None)
    assert await refused(Forbidden, creating) == "permission_denied"


async def test_a_rotation_makes_every_worker_forget() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    before = epoch(worker)
    newer = await worker.keys.rotate(await worker.context(), ref)
    assert (newer.version, newer.lineage_id) == (2, ref.key_id)
    assert epoch(worker) == before + 1


async def test_a_refused_rotation_changes_nothing() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    await worker.keys.rotate(await worker.context(), ref)
    state = (epoch(worker), rows(worker))
    assert await refused(Conflict, worker.keys.rotate(await worker.context(), ref)) == "key_inactive"
    assert (
        await refused(NotFound, worker.keys.rotate(await worker.context(), KeyRef(name="x")))
        == "key_not_found"
    )
    assert (epoch(worker), rows(worker)) == state


async def test_of_many_rotations_at_once_by_one_id_one_wins() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    ctx = await worker.context()
    results = await asyncio.gather(*(worker.keys.rotate(ctx, ref) for _ in range(10)), return_exceptions=True)
    lost = [result for result in results if isinstance(result, Conflict)]
    assert (len(lost), {error.code for error in lost}) == (9, {"key_inactive"})


async def test_a_rotation_that_another_worker_overtook_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = an_installation()
    ref = await worker.new_key()
    monkeypatch.setattr(worker.store, "succeed", lambda *_: False)
    state = epoch(worker)
    assert await refused(Conflict, worker.keys.rotate(await worker.context(), ref)) == "key_inactive"
    assert epoch(worker) == state


async def test_a_rotated_key_is_enabled_again() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    ctx = await worker.context()
    await worker.keys.set_enabled(ctx, ref.key_id, enabled=False, scope="lineage")
    newer = await worker.keys.rotate(ctx, ref)
    shown = await worker.keys.get(ctx, newer.key_id)
    assert [version.enabled for version in shown.versions] == [False, True]


@pytest.mark.parametrize(("scope", "expected"), [("version", [False, True, True]), ("lineage", [False] * 3)])
async def test_disabling_reaches_as_far_as_its_scope(scope, expected: list[bool]) -> None:
    worker = an_installation()
    ref, other = await worker.new_key(), await worker.new_key()
    ctx = await worker.context()
    newest = ref
    for _ in range(2):
        newest = KeyRef(key_id=(await worker.keys.rotate(ctx, newest)).key_id)
    before = epoch(worker)
    answer = await worker.keys.set_enabled(ctx, ref.key_id, enabled=False, scope=scope)
    assert (answer.key_id, answer.enabled, answer.active) == (ref.key_id, False, False)
    shown = await worker.keys.get(ctx, ref.key_id)
    assert [version.enabled for version in shown.versions] == expected
    assert (await worker.keys.get(ctx, other.key_id)).enabled
    assert epoch(worker) == before + 1


CALLS = {
    "keys:read": lambda worker, ctx, key_id: worker.keys.get(ctx, key_id),
    "keys:rotate": lambda worker, ctx, key_id: worker.keys.rotate(ctx, KeyRef(key_id=key_id)),
    "keys:manage": lambda worker, ctx, key_id: worker.keys.set_enabled(
        ctx, key_id, enabled=False, scope="version"
    ),
}


@pytest.mark.parametrize(("permission", "call"), CALLS.items(), ids=CALLS)
async def test_a_key_must_exist_here_and_the_scope_must_cover_it(permission: str, call) -> None:
    worker = an_installation()
    mine, other, theirs = await worker.new_key(), await worker.new_key(), await worker.new_key(OTHER)
    ctx = await worker.context(f"{permission}:{mine.key_id}")
    await call(worker, ctx, mine.key_id)
    state = worker.database.state
    for absent in (theirs.key_id, UUID(int=99), next(key for realm, key in state.versions if realm == ACME)):
        assert await refused(NotFound, call(worker, ctx, absent)) == "key_not_found"
    with pytest.raises(Forbidden) as refusal:
        await call(worker, ctx, other.key_id)
    assert (refusal.value.permission, refusal.value.resource) == (permission, f"lineage {other.key_id}")


@pytest.mark.parametrize(("permission", "call"), CALLS.items(), ids=CALLS)
async def test_another_permission_does_not_do(permission: str, call) -> None:
    worker = an_installation()
    ref = await worker.new_key()
    others = [name for name in CALLS if name != permission]
    ctx = await worker.context(*others, "keys:encrypt", "keys:create")
    assert await refused(Forbidden, call(worker, ctx, ref.key_id)) == "permission_denied"


async def test_the_list_goes_on_after_the_position_it_gave() -> None:
    worker = an_installation()
    refs = []
    for _ in range(5):
        refs.append(await worker.new_key())
        worker.clock.advance(1)
    ctx, seen, after = await worker.context(), [], None
    while True:
        items, after = await worker.keys.list(ctx, after, 2)
        assert len(items) <= 2
        seen += [item.key_id for item in items]
        if after is None:
            break
    assert seen == [ref.key_id for ref in refs]


async def test_a_full_last_page_has_no_position() -> None:
    worker = an_installation()
    for _ in range(2):
        await worker.new_key()
    items, after = await worker.keys.list(await worker.context(), None, 2)
    assert (len(items), after) == (2, None)


async def test_the_list_shows_what_the_caller_may_read() -> None:
    worker = an_installation()
    mine, _ = await worker.new_key(), await worker.new_key()
    items, _ = await worker.keys.list(await worker.context(f"keys:read:{mine.key_id}"), None, 10)
    assert [item.key_id for item in items] == [mine.key_id]
    items, _ = await worker.keys.list(await worker.context("keys:create"), None, 10)
    assert items == []


async def test_a_repeated_request_makes_one_key() -> None:
    worker = an_installation()
    before = rows(worker)

    async def create(body: bytes) -> tuple[UUID, bool]:
        key = IdempotencyKey("k", "POST /v1/security/keys", body)
        ctx = (await worker.context())._replace(idempotency=key)
        return (await worker.keys.create(ctx, AES, None)).key_id, key.replayed

    first, again = await create(b"body"), await create(b"body")
    assert (first[0], first[1], again[1]) == (again[0], False, True)
    assert rows(worker) == before + 1
    assert await refused(QimemError, create(b"other")) == "idempotency_mismatch"


async def test_without_the_database_nothing_is_made() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    ctx = await worker.context()
    worker.database.failure = storage_unavailable()
    for call in (
        worker.keys.create(ctx, AES, None),
        worker.keys.rotate(ctx, ref),
        worker.keys.get(ctx, ref.key_id),
    ):
        assert await refused(Unavailable, call) == "storage_unavailable"
