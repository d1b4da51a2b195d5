"""Rows for the repository tests, and several open databases on the same data, as several workers have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from qimem.crypto.algorithms import Algorithm
from qimem.errors import Unavailable
from qimem.identity.models import RoleRecord, UserRecord
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.transaction import Database, Tx
from qimem.kms.models import KeyVersion, Purpose, WrappedKek, WrappedMaterial
from qimem.kms.root_keys import Generation
from qimem.oauth.models import AuthMethod, ClientRecord, GrantRecord
from qimem.realms.models import RealmRecord
from qimem.storage.database import OpenDatabase
from qimem.storage.repositories.clients import ClientRepository
from qimem.storage.repositories.kms_keys import KeyRepository
from qimem.storage.repositories.realms import RealmRepository
from qimem.storage.repositories.roles import RoleRepository
from qimem.storage.repositories.root_keys import RootKeyRepository
from qimem.storage.repositories.users import UserRepository

T = TypeVar("T")

ACME = RealmId("acme")
OTHER = RealmId("other")
NOW = 1_800_000_000_000_000
HOUR = 3_600_000_000
MATERIAL = WrappedMaterial(b"wrapped", 1)

FIRST_ROOT_KEY = Generation(1, b"check of the first", NOW)

KEYS = KeyRepository()
ROOT_KEYS = RootKeyRepository()
REALMS = RealmRepository()
ROLES = RoleRepository()
USERS = UserRepository()
CLIENTS = ClientRepository()


def uid(number: int) -> UUID:
    """A UUID to recognize."""
    return UUID(int=number)


def a_realm(realm_id: RealmId = ACME) -> RealmRecord:
    return RealmRecord(realm_id, "Acme", enabled=True, created_us=NOW)


def a_key(number: int, realm_id: RealmId = ACME, name: str | None = None) -> KeyVersion:
    """The first version of a key."""
    return KeyVersion(
        realm_id=realm_id,
        key_id=uid(number),
        lineage_id=uid(number),
        version=1,
        active=True,
        enabled=True,
        purpose=Purpose.ENCRYPTION,
        algorithm=Algorithm.AES256_GCM,
        name=name,
        created_us=NOW,
    )


def a_role(name: str = "clerk", realm_id: RealmId = ACME, permissions: Sequence[str] = ()) -> RoleRecord:
    return RoleRecord(realm_id, name, tuple(permissions), built_in=False, created_us=NOW)


def a_user(number: int = 1, realm_id: RealmId = ACME, roles: Sequence[str] = ()) -> UserRecord:
    return UserRecord(
        realm_id, uid(number), f"User{number}", f"user{number}", None, enabled=True, roles=tuple(roles), created_us=NOW
    )  # fmt: skip


def a_client(client_id: str = "app", realm_id: RealmId = ACME, roles: Sequence[str] = ()) -> ClientRecord:
    return ClientRecord(
        realm_id=realm_id,
        client_id=ClientId(client_id),
        name="The app",
        secret_digest=b"\x00\xff" * 16,
        auth_method=AuthMethod.SECRET_POST,
        grant_types=("password", "refresh_token"),
        redirect_uris=("https://app.example/back",),
        scope="read write",
        tier="pro",
        enabled=True,
        roles=tuple(roles),
        metadata='{"contacts":["ä@example"]}',
        created_us=NOW,
    )


def a_grant(number: int = 1, realm_id: RealmId = ACME, client_id: str = "app") -> GrantRecord:
    return GrantRecord(
        realm_id=realm_id,
        grant_id=uid(number),
        user_id=uid(1),
        client_id=ClientId(client_id),
        scope=None,
        generation=1,
        rotated_us=None,
        rotated_by_client=False,
        created_us=NOW,
        expires_us=NOW + HOUR,
        revoked_us=None,
    )


async def with_realms(database: OpenDatabase) -> None:
    """Two realms, each with its key-encryption key."""

    def add(tx: Tx) -> None:
        assert ROOT_KEYS.begin(tx, FIRST_ROOT_KEY)
        for realm_id in (ACME, OTHER):
            assert REALMS.insert(tx, a_realm(realm_id))
            KEYS.insert_kek(tx, realm_id, WrappedKek(1, b"kek of " + realm_id.encode(), 1), NOW)

    await database.write(add)


async def with_people(database: OpenDatabase) -> None:
    """Two realms, each with a role, a user of the same id and name, and a client."""
    await with_realms(database)

    def add(tx: Tx) -> None:
        for realm_id in (ACME, OTHER):
            assert ROLES.insert(tx, a_role(realm_id=realm_id, permissions=[f"{realm_id}.read"]))
            assert USERS.insert(tx, a_user(1, realm_id, ["clerk"]), f"hash of {realm_id}")
            CLIENTS.insert(tx, a_client(f"app-{realm_id}", realm_id, ["clerk"]))

    await database.write(add)


async def race(workers: Sequence[Database], work: Callable[[Tx], T], count: int) -> list[T]:
    """The same work `count` times at once, spread over the workers; contention is told to try again."""

    async def once(database: Database) -> T:
        while True:
            try:
                return await database.write(work)
            except Unavailable as error:
                if error.code != "storage_unavailable":
                    raise
                # Nothing was changed: the client would repeat, and so does the test.

    return list(await asyncio.gather(*(once(workers[n % len(workers)]) for n in range(count))))
