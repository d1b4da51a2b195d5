"""The life of a realm's signing key: pending → active → retiring → retired.

A *pending* key is published and does not sign yet: whoever checks signatures with a remembered key set has time to
fetch the new one. The *active* one signs. A *retiring* one still vouches for the tokens it signed, until the last of
them has expired. Each step is due at a time of its own and is done once, wherever the job runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from enum import StrEnum
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from qimem.authz.decisions import require_everywhere
from qimem.authz.permissions import Permission
from qimem.crypto.jose import thumbprint
from qimem.crypto.randomness import new_uuid
from qimem.crypto.signatures import ES256Signer, generate_es256
from qimem.errors import Conflict, Internal
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.clock import MICROSECONDS, Clock, SteadyTime
from qimem.kernel.context import RequestContext
from qimem.kernel.epochs import EpochSource
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import (
    SIGNING_KEY_LEAD_SECONDS,
    SIGNING_KEY_OVERLAP_SECONDS,
    SIGNING_KEY_PERIOD_SECONDS,
    SIGNING_KEYS_PUBLISHED_MAX,
)
from qimem.kernel.transaction import Database, Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.kms.hierarchy import RealmKek
from qimem.kms.keyring import Keyring
from qimem.kms.models import KeyVersion, Purpose, WrappedMaterial
from qimem.kms.ports import KeyStore
from qimem.wire.auth import RotatedSigningKey

_SIGNING: Final = Purpose.TOKEN_SIGNING
_STEPS_PER_LOOK: Final = 200
STEP_EVENT: Final = "signing-keys.step"
"""In the audit log: what a key did by itself, its time having come."""


class RotationMode(StrEnum):
    """How soon a new key signs, and what becomes of the old one."""

    SCHEDULED = "scheduled"
    NOW = "now"
    COMPROMISED = "compromised"


class KeyState(StrEnum):
    """Where a published key is in its life; a retired one has no row any more."""

    PENDING = "pending"
    ACTIVE = "active"
    RETIRING = "retiring"


@dataclass(frozen=True, slots=True)
class SigningKeyRow:
    """One published signing key.

    Args:
        due_us: When its next step is due.
    """

    realm_id: RealmId
    key_id: UUID
    state: KeyState
    due_us: int


class SigningKeyStore(Protocol):
    """Rows of published signing keys."""

    def insert(self, tx: Tx, row: SigningKeyRow) -> None:
        """Add a row."""
        ...

    def of_realm(self, tx: Tx, realm_id: RealmId) -> Sequence[SigningKeyRow]:
        """The published keys of a realm."""
        ...

    def move(self, tx: Tx, old: SigningKeyRow, new: SigningKeyRow) -> bool:
        """Put `new` in the place of `old`; False when it does not stand there any more, changing nothing."""
        ...

    def delete(self, tx: Tx, row: SigningKeyRow) -> bool:
        """Remove the row as it is given; False when it does not stand there any more."""
        ...

    def due(self, tx: Tx, now_us: int, limit: int) -> Sequence[SigningKeyRow]:
        """At most `limit` keys whose next step is due, over all realms, the longest overdue first."""
        ...


class Kids(Protocol):
    """Names of the realm's published keys."""

    async def kids(self, realm_id: RealmId) -> Mapping[UUID, str]:
        """Key id → RFC 7638 thumbprint."""
        ...


class _Published(NamedTuple):
    """The keys of one realm in one snapshot."""

    rows: Mapping[UUID, SigningKeyRow]
    versions: Mapping[UUID, KeyVersion]

    def one(self, state: KeyState) -> SigningKeyRow | None:
        return next((row for row in self.rows.values() if row.state is state), None)

    @property
    def active(self) -> SigningKeyRow:
        found = self.one(KeyState.ACTIVE)
        if found is None:
            raise Internal
        return found


class _Overtaken(Exception):
    """The step was done by somebody else: a signal, which undoes nothing."""


