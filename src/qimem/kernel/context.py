"""Who is asking, about which realm: the first argument of every service call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from qimem.kernel.ids import ClientId, RealmId


class ActorKind(StrEnum):
    """A person through a client, or a client for itself."""

    USER = "user"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class PermissionSet:
    """What an actor may do now, from the current state of roles and never from token claims.

    Args:
        names: The permission strings as granted, `*` and `realm:*` included.
        everywhere: Platform permissions held without a scope, wildcards already expanded.
        scoped: Platform permission → the lineages it is held on.
        operator: Whether `*` is held: the right to name another realm.
    """

    names: frozenset[str]
    everywhere: frozenset[str]
    scoped: Mapping[str, frozenset[UUID]]
    operator: bool


@dataclass(frozen=True, slots=True)
class Actor:
    """The authenticated caller, as of this request."""

    realm_id: RealmId
    kind: ActorKind
    subject: str
    client_id: ClientId
    token_id: str
    permissions: PermissionSet


@dataclass(slots=True)
class IdempotencyKey:
    """The caller's `Idempotency-Key` on one route, and whether the answer is a replay.

    Args:
        key: 1–255 visible ASCII characters.
        route: Method and path template of the endpoint.
        body_digest: SHA-256 of the request body as received.
    """

    key: str
    route: str
    body_digest: bytes
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request: its id, its caller and the realm it is about.

    Args:
        realm_id: The target realm: the actor's own unless an operator named another.
        address: The peer's address as text.
    """

    request_id: str
    realm_id: RealmId
    actor: Actor
    address: str = ""
    idempotency: IdempotencyKey | None = field(default=None)
