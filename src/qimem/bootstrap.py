"""Composition root: settings → adapters → services. The only file that wires, and the best map of the house."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from qimem.crypto.aead import aead
from qimem.crypto.algorithms import Algorithm
from qimem.crypto.mac import key_check_value
from qimem.crypto.passwords import OWASP_MINIMUM, PasswordProfile
from qimem.crypto.randomness import new_uuid, nonce12, random_bytes
from qimem.errors import QimemError
from qimem.identity.login.service import LoginService
from qimem.identity.passwords import PasswordLane
from qimem.identity.roles import BuiltInRoles, RoleAssignment, RoleService
from qimem.identity.users import UserService
from qimem.jobs.runner import JobRunner, Task
from qimem.jobs.tasks import Sweep
from qimem.kernel.clock import Clock, SystemClock
from qimem.kernel.epochs import RealmCaches
from qimem.kernel.secret import SecretBytes
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.kms.cipher import CipherService
from qimem.kms.hierarchy import RootKey, random_key
from qimem.kms.instance import Instance
from qimem.kms.internal_keys import InternalKeys, RealmKeyProvisioning
from qimem.kms.keyring import Keyring
from qimem.kms.keys import KeyService
from qimem.oauth.access_token import AccessTokens, Issuers
from qimem.oauth.bearer import BearerAuthenticator
from qimem.oauth.client_auth import ClientAuthenticator
from qimem.oauth.clients import ClientService
from qimem.oauth.grants.client_credentials import ClientCredentialsGrant
from qimem.oauth.grants.password import PasswordGrant
from qimem.oauth.grants.refresh_token import RefreshTokenGrant
from qimem.oauth.issuer import Issuer
from qimem.oauth.revocation import RevocationService
from qimem.oauth.standing import StandingCheck
from qimem.oauth.token_endpoint import TokenEndpoint
from qimem.realms.service import RealmService
from qimem.storage.database import OpenDatabase
from qimem.storage.repositories.clients import ClientRepository
from qimem.storage.repositories.grants import GrantRepository
from qimem.storage.repositories.idempotency import IdempotencyRepository
from qimem.storage.repositories.instance import InstanceRepository
from qimem.storage.repositories.jobs import ExpiredRowsRepository, JobRepository
from qimem.storage.repositories.kms_keys import KeyRepository
from qimem.storage.repositories.realms import RealmRepository
from qimem.storage.repositories.roles import RoleRepository
from qimem.storage.repositories.users import UserRepository
from qimem.web.services import Services


class WrongRootKey(Exception):
    """The root key in hand is not the one this database was made with."""


class NotInitialised(Exception):
    """The database has no installation in it."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Every repository; they hold no state."""

    instance: InstanceRepository
    realms: RealmRepository
    keys: KeyRepository
    roles: RoleRepository
    users: UserRepository
    clients: ClientRepository
    grants: GrantRepository
    idempotency: IdempotencyRepository
    jobs: JobRepository
    expired: ExpiredRowsRepository


def make_stores(database: OpenDatabase) -> Stores:
    """The repositories for one database."""
    return Stores(
        instance=InstanceRepository(),
        realms=RealmRepository(),
        keys=KeyRepository(),
        roles=RoleRepository(),
        users=UserRepository(),
        clients=ClientRepository(),
        grants=GrantRepository(),
        idempotency=IdempotencyRepository(),
        jobs=JobRepository(),
        expired=ExpiredRowsRepository(),
    )


class JsonCodec:
    """Wire structs as JSON, for answers that may have to be given again."""

    def encode(self, answer: object) -> bytes:
        """The struct as JSON."""
        return msgspec.json.encode(answer)

    def decode(self, data: bytes, answer_type: type[msgspec.Struct]) -> msgspec.Struct:
        """The struct again."""
        return msgspec.json.decode(data, type=answer_type)
