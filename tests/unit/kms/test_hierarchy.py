from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from qimem.crypto.algorithms import Algorithm
from qimem.crypto.mac import digest, mac
from qimem.crypto.wrap import UnwrapFailed
from qimem.kernel.ids import RealmId
from qimem.kernel.secret import SecretBytes
from qimem.kms.hierarchy import RealmKek, RootKey, random_key
from qimem.kms.models import Purpose
from tests.unit.kms.fakes import ACME, INSTANCE, OTHER, a_version

KEK = RealmKek(INSTANCE, ACME, 1, SecretBytes(b"k" * 32))
ROOT = RootKey(INSTANCE, SecretBytes(b"r" * 32))
MATERIAL = b"m" * 32
VERSION = a_version()


def wrapped() -> bytes:
    return KEK.wrap_material(VERSION, SecretBytes(MATERIAL))


def test_material_comes_back_as_it_was_wrapped() -> None:
    assert KEK.unwrap_material(VERSION, wrapped()).equals(MATERIAL)


def test_wrapping_shows_nothing_and_never_repeats_itself() -> None:
    wraps = {wrapped() for _ in range(20)}
    assert len(wraps) == 20
    assert not any(MATERIAL[:4] in wrap for wrap in wraps)


MOVED_VERSION = {
    "key id": replace(VERSION, key_id=UUID(int=2)),
    "lineage": replace(VERSION, lineage_id=UUID(int=3)),
    "version": replace(VERSION, version=2),
    "purpose": replace(VERSION, purpose=Purpose.REFRESH_MAC),
    "algorithm": replace(VERSION, algorithm=Algorithm.CHACHA20_POLY1305),
}


@pytest.mark.parametrize("version", MOVED_VERSION.values(), ids=MOVED_VERSION)
def test_material_does_not_unwrap_as_another_version(version) -> None:
    with pytest.raises(UnwrapFailed):
        KEK.unwrap_material(version, wrapped())


MOVED_KEK = {
    "realm": replace(KEK, realm_id=OTHER),
    "instance": replace(KEK, instance_id=UUID(int=8)),
    "key": replace(KEK, key=SecretBytes(b"j" * 32)),
}


@pytest.mark.parametrize("kek", MOVED_KEK.values(), ids=MOVED_KEK)
def test_material_does_not_unwrap_elsewhere(kek: RealmKek) -> None:
    with pytest.raises(UnwrapFailed):
        kek.unwrap_material(VERSION, wrapped())
    with pytest.raises(UnwrapFailed):
        KEK.unwrap_material(VERSION, kek.wrap_material(VERSION, SecretBytes(MATERIAL)))


@pytest.mark.parametrize("change", [{"active": False}, {"enabled": False}, {"name": "x"}, {"created_us": 1}])
def test_a_change_of_state_does_not_lock_the_material_up(change) -> None:
    assert KEK.unwrap_material(replace(VERSION, **change), wrapped()).equals(MATERIAL)


def test_damage_to_any_byte_is_seen() -> None:
    good = wrapped()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x10
        with pytest.raises(UnwrapFailed):
            KEK.unwrap_material(VERSION, bytes(bad))
        with pytest.raises(UnwrapFailed):
            KEK.unwrap_material(VERSION, good[:position])


def test_a_kek_comes_back_under_its_root_key() -> None:
    kek = ROOT.unwrap_kek(ACME, 1, ROOT.wrap_kek(KEK))
    assert (kek.instance_id, kek.realm_id, kek.version) == (INSTANCE, ACME, 1)
    assert kek.key.equals(b"k" * 32)


@pytest.mark.parametrize(
    ("root", "realm_id", "version"),
    [
        (ROOT, OTHER, 1),
        (ROOT, ACME, 2),
        (ROOT, RealmId(""), 1),
        (replace(ROOT, instance_id=UUID(int=8)), ACME, 1),
        (replace(ROOT, key=SecretBytes(b"q" * 32)), ACME, 1),
    ],
    ids=["realm", "version", "no realm", "instance", "root key"],
)
def test_a_kek_does_not_unwrap_elsewhere(root: RootKey, realm_id: RealmId, version: int) -> None:
    with pytest.raises(UnwrapFailed):
        root.unwrap_kek(realm_id, version, ROOT.wrap_kek(KEK))


def test_a_record_opens_under_its_own_label_only() -> None:
    sealed = KEK.seal("a", b"answer")
    assert KEK.open("a", sealed) == b"answer"
    for label in ("", "b", "a ", "aa", "A"):
        with pytest.raises(UnwrapFailed):
            KEK.open(label, sealed)


@pytest.mark.parametrize("kek", [*MOVED_KEK.values(), replace(KEK, version=2)], ids=[*MOVED_KEK, "version"])
def test_a_record_does_not_open_elsewhere(kek: RealmKek) -> None:
    with pytest.raises(UnwrapFailed):
        kek.open("a", KEK.seal("a", b"answer"))


def test_a_fingerprint_recognizes_data_and_says_nothing_without_the_key() -> None:
    data = b"d" * 32
    assert KEK.fingerprint(data) == KEK.fingerprint(data)
    others = [
        KEK.fingerprint(b"e" * 32),
        KEK.fingerprint(b""),
        MOVED_KEK["key"].fingerprint(data),
        data,
        digest(data),
    ]
    assert KEK.fingerprint(data) not in others
    assert len(KEK.fingerprint(data)) == 32


def test_a_fingerprint_is_not_made_with_the_wrapping_key_itself() -> None:
    assert KEK.fingerprint(b"data") != mac(KEK.key, b"data")


def test_material_records_and_keks_do_not_stand_in_for_each_other() -> None:
    # Even where one key would wrap all three, and every other name is the same.
    root = RootKey(INSTANCE, KEK.key)
    spelled = replace(VERSION, key_id=UUID(bytes=b"an-id-as-a-label"))
    material = KEK.wrap_material(spelled, SecretBytes(MATERIAL))
    record = KEK.seal("an-id-as-a-label", MATERIAL)
    with pytest.raises(UnwrapFailed):
        KEK.open("an-id-as-a-label", material)
    with pytest.raises(UnwrapFailed):
        KEK.unwrap_material(spelled, record)
    for wrap in (material, record):
        with pytest.raises(UnwrapFailed):
            root.unwrap_kek(ACME, 1, wrap)
    with pytest.raises(UnwrapFailed):
        KEK.open(ACME, root.wrap_kek(KEK))


def test_random_keys_have_32_bytes_and_never_repeat() -> None:
    keys = {bytes(random_key().reveal()) for _ in range(50)}
    assert len(keys) == 50
    assert {len(key) for key in keys} == {32}
