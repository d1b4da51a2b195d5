"""The life of keys, told twice: by a model of plain lists, and by the real services on a real database.

Both sides take the same steps and answer each with the same plain value: ids become numbers in the
order in which they were given out, refusals become kind, code, text and hint. What differs is a
defect of one of them.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from qimem.authz.permissions import EVERYTHING_IN_REALM, compile_permissions
from qimem.bootstrap.core import JsonCodec
from qimem.crypto.algorithms import ENVELOPE_IDS, Algorithm
from qimem.crypto.envelope import parse_envelope
from qimem.crypto.mac import key_check_value
from qimem.crypto.randomness import new_uuid, random_bytes
from qimem.errors import QimemError
from qimem.kernel.clock import Clock
from qimem.kernel.context import Actor, ActorKind, RequestContext
from qimem.kernel.epochs import EpochSource, RealmCaches
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.kms.cipher import CipherService
from qimem.kms.hierarchy import random_key
from qimem.kms.instance import Instance
from qimem.kms.internal_keys import RealmKeyProvisioning
from qimem.kms.keyring import Keyring
from qimem.kms.keys import KeyService
from qimem.kms.models import KeyRef
from qimem.kms.ports import KeyStore
from qimem.kms.root_keys import Generation, RootKeys
from qimem.realms.models import RealmRecord
from qimem.storage.database import DatabaseLocation, OpenDatabase
from qimem.storage.repositories.idempotency import IdempotencyRepository
from qimem.storage.repositories.instance import InstanceRepository
from qimem.storage.repositories.kms_keys import KeyRepository
from qimem.storage.repositories.realms import RealmRepository
from qimem.storage.repositories.root_keys import RootKeyRepository
from qimem.storage.repositories.signing_keys import SigningKeyRepository
from qimem.wire.security import KeyMetadata
from tests.support.audit import FakeIntents, a_draft

ABSENT = -1
"""The number of an id that nothing has."""

_ABSENT_ID = UUID("3fa85f64-5717-4562-b3fc-2c963f66afa6")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_programs = itertools.count(1)


class Ref(NamedTuple):
    """How a step names a key: by `key_id` or `lineage_id` with a number, or by `name` with a text."""

    field: str
    value: int | str

    def __str__(self) -> str:
        return self.value if isinstance(self.value, str) else f"#{self.value}"


class Shown(NamedTuple):
    """Metadata of a version."""

    key: int
    lineage: int
    version: int
    active: bool
    enabled: bool
    algorithm: str
    name: str | None
    created_us: int


class Refused(NamedTuple):
    """A refusal."""

    kind: str
    code: str
    text: str
    hint: str | None = None


# --- the model --------------------------------------------------------------------------------


@dataclass
class Version:
    """One version of a key as the contract describes it."""

    realm: int
    key: int
    lineage: int
    version: int
    algorithm: Algorithm
    name: str | None
    created_us: int
    active: bool = True
    enabled: bool = True

    @property
    def shown(self) -> Shown:
        return Shown(
            self.key, self.lineage, self.version, self.active, self.enabled,
            self.algorithm.value, self.name, self.created_us,
        )  # fmt: skip


class Model:
    """Realms are 0 and 1, keys are the positions in `versions`, envelopes those in `envelopes`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.versions: list[Version] = []
        self.envelopes: list[tuple[Version, bytes]] = []

    def create(self, realm: int, algorithm: Algorithm, name: str | None) -> Shown | Refused:
        if name is not None and any(v.realm == realm and v.name == name for v in self.versions):
            return Refused("conflict", "already_exists", f"key already exists: {name}")
        number = len(self.versions)
        return self._add(Version(realm, number, number, 1, algorithm, name, self._clock.now_us()))

    def rotate(self, realm: int, ref: Ref) -> Shown | Refused:
        old = self._find(realm, ref)
        if isinstance(old, Refused):
            return old
        if not old.active:
            return _inactive("conflict", "rotate", old)
        old.active = False
        new = replace(old, key=len(self.versions), version=old.version + 1, active=True, enabled=True)
        new.created_us = self._clock.now_us()
        return self._add(new)

    def set_enabled(self, realm: int, key: int, enabled: bool, scope: str) -> Shown | Refused:
        found = self._find(realm, Ref("key_id", key))
        if isinstance(found, Refused):
            return found
        for version in self.versions:
            if version is found or (scope == "lineage" and version.lineage == found.lineage):
                version.enabled = enabled
        return found.shown

    def encrypt(self, realm: int, ref: Ref, plaintext: bytes) -> tuple[int, int] | Refused:
        found = self._find(realm, ref)
        if isinstance(found, Refused):
            return found
        if not found.active:
            return _inactive("invalid", "encrypt", found)
        if not found.enabled:
            return _disabled(found)
        self.envelopes.append((found, plaintext))
        return found.key, found.version

    def decrypt(
        self, realm: int, envelope: int, pin: Ref | None = None, header: tuple[int, Algorithm] | None = None
    ) -> tuple[int, int, bytes] | Refused:
        """`header`: key id and algorithm to write over those of the envelope."""
        maker, plaintext = self.envelopes[envelope]
        key, algorithm = header or (maker.key, maker.algorithm)
        found = self._find(realm, Ref("key_id", key))
        if isinstance(found, Refused):
            return found
        if not found.enabled:
            return _disabled(found)
        if algorithm is not found.algorithm:
            return Refused("invalid", "invalid_envelope", "invalid envelope: algorithm mismatch")
        if pin is not None and not _is(found, pin):
            return Refused("invalid", "key_mismatch", "key mismatch")
        if found is not maker:
            return Refused("invalid", "decryption_failed", "decryption failed")
        return found.key, found.version, plaintext

    def get(self, realm: int, key: int) -> tuple[Shown, list[Shown]] | Refused:
        found = self._find(realm, Ref("key_id", key))
        if isinstance(found, Refused):
            return found
        return found.shown, [v.shown for v in self.versions if v.lineage == found.lineage]

    def list(self, realm: int, limit: int) -> list[list[Shown]]:
        active = [v for v in self.versions if v.realm == realm and v.active]
        ordered = [v.shown for v in sorted(active, key=lambda version: version.lineage)]
        return [ordered[start : start + limit] for start in range(0, len(ordered), limit)] or [[]]

    def _add(self, version: Version) -> Shown:
        self.versions.append(version)
        return version.shown

    def _find(self, realm: int, ref: Ref) -> Version | Refused:
        for version in self.versions:
            if version.realm == realm and _is(version, ref) and (version.active or ref.field == "key_id"):
                return version
        return Refused("not_found", "key_not_found", f"key not found: {ref}")


