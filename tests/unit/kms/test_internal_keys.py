from __future__ import annotations

from dataclasses import replace

import pytest

from qimem.crypto.jose import thumbprint
from qimem.crypto.signatures import ES256Verifier, SignatureInvalid
from qimem.crypto.wrap import UnwrapFailed
from qimem.errors import Internal
from qimem.kernel.epochs import Epoch
from qimem.kernel.ids import RealmId
from qimem.kms.models import KeyVersion, Purpose
from tests.unit.kms.fakes import ACME, INSTANCE, NO_TX, NOW_US, OTHER, FakeDatabase, Worker, an_installation

pytestmark = pytest.mark.anyio

NOWHERE = RealmId("nowhere")
INTERNAL = {Purpose.TOKEN_SIGNING, Purpose.REFRESH_MAC, Purpose.PASSWORD_PEPPER}


def version_of(worker: Worker, purpose: Purpose, realm_id: RealmId = ACME) -> KeyVersion:
    return worker.store.find_internal(NO_TX, realm_id, purpose)[0]


def disable(worker: Worker, version: KeyVersion) -> None:
    worker.store.set_enabled(NO_TX, version.realm_id, enabled=False, key_id=version.key_id)
    worker.database.bump(NO_TX, version.realm_id)


def damage(worker: Worker, version: KeyVersion) -> None:
    """Flip a bit of its row, and let no worker remember how it was."""
    slot = (version.realm_id, version.key_id)
    stored = worker.database.state.material[slot]
    changed = bytes([*stored.wrapped[:-1], stored.wrapped[-1] ^ 1])
    worker.database.state.material[slot] = replace(stored, wrapped=changed)
    worker.keyring._handles.clear()
    worker.database.bump(NO_TX, version.realm_id)


def add_signing_key(worker: Worker) -> KeyVersion:
    """A second version of the realm's signing key, as a rotation makes it."""
    old = version_of(worker, Purpose.TOKEN_SIGNING)
    prepared = Worker(FakeDatabase()).provisioning.prepare(ACME, NOW_US)
    new, row = next(pair for pair in prepared.keys if pair[0].purpose is Purpose.TOKEN_SIGNING)
    fresh = replace(new, lineage_id=old.lineage_id, version=2)
    material = prepared.kek.unwrap_material(new, row.wrapped)
    stored = worker.store.find_kek(NO_TX, ACME, 1)
    assert stored is not None
    root = worker.root_keys.find(stored.root_check)
    assert root is not None
    kek = root.unwrap_kek(ACME, 1, stored.wrapped)
    row = replace(row, wrapped=kek.wrap_material(fresh, material))
    assert worker.store.succeed(NO_TX, old, fresh, row)
    worker.database.bump(NO_TX, ACME)
    return fresh


def test_a_new_realm_gets_a_kek_and_one_key_for_each_purpose() -> None:
    worker = Worker(FakeDatabase())
    prepared = worker.provisioning.prepare(ACME, NOW_US)
    assert worker.database.writes == 0
    worker.provisioning.provision(NO_TX, ACME, prepared, NOW_US)
    versions = list(worker.database.state.versions.values())
    assert {version.purpose for version in versions} == INTERNAL
    assert len({version.key_id for version in versions}) == 3
    assert all(version.active and version.enabled and version.version == 1 for version in versions)
    assert set(worker.database.state.keks) == {(ACME, 1)}


def test_two_realms_share_nothing() -> None:
    worker = an_installation()
    state = worker.database.state
    wrapped = [
        *(kek.wrapped for kek in state.keks.values()),
        *(row.wrapped for row in state.material.values()),
    ]
    assert len(set(wrapped)) == 8


async def test_two_realms_publish_different_keys() -> None:
    worker = an_installation()
    assert set(await worker.internal.public_keys(ACME)).isdisjoint(await worker.internal.public_keys(OTHER))


async def test_the_pepper_of_a_prepared_realm_is_the_one_it_will_have() -> None:
    worker = Worker(FakeDatabase())
    prepared = worker.provisioning.prepare(ACME, NOW_US)
    early = bytes(prepared.pepper().reveal())
    worker.provisioning.provision(NO_TX, ACME, prepared, NOW_US)
    worker.database.state.epochs[ACME] = Epoch(b"first", 1)
    assert (await worker.internal.pepper(ACME)).equals(early)


async def test_a_signature_verifies_with_the_published_key() -> None:
    worker = an_installation()
    kid, sign = await worker.internal.active_signer(ACME)
    published = await worker.internal.public_keys(ACME)
    signature = sign(b"data")
    ES256Verifier(published[kid]).verify(signature, b"data")
    with pytest.raises(SignatureInvalid):
        ES256Verifier(published[kid]).verify(signature, b"date")


async def test_a_published_key_has_its_thumbprint_for_a_name_and_nothing_private() -> None:
    worker = an_installation()
    ((kid, jwk),) = (await worker.internal.public_keys(ACME)).items()
    assert kid == jwk["kid"] == thumbprint({name: jwk[name] for name in ("kty", "crv", "x", "y")})
    assert set(jwk) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert (jwk["use"], jwk["alg"]) == ("sig", "ES256")


