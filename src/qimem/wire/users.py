"""`/v1/auth/users`: people, and where they are signed in."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import msgspec

from qimem.wire.common import ListQuery, Request, Response


class CreateUserRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/users."""

    username: str
    password: str | None = None
    password_hash: str | None = None
    roles: list[str]
    realm_id: str | None = None
    email: str | None = None
    totp_secret: str | None = None


class User(Response, frozen=True, kw_only=True):
    """A user, never with a credential."""

    id: UUID
    username: str
    realm_id: str
    roles: list[str]
    enabled: bool
    created_at: str
    email: str | None = None


class Grant(Response, frozen=True, kw_only=True):
    """Where a user is signed in: one login through one client, however often it was refreshed."""

    grant_id: UUID
    client_id: str
    scope: str | None
    created_at: str
    refreshed_at: str | None
    expires_at: str


class ListGrantsQuery(ListQuery, frozen=True, kw_only=True):
    """Query of GET /v1/auth/users/{user_id}/grants."""


class RevokeGrantsRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/users/{user_id}/grants/revoke."""

    grant_id: UUID | None = None
    realm_id: str | None = None


class RevokedGrants(Response, frozen=True, kw_only=True):
    """How many grants ended."""

    revoked: int


class UpdateUserRequest(Request, frozen=True, kw_only=True):
    """PATCH /v1/auth/users/{user_id}: what is left out stays, null takes away."""

    username: str | msgspec.UnsetType = msgspec.UNSET
    email: str | msgspec.UnsetType | None = msgspec.UNSET
    realm_id: str | None = None


class SetPasswordRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/users/{user_id}/password."""

    password: str
    realm_id: str | None = None


class ChangePasswordRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/me/password."""

    current_password: str
    password: str
    totp_code: str | None = None


class PasswordSet(Response, frozen=True, kw_only=True):
    """How many grants ended with the old password."""

    revoked: int


class Me(Response, frozen=True, kw_only=True):
    """Who the caller is, as of this request."""

    realm_id: str
    sub: str
    kind: Literal["user", "client"]
    client_id: str
    username: str | None
    email: str | None
    roles: list[str]
    permissions: list[str]
    second_factor: bool
