"""Fills an installation with realms, fast: the product's own parts, many realms in one transaction.

    python -m bench.many_realms DATA_DIR REALMS KEYS_PER_REALM CALLERS

Every realm gets what the API would give it (key-encryption key, signing, refresh and pepper keys,
built-in role) and one client, ten users and some keys. CALLERS of them, evenly spread, can be used; they
are printed as JSON. The other users have a password hash of the same form that no password of theirs
matches: 10,000 of their own would take minutes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.callers import Caller
from qimem.audit.intents import Intents
from qimem.authz.permissions import EVERYTHING, compile_permissions
from qimem.bootstrap.core import JsonCodec
from qimem.crypto.algorithms import Algorithm
from qimem.crypto.passwords import hash_password
from qimem.crypto.randomness import new_uuid
from qimem.identity.models import UserRecord
from qimem.identity.roles import BuiltInRoles, RoleAssignment
from qimem.kernel.clock import SystemClock
from qimem.kernel.context import Actor, ActorKind
from qimem.kernel.ids import SYSTEM_REALM, ClientId, RealmId
from qimem.kernel.metering import UNLIMITED_TIER
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.kms.internal_keys import PreparedRealm, RealmKeyProvisioning
from qimem.kms.keyring import Keyring
from qimem.kms.keys import new_material
from qimem.kms.models import KeyVersion, Purpose
from qimem.kms.root_keys import RootKeys
from qimem.kms.seal.custody import beside
from qimem.kms.seal.keyfile import KeyFileSeal
from qimem.oauth.clients import ClientService
from qimem.oauth.registration import Registration
from qimem.realms.models import RealmRecord
from qimem.storage.database import DatabaseLocation, OpenDatabase
from qimem.storage.repositories.audit import IntentRepository
from qimem.storage.repositories.clients import ClientRepository
from qimem.storage.repositories.idempotency import IdempotencyRepository
from qimem.storage.repositories.instance import InstanceRepository
from qimem.storage.repositories.kms_keys import KeyRepository
from qimem.storage.repositories.realms import RealmRepository
from qimem.storage.repositories.roles import RoleRepository
from qimem.storage.repositories.signing_keys import SigningKeyRepository
from qimem.storage.repositories.users import UserRepository

REALMS_PER_TRANSACTION = 250
USERS_PER_REALM = 10
_PASSWORD = "a phrase that only the load knows"
_ROLE = "realm-admin"
_KEYS = KeyRepository()


@dataclass(frozen=True, slots=True)
class Order:
    """How many of everything."""

    realms: int
    keys_per_realm: int
    callers: int

    def chosen(self) -> frozenset[int]:
        """Which realms have a caller: evenly spread."""
        return frozenset(index * self.realms // self.callers for index in range(self.callers))


@dataclass(frozen=True, slots=True)
class _Draft:
    realm_id: RealmId
    prepared: PreparedRealm
    phc: str
    nobody: str
    keys: list[KeyVersion]


class Builder:
    """Makes realms in an open database."""

    def __init__(self, database: OpenDatabase, root_keys: RootKeys) -> None:
        self._database = database
        self._clock = SystemClock()
        keyring = Keyring(root_keys, database, _KEYS)
        self._provisioning = RealmKeyProvisioning(_KEYS, SigningKeyRepository(), keyring)
        work = UnitOfWork(
            database,
            IdempotencyRepository(),
            keyring,
            JsonCodec(),
            self._clock,
            Intents(IntentRepository(), self._clock, "", lambda: 0),
        )
        self._clients = ClientService(
            work, database, ClientRepository(), RoleAssignment(RoleRepository()), self._clock
        )
        self._actor = Actor(
            SYSTEM_REALM, ActorKind.CLIENT, "load", ClientId("load"), "",
            compile_permissions(frozenset({EVERYTHING})), UNLIMITED_TIER,
        )  # fmt: skip

    async def build(self, order: Order) -> list[Caller]:
        """All realms; the usable callers in order."""
        chosen, callers = order.chosen(), []
        nobody = hash_password("nobody", self._prepare(RealmId("nobody")).pepper())
        for start in range(0, order.realms, REALMS_PER_TRANSACTION):
            numbers = range(start, min(start + REALMS_PER_TRANSACTION, order.realms))
            drafts = self._drafts(numbers, order, nobody)
            made = await self._database.write(self._writing(drafts))
            callers += [caller for number, caller in zip(numbers, made, strict=True) if number in chosen]
        return callers

    def _prepare(self, realm_id: RealmId) -> PreparedRealm:
        return self._provisioning.prepare(realm_id, self._clock.now_us())

    def _drafts(self, numbers: range, order: Order, nobody: str) -> list[_Draft]:
        chosen = order.chosen()

        def draft(number: int) -> _Draft:
            realm_id = RealmId(f"realm-{number:05d}")
            prepared = self._prepare(realm_id)
            phc = hash_password(_PASSWORD, prepared.pepper()) if number in chosen else nobody
            keys = [self._key(realm_id) for _ in range(order.keys_per_realm)]
            return _Draft(realm_id, prepared, phc, nobody, keys)

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(draft, numbers))

    def _key(self, realm_id: RealmId) -> KeyVersion:
        key_id = new_uuid()
        return KeyVersion(
            realm_id=realm_id,
            key_id=key_id,
            lineage_id=key_id,
            version=1,
            active=True,
            enabled=True,
            purpose=Purpose.ENCRYPTION,
            algorithm=Algorithm.AES256_GCM,
            name=None,
            created_us=self._clock.now_us(),
        )

    def _writing(self, drafts: list[_Draft]) -> Callable[[Tx], list[Caller]]:
        return lambda tx: [self._write(tx, draft) for draft in drafts]

    def _write(self, tx: Tx, draft: _Draft) -> Caller:
        realm_id, now_us = draft.realm_id, self._clock.now_us()
        RealmRepository().insert(tx, RealmRecord(realm_id, realm_id, enabled=True, created_us=now_us))
        self._provisioning.provision(tx, realm_id, draft.prepared, now_us)
        BuiltInRoles(RoleRepository()).provision(tx, realm_id, None, now_us)
        registration = Registration(redirect_uris=(), tier=UNLIMITED_TIER, roles=(_ROLE,))
        client = self._clients.creation(self._actor, realm_id, registration)(tx)
        for number in range(1, USERS_PER_REALM):
            UserRepository().insert(tx, _user(realm_id, f"user-{number}", (), now_us), draft.nobody)
        user = _user(realm_id, "caller", (_ROLE,), now_us)
        UserRepository().insert(tx, user, draft.phc)
        for version in draft.keys:
            _KEYS.insert_key(tx, version, new_material(draft.prepared.kek, version))
        return Caller(
            realm_id=realm_id,
            client_id=client.client_id,
            client_secret=client.client_secret or "",
            username=user.username,
            password=_PASSWORD,
            key_id=str(draft.keys[0].key_id),
        )


def _user(realm_id: RealmId, name: str, roles: tuple[str, ...], now_us: int) -> UserRecord:
    return UserRecord(
        realm_id=realm_id,
        user_id=new_uuid(),
        username=name,
        username_key=name,
        email=None,
        enabled=True,
        roles=roles,
        created_us=now_us,
    )


async def fill(data_dir: Path, order: Order) -> list[Caller]:
    """Fill the installation that `qimem init` made in this data directory."""
    database = DatabaseLocation(data_dir).open()
    try:
        instance = await database.read(InstanceRepository().find)
        assert instance is not None
        root_keys = RootKeys(instance.instance_id, KeyFileSeal(beside(data_dir)).load())
        return await Builder(database, root_keys).build(order)
    finally:
        await database.close()


def main(data_dir: str, *counts: str) -> None:
    """Fill, then print the callers."""
    callers = asyncio.run(fill(Path(data_dir), Order(*map(int, counts))))
    json.dump([asdict(caller) for caller in callers], sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
