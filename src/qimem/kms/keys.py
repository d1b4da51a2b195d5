"""The life of keys: create, rotate, disable, enable, read."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal
from uuid import UUID

from qimem.authz.decisions import require, require_everywhere, visible_lineages
from qimem.authz.permissions import Permission
from qimem.crypto.algorithms import Algorithm
from qimem.crypto.randomness import new_uuid
from qimem.errors import Conflict, InvalidFields
from qimem.kernel.clock import Clock, rfc3339
from qimem.kernel.context import RequestContext
from qimem.kernel.epochs import EpochSource
from qimem.kernel.ids import is_name
from qimem.kernel.transaction import Database, Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.kms.cipher import find_version
from qimem.kms.hierarchy import RealmKek, random_key
from qimem.kms.keyring import Keyring
from qimem.kms.models import KeyRef, KeyVersion, Purpose, WrappedMaterial, check_can_rotate, key_not_found
from qimem.kms.ports import KeyStore
from qimem.wire.security import KeyDetails, KeyMetadata

Scope = Literal["version", "lineage"]


class KeyService:
    """Keys of a realm."""

    def __init__(
        self,
        database: Database,
        work: UnitOfWork,
        epochs: EpochSource,
        store: KeyStore,
        keyring: Keyring,
        clock: Clock,
    ) -> None:
        self._database = database
        self._work = work
        self._epochs = epochs
        self._store = store
        self._keyring = keyring
        self._clock = clock

    async def create(self, ctx: RequestContext, algorithm: Algorithm, name: str | None) -> KeyMetadata:
        """Make a key with its first version.

        Args:
            ctx: The caller and the realm.
            algorithm: One that encrypts.
            name: Unique in the realm, `[a-z0-9][a-z0-9._-]{0,62}` and not in UUID form, or None.

        Raises:
            Forbidden: without `keys:create`.
            InvalidFields: the name is not well formed.
            Conflict: `already_exists`: the name is taken.
        """
        require_everywhere(ctx, Permission.KEYS_CREATE)
        if name is not None and not is_name(name):
            raise InvalidFields({"/name": "must match [a-z0-9][a-z0-9._-]{0,62} and not be a UUID"})
        kek = await self._keyring.record_sealer(ctx.realm_id)
        key_id = new_uuid()
        version = KeyVersion(
            realm_id=ctx.realm_id,
            key_id=key_id,
            lineage_id=key_id,
            version=1,
            active=True,
            enabled=True,
            purpose=Purpose.ENCRYPTION,
            algorithm=algorithm,
            name=name,
            created_us=self._clock.now_us(),
        )
        material = new_material(kek, version)

        def insert(tx: Tx) -> KeyMetadata:
            if not self._store.insert_key(tx, version, material):
                raise Conflict(f"key already exists: {name}", code="already_exists")
            ctx.draft.used_key(key_id, version.version)
            return metadata(version)

        return await self._work.run(ctx, insert, KeyMetadata, object_id=lambda answer: str(answer.key_id))

    async def rotate(self, ctx: RequestContext, ref: KeyRef) -> KeyMetadata:
        """Make a new active version; the old one stops encrypting in the same instant.

        Of several at once by the same `key_id` exactly one wins.

        Raises:
            NotFound: `key_not_found`.
            Forbidden: without `keys:rotate` on the lineage.
            Conflict: `key_inactive`: not the active version, or no longer.
        """
        kek = await self._keyring.record_sealer(ctx.realm_id)

        def succeed(tx: Tx) -> KeyMetadata:
            old = find_version(self._store, tx, ctx.realm_id, ref)
            if old is None:
                raise key_not_found(ref)
            require(ctx, Permission.KEYS_ROTATE, old.lineage_id)
            check_can_rotate(old)
            new = replace(
                old,
                key_id=new_uuid(),
                version=old.version + 1,
                enabled=True,
                created_us=self._clock.now_us(),
            )
            if not self._store.succeed(tx, old, new, new_material(kek, new)):
                check_can_rotate(replace(old, active=False))
            self._epochs.bump(tx, ctx.realm_id)
            ctx.draft.used_key(new.key_id, new.version)
            ctx.draft.target = str(new.lineage_id)
            return metadata(new)

        return await self._work.run(ctx, succeed, KeyMetadata, object_id=lambda answer: str(answer.key_id))

    async def set_enabled(
        self, ctx: RequestContext, key_id: UUID, *, enabled: bool, scope: Scope
    ) -> KeyMetadata:
        """Enable or disable one version or its whole lineage, from the next request on, everywhere.

        Raises:
            NotFound: `key_not_found`.
            Forbidden: without `keys:manage` on the lineage.
        """

        def change(tx: Tx) -> KeyMetadata:
            found = self._version(tx, ctx, key_id, Permission.KEYS_MANAGE)
            target = {"key_id": key_id} if scope == "version" else {"lineage_id": found.lineage_id}
            self._store.set_enabled(tx, ctx.realm_id, enabled=enabled, **target)
            self._epochs.bump(tx, ctx.realm_id)
            ctx.draft.used_key(found.key_id, found.version)
            ctx.draft.target = str(key_id if scope == "version" else found.lineage_id)
            return metadata(replace(found, enabled=enabled))

        return await self._work.apply(ctx.draft, change)

    async def get(self, ctx: RequestContext, key_id: UUID) -> KeyDetails:
        """One version and all versions of its lineage.

        Raises:
            NotFound: `key_not_found`.
            Forbidden: without `keys:read` on the lineage.
        """

        def read(tx: Tx) -> KeyDetails:
            found = self._version(tx, ctx, key_id, Permission.KEYS_READ)
            versions = self._store.versions(tx, ctx.realm_id, found.lineage_id)
            return details(found, [metadata(version) for version in versions])

        return await self._database.read(read)

    async def list(
        self, ctx: RequestContext, after: tuple[int, UUID] | None, limit: int
    ) -> tuple[list[KeyMetadata], tuple[int, UUID] | None]:
        """Active versions of the realm's keys in order of creation, those the caller may read.

        Args:
            ctx: The caller and the realm.
            after: Position returned with the page before, or None for the first page.
            limit: 1–200 items.

        Returns:
            The items, and the position to go on from or None on the last page.
        """
        lineages = visible_lineages(ctx, Permission.KEYS_READ)

        def read(tx: Tx) -> tuple[list[KeyMetadata], tuple[int, UUID] | None]:
            rows = self._store.list_keys(tx, ctx.realm_id, after=after, limit=limit + 1, lineages=lineages)
            page = rows[:limit]
            position = None
            if len(rows) > limit:
                first = self._store.find_version(tx, ctx.realm_id, page[-1].lineage_id, Purpose.ENCRYPTION)
                assert first is not None
                position = (first.created_us, first.lineage_id)
            return [metadata(version) for version in page], position

        return await self._database.read(read)

    def _version(self, tx: Tx, ctx: RequestContext, key_id: UUID, permission: Permission) -> KeyVersion:
        found = self._store.find_version(tx, ctx.realm_id, key_id, Purpose.ENCRYPTION)
        if found is None:
            raise key_not_found(key_id)
        require(ctx, permission, found.lineage_id)
        return found


def new_material(kek: RealmKek, version: KeyVersion) -> WrappedMaterial:
    """Fresh random material for a symmetric version, wrapped for storage."""
    material = random_key()
    try:
        return WrappedMaterial(kek.wrap_material(version, material), kek.version)
    finally:
        material.wipe()


def metadata(version: KeyVersion) -> KeyMetadata:
    """The version as the API shows it."""
    return KeyMetadata(
        key_id=version.key_id,
        lineage_id=version.lineage_id,
        version=version.version,
        active=version.active,
        enabled=version.enabled,
        algorithm=version.algorithm.value,
        name=version.name,
        created_at=rfc3339(version.created_us),
    )


def details(version: KeyVersion, versions: list[KeyMetadata]) -> KeyDetails:
    """The version and its lineage as the API shows them."""
    shown = metadata(version)
    fields = {name: getattr(shown, name) for name in shown.__struct_fields__}
    return KeyDetails(**fields, versions=versions)
