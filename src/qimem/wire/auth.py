"""`/v1/auth`: realms, roles, clients, users and tokens."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

import msgspec

from qimem.wire.common import Request, Response


class CreateRealmRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/realms."""

    id: str
    name: str


class Realm(Response, frozen=True, kw_only=True):
    """A realm and its issuer URL."""

    id: str
    name: str
    issuer: str
    created_at: str


class CreateRoleRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/roles."""

    name: str
    permissions: list[str]
    realm_id: str | None = None


class Role(Response, frozen=True, kw_only=True):
    """A role and the permissions it carries."""

    name: str
    permissions: list[str]
    realm_id: str


class CreateClientRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/clients. Field names follow RFC 7591 where it has one."""

    redirect_uris: list[str]
    realm_id: str | None = None
    name: str | None = None
    client_name: str | None = None
    grant_types: list[str] | None = None
    response_types: list[str] | None = None
    token_endpoint_auth_method: str | None = None
    scope: str | None = None
    jwks: dict[str, Any] | None = None
    jwks_uri: str | None = None
    post_logout_redirect_uris: list[str] | None = None
    tier: str | None = None
    roles: list[str] | None = None


class Client(Response, frozen=True, kw_only=True):
    """A registered client."""

    client_id: str
    realm_id: str
    name: str | None
    redirect_uris: list[str]
    grant_types: list[str]
    response_types: list[str]
    token_endpoint_auth_method: str
    scope: str | None
    post_logout_redirect_uris: list[str]
    jwks: dict[str, Any] | None
    jwks_uri: str | None
    tier: str
    roles: list[str]
    created_at: str


class CreatedClient(Client, frozen=True, kw_only=True):
    """A new client with its secret, shown this once; null for a public client."""

    client_secret: str | None


class CreateUserRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/users."""

    username: str
    password: str
    roles: list[str]
    realm_id: str | None = None
    email: str | None = None


class User(Response, frozen=True, kw_only=True):
    """A user, never with a credential."""

    id: UUID
    username: str
    realm_id: str
    roles: list[str]
    enabled: bool
    created_at: str
    email: str | None = None


class ListUsersQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Query of GET /v1/auth/users."""

    limit: int | None = None
    cursor: str | None = None
    realm_id: str | None = None


class UserStateRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/users/{user_id}/disable and /enable."""

    realm_id: str | None = None


class Deleted(Response, frozen=True, kw_only=True):
    """Always true: it is gone."""

    deleted: bool


class Grant(Response, frozen=True, kw_only=True):
    """Where a user is signed in: one login through one client, however often it was refreshed."""

    grant_id: UUID
    client_id: str
    scope: str | None
    created_at: str
    refreshed_at: str | None
    expires_at: str


class ListGrantsQuery(ListUsersQuery, frozen=True, kw_only=True):
    """Query of GET /v1/auth/users/{user_id}/grants."""


class RevokeGrantsRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/users/{user_id}/grants/revoke."""

    grant_id: UUID | None = None
    realm_id: str | None = None


class RevokedGrants(Response, frozen=True, kw_only=True):
    """How many grants ended."""

    revoked: int


class TokenRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/token: password or client credentials."""

    client_id: str
    client_secret: str | None = None
    realm_id: str | None = None
    grant_type: str | None = None
    username: str | None = None
    password: str | None = None
    totp_code: str | None = None
    scope: str | None = None


class TokenResponse(Response, frozen=True, kw_only=True, omit_defaults=True):
    """A token pair, or an access token alone for client credentials."""

    access_token: str
    expires_in: int
    token_type: Literal["Bearer"]
    refresh_token: str | None = None
    scope: str | None = None


class RefreshRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/token/refresh."""

    refresh_token: str
    client_id: str | None = None
    client_secret: str | None = None


class RevokeRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/token/revoke."""

    token: str


class Revoked(Response, frozen=True, kw_only=True):
    """Always true: RFC 7009 answers alike for unknown and dead tokens."""

    revoked: bool


class IntrospectRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/token/introspect (RFC 7662). Client credentials, where no bearer is shown."""

    token: str
    token_type_hint: str | None = None
    client_id: str | None = None
    client_secret: str | None = None


class Introspection(Response, frozen=True, kw_only=True, omit_defaults=True):
    """What a token is good for now; `active` alone when it is good for nothing, whatever the reason."""

    active: bool
    token_use: Literal["access", "refresh"] | None = None
    sub: str | None = None
    username: str | None = None
    client_id: str | None = None
    realm: str | None = None
    roles: list[str] | None = None
    permissions: list[str] | None = None
    scope: str | None = None
    iat: int | None = None
    exp: int | None = None
    jti: str | None = None


class RotateSigningKeyRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/keys/rotate."""

    realm_id: str | None = None
    mode: Literal["scheduled", "now", "compromised"] | None = None


class RotatedSigningKey(Response, frozen=True, kw_only=True):
    """The new key, as tokens and key set name it."""

    kid: str


class JWKSet(Response, frozen=True, kw_only=True):
    """RFC 7517 key set with public keys only."""

    keys: list[dict[str, str]]
