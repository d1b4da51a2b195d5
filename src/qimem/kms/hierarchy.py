"""The key hierarchy: root key → realm key-encryption key (KEK) → material of a key version.

Every wrap authenticates where it belongs: instance, table, realm, object, version and purpose. A row
copied to another realm, table or version, or into another installation's database, never unwraps.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from qimem.crypto.mac import mac
from qimem.crypto.randomness import fill
from qimem.crypto.wrap import WrapContext, open_record, seal_record, unwrap, wrap
from qimem.kernel.ids import RealmId
from qimem.kernel.secret import SecretBytes
from qimem.kms.models import KeyVersion

KEY_BYTES = 32

# A key of its own for the MAC: the KEK itself only ever encrypts.
_FINGERPRINT_LABEL = b"qimem record fingerprint v1\0"


def random_key() -> SecretBytes:
    """A new 32-byte secret, drawn straight into its own buffer."""
    secret = SecretBytes(bytes(KEY_BYTES))
    fill(secret.reveal())
    return secret


@dataclass(frozen=True, slots=True)
class RealmKek:
    """A realm's key-encryption key, unwrapped, for the material of that realm alone."""

    instance_id: UUID
    realm_id: RealmId
    version: int
    key: SecretBytes

    def wrap_material(self, version: KeyVersion, material: SecretBytes) -> bytes:
        """Wrap the material of one key version."""
        return wrap(self.key, material, self._material_context(version))

    def unwrap_material(self, version: KeyVersion, wrapped: bytes) -> SecretBytes:
        """Unwrap the material of one key version.

        Raises:
            UnwrapFailed: the row is damaged, was moved, or belongs to another installation.
        """
        return unwrap(self.key, wrapped, self._material_context(version))

    def seal(self, label: str, plaintext: bytes) -> bytes:
        """Seal a small record; `label` is authenticated."""
        return seal_record(self.key, plaintext, self._record_context(label))

    def open(self, label: str, sealed: bytes) -> bytes:
        """Open what `seal` made with the same label.

        Raises:
            UnwrapFailed: damaged or moved.
        """
        return open_record(self.key, sealed, self._record_context(label))

    def fingerprint(self, data: bytes) -> bytes:
        """32 bytes by which data is recognized again; without this key they say nothing about it."""
        return mac(SecretBytes(mac(self.key, _FINGERPRINT_LABEL)), data)

    def _material_context(self, version: KeyVersion) -> WrapContext:
        return WrapContext(
            instance_id=self.instance_id.bytes,
            table="kms_version",
            realm_id=self.realm_id,
            # With its lineage: an old version must not be made the successor in another one.
            object_id=version.key_id.bytes + version.lineage_id.bytes,
            version=version.version,
            # The algorithm is bound too: material of one cipher never serves as another's.
            purpose=f"{version.purpose}/{version.algorithm}",
        )

    def _record_context(self, label: str) -> WrapContext:
        return WrapContext(
            instance_id=self.instance_id.bytes,
            table="idempotency",
            realm_id=self.realm_id,
            object_id=label.encode(),
            version=self.version,
            purpose="answer",
        )


@dataclass(frozen=True, slots=True)
class RootKey:
    """The root key of an installation; wraps nothing but KEKs."""

    instance_id: UUID
    key: SecretBytes

    def wrap_kek(self, kek: RealmKek) -> bytes:
        """Wrap a realm's KEK for storage."""
        return wrap(self.key, kek.key, self._context(kek.realm_id, kek.version))

    def unwrap_kek(self, realm_id: RealmId, version: int, wrapped: bytes) -> RealmKek:
        """Unwrap a realm's KEK.

        Raises:
            UnwrapFailed: the row is damaged, was moved, or belongs to another root key.
        """
        key = unwrap(self.key, wrapped, self._context(realm_id, version))
        return RealmKek(self.instance_id, realm_id, version, key)

    def _context(self, realm_id: RealmId, version: int) -> WrapContext:
        return WrapContext(
            instance_id=self.instance_id.bytes,
            table="realm_kek",
            realm_id=realm_id,
            object_id=realm_id.encode(),
            version=version,
            purpose="key-encryption",
        )
