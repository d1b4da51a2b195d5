"""`/v1/auth/realms` and `/v1/auth/roles`: tenants, and what may be done in them."""

from __future__ import annotations

import msgspec

from qimem.wire.common import Request, Response


class CreateRealmRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/realms."""

    id: str
    name: str
    password_min_length: int | None = None
    allow_password_grant: bool | None = None
    refresh_grace_seconds: int | None = None


class Realm(Response, frozen=True, kw_only=True):
    """A realm and its issuer URL."""

    id: str
    name: str
    issuer: str
    enabled: bool = True
    created_at: str
    # Answers that are kept for their repetition may be older than the field.
    password_min_length: int = 8
    allow_password_grant: bool = True
    refresh_grace_seconds: int = 10


class CreateRoleRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/roles."""

    name: str
    permissions: list[str]
    realm_id: str | None = None


class Role(Response, frozen=True, kw_only=True):
    """A role and the permissions it carries; of built-in ones nothing can be changed."""

    name: str
    permissions: list[str]
    realm_id: str
    built_in: bool = False


class UpdateRealmRequest(Request, frozen=True, kw_only=True):
    """PATCH /v1/auth/realms/{realm_id}: what is left out stays, null is the default again."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    password_min_length: int | msgspec.UnsetType | None = msgspec.UNSET
    allow_password_grant: bool | msgspec.UnsetType | None = msgspec.UNSET
    refresh_grace_seconds: int | msgspec.UnsetType | None = msgspec.UNSET


class ListRealmsQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Query of GET /v1/auth/realms."""

    limit: int | None = None
    cursor: str | None = None


class DeleteRealmQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Query of DELETE /v1/auth/realms/{realm_id}: the id once more, so that no slip destroys a tenant."""

    confirm: str | None = None


class UpdateRoleRequest(Request, frozen=True, kw_only=True):
    """PATCH /v1/auth/roles/{role}: what is left out stays."""

    permissions: list[str] | msgspec.UnsetType = msgspec.UNSET
    realm_id: str | None = None
