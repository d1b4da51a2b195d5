"""The one place where "may this actor do that" is answered. No I/O; every service asks here.

Order of a decision about a key: hold the permission with any scope, else denied before any look-up;
then the key is looked up (absent: not found); then the scope must cover its lineage.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from qimem.authz.permissions import WILDCARDS, Permission, split
from qimem.errors import Forbidden
from qimem.kernel.context import Actor, PermissionSet, RequestContext


def permits(permissions: PermissionSet, permission: Permission) -> bool:
    """Whether the permission is held with any scope at all."""
    return permission in permissions.everywhere or permission in permissions.scoped


def require(ctx: RequestContext, permission: Permission, lineage_id: UUID | None = None) -> None:
    """Refuse unless the caller holds the permission, on this lineage if one is named.

    Without a lineage any scope suffices: the question is then "may it be asked at all".

    Raises:
        Forbidden: names the permission and the resource.
    """
    held = ctx.actor.permissions
    if permission in held.everywhere:
        return
    lineages = held.scoped.get(permission)
    if lineages is not None and (lineage_id is None or lineage_id in lineages):
        return
    resource = None if lineage_id is None else f"lineage {lineage_id}"
    raise Forbidden(permission, resource=resource, hint=f"ask an administrator for {permission}")


def require_everywhere(ctx: RequestContext, permission: Permission) -> None:
    """Refuse unless the permission is held without a scope: for operations that concern no one lineage.

    Raises:
        Forbidden: names the permission.
    """
    if permission not in ctx.actor.permissions.everywhere:
        raise Forbidden(permission)


def visible_lineages(ctx: RequestContext, permission: Permission) -> frozenset[UUID] | None:
    """The lineages a list may show; None means all of the realm."""
    held = ctx.actor.permissions
    return None if permission in held.everywhere else held.scoped.get(permission, frozenset())


def require_grantable(actor: Actor, names: Iterable[str]) -> None:
    """Refuse unless the actor holds every platform permission that it is about to give away.

    An application's own permissions can be given by who holds `roles:create`: the application trusts
    them, whoever they reach and by whatever path. `realm:*` and `platform:*` can be given by who holds them or by an
    operator, `*` only by an operator.

    Raises:
        Forbidden: names the first permission that is lacking.
    """
    lacking = [found for name in names if (found := _lacking(actor.permissions, name)) is not None]
    if lacking:
        # The platform's own first: it is what most callers are missing.
        lacking.sort(key=lambda name: name == Permission.ROLES_CREATE)
        raise Forbidden(lacking[0], hint="a permission can be granted only by who holds it")


def _lacking(held: PermissionSet, name: str) -> str | None:
    """What must be held to give this name away, and is not; None when it may be given."""
    if held.operator:
        return None
    if name in WILDCARDS:
        return None if name in held.names else name
    parts = split(name)
    if parts is None:
        return None if Permission.ROLES_CREATE in held.everywhere else Permission.ROLES_CREATE
    base, lineage = parts
    scoped = lineage is not None and lineage in held.scoped.get(base, frozenset())
    return None if base in held.everywhere or scoped else name