class SigningKeyLife:
    """The steps, each inside a transaction of its caller. Whatever is not as it was read is a conflict."""

    def __init__(self, keys: KeyStore, store: SigningKeyStore) -> None:
        self._keys = keys
        self._store = store

    def published(self, tx: Tx, realm_id: RealmId) -> _Published:
        """The realm's keys as they stand."""
        versions = self._keys.find_internal(tx, realm_id, _SIGNING)
        return _Published(
            {row.key_id: row for row in self._store.of_realm(tx, realm_id)},
            {version.key_id: version for version in versions},
        )

    def announce(self, tx: Tx, published: _Published, kek: RealmKek, now_us: int) -> tuple[KeyVersion, str]:
        """Publish a new key that signs later; it, and its kid."""
        version, kid = self._add(tx, published, kek, now_us)
        due_us = now_us + SIGNING_KEY_LEAD_SECONDS * MICROSECONDS
        self._store.insert(tx, SigningKeyRow(version.realm_id, version.key_id, KeyState.PENDING, due_us))
        return version, kid

    def replace(
        self, tx: Tx, published: _Published, kek: RealmKek, now_us: int, mode: RotationMode
    ) -> tuple[KeyVersion, str]:
        """Have a new key sign at once; it, and its kid."""
        version, kid = self._add(tx, published, kek, now_us)
        self.expect(self._keys.activate(tx, published.versions[published.active.key_id], version.key_id))
        if mode is RotationMode.COMPROMISED:
            # Whoever had the one may have had the others: the pending one, too, was unwrapped here.
            for row in published.rows.values():
                self.retire(tx, row)
        else:
            self.expect(self._store.move(tx, published.active, _retiring(published.active, now_us)))
        self._store.insert(tx, _active(version.realm_id, version.key_id, now_us))
        return version, kid

    def succeed(self, tx: Tx, published: _Published, kek: RealmKek, now_us: int) -> KeyVersion:
        """See to it that the active key has a successor; the successor, or the active one where there is one."""
        active = published.active
        again = _active(active.realm_id, active.key_id, now_us)
        self.expect(self._store.move(tx, active, again))
        if published.one(KeyState.PENDING) is not None:
            return published.versions[active.key_id]
        return self.announce(tx, published, kek, now_us)[0]

    def activate(self, tx: Tx, published: _Published, pending: SigningKeyRow, now_us: int) -> None:
        """Have the pending key sign."""
        active = published.active
        self.expect(self._keys.activate(tx, published.versions[active.key_id], pending.key_id))
        self.expect(self._store.move(tx, active, _retiring(active, now_us)))
        self.expect(self._store.move(tx, pending, _active(pending.realm_id, pending.key_id, now_us)))

    def retire(self, tx: Tx, row: SigningKeyRow) -> None:
        """Refuse what the key signed, from the next request on."""
        self.expect(self._store.delete(tx, row))
        self._keys.set_enabled(tx, row.realm_id, enabled=False, key_id=row.key_id)

    def _add(self, tx: Tx, published: _Published, kek: RealmKek, now_us: int) -> tuple[KeyVersion, str]:
        newest = max(published.versions.values(), key=lambda version: version.version)
        version = changed(
            newest,
            key_id=new_uuid(),
            version=newest.version + 1,
            active=False,
            enabled=True,
            created_us=now_us,
        )
        # Made here and not before: whoever asked may leave and have it wiped while the transaction still runs.
        material = generate_es256()
        try:
            kid = thumbprint(ES256Signer(material).public_jwk())
            wrapped = WrappedMaterial(kek.wrap_material(version, material), kek.version)
        finally:
            material.wipe()
        self._keys.add_version(tx, version, wrapped)
        return version, kid

    def expect(self, done: bool) -> None:
        """Refuse to go on where somebody else was faster.

        Raises:
            Conflict: it was not done.
        """
        if not done:
            raise Conflict("another rotation came between", hint="repeat the request")


