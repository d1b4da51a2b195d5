"""Whether realm, client and user may act right now: the one check behind every token, new or presented.

Every grant type asks it before a token is issued, and bearer authentication asks it (under the
realm's epoch) before a token is honored. A grant type with a check of its own is how disabled users
keep their tokens (Keycloak CVE-2026-9798 and the incomplete fix after it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from qimem.authz.permissions import compile_permissions
from qimem.identity.models import UserRecord
from qimem.identity.ports import RoleStore, UserStore
from qimem.kernel.context import PermissionSet
from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.oauth.models import ClientRecord, GrantType
from qimem.oauth.ports import ClientStore
from qimem.realms.ports import RealmStore


@dataclass(frozen=True, slots=True)
class Standing:
    """Realm, client and user are there and enabled; this is what the subject may do.

    Args:
        user: None when the client acts for itself.
        proven_with: Digest of the secret that the client has shown for it; None where it has shown none.
    """

    client: ClientRecord
    user: UserRecord | None
    permissions: PermissionSet
    proven_with: bytes | None = None

    @property
    def subject(self) -> str:
        """The `sub` of tokens: the user's id, or the client's own id."""
        return str(self.user.user_id) if self.user is not None else self.client.client_id

    @property
    def roles(self) -> tuple[str, ...]:
        """Role names of the subject."""
        return self.user.roles if self.user is not None else self.client.roles


@dataclass(frozen=True, slots=True)
class StandingCheck:
    """Reads the standing of a subject in one snapshot."""

    realms: RealmStore
    clients: ClientStore
    users: UserStore
    roles: RoleStore

    def grace_seconds(self, tx: Tx, realm_id: RealmId, client_id: str) -> int | None:
        """The grace of a refresh that client or realm ask for, enabled or not; None when they ask for none."""
        client, realm = self.clients.find(tx, realm_id, client_id), self.realms.find(tx, realm_id)
        if client is not None and client.refresh_grace_seconds is not None:
            return client.refresh_grace_seconds
        return None if realm is None else realm.refresh_grace_seconds

    def client(self, tx: Tx, realm_id: RealmId, client_id: str) -> ClientRecord | None:
        """The client under the rules of its realm, or None when one of both is absent or disabled."""
        realm = self.realms.find(tx, realm_id)
        client = self.clients.find(tx, realm_id, client_id)
        if realm is None or not realm.enabled or client is None or not client.enabled:
            return None
        if client.refresh_grace_seconds is None:
            client = replace(client, refresh_grace_seconds=realm.refresh_grace_seconds)
        if realm.allow_password_grant:
            return client
        left = tuple(each for each in client.grant_types if each != GrantType.PASSWORD)
        return replace(client, grant_types=left)

    def load(self, tx: Tx, realm_id: RealmId, client_id: str, user_id: UUID | None) -> Standing | None:
        """The standing, or None when realm, client or user is absent or disabled."""
        client = self.client(tx, realm_id, client_id)
        if client is None:
            return None
        if user_id is None:
            names = self.roles.permissions_of_client(tx, realm_id, client_id)
            return Standing(client, None, compile_permissions(names))
        user = self.users.find(tx, realm_id, user_id)
        if user is None or not user.enabled:
            return None
        names = self.roles.permissions_of_user(tx, realm_id, user_id)
        return Standing(client, user, compile_permissions(names))
