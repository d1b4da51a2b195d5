from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from qimem.crypto.algorithms import Algorithm
from qimem.errors import Conflict, Forbidden, Invalid, NotFound, QimemError, Unavailable, storage_unavailable
from qimem.kernel.epochs import Epoch
from qimem.kernel.limits import LEASE_BLOCK_MIN
from qimem.kms.models import KeyRef
from tests.unit.kms.fakes import ACME, NO_TX, OTHER, Worker, an_installation

pytestmark = pytest.mark.anyio


def disable_quietly(worker: Worker, ref: KeyRef) -> None:
    """The change of another worker, as its transaction makes it: state and epoch together."""
    worker.store.set_enabled(NO_TX, ACME, enabled=False, key_id=ref.key_id)
    worker.database.bump(NO_TX, ACME)


async def refused(kind: type[QimemError], call) -> str:
    with pytest.raises(kind) as refusal:
        await call
    return refusal.value.code


async def test_what_is_sealed_opens() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    assert await worker.open(await worker.seal(ref, b"hello")) == b"hello"


async def test_a_warm_request_asks_the_database_nothing() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    envelope = await worker.seal(ref)
    await worker.open(envelope)
    before = (worker.database.reads, worker.database.writes)
    await worker.seal(ref)
    await worker.open(envelope)
    assert (worker.database.reads, worker.database.writes) == before


async def test_a_key_named_in_three_ways_has_one_lease() -> None:
    worker = an_installation()
    ref = await worker.new_key(name="orders")
    for named in (ref, KeyRef(lineage_id=ref.key_id), KeyRef(name="orders")):
        await worker.seal(named)
    handle = worker.keyring.find(ACME, ref.key_id)
    assert handle.lease.remaining == LEASE_BLOCK_MIN - 3


async def test_requests_that_build_a_handle_at_once_keep_one_lease() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    await asyncio.gather(*(worker.seal(ref) for _ in range(20)))
    assert worker.database.state.leased[ACME, ref.key_id] == LEASE_BLOCK_MIN
    assert worker.keyring.find(ACME, ref.key_id).lease.remaining == LEASE_BLOCK_MIN - 20


async def test_a_disabled_key_is_refused_by_a_warm_worker() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    envelope = await worker.seal(ref)
    await worker.open(envelope)
    disable_quietly(worker, ref)
    assert await refused(Invalid, worker.seal(ref)) == "key_disabled"
    assert await refused(Invalid, worker.open(envelope)) == "key_disabled"


async def test_a_rotated_key_is_refused_by_a_warm_worker_of_the_same_data() -> None:
    worker = an_installation()
    neighbor = Worker(worker.database)
    ref = await worker.new_key()
    envelope = await worker.seal(ref)
    newer = await neighbor.keys.rotate(await neighbor.context(), ref)
    assert await refused(Invalid, worker.seal(ref)) == "key_inactive"
    sealed = await worker.cipher.encrypt(await worker.context(), KeyRef(lineage_id=ref.key_id), b"x")
    assert (sealed.version.key_id, sealed.version.version) == (newer.key_id, 2)
    assert await worker.open(envelope) == b"a secret"


async def test_a_key_disabled_between_epoch_and_look_up_is_refused_and_not_remembered() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    envelope = await worker.seal(ref)
    worker.database.bump(NO_TX, ACME)
    early = await worker.context()
    disable_quietly(worker, ref)
    assert await refused(Invalid, worker.cipher.decrypt(early, envelope, None)) == "key_disabled"
    worker.store.set_enabled(NO_TX, ACME, enabled=True, key_id=ref.key_id)
    worker.database.bump(NO_TX, ACME)
    assert await worker.open(envelope) == b"a secret"


async def test_a_look_up_newer_than_its_epoch_serves_one_request_only() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    early = await worker.context()
    # Something changes after the epoch was read: what the look-up finds belongs to the next epoch.
    worker.database.bump(NO_TX, ACME)
    await worker.cipher.encrypt(early, ref, b"x")
    assert early.state.find("version", ref) is None
    assert early.state.find("encrypt", ref) is None


