"""`/v1/auth/clients`: applications. Field names follow RFC 7591 where it has one."""

from __future__ import annotations

from typing import Any

import msgspec

from qimem.wire.common import Request, Response


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
    refresh_grace_seconds: int | None = None
    refresh_requires_client: bool | None = None


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
    enabled: bool
    created_at: str
    # Answers that are kept for their repetition may be older than these.
    refresh_grace_seconds: int | None = None
    refresh_requires_client: bool = False


class CreatedClient(Client, frozen=True, kw_only=True):
    """A new client with its secret, shown this once; null for a public client."""

    client_secret: str | None


class UpdateClientRequest(Request, frozen=True, kw_only=True):
    """PATCH /v1/auth/clients/{client_id}: what is left out stays, null takes away."""

    realm_id: str | None = None
    name: str | msgspec.UnsetType | None = msgspec.UNSET
    redirect_uris: list[str] | msgspec.UnsetType = msgspec.UNSET
    grant_types: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    response_types: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    scope: str | msgspec.UnsetType | None = msgspec.UNSET
    jwks: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    jwks_uri: str | msgspec.UnsetType | None = msgspec.UNSET
    post_logout_redirect_uris: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    tier: str | msgspec.UnsetType | None = msgspec.UNSET
    refresh_grace_seconds: int | msgspec.UnsetType | None = msgspec.UNSET
    refresh_requires_client: bool | msgspec.UnsetType | None = msgspec.UNSET


class RotateClientSecretRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/clients/{client_id}/secret/rotate."""

    overlap_seconds: int | None = None
    realm_id: str | None = None


class RotatedClientSecret(Response, frozen=True, kw_only=True):
    """The new secret, shown this once, and until when the one before it is taken too."""

    client_id: str
    client_secret: str
    previous_expires_at: str | None
