"""What identity needs from storage and from the key service."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from qimem.identity.models import RoleRecord, UserRecord
from qimem.kernel.ids import RealmId
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx

if TYPE_CHECKING:
    from qimem.identity.login.attempts import AttemptKind, AttemptRow
    from qimem.identity.second_factor import SecondFactor


class RoleStore(Protocol):
    """Rows of roles and what they permit."""

    def insert(self, tx: Tx, role: RoleRecord) -> bool:
        """Add a role with its permissions; False when the name is taken, and then nothing is changed."""
        ...

    def find_many(self, tx: Tx, realm_id: RealmId, names: Sequence[str]) -> Sequence[RoleRecord]:
        """The roles that exist among the names."""
        ...

    def page(self, tx: Tx, realm_id: RealmId, *, after: str | None, limit: int) -> Sequence[RoleRecord]:
        """At most `limit` roles in order of their names, after one of these."""
        ...

    def set_permissions(self, tx: Tx, role: RoleRecord) -> None:
        """Have the role carry what the record says."""
        ...

    def delete(self, tx: Tx, realm_id: RealmId, name: str) -> None:
        """Remove the role, and from all who have it."""
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

    def update(self, tx: Tx, user: UserRecord) -> bool:
        """Write name and e-mail address; False when another user has the name, changing nothing."""
        ...

    def set_roles(self, tx: Tx, realm_id: RealmId, user_id: UUID, roles: Sequence[str]) -> None:
        """Give the user these roles and no others."""
        ...

    def set_password(self, tx: Tx, realm_id: RealmId, user_id: UUID, phc: str, now_us: int) -> None:
        """Replace the password."""
        ...

    def renew_password(self, tx: Tx, realm_id: RealmId, user_id: UUID, old: str, new: str) -> None:
        """Store another hash of the same password; nothing if the old one is not stored any more."""
        ...

    def password(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> str | None:
        """The stored password hash."""
        ...

    def delete(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> None:
        """Remove the user with credentials, roles and grants."""
        ...

    def find_by_username(self, tx: Tx, realm_id: RealmId, username_key: str) -> tuple[UserRecord, str] | None:
        """The user by canonical name, with the stored password hash."""
        ...


class AttemptStore(Protocol):
    """Counts of attempts to sign in."""

    def find(self, tx: Tx, realm_id: RealmId, kind: AttemptKind, key: tuple[str, ...]) -> AttemptRow | None:
        """The count as it was written."""
        ...

    def put(self, tx: Tx, row: AttemptRow) -> None:
        """Write the count, in the place of the one before."""
        ...

    def delete(self, tx: Tx, realm_id: RealmId, kind: AttemptKind, key: tuple[str, ...]) -> None:
        """Remove the count."""
        ...


class FactorStore(Protocol):
    """Second factors of users."""

    def find(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> SecondFactor | None:
        """What the user has, if it was confirmed."""
        ...

    def find_pending(self, tx: Tx, realm_id: RealmId, user_id: UUID, since_us: int) -> bytes | None:
        """The sealed secret that waits to be confirmed, if it was made since then."""
        ...

    def put_pending(self, tx: Tx, realm_id: RealmId, user_id: UUID, sealed: bytes, now_us: int) -> None:
        """Have a sealed secret wait, in the place of an earlier one."""
        ...

    def put(self, tx: Tx, realm_id: RealmId, user_id: UUID, sealed: bytes, now_us: int) -> None:
        """Have a sealed secret count at once."""
        ...

    def confirm(
        self, tx: Tx, realm_id: RealmId, user_id: UUID, sealed: bytes, recovery: Iterable[bytes], now_us: int
    ) -> bool:
        """Have exactly this secret count that waits; False when it does not wait any more."""
        ...

    def put_recovery_codes(
        self, tx: Tx, realm_id: RealmId, user_id: UUID, recovery: Iterable[bytes], now_us: int
    ) -> bool:
        """Replace the recovery codes; False when there is no second factor."""
        ...

    def delete(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> bool:
        """Remove all of it; whether there was one that counted."""
        ...

    def claim_step(self, tx: Tx, realm_id: RealmId, user_id: UUID, step: int, expires_us: int) -> bool:
        """Whether this is the first use of a step of the user's."""
        ...

    def claim_recovery_code(
        self, tx: Tx, realm_id: RealmId, user_id: UUID, code: bytes, expires_us: int
    ) -> bool:
        """Whether this is the first use of a recovery code of the user's."""
        ...


class SignIns(Protocol):
    """Where users are signed in."""

    def revoke_of_user(
        self, tx: Tx, realm_id: RealmId, user_id: UUID, *, grant_id: UUID | None, now_us: int
    ) -> int:
        """Revoke one grant of the user, or all of theirs; how many were not revoked before."""
        ...


class PepperSource(Protocol):
    """The realm's password pepper: a key of the key service, so that a stolen database alone cracks nothing."""

    async def pepper(self, realm_id: RealmId) -> SecretBytes:
        """The secret mixed into every password hash of the realm."""
        ...
