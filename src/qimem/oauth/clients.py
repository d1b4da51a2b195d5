"""Registration of clients. Field names and defaults follow RFC 7591 where it has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qimem.authz.decisions import require_everywhere
from qimem.authz.permissions import Permission
from qimem.crypto.mac import digest
from qimem.crypto.randomness import new_uuid, token_text
from qimem.errors import Forbidden, InvalidFields, realm_not_found
from qimem.identity.roles import RoleAssignment
from qimem.kernel.clock import Clock, rfc3339
from qimem.kernel.context import Actor, RequestContext
from qimem.kernel.epochs import EpochSource
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.secret import SecretText
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.oauth.client_metadata import check_metadata, check_redirect_uris
from qimem.oauth.models import AuthMethod, ClientRecord, GrantType
from qimem.oauth.ports import ClientStore
from qimem.wire.auth import CreatedClient

SECRET_PREFIX = "qcs_"  # noqa: S105 - lets secret scanners recognize what follows
DEFAULT_TIER = "pro"
UNLIMITED_TIER = "unlimited"
TIERS = ("free", DEFAULT_TIER, "enterprise", UNLIMITED_TIER)


@dataclass(frozen=True, slots=True)
class Registration:
    """What a client asks to be. None means the default."""

    redirect_uris: Sequence[str]
    name: str | None = None
    grant_types: Sequence[str] | None = None
    response_types: Sequence[str] | None = None
    auth_method: str | None = None
    scope: str | None = None
    jwks: dict[str, Any] | None = None
    jwks_uri: str | None = None
    post_logout_redirect_uris: Sequence[str] = ()
    tier: str | None = None
    roles: Sequence[str] = ()


class ClientService:
    """Clients of a realm."""

    def __init__(
        self, work: UnitOfWork, epochs: EpochSource, store: ClientStore, roles: RoleAssignment, clock: Clock
    ) -> None:
        self._work = work
        self._epochs = epochs
        self._store = store
        self._roles = roles
        self._clock = clock

    async def create(self, ctx: RequestContext, registration: Registration) -> CreatedClient:
        """Register a client; its secret is in this answer and nowhere else.

        Raises:
            Forbidden: without `clients:create`, giving a role beyond what the caller holds, or
                choosing a tier without being an operator.
            InvalidFields: unusable metadata.
            Invalid: `role_not_found`.
            NotFound: `realm_not_found`.
        """
        require_everywhere(ctx, Permission.CLIENTS_CREATE)
        if registration.tier is not None and not ctx.actor.permissions.operator:
            raise Forbidden("limits:manage", resource="tier", hint="tiers are set by operators")
        insert = self.creation(ctx.actor, ctx.realm_id, registration)
        return await self._work.run(
            ctx, insert, CreatedClient, object_id=lambda client: client.client_id, holds_secret=True
        )

    def creation(
        self, actor: Actor, realm_id: RealmId, registration: Registration
    ) -> Callable[[Tx], CreatedClient]:
        """The change itself, validated; for a transaction to run."""
        check_redirect_uris(registration.redirect_uris, "/redirect_uris")
        check_redirect_uris(registration.post_logout_redirect_uris, "/post_logout_redirect_uris")
        method = _auth_method(registration.auth_method)
        grant_types = _grant_types(registration.grant_types, method)
        if registration.tier is not None and registration.tier not in TIERS:
            raise InvalidFields({"/tier": f"one of {', '.join(TIERS)}"})
        check_metadata(registration)
        secret = None if method is AuthMethod.NONE else SecretText(SECRET_PREFIX + token_text(32))
        record = ClientRecord(
            realm_id=realm_id,
            client_id=ClientId(str(new_uuid())),
            name=registration.name,
            secret_digest=None if secret is None else digest(secret.reveal().encode()),
            auth_method=method,
            grant_types=grant_types,
            redirect_uris=tuple(registration.redirect_uris),
            scope=registration.scope,
            tier=registration.tier or DEFAULT_TIER,
            enabled=True,
            roles=(),
            metadata=_metadata(registration),
            created_us=self._clock.now_us(),
        )

        def insert(tx: Tx) -> CreatedClient:
            if self._epochs.at(tx, realm_id) is None:
                raise realm_not_found(realm_id)
            roles = self._roles.check(tx, actor, realm_id, registration.roles)
            client = replace(record, roles=roles)
            self._store.insert(tx, client)
            return _shown(client, registration, secret)

        return insert


def _auth_method(name: str | None) -> AuthMethod:
    try:
        return AuthMethod(AuthMethod.SECRET_BASIC if name is None else name)
    except ValueError as error:
        raise InvalidFields({"/token_endpoint_auth_method": f"one of {', '.join(AuthMethod)}"}) from error


def _grant_types(names: Sequence[str] | None, method: AuthMethod) -> tuple[str, ...]:
    public = method is AuthMethod.NONE
    if names is None:
        return tuple(grant for grant in GrantType if not (public and grant is GrantType.CLIENT_CREDENTIALS))
    for index, name in enumerate(names):
        if name not in tuple(GrantType):
            raise InvalidFields({f"/grant_types/{index}": f"one of {', '.join(GrantType)}"})
    if public and GrantType.CLIENT_CREDENTIALS in names:
        # RFC 6749 §4.4: only confidential clients; otherwise anyone who knows the id is the client.
        raise InvalidFields({"/grant_types": "client_credentials needs a client with a secret"})
    return tuple(dict.fromkeys(names))


def _response_types(registration: Registration) -> list[str]:
    return ["code"] if registration.response_types is None else list(registration.response_types)


def _metadata(registration: Registration) -> str:
    rest = {
        "response_types": _response_types(registration),
        "post_logout_redirect_uris": list(registration.post_logout_redirect_uris),
        "jwks": registration.jwks,
        "jwks_uri": registration.jwks_uri,
    }
    return json.dumps(rest, separators=(",", ":"), sort_keys=True)


def _shown(record: ClientRecord, registration: Registration, secret: SecretText | None) -> CreatedClient:
    return CreatedClient(
        client_id=record.client_id,
        client_secret=None if secret is None else secret.reveal(),
        realm_id=record.realm_id,
        name=record.name,
        redirect_uris=list(record.redirect_uris),
        grant_types=list(record.grant_types),
        response_types=_response_types(registration),
        token_endpoint_auth_method=record.auth_method,
        scope=record.scope,
        post_logout_redirect_uris=list(registration.post_logout_redirect_uris),
        jwks=registration.jwks,
        jwks_uri=registration.jwks_uri,
        tier=record.tier,
        roles=list(record.roles),
        created_at=rfc3339(record.created_us),
    )
