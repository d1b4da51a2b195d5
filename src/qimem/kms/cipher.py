"""Encrypt and decrypt: authorize, find the version under the realm's epoch, seal or open.

The order of a decision: the permission with any scope was checked before the body was read; then
the key is looked up (absent → not found), then the scope must cover its lineage, then its state
must allow the operation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from qimem.authz.decisions import require
from qimem.authz.permissions import Permission
from qimem.crypto.aead import Aead
from qimem.crypto.algorithms import Algorithm
from qimem.crypto.envelope import EnvelopeWriter, parse_envelope
from qimem.crypto.randomness import nonce12
from qimem.errors import Invalid, QimemError
from qimem.kernel.context import RequestContext
from qimem.kernel.epochs import RealmCache, RealmCaches
from qimem.kernel.ids import RealmId
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


@dataclass(frozen=True, slots=True)
class Sealed:
    """An envelope in base64 and the version that made it."""

    envelope: str
    version: KeyVersion


@dataclass(frozen=True, slots=True)
class Opened:
    """Plaintext and the version that sealed it."""

    plaintext: bytes
    version: KeyVersion


class CipherService:
    """Encryption under the realm's keys."""

    def __init__(self, database: Database, caches: RealmCaches, store: KeyStore, keyring: Keyring) -> None:
        self._database = database
        self._caches = caches
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
        cache = await self._cache(ctx, ref)
        usable = cache.find("encrypt", ref)
        if usable is None:
            usable = await self._encryptable(ctx, cache, ref)
        else:
            require(ctx, Permission.KEYS_ENCRYPT, usable.version.lineage_id)
        handle = usable.handle
        if not handle.lease.take():
            await handle.lease.take_leasing(self._database, self._store)
        nonce = nonce12()
        return Sealed(handle.writer.encode(nonce, handle.aead.seal(nonce, plaintext, None)), usable.version)

    async def decrypt(self, ctx: RequestContext, envelope_b64: str, pin: KeyRef | None) -> Opened:
        """Open an envelope with the key it names.

        Args:
            pin: The key the caller expects, or None.

        Raises:
            Invalid: `invalid_envelope`, `unsupported_version`, `unsupported_algorithm`,
                `key_disabled`, `key_mismatch`, `decryption_failed`.
            NotFound: `key_not_found`.
            Forbidden: the permission does not cover the key's lineage.
            Unavailable: storage cannot answer.
        """
        envelope = parse_envelope(envelope_b64)
        cache = await self._cache(ctx, envelope.key_id)
        usable = cache.find("decrypt", envelope.key_id)
        if usable is None:
            usable = await self._decryptable(ctx, cache, envelope.key_id)
        else:
            require(ctx, Permission.KEYS_DECRYPT, usable.version.lineage_id)
        version = usable.version
        if envelope.algorithm is not version.algorithm:
            raise Invalid("invalid envelope: algorithm mismatch", code="invalid_envelope")
        if pin is not None and not _is_pinned(version, pin):
            raise Invalid("key mismatch", code="key_mismatch")
        return Opened(usable.handle.aead.open(envelope.nonce, envelope.sealed, None), version)

    async def each(self, calls: list[Callable[[], Awaitable[object]]]) -> list[object]:
        """Run the calls of a batch in order; a domain error becomes that item's result."""
        results: list[object] = []
        for call in calls:
            try:
                results.append(await call())
            except QimemError as error:
                results.append(error)
        return results

    async def give_back_leases(self) -> None:
        """Return unused message counts; when the worker drains."""
        for _, _, handle in self._keyring.handles():
            if isinstance(handle, CipherHandle):
                await handle.lease.give_back(self._database, self._store)

    async def _cache(self, ctx: RequestContext, ref: object) -> RealmCache:
        cache = await self._caches.fresh(ctx.realm_id)
        if cache is None:
            raise key_not_found(ref)
        return cache

    async def _encryptable(self, ctx: RequestContext, cache: RealmCache, ref: KeyRef) -> Usable:
        version = await self._find(cache, ref)
        if version is None:
            raise key_not_found(ref)
        require(ctx, Permission.KEYS_ENCRYPT, version.lineage_id)
        check_can_encrypt(version)
        return await self._keep(cache, "encrypt", ref, version)

    async def _decryptable(self, ctx: RequestContext, cache: RealmCache, key_id: UUID) -> Usable:
        version = await self._find(cache, KeyRef(key_id=key_id))
        if version is None:
            raise key_not_found(key_id)
        require(ctx, Permission.KEYS_DECRYPT, version.lineage_id)
        check_can_decrypt(version)
        return await self._keep(cache, "decrypt", key_id, version)

    async def _find(self, cache: RealmCache, ref: KeyRef) -> KeyVersion | None:
        realm_id = cache.realm_id
        return await cache.get("version", ref, lambda tx: find_version(self._store, tx, realm_id, ref))

    async def _keep(self, cache: RealmCache, kind: str, key: object, version: KeyVersion) -> Usable:
        usable = Usable(version, await self._keyring.handle(version, lambda secret: _handle(version, secret)))
        # Kept only if the state it was judged by is the state of this cache's epoch.
        if (
            cache.find("version", key if isinstance(key, KeyRef) else KeyRef(key_id=version.key_id))
            is version
        ):
            cache.keep(kind, key, usable)
        return usable


def find_version(store: KeyStore, tx: Tx, realm_id: RealmId, ref: KeyRef) -> KeyVersion | None:
    """The encryption key version that `ref` names: itself by key id, else the lineage's active one."""
    if ref.key_id is not None:
        return store.find_version(tx, realm_id, ref.key_id, Purpose.ENCRYPTION)
    return store.find_active(tx, realm_id, Purpose.ENCRYPTION, lineage_id=ref.lineage_id, name=ref.name)


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
