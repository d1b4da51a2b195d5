"""Root keys in hand and in custody: what the database does not know by its check value is never used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qimem.crypto.mac import key_check_value
from qimem.errors import Unavailable
from qimem.kernel.secret import SecretBytes
from qimem.kms.hierarchy import RealmKek, random_key
from qimem.kms.models import WrappedKek
from qimem.kms.root_keys import Generation, RootKeys
from tests.unit.kms.fakes import ACME, INSTANCE, NO_TX, NOW_US, OTHER, FakeDatabase, Worker, an_installation

pytestmark = pytest.mark.anyio

OLD, NEW, STRANGE = bytes(range(32)), b"n" * 32, b"s" * 32


def check(key: bytes) -> bytes:
    return key_check_value(SecretBytes(key), INSTANCE.bytes)


class Custody:
    """Key files, and how often somebody looked."""

    def __init__(self, *keys: bytes) -> None:
        self.keys = list(keys)
        self.looks = 0
        self.given: list[SecretBytes] = []

    def __call__(self) -> Iterator[SecretBytes]:
        self.looks += 1
        for key in self.keys:
            self.given.append(SecretBytes(key))
            yield self.given[-1]


def test_what_is_in_hand_is_not_looked_for() -> None:
    custody = Custody(NEW)
    keys = RootKeys(INSTANCE, SecretBytes(OLD), custody)
    found = keys.find(check(OLD))
    assert found is not None
    assert found.key.equals(OLD)
    assert custody.looks == 0


def test_what_took_its_place_is_found_once_and_kept() -> None:
    custody = Custody(NEW, OLD)
    keys = RootKeys(INSTANCE, SecretBytes(OLD), custody)
    first, second = keys.find(check(NEW)), keys.find(check(NEW))
    assert first is not None
    assert first is second
    assert first.key.equals(NEW)
    assert custody.looks == 1
    assert keys.find(check(OLD)) is not None


@pytest.mark.parametrize("asked", [check(STRANGE), b"", check(NEW)[:-1], bytes(32)])
def test_a_key_that_the_database_does_not_name_is_wiped_and_forgotten(asked: bytes) -> None:
    custody = Custody(NEW, OLD)
    keys = RootKeys(INSTANCE, SecretBytes(OLD), custody)
    assert keys.find(asked) is None
    assert all(key.equals(bytes(32)) for key in custody.given)
    assert keys.find(asked) is None
    assert custody.looks == 2


def test_the_same_key_at_two_places_is_one() -> None:
    custody = Custody(NEW, NEW)
    found = RootKeys(INSTANCE, None, custody).find(check(NEW))
    assert found is not None
    assert found.key.equals(NEW)
    assert custody.given[1].equals(bytes(32))


def test_at_the_end_all_are_wiped() -> None:
    keys = RootKeys(INSTANCE, SecretBytes(OLD), Custody(NEW))
    held = [keys.find(check(OLD)), keys.find(check(NEW))]
    keys.close()
    for one in held:
        assert one is not None
        assert one.key.equals(bytes(32))


# --- the ring ---------------------------------------------------------------------------------


def rewrapped(worker: Worker, under: bytes, generation: int = 2) -> None:
    """As a rotation leaves ACME's key: under another root key, which the database names."""
    state = worker.database.state
    state.generations.append(Generation(generation, check(under), NOW_US))
    opened = worker.root_keys.find(check(OLD))
    other = RootKeys(INSTANCE, SecretBytes(under)).find(check(under))
    assert opened is not None
    assert other is not None
    kek = opened.unwrap_kek(ACME, 1, state.keks[ACME, 1].wrapped)
    state.keks[ACME, 1] = WrappedKek(1, other.wrap_kek(kek), generation)


async def test_a_cold_key_under_a_new_root_key_is_opened_with_what_custody_has() -> None:
    worker = an_installation()
    rewrapped(worker, NEW)
    late = Worker(worker.database, OLD, Custody(NEW, OLD))
    assert (await late.keyring.record_sealer(ACME)).version == 1
    assert (await late.keyring.record_sealer(OTHER)).version == 1


@pytest.mark.parametrize("held", [(), (STRANGE,), (OLD,)])
async def test_without_the_new_root_key_it_is_sealed(held: tuple[bytes, ...]) -> None:
    worker = an_installation()
    rewrapped(worker, NEW)
    late = Worker(worker.database, OLD, Custody(*held))
    with pytest.raises(Unavailable) as caught:
        await late.keyring.record_sealer(ACME)
    assert caught.value.code == "sealed"
    # What is still under the old one opens.
    assert (await late.keyring.record_sealer(OTHER)).version == 1


async def test_a_rotation_that_ends_between_two_looks_is_looked_at_again() -> None:
    worker = an_installation()
    custody = Custody()
    late = Worker(worker.database, STRANGE, custody)

    def appears() -> Iterator[SecretBytes]:
        if custody.looks == 1:
            rewrapped(worker, NEW)
            custody.keys = [NEW]
        return Custody.__call__(custody)

    late.root_keys._look = appears
    assert await late.keyring.kek(ACME, 1)


def test_a_new_realm_is_wrapped_under_the_newest_root_key_at_hand() -> None:
    worker = an_installation()
    worker.database.state.generations.append(Generation(2, check(NEW), NOW_US))
    kek = RealmKek(INSTANCE, ACME, 1, random_key())
    having, lacking = Worker(worker.database, OLD, Custody(NEW)), Worker(worker.database, OLD)
    assert having.keyring.wrap_kek(NO_TX, kek).root_generation == 2
    assert lacking.keyring.wrap_kek(NO_TX, kek).root_generation == 1
    del worker.database.state.generations[0]
    assert having.keyring.wrap_kek(NO_TX, kek).root_generation == 2
    with pytest.raises(Unavailable, match="not at hand"):
        lacking.keyring.wrap_kek(NO_TX, kek)


def test_a_realm_that_was_prepared_before_the_rotation_is_wrapped_as_it_is_stored() -> None:
    worker = Worker(FakeDatabase(), OLD, Custody(NEW))
    prepared = worker.provisioning.prepare(ACME, NOW_US)
    worker.database.state.generations[:] = [Generation(2, check(NEW), NOW_US)]
    worker.provisioning.provision(NO_TX, ACME, prepared, NOW_US)
    assert worker.database.state.keks[ACME, 1].root_generation == 2
