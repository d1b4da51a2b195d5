"""Who comes in: what the dispatcher asks of authentication."""

from __future__ import annotations

from typing import Protocol

from qimem.authz.permissions import Permission
from qimem.kernel.context import Actor
from qimem.kernel.epochs import RealmCache


class Gate(Protocol):
    """Authentication and the coarse half of authorization."""

    async def authenticate(self, authorization: bytes | None) -> tuple[Actor, RealmCache]:
        """The caller behind an Authorization header, with the state of the caller's realm.

        Raises:
            Unauthenticated: nobody, or nobody valid.
        """
        ...

    def permits(self, actor: Actor, permission: Permission) -> bool:
        """Whether the actor holds the permission with any scope."""
        ...

    async def other_realm(self, actor: Actor, realm_id: str) -> tuple[Actor, RealmCache]:
        """The caller as they count in the realm that the request names in place of their own, and its state.

        Raises:
            NotFound: `realm_not_found`.
        """
        ...


def is_no_client(authorization: bytes | None) -> bool:
    """Whether the header shows something other than the credentials of a client (`Basic`)."""
    return authorization is not None and authorization.partition(b" ")[0].lower() != b"basic"
