"""What services share, and the services themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from qimem.audit.events import AuditEvents
from qimem.audit.intents import Intents
from qimem.crypto.passwords import OWASP_MINIMUM, PasswordProfile
from qimem.identity.login.attempts import LoginAttempts
from qimem.identity.login.service import LoginService
from qimem.identity.new_user import CredentialMakers
from qimem.identity.own_factor import OwnFactor
from qimem.identity.password_rules import NewPasswords, PasswordRules
from qimem.identity.passwords import PasswordLane
from qimem.identity.roles import BuiltInRoles, RoleAssignment, RoleService
from qimem.identity.second_factor import SecondFactors
from qimem.identity.user_passwords import UserPasswords
from qimem.identity.users import UserService
from qimem.kernel.clock import Clock
from qimem.kernel.epochs import RealmCaches
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import PASSWORD_CHARS_MIN
from qimem.kernel.metering import DEFAULT_TIER, UNLIMITED_TIER
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.kms.cipher import CipherService
from qimem.kms.internal_keys import InternalKeys, RealmKeyProvisioning
from qimem.kms.keyring import Keyring
from qimem.kms.keys import KeyService
from qimem.kms.root_keys import RootKeys
from qimem.kms.self_check import SelfCheck
from qimem.kms.signing_keys import SigningKeyLife, SigningKeyService
from qimem.oauth.access_token import AccessTokens, Issuers
from qimem.oauth.bearer import BearerAuthenticator
from qimem.oauth.client_auth import ClientAuthenticator
from qimem.oauth.clients import ClientService
from qimem.oauth.explanation import ExplanationService
from qimem.oauth.grants.client_credentials import ClientCredentialsGrant
from qimem.oauth.grants.password import PasswordGrant
from qimem.oauth.grants.refresh_token import RefreshTokenGrant
from qimem.oauth.grants_of_users import GrantsOfUsers
from qimem.oauth.introspection import IntrospectionService
from qimem.oauth.issuer import Issuer
from qimem.oauth.me import MeService
from qimem.oauth.refresh_token import RefreshTokens
from qimem.oauth.revocation import RevocationEndpoint, RevocationService
from qimem.oauth.standing import StandingCheck
from qimem.oauth.token_endpoint import TokenEndpoint
from qimem.realms.service import RealmService, RealmTerms
from qimem.storage.database import OpenDatabase
from qimem.storage.repositories.attempts import AttemptRepository
from qimem.storage.repositories.clients import ClientRepository
from qimem.storage.repositories.grants import GrantRepository
from qimem.storage.repositories.idempotency import IdempotencyRepository
from qimem.storage.repositories.instance import InstanceRepository, schema_is_known
from qimem.storage.repositories.kms_keys import KeyRepository
from qimem.storage.repositories.realms import RealmRepository
from qimem.storage.repositories.roles import RoleRepository
from qimem.storage.repositories.second_factors import SecondFactorRepository
from qimem.storage.repositories.signing_keys import SigningKeyRepository
from qimem.storage.repositories.users import UserRepository
from qimem.web.readiness import Readiness
from qimem.web.services import Services

T = TypeVar("T")

# Repositories hold no state: one of each serves every database this process opens.
INSTANCES = InstanceRepository()
REALMS = RealmRepository()
KEYS = KeyRepository()
ROLES = RoleRepository()
USERS = UserRepository()
CLIENTS = ClientRepository()
GRANTS = GrantRepository()
ATTEMPTS = AttemptRepository()
FACTORS = SecondFactorRepository()
SIGNING_KEYS = SigningKeyRepository()


class Core:
    """What services share.

    Args:
        throw_away: A server for tests: its realms begin without rules for passwords, its clients without limits.
    """

    def __init__(
        self,
        database: OpenDatabase,
        root_keys: RootKeys,
        clock: Clock,
        external_url: str,
        profile: PasswordProfile = OWASP_MINIMUM,
        *,
        throw_away: bool = False,
    ) -> None:
        self.database = database
        self.clock = clock
        self.root_keys = root_keys
        self.keyring = Keyring(root_keys, database, KEYS)
        self.caches = RealmCaches(database, database.deciding, self.keyring.forget)
        self.internal = InternalKeys(self.caches, KEYS, self.keyring)
        self.issuers = Issuers(external_url)
        self.default_tier = UNLIMITED_TIER if throw_away else DEFAULT_TIER
        self.terms = RealmTerms(self.issuers.of, 1 if throw_away else PASSWORD_CHARS_MIN)
        self.access_tokens = AccessTokens(self.internal, self.issuers, clock)
        self.standing = StandingCheck(REALMS, CLIENTS, USERS, ROLES)
        self.lane = PasswordLane(self.internal, profile)
        self.new_passwords = NewPasswords(self.lane, self._password_rules)
        self.factors = SecondFactors(database, FACTORS, self.keyring, clock)
        self.makers = CredentialMakers(self.new_passwords, self.factors)
        attempts = LoginAttempts(database, ATTEMPTS, clock)
        self.login = LoginService(database, USERS, self.lane, attempts, self.factors, FACTORS)
        self.bearer = BearerAuthenticator(
            self.caches, self.access_tokens, self.internal, self.standing, GRANTS, clock
        )

    async def _password_rules(self, realm_id: RealmId) -> PasswordRules:
        realm = await self.database.read(lambda tx: REALMS.find(tx, realm_id))
        return PasswordRules() if realm is None else PasswordRules(realm.password_min_length)

    def _fit(self, tx: Tx) -> Mapping[str, str]:
        """What is wrong with the database for a process that holds this root key and knows these schemas."""
        if not schema_is_known(tx):
            return {"migrations": "the database is of a newer version of this program"}
        found = INSTANCES.find(tx)
        if found is None:
            return {"migrations": "the database holds no installation"}
        if found.instance_id != self.root_keys.instance_id:
            return {"root_key": "the database is not the one that this process was started on"}
        if any(self.root_keys.find(generation.check) is None for generation in KEYS.root_generations(tx)):
            return {"root_key": "a root key of the database is not at hand"}
        return {}

    def unit_of_work(self, intents: Intents) -> UnitOfWork:
        """Runs changes; the records of them are `intents` until they stand in a log."""
        return UnitOfWork(
            self.database, IdempotencyRepository(), self.keyring, JsonCodec(), self.clock, intents
        )

    def signing_keys(self, intents: Intents) -> SigningKeyService:
        """Rotates signing keys, for callers and by itself."""
        life = SigningKeyLife(KEYS, SIGNING_KEYS)
        work = self.unit_of_work(intents)
        return SigningKeyService(work, self.database, life, self.keyring, self.internal, self.clock)

    def services(
        self, cipher: CipherService, intents: Intents, events: AuditEvents, log_writable: Callable[[], bool]
    ) -> Services:
        """Everything that handlers can reach.

        Args:
            cipher: Shared with who drains it.
            intents: Of this worker's log.
            events: Finds records.
            log_writable: Whether this worker's log can be written.
        """
        clock, database, work = self.clock, self.database, self.unit_of_work(intents)
        roles = RoleAssignment(ROLES)
        users = UserService(work, database, USERS, roles, self.makers, clock)
        clients = ClientAuthenticator(database, self.caches, CLIENTS, self.standing, clock)
        issuer = Issuer(self.caches, work, self.standing, self.access_tokens, self.internal, clock)
        login, app_name = self.login, urlsplit(self.issuers.external_url).hostname or "qimem"
        provisioning = (RealmKeyProvisioning(KEYS, SIGNING_KEYS, self.keyring), BuiltInRoles(ROLES))
        refresh_tokens = RefreshTokens(database, GRANTS, self.internal)
        revocation = RevocationService(work, database, GRANTS, clock)
        password = PasswordGrant(login, issuer, GRANTS, clock)
        check = SelfCheck(database, database, self.keyring, clock, self._fit)
        return Services(
            keys=KeyService(database, work, database, KEYS, self.keyring, clock),
            cipher=cipher,
            realms=RealmService(work, database, REALMS, provisioning, self.terms, clock),
            roles=RoleService(work, database, ROLES, clock),
            users=users,
            passwords=UserPasswords(work, users, login, self.new_passwords, GRANTS, clock),
            own_factor=OwnFactor(work, users, login, self.factors, FACTORS, app_name),
            explanations=ExplanationService(work, REALMS, USERS, CLIENTS, ROLES),
            me=MeService(work, self.standing, self.factors),
            grants_of_users=GrantsOfUsers(work, database, GRANTS, users, clock),
            clients=ClientService(work, database, CLIENTS, roles, clock, default_tier=self.default_tier),
            tokens=TokenEndpoint(clients, password, ClientCredentialsGrant(issuer)),
            refresh=RefreshTokenGrant(refresh_tokens, GRANTS, clients, issuer, revocation, clock),
            revocation=RevocationEndpoint(
                revocation, self.bearer, self.access_tokens, refresh_tokens, clients
            ),
            introspection=IntrospectionService(
                database, self.bearer, refresh_tokens, clients, self.standing, clock
            ),
            signing_keys=self.signing_keys(intents),
            signer=self.internal,
            readiness=Readiness(check.readiness, log_writable, clock),
            self_check=check.run,
            events=events,
        )


class JsonCodec:
    """Wire structs as JSON, for answers that may have to be given again."""

    def encode(self, answer: object) -> bytes:
        """The struct as JSON."""
        return msgspec.json.encode(answer)

    def decode(self, data: bytes, answer_type: type[T]) -> T:
        """The struct again."""
        return msgspec.json.decode(data, type=answer_type)