async def test_each_realm_signs_with_its_own_key() -> None:
    worker = an_installation()
    (ours, _), (theirs, _) = [await worker.internal.active_signer(realm) for realm in (ACME, OTHER)]
    assert ours in await worker.internal.public_keys(ACME)
    assert theirs in await worker.internal.public_keys(OTHER)
    assert ours != theirs


async def test_after_a_rotation_the_new_key_signs_and_the_old_one_is_still_published() -> None:
    worker = an_installation()
    old, _ = await worker.internal.active_signer(ACME)
    add_signing_key(worker)
    new, sign = await worker.internal.active_signer(ACME)
    assert new != old
    published = await worker.internal.public_keys(ACME)
    assert list(published) == [new, old]
    ES256Verifier(published[new]).verify(sign(b"data"), b"data")


async def test_a_damaged_signing_key_leaves_the_others_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    worker = an_installation()
    old = version_of(worker, Purpose.TOKEN_SIGNING)
    new = add_signing_key(worker)
    damage(worker, old)
    ((kid, _),) = (await worker.internal.kids(ACME)).items()
    assert kid == new.key_id
    signer, sign = await worker.internal.active_signer(ACME)
    assert list(await worker.internal.public_keys(ACME)) == [signer]
    assert len(sign(b"data")) == 64
    assert caplog.messages == [f"realm {ACME}: signing key {old.key_id} cannot be unwrapped"]


async def test_a_damaged_active_signing_key_signs_nothing_and_the_old_one_still_verifies() -> None:
    worker = an_installation()
    old, _ = await worker.internal.active_signer(ACME)
    damage(worker, add_signing_key(worker))
    assert list(await worker.internal.public_keys(ACME)) == [old]
    with pytest.raises(Internal):
        await worker.internal.active_signer(ACME)


async def test_a_realm_whose_only_signing_key_is_damaged_does_not_claim_to_have_none() -> None:
    worker = an_installation()
    damage(worker, version_of(worker, Purpose.TOKEN_SIGNING))
    for _ in range(2):
        with pytest.raises(UnwrapFailed):
            await worker.internal.public_keys(ACME)


async def test_a_disabled_signing_key_is_neither_published_nor_used() -> None:
    worker = an_installation()
    old = version_of(worker, Purpose.TOKEN_SIGNING)
    gone, _ = await worker.internal.active_signer(ACME)
    add_signing_key(worker)
    disable(worker, old)
    kid, _ = await worker.internal.active_signer(ACME)
    assert list(await worker.internal.public_keys(ACME)) == [kid] != [gone]


async def test_without_an_enabled_signing_key_nothing_is_signed() -> None:
    worker = an_installation()
    await worker.internal.active_signer(ACME)
    disable(worker, version_of(worker, Purpose.TOKEN_SIGNING))
    assert await worker.internal.public_keys(ACME) == {}
    with pytest.raises(Internal):
        await worker.internal.active_signer(ACME)


async def test_a_tag_is_good_for_its_data_in_its_realm() -> None:
    worker = an_installation()
    tag = await worker.internal.tag(ACME, b"data")
    assert len(tag) == 32
    assert await worker.internal.verify(ACME, b"data", tag)
    assert await Worker(worker.database).internal.verify(ACME, b"data", tag)
    for realm_id, data, given in (
        (OTHER, b"data", tag),
        (ACME, b"date", tag),
        (ACME, b"data", tag[:-1]),
        (ACME, b"data", tag[:-1] + bytes((tag[-1] ^ 1,))),
        (ACME, b"data", b""),
        (NOWHERE, b"data", tag),
    ):
        assert not await worker.internal.verify(realm_id, data, given)


async def test_the_pepper_stays_the_same_and_is_the_realms_own() -> None:
    worker = an_installation()
    pepper = bytes((await worker.internal.pepper(ACME)).reveal())
    assert (await worker.internal.pepper(ACME)).equals(pepper)
    assert (await Worker(worker.database).internal.pepper(ACME)).equals(pepper)
    assert not (await worker.internal.pepper(OTHER)).equals(pepper)


async def test_an_absent_realm_publishes_nothing_and_cannot_be_used() -> None:
    worker = an_installation()
    assert await worker.internal.public_keys(NOWHERE) == {}
    for call in (
        worker.internal.active_signer(NOWHERE),
        worker.internal.tag(NOWHERE, b""),
        worker.internal.pepper(NOWHERE),
    ):
        with pytest.raises(Internal):
            await call


async def test_a_realm_that_lost_its_keys_is_our_fault() -> None:
    worker = Worker(FakeDatabase())
    worker.database.state.epochs[ACME] = Epoch(b"first", 1)
    for call in (
        worker.internal.active_signer(ACME),
        worker.internal.tag(ACME, b""),
        worker.internal.pepper(ACME),
    ):
        with pytest.raises(Internal):
            await call


def test_the_keyring_knows_whose_it_is() -> None:
    assert an_installation().keyring.instance_id == INSTANCE
