"""Encrypt and decrypt: authorize, find the version under the realm's epoch, seal or open.

The order of a decision: the permission with any scope was checked before the body was read; then
the key is looked up (absent → not found), then the scope must cover its lineage, then its state
must allow the operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from uuid import UUID

from qimem.authz.decisions import require
from qimem.authz.permissions import Permission
from qimem.crypto.aead import Aead
from qimem.crypto.algorithms import Algorithm
from qimem.crypto.envelope import EnvelopeWriter, parse_envelope
from qimem.crypto.randomness import nonce12
from qimem.errors import Invalid
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.context import RequestContext
from qimem.kernel.epochs import RealmCache
from qimem.kernel.ids import RealmId, is_name
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Database, Tx
from qimem.kms.keyring import Keyring
from qimem.kms.leases import MessageLease
from qimem.kms.models import (
    KeyRef,
    KeyVersion,
    Purpose,
    check_can_decrypt,
    check_can_encrypt,
    key_not_found,
)
from qimem.kms.ports import KeyStore

_LEASES_PER_WRITE = 1_000


@dataclass(frozen=True, slots=True)
class CipherHandle:
    """A version ready for use: its cipher, the constant bytes of its envelopes and its lease."""

    aead: Aead
    writer: EnvelopeWriter
    lease: MessageLease


@dataclass(frozen=True, slots=True)
class Usable:
    """A version whose state, under the epoch it is kept with, allows the operation."""

    version: KeyVersion
    handle: CipherHandle


class Sealed(NamedTuple):
    """An envelope in base64 and the version that made it."""

    envelope: str
    version: KeyVersion


class Opened(NamedTuple):
    """Plaintext and the version that sealed it."""

    plaintext: bytes
    version: KeyVersion


class CipherService:
    """Encryption under the realm's keys."""

    def __init__(self, database: Database, store: KeyStore, keyring: Keyring) -> None:
        self._database = database
        self._store = store
        self._keyring = keyring

    async def encrypt(self, ctx: RequestContext, ref: KeyRef, plaintext: bytes) -> Sealed:
        """Seal plaintext under the version that `ref` names.

        Raises:
            NotFound: `key_not_found`.
            Forbidden: the permission does not cover the key's lineage.
            Invalid: `key_inactive`, `key_disabled`.
            Conflict: `key_exhausted`.
            Unavailable: storage cannot answer.
        """
        usable: Usable | None = ctx.state.find("encrypt", _slot(ref))
        if usable is None:
            usable = await self._encryptable(ctx, ref)
        else:
            _note(ctx.draft, usable.version)
            require(ctx, Permission.KEYS_ENCRYPT, usable.version.lineage_id)
        handle = usable.handle
        if not handle.lease.take():
            await handle.lease.take_leasing(self._database, self._store)
        nonce = nonce12()
        return Sealed(handle.writer.encode(nonce, handle.aead.seal(nonce, plaintext, None)), usable.version)

    async def decrypt(self, ctx: RequestContext, envelope_b64: str, pin: KeyRef | None) -> Opened:
        """Open an envelope with the key it names.

        Args:
            ctx: The caller and the realm.
            envelope_b64: An envelope v1 in standard base64.
            pin: The key the caller expects, or None.

        Raises:
            Invalid: `invalid_envelope`, `unsupported_version`, `unsupported_algorithm`,
                `key_disabled`, `key_mismatch`, `decryption_failed`.
            NotFound: `key_not_found`.
            Forbidden: the permission does not cover the key's lineage.
            Unavailable: storage cannot answer.
        """
        envelope = parse_envelope(envelope_b64)
        usable: Usable | None = ctx.state.find("decrypt", envelope.key_bytes)
        if usable is None:
            usable = await self._decryptable(ctx, envelope.key_id)
        else:
            _note(ctx.draft, usable.version)
            require(ctx, Permission.KEYS_DECRYPT, usable.version.lineage_id)
        version = usable.version
        if envelope.algorithm is not version.algorithm:
            raise Invalid("invalid envelope: algorithm mismatch", code="invalid_envelope")
        if pin is not None and not _is_pinned(version, pin):
            raise Invalid("key mismatch", code="key_mismatch")
        return Opened(usable.handle.aead.open(envelope.nonce, envelope.sealed, None), version)

    async def give_back_leases(self) -> None:
        """Return unused message counts; when the worker drains."""
        leases = [handle.lease for handle in self._keyring.handles() if isinstance(handle, CipherHandle)]
        unused = [lease for lease in leases if lease.remaining > 0]
        for start in range(0, len(unused), _LEASES_PER_WRITE):
            batch = [(lease, lease.give_back()) for lease in unused[start : start + _LEASES_PER_WRITE]]
            await self._database.write(partial(self._return, batch=batch))

    def _return(self, tx: Tx, *, batch: Sequence[tuple[MessageLease, int]]) -> None:
        for lease, count in batch:
            self._store.return_messages(tx, lease.realm_id, lease.key_id, count)

    async def _encryptable(self, ctx: RequestContext, ref: KeyRef) -> Usable:
        version = await self._find(ctx, ref)
        require(ctx, Permission.KEYS_ENCRYPT, version.lineage_id)
        check_can_encrypt(version)
        return await self._keep(ctx.state, ("encrypt", _slot(ref)), ref, version)

    async def _decryptable(self, ctx: RequestContext, key_id: UUID) -> Usable:
        ref = KeyRef(key_id=key_id)
        version = await self._find(ctx, ref)
        require(ctx, Permission.KEYS_DECRYPT, version.lineage_id)
        check_can_decrypt(version)
        return await self._keep(ctx.state, ("decrypt", key_id.bytes), ref, version)

    async def _find(self, ctx: RequestContext, ref: KeyRef) -> KeyVersion:
        state, realm_id = ctx.state, ctx.realm_id
        # Also of a key that is not found the log tells which one was asked for.
        ctx.draft.key_id = ref.key_id
        found = await state.get("version", ref, lambda tx: find_version(self._store, tx, realm_id, ref))
        if found is None:
            raise key_not_found(ref)
        _note(ctx.draft, found)
        return found

    async def _keep(
        self, state: RealmCache, slot: tuple[str, object], ref: KeyRef, version: KeyVersion
    ) -> Usable:
        usable = Usable(version, await self._keyring.handle(version, lambda secret: _handle(version, secret)))
        # Kept only if the state it was judged by is the state of this cache's epoch.
        if state.find("version", ref) is version:
            state.keep(*slot, usable)
        return usable


