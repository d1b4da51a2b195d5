"""Unwrapped key material in memory.

Material never changes, so it is kept across epochs by (realm, key id); whether it may be *used* is
state, and state is asked for under the realm's epoch on every request. Nothing here decides.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar, cast
from uuid import UUID

from qimem.errors import Internal, Unavailable
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import CACHED_REALMS_MAX, KEYRING_ENTRIES_MAX
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Database, Tx
from qimem.kms.hierarchy import RealmKek
from qimem.kms.models import KeyVersion, WrappedKek, WrappedMaterial
from qimem.kms.ports import KeyStore
from qimem.kms.root_keys import RootKeys

H = TypeVar("H")

_LOOKS = 3


class Keyring:
    """Holds KEKs and whatever is built from material: ciphers, signers, MAC keys."""

    def __init__(self, root_keys: RootKeys, database: Database, store: KeyStore) -> None:
        self._root_keys = root_keys
        self._database = database
        self._store = store
        self._keks: Lru[tuple[RealmId, int], RealmKek] = Lru(CACHED_REALMS_MAX)
        self._newest: Lru[RealmId, int] = Lru(CACHED_REALMS_MAX)
        self._handles: Lru[tuple[RealmId, UUID], object] = Lru(KEYRING_ENTRIES_MAX)

    @property
    def instance_id(self) -> UUID:
        """The installation this ring belongs to."""
        return self._root_keys.instance_id

    def wrap_kek(self, tx: Tx, kek: RealmKek) -> WrappedKek:
        """Wrap a new realm's KEK under the newest root key, in the transaction that stores it.

        Not before it: the key that was the newest one then may be gone by now.

        Raises:
            Unavailable: `sealed`: the root key is not at hand.
        """
        for generation in self._store.root_generations(tx):
            root = self._root_keys.find(generation.check)
            if root is not None:
                return WrappedKek(kek.version, root.wrap_kek(kek), generation.number)
        raise _sealed()

    async def record_sealer(self, realm_id: RealmId) -> RealmKek:
        """The realm's newest KEK: seals records and wraps new material.

        Raises:
            Internal: the realm has none; it was never provisioned or its KEK was destroyed.
        """
        version = self._newest.get(realm_id)
        if version is None:
            version = await self._database.read(lambda tx: self._store.newest_kek_version(tx, realm_id))
            if version is None:
                raise Internal
            self._newest.put(realm_id, version)
        return await self.kek(realm_id, version)

    async def sealer_of(self, realm_id: RealmId, version: int) -> RealmKek:
        """One version of the realm's KEK, to open what it sealed.

        Raises:
            Internal: there is no such version.
            UnwrapFailed: the row was damaged or moved.
        """
        return await self.kek(realm_id, version)

    async def kek(self, realm_id: RealmId, version: int) -> RealmKek:
        """One version of the realm's KEK.

        Raises:
            Internal: there is no such version.
            Unavailable: `sealed`: its root key is not at hand.
            UnwrapFailed: the row was damaged or moved.
        """
        kek = self._keks.get((realm_id, version))
        if kek is None:
            kek = await self._unwrapped(realm_id, version)
            self._keks.put((realm_id, version), kek)
        return kek

    async def _unwrapped(self, realm_id: RealmId, version: int) -> RealmKek:
        for _ in range(_LOOKS):
            stored = await self._database.read(lambda tx: self._store.find_kek(tx, realm_id, version))
            if stored is None:
                raise Internal
            root = self._root_keys.find(stored.root_check)
            if root is not None:
                return root.unwrap_kek(realm_id, version, stored.wrapped)
            # Between the two looks the rotation may have ended, and custody have let the old key go.
        raise _sealed()

    def find(self, realm_id: RealmId, key_id: UUID) -> object | None:
        """The handle of a version if it is in memory."""
        return self._handles.get((realm_id, key_id))

    async def handle(self, version: KeyVersion, build: Callable[[SecretBytes], H]) -> H:
        """What `build` makes of the version's material, made once and kept.

        Args:
            version: Which one.
            build: Takes the material and must not keep the buffer: it is wiped afterwards.

        Raises:
            Internal: the version has no material.
            UnwrapFailed: the row was damaged or moved.
        """
        slot = (version.realm_id, version.key_id)
        found = self._handles.get(slot)
        if found is None:
            stored = await self._database.read(lambda tx: self._store.material(tx, *slot))
            found = await self._build(version, stored, build)
            # Two requests may build at once; the first one in wins, so that a lease has one owner.
            found = self._handles.put_if_absent(slot, found)
        return cast("H", found)

    async def _build(
        self, version: KeyVersion, stored: WrappedMaterial | None, build: Callable[[SecretBytes], H]
    ) -> H:
        if stored is None:
            raise Internal
        kek = await self.kek(version.realm_id, stored.kek_version)
        material = kek.unwrap_material(version, stored.wrapped)
        try:
            return build(material)
        finally:
            material.wipe()

    def forget(self, realm_id: RealmId) -> None:
        """Wipe what is known of a realm that was destroyed."""
        self._newest.pop(realm_id)
        for kek_slot in [slot for slot, _ in self._keks.items() if slot[0] == realm_id]:
            kek = self._keks.pop(kek_slot)
            if kek is not None:
                kek.key.wipe()
        for slot in [slot for slot, _ in self._handles.items() if slot[0] == realm_id]:
            handle = self._handles.pop(slot)
            if isinstance(handle, SecretBytes):
                handle.wipe()

    def handles(self) -> list[object]:
        """Every handle in memory; for returning leases when draining."""
        return self._handles.values()

    def close(self) -> None:
        """Forget and wipe."""
        for kek in self._keks.values():
            kek.key.wipe()
        for handle in self._handles.values():
            if isinstance(handle, SecretBytes):
                handle.wipe()
        self._keks.clear()
        self._handles.clear()
        self._root_keys.close()


def _sealed() -> Unavailable:
    return Unavailable("a root key of this installation is not at hand", code="sealed")


K = TypeVar("K")
V = TypeVar("V")


class Lru(Generic[K, V]):
    """A bounded dict. Dropping the oldest insertion is enough: a dropped entry is loaded again."""

    __slots__ = ("_entries", "_size_max")

    def __init__(self, size_max: int) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._size_max = size_max

    def get(self, key: K) -> V | None:
        """The entry, or None."""
        return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        """Add or replace an entry; the oldest leaves when the bound is reached."""
        self._entries[key] = value
        if len(self._entries) > self._size_max:
            self._entries.popitem(last=False)

    def pop(self, key: K) -> V | None:
        """Remove the entry; it, or None."""
        return self._entries.pop(key, None)

    def put_if_absent(self, key: K, value: V) -> V:
        """Add an entry unless there is one; the entry that stands."""
        found = self._entries.get(key)
        if found is not None:
            return found
        self.put(key, value)
        return value

    def values(self) -> list[V]:
        """A copy of the entries, oldest first."""
        return list(self._entries.values())

    def items(self) -> list[tuple[K, V]]:
        """A copy of the entries, oldest first."""
        return list(self._entries.items())

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
