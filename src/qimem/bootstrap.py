"""Composition root: settings → adapters → services. The only file that wires, and the best map of the house."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from qimem.authz.permissions import EVERYTHING, compile_permissions
from qimem.config.schema import Settings
from qimem.crypto.mac import key_check_value
from qimem.crypto.passwords import OWASP_MINIMUM, PasswordProfile
from qimem.crypto.randomness import new_uuid, random_bytes, token_text
from qimem.identity.login.service import LoginService
from qimem.identity.passwords import PasswordLane
from qimem.identity.roles import BuiltInRoles, RoleAssignment, RoleService
from qimem.identity.users import UserService
from qimem.jobs.runner import JobRunner, Task
from qimem.jobs.tasks import ExpiredSweep
from qimem.kernel.clock import Clock, SystemClock
from qimem.kernel.context import Actor, ActorKind
from qimem.kernel.epochs import RealmCaches
from qimem.kernel.ids import SYSTEM_REALM, ClientId, RealmId
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes, SecretText
from qimem.kernel.transaction import Tx, UniqueViolation
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.kms.cipher import CipherService
from qimem.kms.hierarchy import RootKey
from qimem.kms.instance import Instance
from qimem.kms.internal_keys import InternalKeys, PreparedRealm, RealmKeyProvisioning
from qimem.kms.keyring import Keyring
from qimem.kms.keys import KeyService
from qimem.kms.self_check import SelfCheck
from qimem.oauth.access_token import AccessTokens, Issuers
from qimem.oauth.bearer import BearerAuthenticator
from qimem.oauth.client_auth import ClientAuthenticator
from qimem.oauth.clients import UNLIMITED_TIER, ClientService, Registration
from qimem.oauth.grants.client_credentials import ClientCredentialsGrant
from qimem.oauth.grants.password import PasswordGrant
from qimem.oauth.grants.refresh_token import RefreshTokenGrant
from qimem.oauth.issuer import Issuer
from qimem.oauth.refresh_token import RefreshTokens
from qimem.oauth.revocation import RevocationService
from qimem.oauth.standing import StandingCheck
from qimem.oauth.token_endpoint import TokenEndpoint
from qimem.observability.logging import report_failed_job
from qimem.realms.models import RealmRecord
from qimem.realms.service import RealmService
from qimem.storage.database import DatabaseLocation, OpenDatabase
from qimem.storage.repositories.clients import ClientRepository
from qimem.storage.repositories.grants import GrantRepository
from qimem.storage.repositories.idempotency import IdempotencyRepository
from qimem.storage.repositories.instance import InstanceRepository
from qimem.storage.repositories.jobs import ExpiredRowsRepository, JobRepository
from qimem.storage.repositories.kms_keys import KeyRepository
from qimem.storage.repositories.realms import RealmRepository
from qimem.storage.repositories.roles import RoleRepository
from qimem.storage.repositories.users import UserRepository
from qimem.web import system
from qimem.web.api import auth, security
from qimem.web.app import create_app
from qimem.web.oidc import jwks
from qimem.web.services import Services
from qimem.wire.auth import CreatedClient

T = TypeVar("T")

_SWEEP_SECONDS = 600
_GENERATED_PASSWORD_BYTES = 24

# Repositories hold no state: one of each serves every database this process opens.
_INSTANCE = InstanceRepository()
_REALMS = RealmRepository()
_KEYS = KeyRepository()
_ROLES = RoleRepository()
_USERS = UserRepository()
_CLIENTS = ClientRepository()
_GRANTS = GrantRepository()

ENDPOINTS = system.documented((*system.ENDPOINTS, *security.ENDPOINTS, *auth.ENDPOINTS, *jwks.ENDPOINTS))
"""Every operation of the HTTP API."""


class AlreadyInitialised(Exception):
    """The database holds an installation already; nothing was changed."""


@dataclass(frozen=True, slots=True)
class AdminChoice:
    """The first operator. Without a password one is generated."""

    username: str = "admin"
    password: SecretText | None = None


@dataclass(frozen=True, slots=True)
class Installed:
    """What a new installation hands out, once. `password` only when it was generated."""

    realm_id: str
    client_id: str
    client_secret: SecretText
    username: str
    password: SecretText | None
    data_dir: str | None
    root_key_file: str | None
    external_url: str | None


class Running:
    """A started installation: the ASGI application, and how to end it."""

    def __init__(self, app: Any, core: _Core, cipher: CipherService, jobs: JobRunner) -> None:
        self.app = app
        self._core = core
        self._cipher = cipher
        self._jobs = jobs

    async def close(self) -> None:
        """Drain: stop background work, return unused message leases, close the database."""
        async with AsyncExitStack() as stack:
            # Run from the last to the first; what fails keeps none of the others from running.
            stack.callback(self._core.keyring.close)
            stack.push_async_callback(self._core.database.close)
            stack.callback(self._core.lane.close)
            stack.push_async_callback(self._cipher.give_back_leases)
            await self._jobs.stop()


def location(settings: Settings) -> DatabaseLocation:
    """Where the data is."""
    url = settings.database.url
    return DatabaseLocation(
        directory=settings.server.data_dir,
        url=None if url is None else url.reveal(),
        durable=settings.database.mode != "stateless",
    )


def migrate(settings: Settings) -> None:
    """Bring the schema up to date.

    Raises:
        SchemaTooNew: the data is newer than this program.
    """
    location(settings).migrate()


async def is_initialised(settings: Settings) -> bool:
    """Whether there is an installation in the database."""
    where = location(settings)
    if not where.exists():
        return False
    database = where.open()
    try:
        return await database.read(_INSTANCE.find) is not None
    finally:
        await database.close()


async def initialise(settings: Settings, root_key: SecretBytes, admin: AdminChoice) -> Installed:
    """Make an installation in an empty database: instance, realm `system`, operator, one client.

    Raises:
        AlreadyInitialised: there is one.
        QimemError: the operator's name or password is not acceptable.
    """
    migrate(settings)
    database = location(settings).open()
    try:
        return await _install(settings, root_key, admin, database)
    finally:
        await database.close()


async def start(settings: Settings, root_key: SecretBytes, address: str) -> Running:
    """Open the installation and build its services.

    Args:
        settings: Where the data is, and what to offer.
        root_key: Taken over; wiped when the installation is closed.
        address: `http://host:port` as bound; becomes the external URL at the first start without one.

    Raises:
        Refused: no installation, another root key, or another external URL than the stored one.
    """
    database = location(settings).open()
    try:
        instance = await _own_instance(database, root_key)
        external_url = await _external_url(settings, database, instance, address)
    except BaseException:
        await database.close()
        raise
    core = _Core(database, RootKey(instance.instance_id, root_key), SystemClock(), external_url)
    cipher = CipherService(database, _KEYS, core.keyring)
    app = create_app(ENDPOINTS, core.services(cipher), core.bearer, cors_origins=settings.web.cors_origins)
    holder = f"{os.uname().nodename}:{os.getpid()}:{token_text(6)}"
    jobs = JobRunner(database, JobRepository(), core.clock, holder, report_failed_job)
    sweep = ExpiredSweep(database, ExpiredRowsRepository(), core.clock)
    jobs.start([Task("expired-rows", _SWEEP_SECONDS, sweep.run)])
    return Running(app, core, cipher, jobs)


class _Core:
    """What services share."""

    def __init__(
        self,
        database: OpenDatabase,
        root_key: RootKey,
        clock: Clock,
        external_url: str,
        profile: PasswordProfile = OWASP_MINIMUM,
    ) -> None:
        self.database = database
        self.clock = clock
        self.caches = RealmCaches(database, database)
        self.keyring = Keyring(root_key, database, _KEYS)
        self.internal = InternalKeys(self.caches, _KEYS, self.keyring)
        self.issuers = Issuers(external_url)
        self.access_tokens = AccessTokens(self.internal, self.issuers, clock)
        self.standing = StandingCheck(_REALMS, _CLIENTS, _USERS, _ROLES)
        self.lane = PasswordLane(self.internal, profile)
        self.work = UnitOfWork(database, IdempotencyRepository(), self.keyring, JsonCodec(), clock)
        self.bearer = BearerAuthenticator(
            self.caches, self.access_tokens, self.internal, self.standing, _GRANTS, clock
        )

    def services(self, cipher: CipherService) -> Services:
        """Everything that handlers can reach."""
        clock, database, work = self.clock, self.database, self.work
        roles = RoleAssignment(_ROLES)
        clients = ClientAuthenticator(database, self.caches, _CLIENTS, _REALMS)
        issuer = Issuer(database, self.standing, self.access_tokens, self.internal, clock)
        login = LoginService(database, _USERS, self.lane)
        provisioning = (RealmKeyProvisioning(_KEYS, self.keyring), BuiltInRoles(_ROLES))
        refresh_tokens = RefreshTokens(database, _GRANTS, self.internal)
        revocation = RevocationService(database, database, _GRANTS, self.access_tokens, refresh_tokens, clock)
        check = SelfCheck(database, self.keyring, clock)
        return Services(
            keys=KeyService(database, work, database, _KEYS, self.keyring, clock),
            cipher=cipher,
            realms=RealmService(work, _REALMS, provisioning, self.issuers.of, clock),
            roles=RoleService(work, database, _ROLES, clock),
            users=UserService(work, database, _USERS, roles, self.lane, clock),
            clients=ClientService(work, database, _CLIENTS, roles, clock),
            tokens=TokenEndpoint(
                clients,
                PasswordGrant(login, issuer, _GRANTS, clock),
                ClientCredentialsGrant(issuer),
            ),
            refresh=RefreshTokenGrant(refresh_tokens, _GRANTS, clients, issuer, revocation, clock),
            revocation=revocation,
            signer=self.internal,
            readiness=check.readiness,
            self_check=check.run,
        )


class JsonCodec:
    """Wire structs as JSON, for answers that may have to be given again."""

    def encode(self, answer: object) -> bytes:
        """The struct as JSON."""
        return msgspec.json.encode(answer)

    def decode(self, data: bytes, answer_type: type[T]) -> T:
        """The struct again."""
        return msgspec.json.decode(data, type=answer_type)


class _PreparedPepper:
    """The pepper of a realm that is only about to exist."""

    def __init__(self, prepared: PreparedRealm) -> None:
        self._pepper = prepared.pepper()

    async def pepper(self, realm_id: RealmId) -> SecretBytes:  # noqa: ARG002 - there is only one realm
        return self._pepper


async def _install(
    settings: Settings, root_key: SecretBytes, admin: AdminChoice, database: OpenDatabase
) -> Installed:
    if await database.read(_INSTANCE.find) is not None:
        raise AlreadyInitialised
    clock = SystemClock()
    instance = _new_instance(settings, root_key, clock.now_us())
    core = _Core(database, RootKey(instance.instance_id, root_key), clock, instance.external_url or "")
    generated = None if admin.password is not None else SecretText(token_text(_GENERATED_PASSWORD_BYTES))
    try:
        add_realm = await _first_realm(core, admin.username, admin.password or generated or SecretText(""))

        def install(tx: Tx) -> CreatedClient:
            _claim(tx, instance)
            return add_realm(tx)

        client = await database.write(install)
    finally:
        core.lane.close()
    embedded = settings.database.url is None
    return Installed(
        realm_id=SYSTEM_REALM,
        client_id=client.client_id,
        client_secret=SecretText(client.client_secret or ""),
        username=admin.username,
        password=generated,
        data_dir=str(settings.server.data_dir) if embedded else None,
        root_key_file=None if settings.seal.root_key_file is None else str(settings.seal.root_key_file),
        external_url=settings.server.external_url,
    )


def _new_instance(settings: Settings, root_key: SecretBytes, now_us: int) -> Instance:
    instance_id = new_uuid()
    return Instance(
        instance_id=instance_id,
        incarnation=random_bytes(16),
        key_check=key_check_value(root_key, instance_id.bytes),
        external_url=settings.server.external_url,
        created_us=now_us,
    )


def _claim(tx: Tx, instance: Instance) -> None:
    # This row decides between two installers on two nodes: the second one finds it taken.
    try:
        _INSTANCE.insert(tx, instance)
    except UniqueViolation:
        raise AlreadyInitialised from None


async def _first_realm(core: _Core, username: str, password: SecretText) -> Callable[[Tx], CreatedClient]:
    """Realm `system` with its operator and one client; for the transaction that makes the installation."""
    clock, actor, now_us = core.clock, _installer(), core.clock.now_us()
    keys, roles = RealmKeyProvisioning(_KEYS, core.keyring), RoleAssignment(_ROLES)
    prepared = keys.prepare(SYSTEM_REALM, now_us)
    lane = PasswordLane(_PreparedPepper(prepared))
    try:
        users = UserService(core.work, core.database, _USERS, roles, lane, clock)
        add_user = await users.creation(actor, SYSTEM_REALM, username, password, ("operator",), None)
    finally:
        lane.close()
    clients = ClientService(core.work, core.database, _CLIENTS, roles, clock)
    registration = Registration(redirect_uris=(), name="operator tools", tier=UNLIMITED_TIER)
    add_client = clients.creation(actor, SYSTEM_REALM, registration)

    def insert(tx: Tx) -> CreatedClient:
        _REALMS.insert(tx, RealmRecord(SYSTEM_REALM, "System", enabled=True, created_us=now_us))
        keys.provision(tx, SYSTEM_REALM, prepared, now_us)
        BuiltInRoles(_ROLES).provision(tx, SYSTEM_REALM, None, now_us)
        add_user(tx)
        return add_client(tx)

    return insert


def _installer() -> Actor:
    return Actor(
        realm_id=SYSTEM_REALM,
        kind=ActorKind.CLIENT,
        subject="installer",
        client_id=ClientId("installer"),
        token_id="",
        permissions=compile_permissions(frozenset({EVERYTHING})),
    )


async def _own_instance(database: OpenDatabase, root_key: SecretBytes) -> Instance:
    instance = await database.read(_INSTANCE.find)
    if instance is None:
        raise Refused("the database holds no installation", "run: qimem init")
    expected = key_check_value(root_key, instance.instance_id.bytes)
    if not SecretBytes(expected).equals(instance.key_check):
        raise Refused(
            "the root key is not the one this database was made with",
            "give the right one with --root-key-file; without it the data cannot be read",
        )
    return instance


async def _external_url(settings: Settings, database: OpenDatabase, instance: Instance, address: str) -> str:
    configured, stored = settings.server.external_url, instance.external_url
    if stored is None:
        chosen = configured or address
        await database.write(lambda tx: _INSTANCE.set_external_url(tx, chosen))
        # Another worker may have been first; what is stored counts.
        again = await database.read(_INSTANCE.find)
        stored = again.external_url if again is not None else None
    if stored is None or (configured is not None and configured != stored):
        raise Refused(
            f"external_url is {stored}: tokens and clients already carry it",
            "remove the option or set it to the stored value",
        )
    return stored
