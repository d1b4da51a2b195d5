"""The ports of identity, realms and oauth kept in this process, and two small realms on top of them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote_plus
from uuid import UUID, uuid4

from qimem.authz.permissions import compile_permissions
from qimem.crypto.jose import thumbprint
from qimem.crypto.mac import digest, mac, mac_matches
from qimem.crypto.signatures import ES256Signer, generate_es256
from qimem.errors import QimemError
from qimem.identity.login.service import Credentials, SignedIn
from qimem.identity.models import RoleRecord, UserRecord
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.clock import ManualClock
from qimem.kernel.context import Actor, ActorKind, IdempotencyKey, RequestContext
from qimem.kernel.epochs import Epoch, RealmCache, RealmCaches
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.limits import REFRESH_GRACE_SECONDS
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.oauth.access_token import AccessTokens, Issuers
from qimem.oauth.issuer import Issuer, invalid_grant
from qimem.oauth.models import AuthMethod, ClientRecord, GrantRecord
from qimem.oauth.standing import StandingCheck
from qimem.realms.models import RealmRecord
from tests.support.audit import FakeIntents, a_draft
from tests.unit.kernel.fakes import (
    NO_TX,
    FakeAnswers,
    FakeCodec,
    FakeDatabase,
    FakeEpochs,
    FakeSealers,
    Table,
)

ACME, OTHER = RealmId("acme"), RealmId("other")
APP = ClientId("app")
ADA = UUID(int=1)
URL = "https://id.example"
SECRET = "qcs_secret"


class FakeRealms(Table):
    """Implements `RealmStore`."""

    def insert(self, tx: Tx, realm: RealmRecord) -> bool:
        if realm.realm_id in self.rows:
            return False
        self.rows[realm.realm_id] = realm
        return True

    def find(self, tx: Tx, realm_id: RealmId) -> RealmRecord | None:
        return self.seen(tx).get(realm_id)


class FakeUsers(Table):
    """Implements `UserStore`; a row is a user and the password hash."""

    def insert(self, tx: Tx, user: UserRecord, password_hash: str) -> bool:
        if self.find_by_username(tx, user.realm_id, user.username_key) is not None:
            return False
        self.rows[user.realm_id, user.user_id] = (user, password_hash)
        return True

    def find(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> UserRecord | None:
        return self.seen(tx).get((realm_id, user_id), (None, ""))[0]

    def find_by_username(self, tx: Tx, realm_id: RealmId, username_key: str) -> tuple[UserRecord, str] | None:
        for (realm, _), row in self.rows.items():
            if realm == realm_id and row[0].username_key == username_key:
                return row
        return None


class FakeClients(Table):
    """Implements `ClientStore`."""

    def insert(self, tx: Tx, client: ClientRecord) -> None:
        self.rows[client.realm_id, client.client_id] = client

    def find(self, tx: Tx, realm_id: RealmId, client_id: str) -> ClientRecord | None:
        return self.seen(tx).get((realm_id, client_id))

    def find_realm(self, tx: Tx, client_id: str) -> RealmId | None:
        return next((realm for realm, known in self.seen(tx) if known == client_id), None)


class FakeRoles(Table):
    """Implements `RoleStore`; who has which role it learns from users and clients."""

    def __init__(self, users: FakeUsers, clients: FakeClients) -> None:
        super().__init__()
        self._users = users
        self._clients = clients

    def insert(self, tx: Tx, role: RoleRecord) -> bool:
        if (role.realm_id, role.name) in self.rows:
            return False
        self.rows[role.realm_id, role.name] = role
        return True

    def find_many(self, tx: Tx, realm_id: RealmId, names: Sequence[str]) -> Sequence[RoleRecord]:
        rows = self.seen(tx)
        return [rows[realm_id, name] for name in names if (realm_id, name) in rows]

    def permissions_of_user(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> frozenset[str]:
        user = self._users.find(tx, realm_id, user_id)
        return self._permissions(tx, realm_id, user.roles if user is not None else ())

    def permissions_of_client(self, tx: Tx, realm_id: RealmId, client_id: str) -> frozenset[str]:
        client = self._clients.find(tx, realm_id, client_id)
        return self._permissions(tx, realm_id, client.roles if client is not None else ())

    def _permissions(self, tx: Tx, realm_id: RealmId, names: Sequence[str]) -> frozenset[str]:
        return frozenset(name for role in self.find_many(tx, realm_id, names) for name in role.permissions)


class FakeGrants(Table):
    """Implements `GrantStore`."""

    def __init__(self) -> None:
        super().__init__()
        self.dead: set[tuple[RealmId, str]] = set()
        self.dead_until: dict[tuple[RealmId, str], int] = {}

    def insert(self, tx: Tx, grant: GrantRecord) -> None:
        self.seen(tx)[grant.realm_id, grant.grant_id] = grant

    def find(self, tx: Tx, realm_id: RealmId, grant_id: UUID) -> GrantRecord | None:
        return self.seen(tx).get((realm_id, grant_id))

    def rotate(
        self, tx: Tx, realm_id: RealmId, grant_id: UUID, *, presented: int, now_us: int, by_client: bool
    ) -> GrantRecord | None:
        grant = self.find(tx, realm_id, grant_id)
        if grant is None or grant.generation != presented or grant.revoked_us or grant.expires_us <= now_us:
            return None
        moved = replace(grant, generation=presented + 1, rotated_us=now_us, rotated_by_client=by_client)
        self.rows[realm_id, grant_id] = moved
        return moved

    def revoke(self, tx: Tx, realm_id: RealmId, grant_id: UUID, now_us: int) -> bool:
        grant = self.find(tx, realm_id, grant_id)
        if grant is None or grant.revoked_us is not None:
            return False
        self.rows[realm_id, grant_id] = replace(grant, revoked_us=now_us)
        return True

    def revoke_access_token(self, tx: Tx, realm_id: RealmId, token_id: str, expires_us: int) -> bool:
        self.seen(tx)
        known = (realm_id, token_id) in self.dead
        self.dead.add((realm_id, token_id))
        self.dead_until.setdefault((realm_id, token_id), expires_us)
        return not known

    def is_access_token_revoked(self, tx: Tx, realm_id: RealmId, token_id: str) -> bool:
        self.seen(tx)
        return (realm_id, token_id) in self.dead


class FakeLogin:
    """Implements what the password grant asks of `LoginService`; a stored hash is its own password."""

    def __init__(self, users: FakeUsers) -> None:
        self._users = users
        self.asked: list[tuple[RealmId, Credentials, AuditDraft]] = []
        self.refusal: QimemError = invalid_grant("invalid credentials")
        self.meanwhile: Callable[[], object] = lambda: None
        """Happens after the password was judged."""

    async def with_password(self, realm_id: RealmId, shown: Credentials, draft: AuditDraft) -> SignedIn:
        self.asked.append((realm_id, shown, draft))
        found = self._users.find_by_username(NO_TX, realm_id, shown.username)
        if found is None or found[1] != shown.password.reveal():
            raise self.refusal
        self.meanwhile()
        return SignedIn(realm_id, found[0].user_id, found[1], None)

    def still_holds(self, tx: Tx, known: SignedIn) -> bool:
        assert tx is NO_TX
        return self._users.rows[known.realm_id, known.user_id][1] == known.phc


class FakeKeys:
    """Implements `TokenSigner`, `RefreshMac` and `PepperSource` with real cryptography."""

    def __init__(self, *realms: RealmId) -> None:
        self._signers: dict[tuple[RealmId, str], ES256Signer] = {}
        self.published: dict[RealmId, dict[str, dict[str, str]]] = {}
        self.active: dict[RealmId, str] = {}
        for realm_id in realms:
            self.rotate(realm_id)

    def rotate(self, realm_id: RealmId) -> str:
        """A new active key; the old ones stay published."""
        signer = ES256Signer(generate_es256())
        jwk = signer.public_jwk()
        kid = thumbprint(jwk)
        self._signers[realm_id, kid] = signer
        self.published.setdefault(realm_id, {})[kid] = jwk
        self.active[realm_id] = kid
        return kid

    async def active_signer(self, realm_id: RealmId) -> tuple[str, Callable[[bytes], bytes]]:
        kid = self.active[realm_id]
        return kid, self._signers[realm_id, kid].sign

    async def public_keys(self, realm_id: RealmId) -> dict[str, dict[str, str]]:
        return self.published.get(realm_id, {})

    async def tag(self, realm_id: RealmId, data: bytes) -> bytes:
        return mac(self._secret(realm_id), data)

    async def verify(self, realm_id: RealmId, data: bytes, tag: bytes) -> bool:
        return realm_id in self.published and mac_matches(self._secret(realm_id), data, tag)

    async def pepper(self, realm_id: RealmId) -> SecretBytes:
        return SecretBytes(digest(b"pepper" + realm_id.encode()))

    def _secret(self, realm_id: RealmId) -> SecretBytes:
        return SecretBytes(digest(realm_id.encode()))


def a_client(client_id: str = APP, realm_id: RealmId = ACME, **more: Any) -> ClientRecord:
    """A confidential client with the secret `SECRET`."""
    record = ClientRecord(
        realm_id=realm_id,
        client_id=ClientId(client_id),
        name=None,
        secret_digest=digest(SECRET.encode()),
        auth_method=AuthMethod.SECRET_BASIC,
        grant_types=("password", "client_credentials", "refresh_token"),
        redirect_uris=(),
        scope="read write",
        tier="pro",
        enabled=True,
        roles=("robot",),
        metadata="{}",
        created_us=0,
        refresh_grace_seconds=REFRESH_GRACE_SECONDS,
    )
    return replace(record, **more)


def a_grant(**more: Any) -> GrantRecord:
    """A live grant of ada through the app, for a day from the clock's start."""
    grant = GrantRecord(
        realm_id=ACME,
        grant_id=UUID(int=5),
        user_id=ADA,
        client_id=APP,
        scope="read",
        generation=1,
        rotated_us=None,
        rotated_by_client=False,
        created_us=ManualClock().now_us(),
        expires_us=ManualClock().now_us() + 86_400_000_000,
        revoked_us=None,
    )
    return replace(grant, **more)


