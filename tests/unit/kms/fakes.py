"""The key service's ports kept in this process, and a whole key service on top of them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast
from uuid import UUID

import msgspec

from qimem.authz.permissions import compile_permissions
from qimem.crypto.algorithms import Algorithm
from qimem.crypto.mac import key_check_value
from qimem.errors import Unavailable
from qimem.kernel.clock import ManualClock
from qimem.kernel.context import Actor, ActorKind, RequestContext
from qimem.kernel.epochs import Epoch, RealmCaches
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.limits import MESSAGES_PER_VERSION_MAX
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import IdempotencyRow, Slot, UnitOfWork
from qimem.kms.cipher import CipherService
from qimem.kms.internal_keys import InternalKeys, RealmKeyProvisioning
from qimem.kms.keyring import Keyring
from qimem.kms.keys import KeyService
from qimem.kms.models import KeyRef, KeyVersion, Purpose, StoredKek, WrappedKek, WrappedMaterial
from qimem.kms.root_keys import Generation, Look, RootKeys
from qimem.kms.signing_keys import KeyState, SigningKeyRow
from tests.support.audit import FakeIntents, a_draft

T = TypeVar("T")

NO_TX = cast("Tx", None)
INSTANCE = UUID(int=7)
ACME, OTHER = RealmId("acme"), RealmId("other")
NOW_US = 1_800_000_000_000_000


@dataclass
class State:
    """Everything that a transaction can change."""

    epochs: dict[RealmId, Epoch] = field(default_factory=dict)
    generations: list[Generation] = field(default_factory=list)
    keks: dict[tuple[RealmId, int], WrappedKek] = field(default_factory=dict)
    versions: dict[tuple[RealmId, UUID], KeyVersion] = field(default_factory=dict)
    material: dict[tuple[RealmId, UUID], WrappedMaterial] = field(default_factory=dict)
    leased: dict[tuple[RealmId, UUID], int] = field(default_factory=dict)
    answers: dict[Slot, IdempotencyRow] = field(default_factory=dict)


class FakeDatabase:
    """Implements `Database` and `EpochSource`.

    `before_read` runs before a snapshot is taken: the place where the world may change in between.
    """

    def __init__(self) -> None:
        self.state = State()
        self.reads = self.writes = 0
        self.failure: Unavailable | None = None
        self.before_read: Callable[[], Awaitable[None]] | None = None

    async def write(self, fn: Callable[[Tx], T]) -> T:
        await asyncio.sleep(0)
        self._check()
        self.writes += 1
        before = copy.deepcopy(self.state)
        try:
            return fn(NO_TX)
        except BaseException:
            self.state = before
            raise

    async def read(self, fn: Callable[[Tx], T]) -> T:
        if self.before_read is not None:
            await self.before_read()
        await asyncio.sleep(0)
        self._check()
        self.reads += 1
        return fn(NO_TX)

    async def current(self, realm_id: RealmId) -> Epoch | None:
        self._check()
        return self.state.epochs.get(realm_id)

    def at(self, tx: Tx, realm_id: RealmId) -> Epoch | None:
        return self.state.epochs.get(realm_id)

    def bump(self, tx: Tx, realm_id: RealmId) -> None:
        incarnation, number = self.state.epochs[realm_id]
        self.state.epochs[realm_id] = Epoch(incarnation, number + 1)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure


class FakeKeys:
    """Implements `KeyStore` as the port describes it."""

    def __init__(self, database: FakeDatabase) -> None:
        self._database = database
        self.limit = MESSAGES_PER_VERSION_MAX

    @property
    def rows(self) -> State:
        return self._database.state

    def root_generations(self, tx: Tx) -> list[Generation]:
        return sorted(self.rows.generations, reverse=True)

    def insert_kek(self, tx: Tx, realm_id: RealmId, kek: WrappedKek, now_us: int) -> None:
        assert kek.root_generation in {known.number for known in self.rows.generations}
        self.rows.keks[realm_id, kek.version] = kek

    def find_kek(self, tx: Tx, realm_id: RealmId, version: int) -> StoredKek | None:
        kek = self.rows.keks.get((realm_id, version))
        if kek is None:
            return None
        checks = {known.number: known.check for known in self.rows.generations}
        return StoredKek(kek.wrapped, checks[kek.root_generation])

    def newest_kek_version(self, tx: Tx, realm_id: RealmId) -> int | None:
        return max((number for realm, number in self.rows.keks if realm == realm_id), default=None)

    def insert_key(self, tx: Tx, version: KeyVersion, material: WrappedMaterial) -> bool:
        names = {known.name for known in self._of(version.realm_id)}
        if version.name is not None and version.name in names:
            return False
        self._put(version, material)
        return True

    def succeed(self, tx: Tx, old: KeyVersion, new: KeyVersion, material: WrappedMaterial) -> bool:
        if not self.rows.versions[old.realm_id, old.key_id].active:
            return False
        self.add_version(tx, new, material)
        return self.activate(tx, old, new.key_id)

    def add_version(self, tx: Tx, version: KeyVersion, material: WrappedMaterial) -> None:
        self._put(replace(version, active=False), material)

    def activate(self, tx: Tx, old: KeyVersion, key_id: UUID) -> bool:
        before, after = (old.realm_id, old.key_id), (old.realm_id, key_id)
        if not self.rows.versions[before].active:
            return False
        self.rows.versions[before] = replace(self.rows.versions[before], active=False)
        self.rows.versions[after] = replace(self.rows.versions[after], active=True)
        return True

    def find_version(self, tx: Tx, realm_id: RealmId, key_id: UUID, purpose: Purpose) -> KeyVersion | None:
        found = self.rows.versions.get((realm_id, key_id))
        return found if found is not None and found.purpose is purpose else None

    def find_active(
        self,
        tx: Tx,
        realm_id: RealmId,
        purpose: Purpose,
        *,
        lineage_id: UUID | None = None,
        name: str | None = None,
    ) -> KeyVersion | None:
        for version in self._of(realm_id):
            named = version.lineage_id == lineage_id if lineage_id is not None else version.name == name
            if version.active and named and version.purpose is purpose:
                return version
        return None

    def find_internal(self, tx: Tx, realm_id: RealmId, purpose: Purpose) -> Sequence[KeyVersion]:
        found = [version for version in self._of(realm_id) if version.purpose is purpose]
        return sorted(found, key=lambda version: -version.version)

    def versions(self, tx: Tx, realm_id: RealmId, lineage_id: UUID) -> Sequence[KeyVersion]:
        found = [version for version in self._of(realm_id) if version.lineage_id == lineage_id]
        return sorted(found, key=lambda version: version.version)

    def list_keys(
        self,
        tx: Tx,
        realm_id: RealmId,
        *,
        after: tuple[int, UUID] | None,
        limit: int,
        lineages: frozenset[UUID] | None,
    ) -> Sequence[KeyVersion]:
        def position(version: KeyVersion) -> tuple[int, UUID]:
            return self.rows.versions[realm_id, version.lineage_id].created_us, version.lineage_id

        found = [
            version
            for version in self._of(realm_id)
            if version.active
            and version.purpose is Purpose.ENCRYPTION
            and (lineages is None or version.lineage_id in lineages)
            and (after is None or position(version) > after)
        ]
        return sorted(found, key=position)[:limit]

    def material(self, tx: Tx, realm_id: RealmId, key_id: UUID) -> WrappedMaterial | None:
        return self.rows.material.get((realm_id, key_id))

    def set_enabled(
        self,
        tx: Tx,
        realm_id: RealmId,
        *,
        enabled: bool,
        key_id: UUID | None = None,
        lineage_id: UUID | None = None,
    ) -> int:
        meant = [
            version
            for version in self._of(realm_id)
            if (version.key_id == key_id if key_id is not None else version.lineage_id == lineage_id)
        ]
        for version in meant:
            self.rows.versions[realm_id, version.key_id] = replace(version, enabled=enabled)
        return len(meant)

    def lease_messages(self, tx: Tx, realm_id: RealmId, key_id: UUID, block: int) -> int:
        leased = self.rows.leased.get((realm_id, key_id), 0)
        granted = min(block, self.limit - leased)
        self.rows.leased[realm_id, key_id] = leased + granted
        return granted

    def return_messages(self, tx: Tx, realm_id: RealmId, key_id: UUID, unused: int) -> None:
        self.rows.leased[realm_id, key_id] -= unused

    def _of(self, realm_id: RealmId) -> list[KeyVersion]:
        return [version for (realm, _), version in self.rows.versions.items() if realm == realm_id]

    def _put(self, version: KeyVersion, material: WrappedMaterial) -> None:
        self.rows.versions[version.realm_id, version.key_id] = version
        self.rows.material[version.realm_id, version.key_id] = material


class _Answers:
    def __init__(self, database: FakeDatabase) -> None:
        self._database = database

    def find(self, tx: Tx, slot: Slot) -> IdempotencyRow | None:
        return self._database.state.answers.get(slot)

    def put(self, tx: Tx, row: IdempotencyRow) -> None:
        self._database.state.answers[row.slot] = row


class _Codec:
    def encode(self, answer: object) -> bytes:
        return msgspec.json.encode(answer)

    def decode(self, data: bytes, answer_type: type[T]) -> T:
        return msgspec.json.decode(data, type=answer_type)


class FakeSigningKeys:
    """Takes the first row of a realm; what becomes of it is tested on the real databases."""

    def insert(self, tx: Tx, row: SigningKeyRow) -> None:
        assert row.state is KeyState.ACTIVE


class Worker:
    """One worker of an installation; several share a database."""

    def __init__(self, database: FakeDatabase, root: bytes = bytes(range(32)), look: Look = tuple) -> None:
        self.database = database
        self.clock = ManualClock(NOW_US)
        self.store = FakeKeys(database)
        if not database.state.generations:
            check = key_check_value(SecretBytes(root), INSTANCE.bytes)
            database.state.generations.append(Generation(1, check, NOW_US))
        self.root_keys = RootKeys(INSTANCE, SecretBytes(root), look)
        self.keyring = Keyring(self.root_keys, database, self.store)
        self.caches = RealmCaches(database, database)
        self.cipher = CipherService(database, self.store, self.keyring)
        work = UnitOfWork(database, _Answers(database), self.keyring, _Codec(), self.clock, FakeIntents())
        self.keys = KeyService(database, work, database, self.store, self.keyring, self.clock)
        self.internal = InternalKeys(self.caches, self.store, self.keyring)
        self.provisioning = RealmKeyProvisioning(self.store, FakeSigningKeys(), self.keyring)

    def add_realm(self, realm_id: RealmId) -> None:
        """A realm as it is created: its KEK and its own keys."""
        prepared = self.provisioning.prepare(realm_id, NOW_US)
        self.provisioning.provision(NO_TX, realm_id, prepared, NOW_US)
        self.database.state.epochs[realm_id] = Epoch(b"first", 1)

    async def context(self, *permissions: str, realm_id: RealmId = ACME) -> RequestContext:
        """A request by someone with these permissions, `realm:*` without any."""
        actor = Actor(
            realm_id=realm_id,
            kind=ActorKind.USER,
            subject="someone",
            client_id=ClientId("app"),
            token_id="t",
            permissions=compile_permissions(frozenset(permissions or ("realm:*",))),
            tier="pro",
        )
        state = await self.caches.fresh(realm_id)
        assert state is not None
        return RequestContext("r", actor, state, a_draft())

    async def new_key(self, realm_id: RealmId = ACME, name: str | None = None) -> KeyRef:
        """A new AES key, by its id."""
        made = await self.keys.create(await self.context(realm_id=realm_id), Algorithm.AES256_GCM, name)
        return KeyRef(key_id=made.key_id)

    async def seal(self, ref: KeyRef, text: bytes = b"a secret", realm_id: RealmId = ACME) -> str:
        return (await self.cipher.encrypt(await self.context(realm_id=realm_id), ref, text)).envelope

    async def open(self, envelope: str, realm_id: RealmId = ACME) -> bytes:
        return (await self.cipher.decrypt(await self.context(realm_id=realm_id), envelope, None)).plaintext


def an_installation() -> Worker:
    """One worker, and the realms `acme` and `other`."""
    worker = Worker(FakeDatabase())
    for realm_id in (ACME, OTHER):
        worker.add_realm(realm_id)
    return worker


def a_version(number: int = 1, realm_id: RealmId = ACME) -> KeyVersion:
    """The first version of a key that is not stored anywhere."""
    return KeyVersion(
        realm_id=realm_id,
        key_id=UUID(int=number),
        lineage_id=UUID(int=number),
        version=1,
        active=True,
        enabled=True,
        purpose=Purpose.ENCRYPTION,
        algorithm=Algorithm.AES256_GCM,
        name=None,
        created_us=NOW_US,
    )
