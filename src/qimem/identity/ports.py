"""What identity needs from storage and from the key service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from qimem.identity.models import RoleRecord, UserRecord
from qimem.kernel.ids import RealmId
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx


class RoleStore(Protocol):
    """Rows of roles and what they permit."""

    def insert(self, tx: Tx, role: RoleRecord) -> bool:
        """Add a role with its permissions; False when the name is taken, and then nothing is changed."""
        ...

    def find_many(self, tx: Tx, realm_id: RealmId, names: Sequence[str]) -> Sequence[RoleRecord]:
        """The roles that exist among the names."""
        ...

    def permissions_of_user(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> frozenset[str]:
        """Every permission of every role the user has."""
        ...

    def permissions_of_client(self, tx: Tx, realm_id: RealmId, client_id: str) -> frozenset[str]:
        """Every permission of every role of the client's own service account."""
        ...


class UserStore(Protocol):
    """Rows of users and their credentials."""

    def insert(self, tx: Tx, user: UserRecord, password_hash: str) -> bool:
        """Add a user with password and roles; False when the username is taken, changing nothing."""
        ...

    def find(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> UserRecord | None:
        """The user by id."""
        ...

    def page(self, tx: Tx, realm_id: RealmId, *, after: str | None, limit: int) -> Sequence[UserRecord]:
        """At most `limit` users in order of their canonical names, after one of these."""
        ...

    def set_enabled(self, tx: Tx, realm_id: RealmId, user_id: UUID, *, enabled: bool) -> None:
        """Let the user in, or not."""
        ...

    def delete(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> None:
        """Remove the user with credentials, roles and grants."""
        ...

    def find_by_username(self, tx: Tx, realm_id: RealmId, username_key: str) -> tuple[UserRecord, str] | None:
        """The user by canonical name, with the stored password hash."""
        ...


class PepperSource(Protocol):
    """The realm's password pepper: a key of the key service, so that a stolen database alone cracks nothing."""

    async def pepper(self, realm_id: RealmId) -> SecretBytes:
        """The secret mixed into every password hash of the realm."""
        ...
