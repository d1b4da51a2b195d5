"""The realm's own keys: they sign its tokens, MAC its refresh tokens and pepper its passwords.

They are ordinary keys, wrapped, versioned and rotated like any other, with a purpose that keeps
them out of encrypt, decrypt and the list of keys.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from qimem.crypto.algorithms import Algorithm
from qimem.crypto.jose import thumbprint
from qimem.crypto.mac import mac, mac_matches
from qimem.crypto.randomness import new_uuid
from qimem.crypto.signatures import ES256Signer, generate_es256
from qimem.crypto.wrap import UnwrapFailed
from qimem.errors import Internal
from qimem.kernel.epochs import RealmCache, RealmCaches
from qimem.kernel.ids import RealmId
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx
from qimem.kms.hierarchy import RealmKek, random_key
from qimem.kms.keyring import Keyring
from qimem.kms.models import KeyVersion, Purpose, WrappedMaterial
from qimem.kms.ports import KeyStore
from qimem.kms.signing_keys import SigningKeyStore, first_signing_key

_log = logging.getLogger(__name__)

_INTERNAL: Final[dict[Purpose, tuple[Algorithm, Callable[[], SecretBytes]]]] = {
    Purpose.TOKEN_SIGNING: (Algorithm.ES256, generate_es256),
    Purpose.REFRESH_MAC: (Algorithm.HMAC_SHA256, random_key),
    Purpose.PASSWORD_PEPPER: (Algorithm.HMAC_SHA256, random_key),
}
"""What every realm has, and how its material is made."""


@dataclass(frozen=True, slots=True)
class PreparedRealm:
    """Key material of a realm that does not exist yet."""

    kek: RealmKek
    keys: tuple[tuple[KeyVersion, WrappedMaterial], ...]

    def pepper(self) -> SecretBytes:
        """The password pepper, for the user that is added together with the realm."""
        version, material = next(pair for pair in self.keys if pair[0].purpose is Purpose.PASSWORD_PEPPER)
        return self.kek.unwrap_material(version, material.wrapped)


class RealmKeyProvisioning:
    """Gives a new realm its KEK and its internal keys."""

    def __init__(self, store: KeyStore, signing_keys: SigningKeyStore, keyring: Keyring) -> None:
        self._store = store
        self._signing_keys = signing_keys
        self._keyring = keyring

    def prepare(self, realm_id: RealmId, now_us: int) -> PreparedRealm:
        """Make the keys outside the transaction that will hold them."""
        kek = RealmKek(self._keyring.instance_id, realm_id, 1, random_key())
        keys = []
        for purpose, (algorithm, generate) in _INTERNAL.items():
            version = first_version(realm_id, purpose, algorithm, now_us)
            material = generate()
            keys.append((version, WrappedMaterial(kek.wrap_material(version, material), kek.version)))
            material.wipe()
        return PreparedRealm(kek, tuple(keys))

    def forget(self, realm_id: RealmId) -> None:
        """Wipe what this process has unwrapped of the realm."""
        self._keyring.forget(realm_id)

    def provision(self, tx: Tx, realm_id: RealmId, prepared: object, now_us: int) -> None:
        """Write them in the transaction that creates the realm."""
        assert isinstance(prepared, PreparedRealm)
        self._store.insert_kek(tx, realm_id, self._keyring.wrap_kek(tx, prepared.kek), now_us)
        for version, material in prepared.keys:
            self._store.insert_key(tx, version, material)
            if version.purpose is Purpose.TOKEN_SIGNING:
                self._signing_keys.insert(tx, first_signing_key(version))


class InternalKeys:
    """Uses the realm's own keys: token signer, refresh MAC and password pepper."""

    def __init__(self, caches: RealmCaches, store: KeyStore, keyring: Keyring) -> None:
        self._caches = caches
        self._store = store
        self._keyring = keyring

    async def active_signer(self, realm_id: RealmId) -> tuple[str, Callable[[bytes], bytes]]:
        """RFC 7638 thumbprint of the key that signs now, and what makes its 64-byte ES256 signature r‖s (RFC 7518 §3.4).

        One choice of one state: between two, the key could be taken away as compromised.

        Raises:
            Internal: the realm has no such key.
        """
        cache = await self._cache(realm_id)
        active = next(
            version for version in await self._versions(cache, Purpose.TOKEN_SIGNING) if version.active
        )
        for kid, (version, _) in (await self._signing_keys(cache)).items():
            if version.key_id == active.key_id:
                return kid, (await self._keyring.handle(version, ES256Signer)).sign
        raise Internal

    async def public_keys(self, realm_id: RealmId) -> dict[str, dict[str, str]]:
        """Public JWKs by kid: JWK of every key whose tokens verify, newest first; empty for an absent realm."""
        cache = await self._caches.fresh(realm_id)
        if cache is None:
            return {}
        return {kid: jwk for kid, (_, jwk) in (await self._signing_keys(cache)).items()}

    async def kids(self, realm_id: RealmId) -> dict[UUID, str]:
        """Key id → RFC 7638 thumbprint of every key whose tokens verify."""
        return {
            version.key_id: kid
            for kid, (version, _) in (await self._signing_keys(await self._cache(realm_id))).items()
        }

    async def tag(self, realm_id: RealmId, data: bytes) -> bytes:
        """32-byte HMAC-SHA256 tag under the realm's refresh key."""
        return mac(await self._secret(realm_id, Purpose.REFRESH_MAC), data)

    async def verify(self, realm_id: RealmId, data: bytes, tag: bytes) -> bool:
        """Whether the tag is the realm's, in constant time; false for an absent realm."""
        if await self._caches.fresh(realm_id) is None:
            return False
        return mac_matches(await self._secret(realm_id, Purpose.REFRESH_MAC), data, tag)

    async def pepper(self, realm_id: RealmId) -> SecretBytes:
        """The secret mixed into every password hash of the realm."""
        return await self._secret(realm_id, Purpose.PASSWORD_PEPPER)

    async def _secret(self, realm_id: RealmId, purpose: Purpose) -> SecretBytes:
        cache = await self._cache(realm_id)
        newest = (await self._versions(cache, purpose))[0]
        return await self._keyring.handle(newest, _own_copy)

    async def _signing_keys(self, cache: RealmCache) -> dict[str, tuple[KeyVersion, dict[str, str]]]:
        found: dict[str, tuple[KeyVersion, dict[str, str]]] | None = cache.find("signing-keys", None)
        if found is None:
            found = {}
            damaged: UnwrapFailed | None = None
            for version in await self._versions(cache, Purpose.TOKEN_SIGNING):
                if not version.enabled:
                    continue
                # Made from the wrapped private key and not stored: a public key that stands in the
                # database could be replaced there by one whose private half somebody else has.
                try:
                    public = (await self._keyring.handle(version, ES256Signer)).public_jwk()
                except UnwrapFailed as error:
                    # Tokens of the realm's other keys stay good.
                    _log.error(
                        "realm %s: signing key %s cannot be unwrapped", version.realm_id, version.key_id
                    )
                    damaged = error
                    continue
                kid = thumbprint(public)
                found[kid] = (version, {**public, "kid": kid, "use": "sig", "alg": "ES256"})
            if damaged is not None and not found:
                # An empty key set would tell clients that their tokens are wrong.
                raise damaged
            cache.keep("signing-keys", None, found)
        return found

    async def _versions(self, cache: RealmCache, purpose: Purpose) -> list[KeyVersion]:
        realm_id = cache.realm_id
        found = await cache.get(
            "internal", purpose, lambda tx: list(self._store.find_internal(tx, realm_id, purpose)) or None
        )
        if found is None:
            raise Internal
        return found

    async def _cache(self, realm_id: RealmId) -> RealmCache:
        cache = await self._caches.fresh(realm_id)
        if cache is None:
            raise Internal
        return cache


def _own_copy(material: SecretBytes) -> SecretBytes:
    return SecretBytes(material.reveal())


def first_version(realm_id: RealmId, purpose: Purpose, algorithm: Algorithm, now_us: int) -> KeyVersion:
    """The first version of a realm's own key."""
    key_id = new_uuid()
    return KeyVersion(
        realm_id=realm_id,
        key_id=key_id,
        lineage_id=key_id,
        version=1,
        active=True,
        enabled=True,
        purpose=purpose,
        algorithm=algorithm,
        name=None,
        created_us=now_us,
    )