async def test_a_key_disabled_while_its_handle_is_built_is_refused_from_the_next_request_on() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    envelope = await Worker(worker.database).seal(ref)
    reads = 0

    async def disable_before_the_material_is_read() -> None:
        nonlocal reads
        reads += 1
        if reads == 2:
            disable_quietly(worker, ref)

    ctx = await worker.context()
    worker.database.before_read = disable_before_the_material_is_read
    # This request began before the change, and may still be served; no later one may.
    await worker.cipher.decrypt(ctx, envelope, None)
    assert reads >= 2
    assert await refused(Invalid, worker.open(envelope)) == "key_disabled"
    assert await refused(Invalid, worker.seal(ref)) == "key_disabled"


async def test_after_a_restore_nothing_remembered_counts() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    envelope = await worker.seal(ref)
    del worker.database.state.versions[ACME, ref.key_id]
    worker.database.state.epochs[ACME] = Epoch(b"second", worker.database.state.epochs[ACME].number)
    assert await refused(NotFound, worker.open(envelope)) == "key_not_found"
    assert await refused(NotFound, worker.seal(ref)) == "key_not_found"


async def test_absence_is_not_remembered() -> None:
    worker = an_installation()
    assert await refused(NotFound, worker.seal(KeyRef(name="orders"))) == "key_not_found"
    await worker.new_key(name="orders")
    assert await worker.open(await worker.seal(KeyRef(name="orders"))) == b"a secret"


async def test_a_key_of_another_realm_is_not_found() -> None:
    worker = an_installation()
    theirs = await worker.new_key(OTHER, name="orders")
    envelope = await worker.seal(theirs, realm_id=OTHER)
    for ref in (theirs, KeyRef(lineage_id=theirs.key_id), KeyRef(name="orders")):
        assert await refused(NotFound, worker.seal(ref)) == "key_not_found"
    assert await refused(NotFound, worker.open(envelope)) == "key_not_found"


async def test_the_realms_own_keys_are_not_found() -> None:
    worker = an_installation()
    for realm_id, key_id in list(worker.database.state.versions):
        if realm_id == ACME:
            for ref in (KeyRef(key_id=key_id), KeyRef(lineage_id=key_id)):
                assert await refused(NotFound, worker.seal(ref)) == "key_not_found"


@pytest.mark.parametrize("warm", [False, True])
async def test_a_scope_is_asked_for_on_every_request(warm: bool) -> None:
    worker = an_installation()
    mine, other = await worker.new_key(), await worker.new_key()
    sealer = Worker(worker.database)
    envelopes = [await sealer.seal(ref) for ref in (mine, other)]
    if warm:
        await worker.seal(other)
        await worker.open(envelopes[1])
    ctx = await worker.context(f"keys:encrypt:{mine.key_id}", f"keys:decrypt:{mine.key_id}")
    await worker.cipher.encrypt(ctx, mine, b"x")
    await worker.cipher.decrypt(ctx, envelopes[0], None)
    with pytest.raises(Forbidden) as encrypt:
        await worker.cipher.encrypt(ctx, other, b"x")
    with pytest.raises(Forbidden) as decrypt:
        await worker.cipher.decrypt(ctx, envelopes[1], None)
    assert (encrypt.value.permission, decrypt.value.permission) == ("keys:encrypt", "keys:decrypt")
    assert encrypt.value.resource == decrypt.value.resource == f"lineage {other.key_id}"


@pytest.mark.parametrize("warm", [False, True])
async def test_one_permission_is_not_the_other(warm: bool) -> None:
    worker = an_installation()
    ref = await worker.new_key()
    envelope = await Worker(worker.database).seal(ref)
    if warm:
        await worker.open(await worker.seal(ref))
    encrypt_only, decrypt_only = await worker.context("keys:encrypt"), await worker.context("keys:decrypt")
    assert (
        await refused(Forbidden, worker.cipher.decrypt(encrypt_only, envelope, None)) == "permission_denied"
    )
    assert await refused(Forbidden, worker.cipher.encrypt(decrypt_only, ref, b"x")) == "permission_denied"


async def test_absence_comes_before_the_scope_and_the_scope_before_the_state() -> None:
    worker = an_installation()
    mine, other = await worker.new_key(), await worker.new_key()
    disable_quietly(worker, other)
    ctx = await worker.context(f"keys:encrypt:{mine.key_id}")
    assert await refused(NotFound, worker.cipher.encrypt(ctx, KeyRef(name="absent"), b"x")) == "key_not_found"
    assert await refused(Forbidden, worker.cipher.encrypt(ctx, other, b"x")) == "permission_denied"


