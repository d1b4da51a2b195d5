"""`/v1/auth`: realms, roles, clients and users. Every method raises `ApiError` where the server refuses.

`if_match` of an update is the entity tag that `get_tagged` gave: a change that somebody made meanwhile is then not
overwritten. `*` changes whatever is there.

`idempotency_key` is the caller's own name for a call: repeated with it, the call has its effect once. Without one a key is
made up, and an `ApiError` tells it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from uuid import UUID

from qimem.client.pages import Part, every
from qimem.client.session import Operation
from qimem.wire.clients import (
    Client,
    CreateClientRequest,
    CreatedClient,
    RotateClientSecretRequest,
    RotatedClientSecret,
    UpdateClientRequest,
)
from qimem.wire.common import Deleted, EmptyRequest, ListQuery, Page, RealmQuery, RolesRequest, StateRequest
from qimem.wire.factors import SecondFactorState
from qimem.wire.realms import (
    CreateRealmRequest,
    CreateRoleRequest,
    DeleteRealmQuery,
    ListRealmsQuery,
    Realm,
    Role,
    UpdateRealmRequest,
    UpdateRoleRequest,
)
from qimem.wire.users import (
    CreateUserRequest,
    Grant,
    ListGrantsQuery,
    PasswordSet,
    RevokedGrants,
    RevokeGrantsRequest,
    SetPasswordRequest,
    UpdateUserRequest,
    User,
)

ANY: Final = "*"

_REALMS, _ROLES = "/v1/auth/realms", "/v1/auth/roles"
_CLIENTS, _USERS = "/v1/auth/clients", "/v1/auth/users"


class Realms(Part):
    """Tenants."""

    def create(self, request: CreateRealmRequest, *, idempotency_key: str | None = None) -> Realm:
        """Make a realm."""
        return self._call(
            Operation("POST", _REALMS, Realm, idempotent=True), body=request, idempotency_key=idempotency_key
        )

    def list(self, query: ListRealmsQuery | None = None) -> Iterator[Realm]:
        """The realms that the caller may know of."""
        return every(self._session, Operation("GET", _REALMS, Page[Realm]), query or ListRealmsQuery())

    def get(self, realm_id: str) -> Realm:
        """One realm."""
        return self.get_tagged(realm_id)[0]

    def get_tagged(self, realm_id: str) -> tuple[Realm, str]:
        """One realm, and its entity tag."""
        return self._session.call_tagged(Operation("GET", f"{_REALMS}/{{}}", Realm), realm_id)

    def update(self, realm_id: str, request: UpdateRealmRequest, *, if_match: str = ANY) -> Realm:
        """Change what the request names."""
        operation = Operation("PATCH", f"{_REALMS}/{{}}", Realm)
        return self._call(operation, realm_id, body=request, if_match=if_match)

    def disable(self, realm_id: str) -> Realm:
        """Refuse every token and every sign-in of a realm."""
        operation = Operation("POST", f"{_REALMS}/{{}}/disable", Realm, repeatable=True)
        return self._call(operation, realm_id, body=EmptyRequest())

    def enable(self, realm_id: str) -> Realm:
        """Undo disable."""
        operation = Operation("POST", f"{_REALMS}/{{}}/enable", Realm, repeatable=True)
        return self._call(operation, realm_id, body=EmptyRequest())

    def delete(self, realm_id: str, *, confirm: str) -> Deleted:
        """Destroy a realm and the key without which nothing it encrypted can be read again.

        Args:
            realm_id: The realm.
            confirm: Its id once more.
        """
        query = DeleteRealmQuery(confirm=confirm)
        return self._call(Operation("DELETE", f"{_REALMS}/{{}}", Deleted), realm_id, query=query)


class Roles(Part):
    """Named sets of permissions."""

    def create(self, request: CreateRoleRequest, *, idempotency_key: str | None = None) -> Role:
        """Make a role."""
        return self._call(
            Operation("POST", _ROLES, Role, idempotent=True), body=request, idempotency_key=idempotency_key
        )

    def list(self, query: ListQuery | None = None) -> Iterator[Role]:
        """Every role."""
        return every(self._session, Operation("GET", _ROLES, Page[Role]), query or ListQuery())

    def get(self, name: str, query: RealmQuery | None = None) -> Role:
        """One role."""
        return self.get_tagged(name, query)[0]

    def get_tagged(self, name: str, query: RealmQuery | None = None) -> tuple[Role, str]:
        """One role, and its entity tag."""
        return self._session.call_tagged(Operation("GET", f"{_ROLES}/{{}}", Role), name, query=query)

    def update(self, name: str, request: UpdateRoleRequest, *, if_match: str = ANY) -> Role:
        """Change what the role carries, for everyone who has it."""
        operation = Operation("PATCH", f"{_ROLES}/{{}}", Role)
        return self._call(operation, name, body=request, if_match=if_match)

    def delete(self, name: str, query: RealmQuery | None = None) -> Deleted:
        """Take the role from everyone."""
        return self._call(Operation("DELETE", f"{_ROLES}/{{}}", Deleted), name, query=query)


class Clients(Part):
    """Applications."""

    def create(self, request: CreateClientRequest, *, idempotency_key: str | None = None) -> CreatedClient:
        """Register a client; its secret is shown this once."""
        return self._call(
            Operation("POST", _CLIENTS, CreatedClient, idempotent=True),
            body=request,
            idempotency_key=idempotency_key,
        )

    def list(self, query: ListQuery | None = None) -> Iterator[Client]:
        """Every client."""
        return every(self._session, Operation("GET", _CLIENTS, Page[Client]), query or ListQuery())

    def get(self, client_id: str, query: RealmQuery | None = None) -> Client:
        """One client."""
        return self.get_tagged(client_id, query)[0]

    def get_tagged(self, client_id: str, query: RealmQuery | None = None) -> tuple[Client, str]:
        """One client, and its entity tag."""
        operation = Operation("GET", f"{_CLIENTS}/{{}}", Client)
        return self._session.call_tagged(operation, client_id, query=query)

    def update(self, client_id: str, request: UpdateClientRequest, *, if_match: str = ANY) -> Client:
        """Change what the request names."""
        operation = Operation("PATCH", f"{_CLIENTS}/{{}}", Client)
        return self._call(operation, client_id, body=request, if_match=if_match)

    def disable(self, client_id: str, request: StateRequest | None = None) -> Client:
        """Refuse a client and every token of it."""
        return self._state(client_id, "disable", request)

    def enable(self, client_id: str, request: StateRequest | None = None) -> Client:
        """Undo disable."""
        return self._state(client_id, "enable", request)

    def assign_roles(self, client_id: str, request: RolesRequest) -> Client:
        """Give a client roles for its own tokens."""
        operation = Operation("POST", f"{_CLIENTS}/{{}}/roles/assign", Client, repeatable=True)
        return self._call(operation, client_id, body=request)

    def remove_roles(self, client_id: str, request: RolesRequest) -> Client:
        """Take roles from a client."""
        operation = Operation("POST", f"{_CLIENTS}/{{}}/roles/remove", Client, repeatable=True)
        return self._call(operation, client_id, body=request)

    def rotate_secret(
        self,
        client_id: str,
        request: RotateClientSecretRequest | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> RotatedClientSecret:
        """Another secret, shown this once; the old one stays good for as long as the request says."""
        operation = Operation("POST", f"{_CLIENTS}/{{}}/secret/rotate", RotatedClientSecret, idempotent=True)
        return self._call(
            operation, client_id, body=request or RotateClientSecretRequest(), idempotency_key=idempotency_key
        )

    def delete(self, client_id: str, query: RealmQuery | None = None) -> Deleted:
        """Remove a client and its grants."""
        return self._call(Operation("DELETE", f"{_CLIENTS}/{{}}", Deleted), client_id, query=query)

    def _state(self, client_id: str, verb: str, request: StateRequest | None) -> Client:
        operation = Operation("POST", f"{_CLIENTS}/{{}}/{verb}", Client, repeatable=True)
        return self._call(operation, client_id, body=request or StateRequest())


class Users(Part):
    """People."""

    def create(self, request: CreateUserRequest, *, idempotency_key: str | None = None) -> User:
        """Add a user."""
        return self._call(
            Operation("POST", _USERS, User, idempotent=True), body=request, idempotency_key=idempotency_key
        )

    def list(self, query: ListQuery | None = None) -> Iterator[User]:
        """Every user, by name."""
        return every(self._session, Operation("GET", _USERS, Page[User]), query or ListQuery())

    def get(self, user_id: UUID, query: RealmQuery | None = None) -> User:
        """One user."""
        return self.get_tagged(user_id, query)[0]

    def get_tagged(self, user_id: UUID, query: RealmQuery | None = None) -> tuple[User, str]:
        """One user, and the entity tag."""
        return self._session.call_tagged(Operation("GET", f"{_USERS}/{{}}", User), user_id, query=query)

    def update(self, user_id: UUID, request: UpdateUserRequest, *, if_match: str = ANY) -> User:
        """Change what the request names."""
        operation = Operation("PATCH", f"{_USERS}/{{}}", User)
        return self._call(operation, user_id, body=request, if_match=if_match)

    def disable(self, user_id: UUID, request: StateRequest | None = None) -> User:
        """Refuse a user and every token of theirs."""
        return self._state(user_id, "disable", request)

    def enable(self, user_id: UUID, request: StateRequest | None = None) -> User:
        """Undo disable."""
        return self._state(user_id, "enable", request)

    def assign_roles(self, user_id: UUID, request: RolesRequest) -> User:
        """Give a user roles beside those they have."""
        operation = Operation("POST", f"{_USERS}/{{}}/roles/assign", User, repeatable=True)
        return self._call(operation, user_id, body=request)

    def remove_roles(self, user_id: UUID, request: RolesRequest) -> User:
        """Take roles from a user."""
        operation = Operation("POST", f"{_USERS}/{{}}/roles/remove", User, repeatable=True)
        return self._call(operation, user_id, body=request)

    def set_password(self, user_id: UUID, request: SetPasswordRequest) -> PasswordSet:
        """Replace the password, and end what was signed in with the old one."""
        return self._call(Operation("POST", f"{_USERS}/{{}}/password", PasswordSet), user_id, body=request)

    def disable_totp(self, user_id: UUID, request: StateRequest | None = None) -> SecondFactorState:
        """Take a user's second factor away."""
        operation = Operation("POST", f"{_USERS}/{{}}/totp/disable", SecondFactorState, repeatable=True)
        return self._call(operation, user_id, body=request or StateRequest())

    def grants(self, user_id: UUID, query: ListGrantsQuery | None = None) -> Iterator[Grant]:
        """Where a user is signed in."""
        operation = Operation("GET", f"{_USERS}/{{}}/grants", Page[Grant])
        return every(self._session, operation, query or ListGrantsQuery(), user_id)

    def revoke_grants(self, user_id: UUID, request: RevokeGrantsRequest | None = None) -> RevokedGrants:
        """Sign a user out, everywhere or of one grant."""
        operation = Operation("POST", f"{_USERS}/{{}}/grants/revoke", RevokedGrants)
        return self._call(operation, user_id, body=request or RevokeGrantsRequest())

    def delete(self, user_id: UUID, query: RealmQuery | None = None) -> Deleted:
        """Remove a user for good."""
        return self._call(Operation("DELETE", f"{_USERS}/{{}}", Deleted), user_id, query=query)

    def _state(self, user_id: UUID, verb: str, request: StateRequest | None) -> User:
        operation = Operation("POST", f"{_USERS}/{{}}/{verb}", User, repeatable=True)
        return self._call(operation, user_id, body=request or StateRequest())
