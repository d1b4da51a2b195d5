"""What oauth needs: stores, the signer of its tokens, and the people of the realm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.transaction import Tx
from qimem.oauth.models import ClientRecord, GrantRecord


class ClientStore(Protocol):
    """Rows of clients."""

    def insert(self, tx: Tx, client: ClientRecord) -> None:
        """Add a client with the roles of its service account."""
        ...

    def page(self, tx: Tx, realm_id: RealmId, *, after: str | None, limit: int) -> Sequence[ClientRecord]:
        """At most `limit` clients in order of their ids, after one of these."""
        ...

    def update(self, tx: Tx, client: ClientRecord) -> None:
        """Write all of it but its roles."""
        ...

    def set_roles(self, tx: Tx, realm_id: RealmId, client_id: str, roles: Sequence[str]) -> None:
        """Give the client these roles and no others."""
        ...

    def delete(self, tx: Tx, realm_id: RealmId, client_id: str) -> None:
        """Remove the client with its roles and every grant through it."""
        ...

    def find(self, tx: Tx, realm_id: RealmId, client_id: str) -> ClientRecord | None:
        """The client inside this realm."""
        ...

    def find_realm(self, tx: Tx, client_id: str) -> RealmId | None:
        """The realm a client id belongs to; ids are random and unique over all realms."""
        ...


class GrantStore(Protocol):
    """Rows of grants, and the list of access tokens that died early."""

    def insert(self, tx: Tx, grant: GrantRecord) -> None:
        """Add a grant at generation 1."""
        ...

    def find(self, tx: Tx, realm_id: RealmId, grant_id: UUID) -> GrantRecord | None:
        """The grant as it stands."""
        ...

    def rotate(
        self, tx: Tx, realm_id: RealmId, grant_id: UUID, *, presented: int, now_us: int, by_client: bool
    ) -> GrantRecord | None:
        """Move to the next generation if `presented` is the current one and the grant lives, in one statement."""
        ...

    def revoke(self, tx: Tx, realm_id: RealmId, grant_id: UUID, now_us: int) -> bool:
        """Revoke; whether it was alive before."""
        ...

    def of_user(
        self, tx: Tx, realm_id: RealmId, user_id: UUID, *, now_us: int, after: UUID | None, limit: int
    ) -> Sequence[GrantRecord]:
        """At most `limit` living grants of a user in order of their ids, after one of these."""
        ...

    def revoke_of_user(
        self, tx: Tx, realm_id: RealmId, user_id: UUID, *, grant_id: UUID | None, now_us: int
    ) -> int:
        """Revoke one grant of the user, or all of theirs; how many were not revoked before."""
        ...

    def revoke_access_token(self, tx: Tx, realm_id: RealmId, token_id: str, expires_us: int) -> bool:
        """Remember a dead token until it would have expired; False when it was dead already."""
        ...

    def is_access_token_revoked(self, tx: Tx, realm_id: RealmId, token_id: str) -> bool:
        """Whether the token died early."""
        ...


class TokenSigner(Protocol):
    """The realm's signing key, an ordinary key of the key service."""

    async def active_signer(self, realm_id: RealmId) -> tuple[str, Callable[[bytes], bytes]]:
        """RFC 7638 thumbprint of the key that signs now, and what makes its 64-byte ES256 signature r‖s (RFC 7518 §3.4)."""
        ...

    async def public_keys(self, realm_id: RealmId) -> dict[str, dict[str, str]]:
        """Public JWKs by kid: every key whose tokens verify."""
        ...


class RefreshMac(Protocol):
    """MAC over refresh tokens with the realm's key."""

    async def tag(self, realm_id: RealmId, data: bytes) -> bytes:
        """32-byte HMAC-SHA256 tag."""
        ...

    async def verify(self, realm_id: RealmId, data: bytes, tag: bytes) -> bool:
        """Whether the tag is ours, in constant time."""
        ...


class ClientRealms(Protocol):
    """Immutable look-up client id → realm."""

    async def realm_of(self, client_id: ClientId) -> RealmId | None:
        """The realm, or None for an unknown client."""
        ...
