"""The first installation: instance, realm `system`, operator, one client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qimem.audit.intents import Intents
from qimem.authz.permissions import EVERYTHING, compile_permissions
from qimem.bootstrap.core import CLIENTS, KEYS, REALMS, ROLES, SIGNING_KEYS, USERS, Core
from qimem.bootstrap.database import location, migrate
from qimem.config.schema import Settings
from qimem.crypto.mac import key_check_value
from qimem.crypto.randomness import new_uuid, random_bytes, token_text
from qimem.identity.new_user import CredentialMakers, NewUser
from qimem.identity.password_rules import NewPasswords, default_rules
from qimem.identity.passwords import PasswordLane
from qimem.identity.roles import BuiltInRoles, RoleAssignment
from qimem.identity.users import UserService
from qimem.kernel.clock import SystemClock
from qimem.kernel.context import Actor, ActorKind
from qimem.kernel.ids import SYSTEM_REALM, ClientId, RealmId
from qimem.kernel.limits import INSTALL_SECONDS
from qimem.kernel.metering import UNLIMITED_TIER
from qimem.kernel.secret import SecretBytes, SecretText
from qimem.kernel.transaction import Tx, UniqueViolation
from qimem.kms.instance import Instance
from qimem.kms.internal_keys import PreparedRealm, RealmKeyProvisioning
from qimem.kms.root_keys import Generation, RootKeys
from qimem.oauth.clients import ClientService
from qimem.oauth.registration import Registration
from qimem.realms.models import RealmRecord
from qimem.storage.database import OpenDatabase
from qimem.storage.repositories.audit import IntentRepository
from qimem.storage.repositories.instance import InstanceRepository
from qimem.storage.repositories.root_keys import RootKeyRepository
from qimem.wire.clients import CreatedClient

_GENERATED_PASSWORD_BYTES = 24
_INSTANCE = InstanceRepository()
_ROOT_KEYS = RootKeyRepository()


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


def _keep_nothing(_: Installed) -> None:
    return None


async def initialise(
    settings: Settings,
    root_key: SecretBytes,
    admin: AdminChoice,
    keep: Callable[[Installed], None] = _keep_nothing,
) -> Installed:
    """Make an installation in an empty database: instance, realm `system`, operator, one client.

    Args:
        settings: Where.
        root_key: What its keys are wrapped under.
        admin: The operator.
        keep: Puts aside what is handed out, before the installation is committed; perhaps several times the same.

    Raises:
        AlreadyInitialised: there is one.
        QimemError: the operator's name or password is not acceptable.
    """
    migrate(settings)
    database = location(settings).open(write_seconds=INSTALL_SECONDS)
    try:
        return await _install(settings, root_key, admin, database, keep)
    finally:
        await database.close()


def generated_password() -> SecretText:
    """A password that nobody chose."""
    return SecretText(token_text(_GENERATED_PASSWORD_BYTES))


async def knows_client(settings: Settings, client_id: str) -> bool:
    """Whether there is this client in an installation: whose credentials are asked about was made with it, or not."""
    database = location(settings).open()
    try:
        return await database.read(lambda tx: CLIENTS.find_realm(tx, client_id)) is not None
    finally:
        await database.close()


class _PreparedPepper:
    """The pepper of a realm that is only about to exist."""

    def __init__(self, prepared: PreparedRealm) -> None:
        self._pepper = prepared.pepper()

    async def pepper(self, realm_id: RealmId) -> SecretBytes:  # noqa: ARG002 - there is only one realm
        return self._pepper


async def _install(
    settings: Settings,
    root_key: SecretBytes,
    admin: AdminChoice,
    database: OpenDatabase,
    keep: Callable[[Installed], None],
) -> Installed:
    if await database.read(_INSTANCE.find) is not None:
        raise AlreadyInitialised
    clock = SystemClock()
    instance = _new_instance(settings, root_key, clock.now_us())
    core = Core(database, RootKeys(instance.instance_id, root_key), clock, instance.external_url or "")
    generated = None if admin.password is not None else generated_password()
    try:
        add_realm = await _first_realm(core, admin.username, admin.password or generated or SecretText(""))

        def install(tx: Tx) -> Installed:
            _claim(tx, instance)
            installed = handed_out(settings, add_realm(tx), admin.username, generated)
            # Within the transaction against the rule: after it a crash would leave an installation that nobody can
            # sign in to, and before it nobody knows yet whether it is this one that is made.
            keep(installed)
            return installed

        return await database.write(install)
    finally:
        core.lane.close()


def handed_out(
    settings: Settings, client: CreatedClient, username: str, password: SecretText | None
) -> Installed:
    """What is told once about a client and an operator that were made."""
    return Installed(
        realm_id=SYSTEM_REALM,
        client_id=client.client_id,
        client_secret=SecretText(client.client_secret or ""),
        username=username,
        password=password,
        data_dir=str(settings.server.data_dir) if settings.database.url is None else None,
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
    _ROOT_KEYS.begin(tx, Generation(1, instance.key_check, instance.created_us))


async def _first_realm(core: Core, username: str, password: SecretText) -> Callable[[Tx], CreatedClient]:
    """Realm `system` with its operator and one client; for the transaction that makes the installation."""
    clock, actor, now_us = core.clock, installer(), core.clock.now_us()
    keys, roles = RealmKeyProvisioning(KEYS, SIGNING_KEYS, core.keyring), RoleAssignment(ROLES)
    prepared = keys.prepare(SYSTEM_REALM, now_us)
    lane = PasswordLane(_PreparedPepper(prepared))
    # Nothing is logged before there is a log: these are made by the installation itself.
    work = core.unit_of_work(Intents(IntentRepository(), clock, "", lambda: 0))
    try:
        makers = CredentialMakers(NewPasswords(lane, default_rules), core.factors)
        users = UserService(work, core.database, USERS, roles, makers, clock)
        add_user = await users.creation(actor, SYSTEM_REALM, NewUser(username, password, ("operator",)))
    finally:
        lane.close()
    clients = ClientService(work, core.database, CLIENTS, roles, clock)
    registration = Registration(redirect_uris=(), name="operator tools", tier=UNLIMITED_TIER)
    add_client = clients.creation(actor, SYSTEM_REALM, registration)

    def insert(tx: Tx) -> CreatedClient:
        REALMS.insert(tx, RealmRecord(SYSTEM_REALM, "System", enabled=True, created_us=now_us))
        keys.provision(tx, SYSTEM_REALM, prepared, now_us)
        BuiltInRoles(ROLES).provision(tx, SYSTEM_REALM, None, now_us)
        add_user(tx)
        return add_client(tx)

    return insert


def installer() -> Actor:
    """Who acts on the host, before anybody could sign in."""
    return Actor(
        realm_id=SYSTEM_REALM,
        kind=ActorKind.CLIENT,
        subject="installer",
        client_id=ClientId("installer"),
        token_id="",
        permissions=compile_permissions(frozenset({EVERYTHING})),
        tier=UNLIMITED_TIER,
    )