def find_version(store: KeyStore, tx: Tx, realm_id: RealmId, ref: KeyRef) -> KeyVersion | None:
    """The encryption key version that `ref` names: itself by key id, else the lineage's active one."""
    if ref.key_id is not None:
        return store.find_version(tx, realm_id, ref.key_id, Purpose.ENCRYPTION)
    if ref.name is not None and not is_name(ref.name):
        # No key can have it, and not every database can be asked for it.
        return None
    return store.find_active(tx, realm_id, Purpose.ENCRYPTION, lineage_id=ref.lineage_id, name=ref.name)


def _note(draft: AuditDraft, version: KeyVersion) -> None:
    draft.key_id, draft.version = version.key_id, version.version


def _slot(ref: KeyRef) -> object:
    # UUIDs hash and compare in Python, integers do not.
    return ref if ref.key_id is None else ref.key_id.int


def _is_pinned(version: KeyVersion, pin: KeyRef) -> bool:
    if pin.key_id is not None:
        return version.key_id == pin.key_id
    if pin.lineage_id is not None:
        return version.lineage_id == pin.lineage_id
    return version.name is not None and version.name == pin.name


def _handle(version: KeyVersion, material: SecretBytes) -> CipherHandle:
    algorithm = Algorithm(version.algorithm)
    return CipherHandle(
        aead=Aead(algorithm, material),
        writer=EnvelopeWriter(version.key_id, algorithm),
        lease=MessageLease(version.realm_id, version.key_id),
    )
