"""Users and roles."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from qimem.kernel.ids import RealmId


@dataclass(frozen=True, slots=True)
class RoleRecord:
    """A named set of permissions inside a realm; canonical, sorted, without duplicates."""

    realm_id: RealmId
    name: str
    permissions: tuple[str, ...]
    built_in: bool
    created_us: int


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A person. `username` as displayed, `username_key` as compared (RFC 8265)."""

    realm_id: RealmId
    user_id: UUID
    username: str
    username_key: str
    email: str | None
    enabled: bool
    roles: tuple[str, ...]
    created_us: int