def _is(version: Version, ref: Ref) -> bool:
    named = {"key_id": version.key, "lineage_id": version.lineage, "name": version.name}
    return named[ref.field] == ref.value


def _inactive(kind: str, verb: str, version: Version) -> Refused:
    hint = f"{verb} by lineage_id #{version.lineage}"
    return Refused(kind, "key_inactive", f"key is inactive: #{version.key}", hint)


def _disabled(version: Version) -> Refused:
    return Refused("invalid", "key_disabled", f"key is disabled: #{version.key}")


# --- the real thing ---------------------------------------------------------------------------


class Worker:
    """One worker's services, wired as bootstrap does.

    Args:
        store: Another one only to see that its defects are noticed; likewise `epochs`.
    """

    def __init__(
        self,
        database: OpenDatabase,
        root_keys: RootKeys,
        clock: Clock,
        store: KeyStore | None = None,
        epochs: EpochSource | None = None,
    ) -> None:
        store = store or KeyRepository()
        keyring = Keyring(root_keys, database, store)
        work = UnitOfWork(database, IdempotencyRepository(), keyring, JsonCodec(), clock, FakeIntents())
        self.keys = KeyService(database, work, epochs or database, store, keyring, clock)
        self.cipher = CipherService(database, store, keyring)
        self._caches = RealmCaches(database, database)

    async def context(self, realm_id: RealmId) -> RequestContext:
        """A request of someone who may do everything in the realm, which arrives now."""
        state = await self._caches.fresh(realm_id)
        assert state is not None
        permissions = compile_permissions(frozenset({EVERYTHING_IN_REALM}))
        actor = Actor(realm_id, ActorKind.USER, "ada", ClientId("app"), "token", permissions, "pro")
        return RequestContext("request", actor, state, a_draft())


Wiring = Callable[[OpenDatabase, RootKeys, Clock], Worker]


class Installation:
    """Several workers' databases on the same data."""

    def __init__(self, location: DatabaseLocation, clock: Clock, workers: int = 2) -> None:
        self.clock = clock
        self.instance_id, self.root_key = new_uuid(), random_key()
        self.databases = [location.open() for _ in range(workers)]

    def root_keys(self) -> RootKeys:
        """For one worker."""
        return RootKeys(self.instance_id, SecretBytes(self.root_key.reveal()))

    async def initialise(self) -> None:
        """Make the data this installation's."""
        instance = Instance(
            self.instance_id,
            random_bytes(16),
            key_check_value(self.root_key, self.instance_id.bytes),
            None,
            self.clock.now_us(),
        )  # fmt: skip

        def claim(tx: Tx) -> None:
            InstanceRepository().insert(tx, instance)
            RootKeyRepository().begin(tx, Generation(1, instance.key_check, instance.created_us))

        await self.databases[0].write(claim)

    async def realm(self, realm_id: str) -> RealmId:
        """A new realm with its keys."""
        found, now_us, store = RealmId(realm_id), self.clock.now_us(), KeyRepository()
        keys = RealmKeyProvisioning(
            store, SigningKeyRepository(), Keyring(self.root_keys(), self.databases[0], store)
        )
        prepared = keys.prepare(found, now_us)

        def add(tx: Tx) -> None:
            assert RealmRepository().insert(tx, RealmRecord(found, "Realm", enabled=True, created_us=now_us))
            keys.provision(tx, found, prepared, now_us)

        await self.databases[0].write(add)
        return found

    async def begin(self, wiring: Wiring = Worker) -> Real:
        """A program on two new realms, with workers that remember nothing."""
        number = next(_programs)
        return Real(self, wiring, [await self.realm(f"program-{number}-{realm}") for realm in (0, 1)])

    async def close(self) -> None:
        """Close every database."""
        for database in self.databases:
            await database.close()


