"""What handlers can reach: one typed bundle, filled by the composition root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from qimem.audit.events import AuditEvents
from qimem.identity.own_factor import OwnFactor
from qimem.identity.roles import RoleService
from qimem.identity.user_passwords import UserPasswords
from qimem.identity.users import UserService
from qimem.kms.cipher import CipherService
from qimem.kms.keys import KeyService
from qimem.kms.signing_keys import SigningKeyService
from qimem.oauth.clients import ClientService
from qimem.oauth.explanation import ExplanationService
from qimem.oauth.grants.refresh_token import RefreshTokenGrant
from qimem.oauth.grants_of_users import GrantsOfUsers
from qimem.oauth.introspection import IntrospectionService
from qimem.oauth.me import MeService
from qimem.oauth.ports import TokenSigner
from qimem.oauth.revocation import RevocationEndpoint
from qimem.oauth.token_endpoint import TokenEndpoint
from qimem.realms.service import RealmService
from qimem.web.readiness import Readiness


@dataclass(frozen=True, slots=True)
class Services:
    """The services of this process.

    Args:
        readiness: Whether this process can serve.
        self_check: A real encrypt and decrypt; raises when it fails.
    """

    keys: KeyService
    cipher: CipherService
    realms: RealmService
    roles: RoleService
    users: UserService
    passwords: UserPasswords
    own_factor: OwnFactor
    me: MeService
    explanations: ExplanationService
    clients: ClientService
    tokens: TokenEndpoint
    refresh: RefreshTokenGrant
    revocation: RevocationEndpoint
    introspection: IntrospectionService
    grants_of_users: GrantsOfUsers
    signing_keys: SigningKeyService
    signer: TokenSigner
    events: AuditEvents
    readiness: Readiness
    self_check: Callable[[], Awaitable[None]]
