"""Introspection (RFC 7662): is this token good right now, and for what.

It asks the very check that honors a token, so an access token is active here exactly as long as it opens anything.
A refresh token is active until it is spent, though for some seconds more it still brings its successor.
"""

from __future__ import annotations

import hmac

from msgspec.structs import replace

from qimem.authz.decisions import permits
from qimem.authz.permissions import Permission
from qimem.errors import Forbidden, InvalidFields
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.context import Actor
from qimem.kernel.ids import RealmId, parse_uuid
from qimem.kernel.metering import Meter
from qimem.kernel.secret import SecretText
from qimem.kernel.transaction import Database, Tx
from qimem.oauth.bearer import BearerAuthenticator
from qimem.oauth.client_auth import ClientAuthenticator, invalid_client
from qimem.oauth.models import AccessClaims, ClientRecord, GrantRecord, GrantType
from qimem.oauth.refresh_token import PREFIX, RefreshTokens
from qimem.oauth.scope import left_of
from qimem.oauth.standing import Standing, StandingCheck
from qimem.wire.auth import Introspection, IntrospectRequest

INACTIVE = Introspection(active=False)


class IntrospectionService:
    """Tells about tokens of the caller's realm."""

    def __init__(
        self,
        database: Database,
        bearer: BearerAuthenticator,
        refresh_tokens: RefreshTokens,
        clients: ClientAuthenticator,
        standing: StandingCheck,
        clock: Clock,
    ) -> None:
        self._database = database
        self._bearer = bearer
        self._refresh_tokens = refresh_tokens
        self._clients = clients
        self._standing = standing
        self._clock = clock

    async def by_bearer(
        self, actor: Actor, authorization: bytes, request: IntrospectRequest
    ) -> Introspection:
        """What the token is good for, told to who holds `tokens:introspect`, and to the token's own holder.

        Args:
            actor: The caller.
            authorization: The header that the caller was recognized by.
            request: Names the token.

        Raises:
            Forbidden: the permission is missing; said before the token is looked at.
            InvalidFields: client credentials stand beside the bearer.
            Unavailable: the current state cannot be read.
        """
        if request.client_id is not None or request.client_secret is not None:
            raise InvalidFields({"/client_id": "the bearer says already who asks"})
        own = hmac.compare_digest(authorization[len(b"Bearer ") :], request.token.encode("utf-8", "replace"))
        if not own and not permits(actor.permissions, Permission.TOKENS_INTROSPECT):
            raise Forbidden(
                Permission.TOKENS_INTROSPECT, hint=f"ask an administrator for {Permission.TOKENS_INTROSPECT}"
            )
        found = await self._describe(request.token)
        return found if found.realm == actor.realm_id or actor.permissions.operator else INACTIVE

    async def by_client(
        self, authorization: bytes | None, request: IntrospectRequest, meter: Meter
    ) -> Introspection:
        """What the token is good for, told to a client of its realm that proves itself.

        Args:
            authorization: `Basic`, or None when the credentials stand in the request.
            request: Names the token.
            meter: The client is charged.

        Raises:
            Unauthenticated: `invalid_client`; also for public clients, which can prove nothing.
            InvalidFields: credentials in both places.
            Limited: `rate_limited`.
            Unavailable: the current state cannot be read.
        """
        client = await self._client(authorization, request, meter)
        if client.secret_digest is None:
            raise invalid_client()
        found = await self._describe(request.token)
        return found if found.realm == client.realm_id else INACTIVE

    async def _client(
        self, authorization: bytes | None, request: IntrospectRequest, meter: Meter
    ) -> ClientRecord:
        secret = None if request.client_secret is None else SecretText(request.client_secret)
        if authorization is None:
            return await self._clients.authenticate(request.client_id or "", secret, None, meter)
        if request.client_id is not None or secret is not None:
            raise InvalidFields({"/client_id": "the Authorization header says already who asks"})
        return await self._clients.with_basic(authorization, meter)

    async def _describe(self, token: str) -> Introspection:
        found = await (self._refresh(token) if token.startswith(PREFIX) else self._access(token))
        # All of its scope was taken from the client: what is left is good for nothing. An access token opens nothing.
        return INACTIVE if found is None or found.scope == "" else found

    async def _access(self, token: str) -> Introspection | None:
        honored = await self._bearer.inspect(token)
        if honored is None:
            return None
        claims, cache = honored

        def load(tx: Tx) -> Introspection | None:
            user_id = None if claims.subject == claims.client_id else parse_uuid(claims.subject)
            standing = self._standing.load(tx, claims.realm_id, claims.client_id, user_id)
            return None if standing is None else _of_access_token(claims, standing)

        return await cache.get("introspection", claims.token_id, load)

    async def _refresh(self, token: str) -> Introspection | None:
        found = await self._refresh_tokens.find(token)
        if found is None:
            return None
        presented, grant = found
        if not grant.lives_at(self._clock.now_us()) or presented.generation != grant.generation:
            return None
        standing = await self._database.read(
            lambda tx: self._standing.load(tx, grant.realm_id, grant.client_id, grant.user_id)
        )
        if standing is None or GrantType.REFRESH_TOKEN not in standing.client.grant_types:
            return None
        return _of_refresh_token(grant, standing)


def _of_access_token(claims: AccessClaims, standing: Standing) -> Introspection:
    return replace(
        _of_holder(claims.realm_id, standing, claims.scope),
        token_use="access",  # noqa: S106 - a kind, not a secret
        iat=claims.issued_at,
        exp=claims.expires_at,
        jti=claims.token_id,
    )


def _of_refresh_token(grant: GrantRecord, standing: Standing) -> Introspection:
    issued_us = grant.created_us if grant.rotated_us is None else grant.rotated_us
    return replace(
        _of_holder(grant.realm_id, standing, grant.scope),
        token_use="refresh",  # noqa: S106 - a kind, not a secret
        iat=issued_us // MICROSECONDS,
        exp=grant.expires_us // MICROSECONDS,
        jti=f"{grant.grant_id}.{grant.generation}",
    )


def _of_holder(realm_id: RealmId, standing: Standing, granted: str | None) -> Introspection:
    # What the subject may do now, not what it could when the token was made.
    return Introspection(
        active=True,
        sub=standing.subject,
        username=None if standing.user is None else standing.user.username,
        client_id=standing.client.client_id,
        realm=realm_id,
        roles=list(standing.roles),
        permissions=sorted(standing.permissions.names),
        scope=left_of(granted, standing.client.scope),
    )
