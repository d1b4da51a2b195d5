"""`/v1/auth`: tokens and the keys that sign them."""

from __future__ import annotations

from typing import Literal

from qimem.wire.common import Request, Response


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