async def test_a_pin_must_fit() -> None:
    worker = an_installation()
    ref = await worker.new_key(name="orders")
    envelope = await worker.seal(ref, b"hello")
    for pin in (ref, KeyRef(lineage_id=ref.key_id), KeyRef(name="orders"), None):
        assert (await worker.cipher.decrypt(await worker.context(), envelope, pin)).plaintext == b"hello"
    for pin in (
        KeyRef(key_id=UUID(int=1)),
        KeyRef(lineage_id=UUID(int=1)),
        KeyRef(name="other"),
        KeyRef(name=""),
    ):
        opening = worker.cipher.decrypt(await worker.context(), envelope, pin)
        assert await refused(Invalid, opening) == "key_mismatch"


async def test_an_envelope_of_another_algorithm_than_the_keys_is_refused() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    envelope = await worker.seal(ref)
    version = worker.database.state.versions[ACME, ref.key_id]
    worker.database.state.versions[ACME, ref.key_id] = replace(version, algorithm=Algorithm.CHACHA20_POLY1305)
    worker.database.bump(NO_TX, ACME)
    with pytest.raises(Invalid) as refusal:
        await worker.open(envelope)
    assert refusal.value.message == "invalid envelope: algorithm mismatch"


async def test_a_malformed_envelope_is_refused_before_anything_is_looked_up() -> None:
    worker = an_installation()
    ctx = await worker.context()
    worker.database.failure = storage_unavailable()
    assert await refused(Invalid, worker.cipher.decrypt(ctx, "!", None)) == "invalid_envelope"


async def test_without_the_epoch_nothing_is_served_from_memory() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    envelope = await worker.seal(ref)
    await worker.open(envelope)
    worker.database.failure = storage_unavailable()
    assert await refused(Unavailable, worker.seal(ref)) == "storage_unavailable"
    assert await refused(Unavailable, worker.open(envelope)) == "storage_unavailable"


async def test_an_exhausted_version_still_decrypts() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    worker.store.limit = 2
    envelopes = [await worker.seal(ref) for _ in range(2)]
    assert await refused(Conflict, worker.seal(ref)) == "key_exhausted"
    assert [await worker.open(envelope) for envelope in envelopes] == [b"a secret"] * 2


async def test_a_lease_that_cannot_be_written_seals_nothing() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    await worker.open(await Worker(worker.database).seal(ref))
    ctx = await worker.context()
    worker.database.failure = storage_unavailable()
    assert await refused(Unavailable, worker.cipher.encrypt(ctx, ref, b"x")) == "storage_unavailable"


async def test_leases_are_given_back_when_the_worker_drains() -> None:
    worker = an_installation()
    refs = [await worker.new_key() for _ in range(3)]
    for ref in refs:
        await worker.seal(ref)
    await worker.internal.pepper(ACME)
    await worker.cipher.give_back_leases()
    assert [worker.database.state.leased[ACME, ref.key_id] for ref in refs] == [1, 1, 1]


async def test_leases_that_could_not_be_given_back_are_lost_not_used_twice() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    await worker.seal(ref)
    lease = worker.keyring.find(ACME, ref.key_id).lease
    worker.database.failure = storage_unavailable()
    assert await refused(Unavailable, worker.cipher.give_back_leases()) == "storage_unavailable"
    assert not lease.take()


async def test_many_leases_are_given_back_in_few_writes() -> None:
    worker = an_installation()
    for _ in range(5):
        await worker.seal(await worker.new_key())
    before = worker.database.writes
    await worker.cipher.give_back_leases()
    assert worker.database.writes == before + 1
    await worker.cipher.give_back_leases()
    assert worker.database.writes == before + 1


async def test_no_nonce_repeats_over_workers_and_time() -> None:
    worker = an_installation()
    ref = await worker.new_key()
    workers = [worker, Worker(worker.database)]
    envelopes = [await each.seal(ref) for _ in range(200) for each in workers]
    assert len({envelope[:44] for envelope in envelopes}) == 400
