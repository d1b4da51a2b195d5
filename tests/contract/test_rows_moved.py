"""Who can write to the database but has no key gains nothing by moving secrets from row to row.

Every case first shows that the untouched rows serve, then moves one secret by SQL, starts anew as a
worker that remembers nothing, and sees that neither the plaintext nor another's secret comes out.
Moved back, it serves again: what was refused was the place, not the bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest

from qimem.authz.permissions import compile_permissions
from qimem.bootstrap.core import JsonCodec
from qimem.crypto.algorithms import Algorithm
from qimem.crypto.mac import key_check_value
from qimem.crypto.wrap import UnwrapFailed
from qimem.kernel.clock import ManualClock
from qimem.kernel.context import Actor, ActorKind, IdempotencyKey, RequestContext
from qimem.kernel.epochs import RealmCaches
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.kms.cipher import CipherService
from qimem.kms.hierarchy import RootKey
from qimem.kms.internal_keys import InternalKeys, RealmKeyProvisioning
from qimem.kms.keyring import Keyring
from qimem.kms.keys import KeyService, new_material
from qimem.kms.models import KeyRef, Purpose, WrappedKek
from qimem.kms.root_keys import Generation, RootKeys
from qimem.storage.database import OpenDatabase
from qimem.storage.repositories.idempotency import IdempotencyRepository
from qimem.storage.repositories.root_keys import RootKeyRepository
from qimem.storage.repositories.signing_keys import SigningKeyRepository
from qimem.storage.schema import idempotency, kms_key, kms_version, realm_kek, root_key
from tests.contract.repositories.rows import ACME, KEYS, NOW, OTHER, REALMS, a_key, a_realm, uid
from tests.support.audit import FakeIntents, a_draft
from tests.support.kms import Where, fetch, naming, put, swap

pytestmark = pytest.mark.anyio

ROOT = bytes(range(32))
INSTANCE = uid(1000)
TWIN = uid(77)
ROUTE = "POST /v1/security/keys"

Use = Callable[["Worker"], Awaitable[object]]


class Worker:
    """A worker that has just started: nothing is in its memory."""

    def __init__(self, database: OpenDatabase, instance: UUID = INSTANCE, root: bytes = ROOT) -> None:
        self.database = database
        self.keyring = Keyring(RootKeys(instance, SecretBytes(root)), database, KEYS)
        self.caches = RealmCaches(database, database)
        self.cipher = CipherService(database, KEYS, self.keyring)
        self.internal = InternalKeys(self.caches, KEYS, self.keyring)
        clock = ManualClock(NOW)
        work = UnitOfWork(database, IdempotencyRepository(), self.keyring, JsonCodec(), clock, FakeIntents())
        self.keys = KeyService(database, work, database, KEYS, self.keyring, clock)

    async def context(
        self, realm_id: RealmId, subject: str = "ada", key: str | None = None
    ) -> RequestContext:
        permissions = compile_permissions(frozenset({"realm:*"}))
        actor = Actor(realm_id, ActorKind.USER, subject, ClientId("app"), "t", permissions, "pro")
        state = await self.caches.fresh(realm_id)
        assert state is not None
        once = None if key is None else IdempotencyKey(key, ROUTE, b"body")
        return RequestContext("r", actor, state, a_draft(), once)

    async def create(self, realm_id: RealmId, subject: str = "ada", key: str | None = None) -> UUID:
        ctx = await self.context(realm_id, subject, key)
        return (await self.keys.create(ctx, Algorithm.AES256_GCM, None)).key_id

    async def seal(self, realm_id: RealmId, key_id: UUID) -> str:
        ref = KeyRef(key_id=key_id)
        return (await self.cipher.encrypt(await self.context(realm_id), ref, b"a secret")).envelope

    async def open(self, realm_id: RealmId, envelope: str) -> bytes:
        return (await self.cipher.decrypt(await self.context(realm_id), envelope, None)).plaintext

    async def sign(self, realm_id: RealmId) -> bytes:
        _, sign = await self.internal.active_signer(realm_id)
        return sign(b"data")


@dataclass
class House:
    """An installation with two realms; `first` and `second` are keys of ACME, `old` a version before `first`."""

    database: OpenDatabase
    old: UUID
    first: UUID
    second: UUID
    envelopes: dict[tuple[RealmId, UUID], str]

    def worker(self) -> Worker:
        return Worker(self.database)

    async def sql(self, work: Callable[[Tx], object]) -> None:
        await self.database.write(work)

    def opening(self, realm_id: RealmId, key_id: UUID) -> Use:
        return lambda worker: worker.open(realm_id, self.envelopes[realm_id, key_id])


@pytest.fixture
async def house(database: OpenDatabase) -> House:
    worker = Worker(database)
    provisioning = RealmKeyProvisioning(KEYS, SigningKeyRepository(), worker.keyring)
    prepared = {realm_id: provisioning.prepare(realm_id, NOW) for realm_id in (ACME, OTHER)}

    def settle(tx: Tx) -> None:
        check = key_check_value(SecretBytes(ROOT), INSTANCE.bytes)
        assert RootKeyRepository().begin(tx, Generation(1, check, NOW))
        for realm_id, keys in prepared.items():
            assert REALMS.insert(tx, a_realm(realm_id))
            provisioning.provision(tx, realm_id, keys, NOW)
            twin = a_key(TWIN.int, realm_id)
            assert KEYS.insert_key(tx, twin, new_material(keys.kek, twin))

    await database.write(settle)
    old, second = await worker.create(ACME), await worker.create(ACME)
    envelopes = {
        (realm_id, key_id): await worker.seal(realm_id, key_id)
        for realm_id, key_id in ((ACME, old), (ACME, second), (ACME, TWIN), (OTHER, TWIN))
    }
    first = (await worker.keys.rotate(await worker.context(ACME), KeyRef(key_id=old))).key_id
    envelopes[ACME, first] = await worker.seal(ACME, first)
    return House(database, old, first, second, envelopes)


def key(realm_id: RealmId, key_id: UUID) -> Where:
    return {"realm_id": realm_id, "key_id": key_id}


def internal(tx: Tx, realm_id: RealmId, purpose: Purpose) -> Where:
    return key(realm_id, KEYS.find_internal(tx, realm_id, purpose)[0].key_id)


def answer(key_: str, subject: str = "ada", realm_id: RealmId = ACME) -> Where:
    return {"realm_id": realm_id, "subject": subject, "route": ROUTE, "key": key_}


async def serves(house: House, *uses: Use) -> None:
    for use in uses:
        assert await use(house.worker())


async def fails(house: House, *uses: Use) -> None:
    for use in uses:
        with pytest.raises(UnwrapFailed):
            await use(house.worker())


async def swapped_and_back(house: House, move: Callable[[Tx], object], *uses: Use) -> None:
    """A move that undoes itself when it is made again."""
    await serves(house, *uses)
    await house.sql(move)
    await fails(house, *uses)
    await house.sql(move)
    await serves(house, *uses)


async def test_material_swapped_between_two_keys_of_a_realm(house: House) -> None:
    await swapped_and_back(
        house,
        lambda tx: swap(tx, kms_version, "wrapped", key(ACME, house.first), key(ACME, house.second)),
        house.opening(ACME, house.first),
        house.opening(ACME, house.second),
        lambda worker: worker.seal(ACME, house.first),
        lambda worker: worker.seal(ACME, house.second),
    )


async def test_material_swapped_between_two_versions_of_a_key(house: House) -> None:
    await swapped_and_back(
        house,
        lambda tx: swap(tx, kms_version, "wrapped", key(ACME, house.old), key(ACME, house.first)),
        house.opening(ACME, house.old),
        house.opening(ACME, house.first),
    )


async def test_material_swapped_between_two_realms_with_the_same_key_id(house: House) -> None:
    await swapped_and_back(
        house,
        lambda tx: swap(tx, kms_version, "wrapped", key(ACME, TWIN), key(OTHER, TWIN)),
        house.opening(ACME, TWIN),
        house.opening(OTHER, TWIN),
        lambda worker: worker.seal(OTHER, TWIN),
    )


async def test_material_copied_to_another_realm_with_its_kek_opens_nothing_there(house: House) -> None:
    def copy(tx: Tx) -> None:
        put(tx, kms_version, key(OTHER, TWIN), wrapped=fetch(tx, kms_version, "wrapped", key(ACME, TWIN)))
        kek = fetch(tx, realm_kek, "wrapped", {"realm_id": ACME, "version": 1})
        put(tx, realm_kek, {"realm_id": OTHER, "version": 1}, wrapped=kek)

    theirs = house.envelopes[ACME, TWIN]
    await house.sql(copy)
    await fails(house, lambda worker: worker.open(OTHER, theirs), house.opening(OTHER, TWIN))
    await serves(house, house.opening(ACME, TWIN))


async def test_a_row_under_another_key_id(house: House) -> None:
    envelope = naming(house.envelopes[ACME, house.second], str(uid(55)))
    lineage = {"realm_id": ACME, "lineage_id": house.second}
    await house.sql(lambda tx: put(tx, kms_version, key(ACME, house.second), key_id=uid(55)))
    await house.sql(lambda tx: put(tx, kms_key, lineage, active_key_id=uid(55)))
    await fails(house, lambda worker: worker.open(ACME, envelope), lambda worker: worker.seal(ACME, uid(55)))
    await house.sql(lambda tx: put(tx, kms_version, key(ACME, uid(55)), key_id=house.second))
    await house.sql(lambda tx: put(tx, kms_key, lineage, active_key_id=house.second))
    await serves(house, house.opening(ACME, house.second))


async def test_a_row_with_another_version_number(house: House) -> None:
    where = key(ACME, house.second)
    await serves(house, house.opening(ACME, house.second))
    await house.sql(lambda tx: put(tx, kms_version, where, version=2))
    await fails(house, house.opening(ACME, house.second), lambda worker: worker.seal(ACME, house.second))
    await house.sql(lambda tx: put(tx, kms_version, where, version=1))
    await serves(house, house.opening(ACME, house.second))


async def test_a_key_relabeled_for_another_algorithm(house: House) -> None:
    where = {"realm_id": ACME, "lineage_id": house.second}
    await serves(house, house.opening(ACME, house.second))
    await house.sql(lambda tx: put(tx, kms_key, where, algorithm="chacha20_poly1305"))
    await fails(house, house.opening(ACME, house.second), lambda worker: worker.seal(ACME, house.second))
    await house.sql(lambda tx: put(tx, kms_key, where, algorithm="aes256_gcm"))
    await serves(house, house.opening(ACME, house.second))


@pytest.mark.parametrize(
    ("purpose", "algorithm"),
    [
        (Purpose.REFRESH_MAC, None),
        (Purpose.REFRESH_MAC, "aes256_gcm"),
        (Purpose.PASSWORD_PEPPER, "chacha20_poly1305"),
        (Purpose.TOKEN_SIGNING, "aes256_gcm"),
    ],
)
async def test_one_of_the_realms_own_keys_relabeled_for_encryption(
    house: House, purpose: Purpose, algorithm: str | None
) -> None:
    moved: list[UUID] = []

    def relabel(tx: Tx) -> None:
        version = KEYS.find_internal(tx, ACME, purpose)[0]
        moved.append(version.key_id)
        changes = {"purpose": "encryption", "algorithm": algorithm or version.algorithm.value}
        put(tx, kms_key, {"realm_id": ACME, "lineage_id": version.lineage_id}, **changes)

    await house.sql(relabel)
    envelope = naming(house.envelopes[ACME, house.second], str(moved[0]))
    await fails(house, lambda worker: worker.seal(ACME, moved[0]), lambda worker: worker.open(ACME, envelope))


async def test_a_key_for_encryption_relabeled_as_the_realms_own(house: House) -> None:
    where = {"realm_id": ACME, "lineage_id": house.second}

    def relabel(tx: Tx) -> None:
        own = KEYS.find_internal(tx, ACME, Purpose.REFRESH_MAC)[0]
        put(tx, kms_key, {"realm_id": ACME, "lineage_id": own.lineage_id}, purpose="encryption")
        put(tx, kms_key, where, purpose="refresh-mac", algorithm="hmac_sha256")

    await serves(house, lambda worker: worker.internal.tag(ACME, b"data"))
    await house.sql(relabel)
    await fails(house, lambda worker: worker.internal.tag(ACME, b"data"))


@pytest.mark.parametrize(
    ("purpose", "use"),
    [
        (Purpose.TOKEN_SIGNING, lambda realm_id: lambda worker: worker.sign(realm_id)),
        (Purpose.REFRESH_MAC, lambda realm_id: lambda worker: worker.internal.tag(realm_id, b"data")),
        (Purpose.PASSWORD_PEPPER, lambda realm_id: lambda worker: worker.internal.pepper(realm_id)),
    ],
)
async def test_the_own_keys_of_two_realms_swapped(house: House, purpose: Purpose, use: Any) -> None:
    await swapped_and_back(
        house,
        lambda tx: swap(
            tx, kms_version, "wrapped", internal(tx, ACME, purpose), internal(tx, OTHER, purpose)
        ),
        use(ACME),
        use(OTHER),
    )


async def test_two_own_keys_of_a_realm_swapped(house: House) -> None:
    await swapped_and_back(
        house,
        lambda tx: swap(
            tx,
            kms_version,
            "wrapped",
            internal(tx, ACME, Purpose.REFRESH_MAC),
            internal(tx, ACME, Purpose.PASSWORD_PEPPER),
        ),
        lambda worker: worker.internal.tag(ACME, b"data"),
        lambda worker: worker.internal.pepper(ACME),
    )


async def test_the_keks_of_two_realms_swapped(house: House) -> None:
    acme, other = ({"realm_id": realm_id, "version": 1} for realm_id in (ACME, OTHER))
    await swapped_and_back(
        house,
        lambda tx: swap(tx, realm_kek, "wrapped", acme, other),
        house.opening(ACME, house.first),
        house.opening(OTHER, TWIN),
        lambda worker: worker.create(ACME),
        lambda worker: worker.sign(OTHER),
        lambda worker: worker.internal.tag(ACME, b"data"),
        lambda worker: worker.internal.pepper(OTHER),
    )


async def test_a_kek_copied_to_another_version(house: House) -> None:
    def copy(tx: Tx) -> None:
        wrapped = fetch(tx, realm_kek, "wrapped", {"realm_id": ACME, "version": 1})
        KEYS.insert_kek(tx, ACME, WrappedKek(2, wrapped, 1), NOW)
        put(tx, kms_version, key(ACME, house.second), kek_version=2)

    await serves(house, house.opening(ACME, house.second))
    await house.sql(copy)
    await fails(house, house.opening(ACME, house.second), lambda worker: worker.create(ACME))
    await house.sql(lambda tx: put(tx, kms_version, key(ACME, house.second), kek_version=1))
    await serves(house, house.opening(ACME, house.second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("a", "ada", ACME), ("b", "ada", ACME)),
        (("a", "ada", ACME), ("a", "bob", ACME)),
        (("a", "ada", ACME), ("a", "ada", OTHER)),
        (("l", f"ada{ROUTE}k", ACME), (f"k{ROUTE}l", "ada", ACME)),
    ],
    ids=["key", "caller", "realm", "parts that join alike"],
)
async def test_stored_answers_swapped(house: House, first: tuple, second: tuple) -> None:
    def replay(whose: tuple) -> Use:
        return lambda worker: worker.create(whose[2], whose[1], whose[0])

    made = [await replay(whose)(house.worker()) for whose in (first, second)]
    assert [await replay(whose)(house.worker()) for whose in (first, second)] == made
    await swapped_and_back(
        house,
        lambda tx: swap(tx, idempotency, "answer_sealed", answer(*first), answer(*second)),
        replay(first),
        replay(second),
    )


async def test_a_stored_answer_renamed_for_another_caller(house: House) -> None:
    await house.worker().create(ACME, "ada", "k")
    await house.sql(lambda tx: put(tx, idempotency, answer("k"), subject="eve"))
    await fails(house, lambda worker: worker.create(ACME, "eve", "k"))


async def test_secrets_of_one_table_in_another(house: House) -> None:
    await house.worker().create(ACME, "ada", "k")
    contents: dict[str, bytes] = {}

    def mix(tx: Tx) -> None:
        contents["material"] = fetch(tx, kms_version, "wrapped", key(ACME, house.second))
        contents["answer"] = fetch(tx, idempotency, "answer_sealed", answer("k"))
        contents["kek"] = fetch(tx, realm_kek, "wrapped", {"realm_id": ACME, "version": 1})

    await house.sql(mix)
    for name in ("answer", "kek"):
        moved = contents[name]
        await house.sql(lambda tx, moved=moved: put(tx, kms_version, key(ACME, house.second), wrapped=moved))
        await fails(house, house.opening(ACME, house.second), lambda worker: worker.seal(ACME, house.second))
    for name in ("material", "kek"):
        moved = contents[name]
        await house.sql(lambda tx, moved=moved: put(tx, idempotency, answer("k"), answer_sealed=moved))
        await fails(house, lambda worker: worker.create(ACME, "ada", "k"))
    for name in ("material", "answer"):
        moved = contents[name]
        where = {"realm_id": ACME, "version": 1}
        await house.sql(lambda tx, moved=moved: put(tx, realm_kek, where, wrapped=moved))
        await fails(house, house.opening(ACME, house.first))
    await house.sql(lambda tx: put(tx, realm_kek, where, wrapped=contents["kek"]))
    await house.sql(lambda tx: put(tx, kms_version, key(ACME, house.second), wrapped=contents["material"]))
    await house.sql(lambda tx: put(tx, idempotency, answer("k"), answer_sealed=contents["answer"]))
    await serves(house, house.opening(ACME, house.second), lambda worker: worker.create(ACME, "ada", "k"))


@pytest.mark.parametrize(
    ("instance", "root"),
    [(uid(1001), ROOT), (INSTANCE, bytes(reversed(ROOT))), (INSTANCE, bytes(32))],
    ids=["another installation with the same root key", "another root key", "a wiped root key"],
)
async def test_all_rows_in_another_installation(house: House, instance: UUID, root: bytes) -> None:
    uses: list[Use] = [
        house.opening(ACME, house.first),
        lambda worker: worker.seal(ACME, house.first),
        lambda worker: worker.create(ACME),
        lambda worker: worker.sign(ACME),
        lambda worker: worker.internal.tag(ACME, b"data"),
        lambda worker: worker.internal.pepper(ACME),
    ]
    await serves(house, *uses)
    # Who writes to the database makes it look right for the key at hand.
    check = key_check_value(SecretBytes(root), instance.bytes)
    await house.sql(lambda tx: put(tx, root_key, {"generation": 1}, key_check=check))
    for use in uses:
        with pytest.raises(UnwrapFailed):
            await use(Worker(house.database, instance, root))


async def test_one_row_of_another_installation_with_the_same_root_key(house: House) -> None:
    theirs = Worker(house.database, uid(1001))
    elsewhere = RealmKeyProvisioning(KEYS, SigningKeyRepository(), theirs.keyring).prepare(ACME, NOW)
    version = replace(a_key(TWIN.int), realm_id=ACME)
    material = new_material(elsewhere.kek, version)
    await serves(house, house.opening(ACME, TWIN))

    await house.sql(lambda tx: put(tx, kms_version, key(ACME, TWIN), wrapped=material.wrapped))
    await fails(house, house.opening(ACME, TWIN))
    where = {"realm_id": ACME, "version": 1}
    theirs_wrapped = RootKey(uid(1001), SecretBytes(ROOT)).wrap_kek(elsewhere.kek)
    await house.sql(lambda tx: put(tx, realm_kek, where, wrapped=theirs_wrapped))
    await fails(house, house.opening(ACME, TWIN), lambda worker: worker.seal(ACME, TWIN))