class Real:
    """The model's steps on an installation; `worker` says which worker is asked."""

    def __init__(self, installation: Installation, wiring: Wiring, realms: list[RealmId]) -> None:
        self._installation = installation
        self._wiring = wiring
        self._realms = realms
        self._ids: list[UUID] = []
        self._envelopes: list[str] = []
        self._workers = [self._new(database) for database in installation.databases]
        self.where = type(installation.databases[0]).__name__

    async def do(self, worker: int, verb: str, *arguments: Any) -> Any:
        """Take one step; the answer as the model would give it."""
        step: Callable[..., Awaitable[Any]] = getattr(self, f"_{verb}")
        realm, *rest = arguments
        asked = self._workers[worker]
        try:
            return await step(asked, await asked.context(self._realms[realm]), *rest)
        except QimemError as error:
            hint = None if error.hint is None else self._numbered(error.hint)
            return Refused(error.kind.value, error.code, self._numbered(error.message), hint)

    def restart(self, worker: int) -> None:
        """Put a worker in its place that remembers nothing."""
        self._workers[worker] = self._new(self._installation.databases[worker])

    def _new(self, database: OpenDatabase) -> Worker:
        return self._wiring(database, self._installation.root_keys(), self._installation.clock)

    async def _create(
        self, worker: Worker, ctx: RequestContext, algorithm: Algorithm, name: str | None
    ) -> Shown:
        return self._added(await worker.keys.create(ctx, algorithm, name))

    async def _rotate(self, worker: Worker, ctx: RequestContext, ref: Ref) -> Shown:
        return self._added(await worker.keys.rotate(ctx, self._ref(ref)))

    async def _set_enabled(
        self, worker: Worker, ctx: RequestContext, key: int, enabled: bool, scope: Any
    ) -> Shown:
        return self._shown(
            await worker.keys.set_enabled(ctx, self._id(key), enabled=enabled, scope=scope)
        )  # fmt: skip

    async def _encrypt(
        self, worker: Worker, ctx: RequestContext, ref: Ref, plaintext: bytes
    ) -> tuple[int, int]:
        sealed = await worker.cipher.encrypt(ctx, self._ref(ref), plaintext)
        assert parse_envelope(sealed.envelope).key_id == sealed.version.key_id
        self._envelopes.append(sealed.envelope)
        return self._number(sealed.version.key_id), sealed.version.version

    async def _decrypt(
        self,
        worker: Worker,
        ctx: RequestContext,
        envelope: int,
        pin: Ref | None = None,
        header: tuple[int, Algorithm] | None = None,
    ) -> tuple[int, int, bytes]:
        text = self._envelopes[envelope]
        if header is not None:
            head = bytes((1, ENVELOPE_IDS[header[1]])) + self._id(header[0]).bytes
            text = base64.b64encode(head + base64.b64decode(text)[len(head) :]).decode()
        opened = await worker.cipher.decrypt(ctx, text, None if pin is None else self._ref(pin))
        return self._number(opened.version.key_id), opened.version.version, opened.plaintext

    async def _get(self, worker: Worker, ctx: RequestContext, key: int) -> tuple[Shown, list[Shown]]:
        found = await worker.keys.get(ctx, self._id(key))
        return self._shown(found), [self._shown(version) for version in found.versions]

    async def _list(self, worker: Worker, ctx: RequestContext, limit: int) -> list[list[Shown]]:
        pages, after = [], None
        while not pages or after is not None:
            items, after = await worker.keys.list(ctx, after, limit)
            pages.append([self._shown(item) for item in items])
        return pages

    def _added(self, metadata: KeyMetadata) -> Shown:
        self._ids.append(metadata.key_id)
        return self._shown(metadata)

    def _shown(self, metadata: KeyMetadata) -> Shown:
        created = datetime.fromisoformat(metadata.created_at) - _EPOCH
        return Shown(
            self._number(metadata.key_id), self._number(metadata.lineage_id), metadata.version,
            metadata.active, metadata.enabled, metadata.algorithm, metadata.name,
            created // timedelta(microseconds=1),
        )  # fmt: skip

    def _ref(self, ref: Ref) -> KeyRef:
        value = ref.value if isinstance(ref.value, str) else self._id(ref.value)
        return KeyRef(**{ref.field: value})

    def _id(self, number: int) -> UUID:
        return _ABSENT_ID if number == ABSENT else self._ids[number]

    def _number(self, key_id: UUID) -> int:
        return ABSENT if key_id == _ABSENT_ID else self._ids.index(key_id)

    def _numbered(self, text: str) -> str:
        return _UUID.sub(lambda match: f"#{self._number(UUID(match[0]))}", text)
