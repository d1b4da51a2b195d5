"""What the key service needs from storage and from the holder of the root key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.kms.models import KeyVersion, Purpose, StoredKek, WrappedKek, WrappedMaterial
from qimem.kms.root_keys import Generation


class KeyStore(Protocol):
    """Rows of keys and versions. Every look-up is inside one realm."""

    def root_generations(self, tx: Tx) -> Sequence[Generation]:
        """The root keys in use, newest first: one, or two while it is rotated."""
        ...

    def insert_kek(self, tx: Tx, realm_id: RealmId, kek: WrappedKek, now_us: int) -> None:
        """Add a wrapped key-encryption key of the realm.

        Raises:
            ForeignKeyViolation: its root key is in use no more.
        """
        ...

    def find_kek(self, tx: Tx, realm_id: RealmId, version: int) -> StoredKek | None:
        """The wrapped key-encryption key."""
        ...

    def newest_kek_version(self, tx: Tx, realm_id: RealmId) -> int | None:
        """The version that new material is wrapped with; None when the realm has none."""
        ...

    def insert_key(self, tx: Tx, version: KeyVersion, material: WrappedMaterial) -> bool:
        """Add a key with its first version; False when the name is taken, and then nothing is changed."""
        ...

    def succeed(self, tx: Tx, old: KeyVersion, new: KeyVersion, material: WrappedMaterial) -> bool:
        """Deactivate `old` if it is still active and add `new`; False when it is not, changing nothing."""
        ...

    def add_version(self, tx: Tx, version: KeyVersion, material: WrappedMaterial) -> None:
        """Add an inactive version to its lineage."""
        ...

    def activate(self, tx: Tx, old: KeyVersion, key_id: UUID) -> bool:
        """Put a version of the lineage in the place of `old` if that is still active; False when it is not."""
        ...

    def find_version(self, tx: Tx, realm_id: RealmId, key_id: UUID, purpose: Purpose) -> KeyVersion | None:
        """One version by its own id."""
        ...

    def find_active(
        self,
        tx: Tx,
        realm_id: RealmId,
        purpose: Purpose,
        *,
        lineage_id: UUID | None = None,
        name: str | None = None,
    ) -> KeyVersion | None:
        """The active version of a lineage, by the lineage's id or its name."""
        ...

    def find_internal(self, tx: Tx, realm_id: RealmId, purpose: Purpose) -> Sequence[KeyVersion]:
        """All versions of the realm's key of an internal purpose, newest first."""
        ...

    def versions(self, tx: Tx, realm_id: RealmId, lineage_id: UUID) -> Sequence[KeyVersion]:
        """All versions of a lineage, oldest first."""
        ...

    def list_keys(
        self,
        tx: Tx,
        realm_id: RealmId,
        *,
        after: tuple[int, UUID] | None,
        limit: int,
        lineages: frozenset[UUID] | None,
    ) -> Sequence[KeyVersion]:
        """Active versions of encryption keys by (lineage's created_us, lineage_id), after a position.

        Args:
            tx: A snapshot.
            realm_id: Whose keys.
            after: Position of the last item seen.
            limit: At most so many.
            lineages: Only these, or None for all.
        """
        ...

    def material(self, tx: Tx, realm_id: RealmId, key_id: UUID) -> WrappedMaterial | None:
        """The wrapped material of one version."""
        ...

    def set_enabled(
        self,
        tx: Tx,
        realm_id: RealmId,
        *,
        enabled: bool,
        key_id: UUID | None = None,
        lineage_id: UUID | None = None,
    ) -> int:
        """Enable or disable one version, or all of a lineage; how many rows now have the state."""
        ...

    def lease_messages(self, tx: Tx, realm_id: RealmId, key_id: UUID, block: int) -> int:
        """Take up to `block` message counts of the version's limit.

        Returns:
            How many were granted, 0 when the limit is reached; never more than remain of
            MESSAGES_PER_VERSION_MAX over all workers, crashes included.
        """
        ...

    def return_messages(self, tx: Tx, realm_id: RealmId, key_id: UUID, unused: int) -> None:
        """Give back counts of a lease that were never used."""
        ...
