"""Clients, grants and what a verified token says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from qimem.kernel.clock import MICROSECONDS
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.limits import CLOCK_SKEW_SECONDS


class GrantType(StrEnum):
    """Ways to ask for a token."""

    PASSWORD = "password"  # noqa: S105 - RFC 6749 name
    CLIENT_CREDENTIALS = "client_credentials"
    AUTHORIZATION_CODE = "authorization_code"
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - RFC 6749 name


class AuthMethod(StrEnum):
    """How a client proves itself at the token endpoint (RFC 7591 §2 names)."""

    SECRET_BASIC = "client_secret_basic"  # noqa: S105 - RFC 7591 name
    SECRET_POST = "client_secret_post"  # noqa: S105 - RFC 7591 name
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """A registered client.

    Args:
        secret_digest: SHA-256 of the secret, None for a public client.
        previous_digest: Of the secret before it, while that is taken too.
        previous_until_us: Until then.
        metadata: The rest of its registration as canonical JSON text, kept as registered.
        refresh_grace_seconds: How long a spent refresh token gives its successor once more; None: as its realm says.
        refresh_requires_client: Whether its grants are refreshed only together with its secret.
    """

    realm_id: RealmId
    client_id: ClientId
    name: str | None
    secret_digest: bytes | None
    auth_method: AuthMethod
    grant_types: tuple[str, ...]
    redirect_uris: tuple[str, ...]
    scope: str | None
    tier: str
    enabled: bool
    roles: tuple[str, ...]
    metadata: str
    created_us: int
    previous_digest: bytes | None = None
    previous_until_us: int | None = None
    refresh_grace_seconds: int | None = None
    refresh_requires_client: bool = False


@dataclass(frozen=True, slots=True)
class GrantRecord:
    """The recorded authorization behind a refresh token: one row for its whole life.

    Args:
        generation: Counts refreshes; the only live refresh token carries this number.
        rotated_us: When the generation last moved, None before the first refresh.
        rotated_by_client: Whether that refresh came with the client's secret.
    """

    realm_id: RealmId
    grant_id: UUID
    user_id: UUID | None
    client_id: ClientId
    scope: str | None
    generation: int
    rotated_us: int | None
    rotated_by_client: bool
    created_us: int
    expires_us: int
    revoked_us: int | None

    def lives_at(self, now_us: int) -> bool:
        """Whether it is neither over nor, after a clock was set back, still to begin."""
        begun = self.created_us <= now_us + CLOCK_SKEW_SECONDS * MICROSECONDS
        return self.revoked_us is None and begun and now_us < self.expires_us


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What a verified access token says; authority comes from current state, never from here."""

    realm_id: RealmId
    subject: str
    client_id: ClientId
    token_id: str
    grant_id: UUID | None
    scope: str | None
    issued_at: int
    expires_at: int
    secret_id: str | None = None