def readable(value: object) -> str:
    """An id of a test that a command line can name."""
    return ascii(value)[:60].replace("\\", "/").replace("[", "(").replace("]", ")")


def basic(client_id: str, secret: str) -> bytes:
    """The Authorization header of a client (RFC 6749 §2.3.1)."""
    return b"Basic " + base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode())


def an_actor(*permissions: str, realm_id: RealmId = ACME) -> Actor:
    """Somebody who holds these permissions."""
    return Actor(
        realm_id=realm_id,
        kind=ActorKind.USER,
        subject="somebody",
        client_id=APP,
        token_id="jti",
        permissions=compile_permissions(frozenset(permissions)),
        tier="pro",
    )


def asked_by(
    actor: Actor, realm_id: RealmId | None = None, key: IdempotencyKey | None = None
) -> RequestContext:
    """A request of this actor about its own realm or another."""
    state = RealmCache(realm_id or actor.realm_id, Epoch(b"", 1), FakeDatabase(), FakeEpochs())
    return RequestContext("request", actor, state, a_draft(), key)


@dataclass
class Setting:
    """Realms `acme` and `other`; in acme the user ada, who is a clerk, and the client app, a robot."""

    clock: ManualClock = field(default_factory=ManualClock)
    realms: FakeRealms = field(default_factory=FakeRealms)
    users: FakeUsers = field(default_factory=FakeUsers)
    clients: FakeClients = field(default_factory=FakeClients)
    grants: FakeGrants = field(default_factory=FakeGrants)
    epochs: FakeEpochs = field(default_factory=FakeEpochs)
    keys: FakeKeys = field(default_factory=lambda: FakeKeys(ACME, OTHER))

    def __post_init__(self) -> None:
        self.roles = FakeRoles(self.users, self.clients)
        self.database = FakeDatabase(self.realms, self.users, self.clients, self.roles, self.grants)
        self.caches = RealmCaches(self.database, self.epochs)
        self.standing = StandingCheck(self.realms, self.clients, self.users, self.roles)
        self.access_tokens = AccessTokens(self.keys, Issuers(URL), self.clock)
        self.intents = FakeIntents()
        self.work = UnitOfWork(
            self.database, FakeAnswers(), FakeSealers(), FakeCodec(), self.clock, self.intents
        )
        self.issuer = Issuer(self.caches, self.work, self.standing, self.access_tokens, self.keys, self.clock)
        for realm_id in (ACME, OTHER):
            self.realms.rows[realm_id] = RealmRecord(realm_id, realm_id, enabled=True, created_us=0)
            self.epochs.now[realm_id] = Epoch(b"", 1)
        for name, permissions in (("clerk", ("keys:read", "orders:approve")), ("robot", ("keys:encrypt",))):
            self.roles.rows[ACME, name] = RoleRecord(ACME, name, permissions, built_in=False, created_us=0)
        ada = UserRecord(ACME, ADA, "Ada", "ada", None, enabled=True, roles=("clerk",), created_us=0)
        self.users.rows[ACME, ADA] = (ada, "hash")
        self.clients.rows[ACME, APP] = a_client()

    def change(self, table: Table, key: Any, **values: Any) -> None:
        """Change a record and bump the epoch of its realm, as every mutation does."""
        found = table.rows[key]
        table.rows[key] = (
            (replace(found[0], **values), *found[1:])
            if isinstance(found, tuple)
            else replace(found, **values)
        )
        realm_id = key[0] if isinstance(key, tuple) else key
        self.epochs.bump(self.database, realm_id)  # type: ignore[arg-type]  # it needs no transaction

    async def access_token(
        self,
        *,
        user: bool = True,
        grant_id: UUID | None = None,
        seconds: int = 900,
        realm_id: RealmId = ACME,
        client_id: str = APP,
        scope: str | None = None,
    ) -> str:
        """A genuine access token of ada, or of the app itself."""
        standing = await self.database.read(
            lambda tx: self.standing.load(tx, realm_id, client_id, ADA if user else None)
        )
        assert standing is not None
        standing = replace(standing, proven_with=standing.client.secret_digest)
        return await self.access_tokens.write(realm_id, standing, grant_id, scope, seconds, str(uuid4()))
