"""`/v1/auth/roles`: the HTTP face of roles."""

from __future__ import annotations

from qimem.audit.schema import COUNTED, recorded
from qimem.authz.permissions import Permission
from qimem.errors import InvalidFields
from qimem.kernel.ids import is_name
from qimem.web.kit.endpoint import Call, Endpoint
from qimem.web.kit.pages import next_cursor, page_limit, position
from qimem.wire.common import Deleted, ListQuery, Page, RealmQuery, given
from qimem.wire.realms import CreateRoleRequest, Role, UpdateRoleRequest


async def create_role(call: Call[CreateRoleRequest, None]) -> Role:
    """Make a role."""
    return await call.services.roles.create(call.context, call.body.name, call.body.permissions)


async def list_roles(call: Call[None, ListQuery]) -> Page[Role]:
    """The realm's roles by name."""
    (after,) = position(call.query.cursor, (str,)) or (None,)
    if after is not None and not is_name(after):
        raise InvalidFields({"/cursor": "not a cursor of this list"})
    items, last = await call.services.roles.list(call.context, after, page_limit(call.query.limit))
    return Page(items=items, next_cursor=next_cursor(None if last is None else (last,)))


async def get_role(call: Call[None, RealmQuery]) -> Role:
    """One role."""
    return await call.services.roles.get(call.context, call.path["role"])


async def update_role(call: Call[UpdateRoleRequest, None]) -> Role:
    """Have a role carry other permissions, for all who have it."""
    return await call.services.roles.update(
        call.context, call.path["role"], given(call.body.permissions), call.precondition
    )


async def delete_role(call: Call[None, RealmQuery]) -> Deleted:
    """Remove a role, also from all who have it."""
    return await call.services.roles.delete(call.context, call.path["role"])


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/auth/roles",
        name="roles.create",
        audit=recorded("target"),
        handler=create_role,
        request=CreateRoleRequest,
        response=Role,
        permission=Permission.ROLES_CREATE,
        idempotent=True,
        summary="Create a role",
        example={"name": "cipher", "permissions": ["keys:encrypt", "keys:decrypt"]},
    ),
    Endpoint(
        method="GET",
        path="/v1/auth/roles",
        name="roles.list",
        audit=COUNTED,
        handler=list_roles,
        query=ListQuery,
        response=Page[Role],
        permission=Permission.ROLES_READ,
        summary="List roles",
    ),
    Endpoint(
        method="GET",
        path="/v1/auth/roles/{role}",
        name="roles.get",
        audit=COUNTED,
        handler=get_role,
        query=RealmQuery,
        response=Role,
        permission=Permission.ROLES_READ,
        versioned=True,
        summary="Get a role",
    ),
    Endpoint(
        method="PATCH",
        path="/v1/auth/roles/{role}",
        name="roles.update",
        audit=recorded("target"),
        handler=update_role,
        request=UpdateRoleRequest,
        response=Role,
        permission=Permission.ROLES_MANAGE,
        versioned=True,
        conflicts=True,
        summary="Update a role",
        example={"permissions": ["keys:encrypt"]},
    ),
    Endpoint(
        method="DELETE",
        path="/v1/auth/roles/{role}",
        name="roles.delete",
        audit=recorded("target"),
        handler=delete_role,
        query=RealmQuery,
        response=Deleted,
        permission=Permission.ROLES_MANAGE,
        conflicts=True,
        summary="Delete a role",
    ),
)
"""Every operation of this resource."""
