"""`/v1/auth/realms`: the HTTP face of tenants."""

from __future__ import annotations

from qimem.audit.schema import COUNTED, recorded
from qimem.authz.permissions import Permission
from qimem.errors import InvalidFields
from qimem.kernel.ids import is_realm_id
from qimem.realms.models import RealmSettings
from qimem.web.kit.endpoint import Call, Endpoint
from qimem.web.kit.pages import next_cursor, page_limit, position
from qimem.wire.common import Deleted, EmptyRequest, Page, said
from qimem.wire.realms import (
    CreateRealmRequest,
    DeleteRealmQuery,
    ListRealmsQuery,
    Realm,
    UpdateRealmRequest,
)


async def create_realm(call: Call[CreateRealmRequest, None]) -> Realm:
    """Make a realm."""
    body = call.body
    settings = RealmSettings(body.password_min_length, body.allow_password_grant, body.refresh_grace_seconds)
    return await call.services.realms.create(call.context, body.id, body.name, settings)


async def list_realms(call: Call[None, ListRealmsQuery]) -> Page[Realm]:
    """The realms that the caller may know of, by id."""
    (after,) = position(call.query.cursor, (str,)) or (None,)
    if after is not None and not is_realm_id(after):
        raise InvalidFields({"/cursor": "not a cursor of this list"})
    items, last = await call.services.realms.list(call.context, after, page_limit(call.query.limit))
    return Page(items=items, next_cursor=next_cursor(None if last is None else (last,)))


async def get_realm(call: Call[None, None]) -> Realm:
    """One realm."""
    return await call.services.realms.get(call.context)


async def update_realm(call: Call[UpdateRealmRequest, None]) -> Realm:
    """Change a realm's name and rules; its id and issuer stay."""
    changes = said(call.body)
    return await call.services.realms.update(
        call.context, changes.pop("name", None), changes, call.precondition
    )


async def disable_realm(call: Call[EmptyRequest, None]) -> Realm:
    """Refuse every token and every sign-in of a realm, until it is enabled."""
    return await call.services.realms.set_enabled(call.context, enabled=False)


async def enable_realm(call: Call[EmptyRequest, None]) -> Realm:
    """Undo disable."""
    return await call.services.realms.set_enabled(call.context, enabled=True)


async def delete_realm(call: Call[None, DeleteRealmQuery]) -> Deleted:
    """Destroy a realm, and the key without which nothing it encrypted can be read again."""
    return await call.services.realms.delete(call.context, call.query.confirm)


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/auth/realms",
        name="realms.create",
        audit=recorded("target"),
        handler=create_realm,
        request=CreateRealmRequest,
        response=Realm,
        permission=Permission.REALMS_CREATE,
        idempotent=True,
        summary="Create a realm",
        example={"id": "acme", "name": "Acme Corporation"},
    ),
    Endpoint(
        method="GET",
        path="/v1/auth/realms",
        name="realms.list",
        audit=COUNTED,
        handler=list_realms,
        query=ListRealmsQuery,
        response=Page[Realm],
        permission=Permission.REALMS_READ,
        summary="List realms",
    ),
    Endpoint(
        method="GET",
        path="/v1/auth/realms/{realm_id}",
        name="realms.get",
        audit=COUNTED,
        handler=get_realm,
        response=Realm,
        permission=Permission.REALMS_READ,
        versioned=True,
        summary="Get a realm",
    ),
    Endpoint(
        method="PATCH",
        path="/v1/auth/realms/{realm_id}",
        name="realms.update",
        audit=recorded("target"),
        handler=update_realm,
        request=UpdateRealmRequest,
        response=Realm,
        permission=Permission.REALMS_UPDATE,
        versioned=True,
        summary="Update a realm",
        example={"name": "Acme Corporation"},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/realms/{realm_id}/disable",
        name="realms.disable",
        audit=recorded("target"),
        handler=disable_realm,
        request=EmptyRequest,
        response=Realm,
        permission=Permission.REALMS_MANAGE,
        optional_body=True,
        conflicts=True,
        summary="Disable a realm",
        example={},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/realms/{realm_id}/enable",
        name="realms.enable",
        audit=recorded("target"),
        handler=enable_realm,
        request=EmptyRequest,
        response=Realm,
        permission=Permission.REALMS_MANAGE,
        optional_body=True,
        summary="Enable a realm",
        example={},
    ),
    Endpoint(
        method="DELETE",
        path="/v1/auth/realms/{realm_id}",
        name="realms.delete",
        audit=recorded("target"),
        handler=delete_realm,
        query=DeleteRealmQuery,
        response=Deleted,
        permission=Permission.REALMS_MANAGE,
        conflicts=True,
        summary="Destroy a realm",
    ),
)
"""Every operation of this resource."""