class SigningKeyService:
    """Rotates the keys that sign the tokens of realms."""

    def __init__(
        self,
        work: UnitOfWork,
        epochs: EpochSource,
        life: SigningKeyLife,
        keyring: Keyring,
        kids: Kids,
        clock: Clock,
    ) -> None:
        self._work = work
        self._epochs = epochs
        self._life = life
        self._keyring = keyring
        self._kids = kids
        self._clock = clock

    async def rotate(self, ctx: RequestContext, mode: RotationMode) -> RotatedSigningKey:
        """Begin with a new key.

        Args:
            ctx: The caller and the realm.
            mode: `scheduled` publishes a key that signs later; `now` has a new key, or the one that is published
                already, sign from the next token on, and the old one vouches for its tokens; `compromised` has
                every token of every other key refused from the next request on.

        Raises:
            Forbidden: without `signing-keys:rotate`.
            Conflict: a key is pending already, or too many are still published.
        """
        require_everywhere(ctx, Permission.SIGNING_KEYS_ROTATE)
        kek = await self._keyring.record_sealer(ctx.realm_id)
        known = await self._kids.kids(ctx.realm_id)

        def change(tx: Tx) -> RotatedSigningKey:
            published, now_us = self._life.published(tx, ctx.realm_id), self._clock.now_us()
            if mode is not RotationMode.COMPROMISED and len(published.rows) >= SIGNING_KEYS_PUBLISHED_MAX:
                raise Conflict(
                    "too many signing keys are still published", hint="wait until some have retired"
                )
            pending = published.one(KeyState.PENDING)
            if mode is RotationMode.NOW and pending is not None:
                self._life.activate(tx, published, pending, now_us)
                version, kid = published.versions[pending.key_id], known.get(pending.key_id)
                if kid is None:
                    raise Conflict("another rotation came between", hint="repeat the request")
            elif mode is RotationMode.SCHEDULED:
                if pending is not None:
                    raise Conflict("a signing key is pending already")
                version, kid = self._life.announce(tx, published, kek, now_us)
            else:
                version, kid = self._life.replace(tx, published, kek, now_us, mode)
            self._epochs.bump(tx, ctx.realm_id)
            ctx.draft.used_key(version.key_id, version.version)
            ctx.draft.target = kid
            return RotatedSigningKey(kid=kid)

        return await self._work.run(ctx, change, RotatedSigningKey, object_id=lambda answer: answer.kid)

    async def step(self, row: SigningKeyRow, draft: AuditDraft) -> bool:
        """Do the step of a key that is due; whether it was still to be done.

        Args:
            row: As it stood when it was found due.
            draft: The audit record of the step.

        Raises:
            Unavailable: it could not be written.
        """
        kek = await self._keyring.record_sealer(row.realm_id)

        def change(tx: Tx) -> None:
            published, now_us = self._life.published(tx, row.realm_id), self._clock.now_us()
            if published.rows.get(row.key_id) != row:
                raise _Overtaken
            version = published.versions[row.key_id]
            if row.state is KeyState.PENDING:
                self._life.activate(tx, published, row, now_us)
            elif row.state is KeyState.RETIRING:
                self._life.retire(tx, row)
            else:
                version = self._life.succeed(tx, published, kek, now_us)
            self._epochs.bump(tx, row.realm_id)
            draft.realm_id, draft.target = row.realm_id, str(row.key_id)
            draft.used_key(version.key_id, version.version)

        try:
            await self._work.apply(draft, change)
        except _Overtaken:
            return False
        return True


class DueSigningKeys:
    """Does what is due, over all realms. What fails for one realm waits for the next look and holds up no other.

    Args:
        record: Has the audit record of a step written.
        report: Told of a step that failed.
    """

    def __init__(
        self,
        database: Database,
        store: SigningKeyStore,
        service: SigningKeyService,
        clock: Clock,
        record: Callable[[AuditDraft], None],
        report: Callable[[BaseException], None],
    ) -> None:
        self._database = database
        self._store = store
        self._service = service
        self._time = SteadyTime(clock)
        self._record = record
        self._report = report

    async def run(self) -> None:
        """Look once."""
        now_us = self._time.now_us()
        for row in await self._database.read(lambda tx: self._store.due(tx, now_us, _STEPS_PER_LOOK)):
            draft = AuditDraft(STEP_EVENT, "", "")
            try:
                if await self._service.step(row, draft):
                    self._record(draft)
            except Exception as error:  # noqa: BLE001 - reported; a realm whose KEK is damaged must not stop the others
                self._report(error)


def _active(realm_id: RealmId, key_id: UUID, now_us: int) -> SigningKeyRow:
    due_us = now_us + SIGNING_KEY_PERIOD_SECONDS * MICROSECONDS
    return SigningKeyRow(realm_id, key_id, KeyState.ACTIVE, due_us)


def _retiring(row: SigningKeyRow, now_us: int) -> SigningKeyRow:
    due_us = now_us + SIGNING_KEY_OVERLAP_SECONDS * MICROSECONDS
    return changed(row, state=KeyState.RETIRING, due_us=due_us)


def first_signing_key(version: KeyVersion) -> SigningKeyRow:
    """The row of a new realm's key, which signs at once: nobody remembers a key set without it."""
    return _active(version.realm_id, version.key_id, version.created_us)
