"""`/v1/auth/clients`: the HTTP face of applications."""

from __future__ import annotations

from qimem.audit.schema import COUNTED, recorded
from qimem.authz.permissions import Permission
from qimem.errors import InvalidFields
from qimem.kernel.ids import is_client_id
from qimem.oauth.registration import Registration
from qimem.web.kit.endpoint import Call, Endpoint
from qimem.web.kit.pages import next_cursor, page_limit, position
from qimem.wire.clients import (
    Client,
    CreateClientRequest,
    CreatedClient,
    RotateClientSecretRequest,
    RotatedClientSecret,
    UpdateClientRequest,
)
from qimem.wire.common import Deleted, ListQuery, Page, RealmQuery, RolesRequest, StateRequest, said


async def create_client(call: Call[CreateClientRequest, None]) -> CreatedClient:
    """Register a client."""
    body = call.body
    if body.name is not None and body.client_name is not None and body.name != body.client_name:
        raise InvalidFields({"/client_name": "name and client_name are the same field"})
    registration = Registration(
        redirect_uris=body.redirect_uris,
        name=body.name if body.name is not None else body.client_name,
        grant_types=body.grant_types,
        response_types=body.response_types,
        auth_method=body.token_endpoint_auth_method,
        scope=body.scope,
        jwks=body.jwks,
        jwks_uri=body.jwks_uri,
        post_logout_redirect_uris=body.post_logout_redirect_uris,
        tier=body.tier,
        roles=body.roles or (),
        refresh_grace_seconds=body.refresh_grace_seconds,
        refresh_requires_client=body.refresh_requires_client,
    )
    return await call.services.clients.create(call.context, registration)


async def list_clients(call: Call[None, ListQuery]) -> Page[Client]:
    """The realm's clients."""
    (after,) = position(call.query.cursor, (str,)) or (None,)
    if after is not None and not is_client_id(after):
        raise InvalidFields({"/cursor": "not a cursor of this list"})
    items, last = await call.services.clients.list(call.context, after, page_limit(call.query.limit))
    return Page(items=items, next_cursor=next_cursor(None if last is None else (last,)))


async def get_client(call: Call[None, RealmQuery]) -> Client:
    """One client, without its secret."""
    return await call.services.clients.get(call.context, call.path["client_id"])


async def update_client(call: Call[UpdateClientRequest, None]) -> Client:
    """Change what a client is registered as."""
    return await call.services.clients.update(
        call.context, call.path["client_id"], said(call.body), call.precondition
    )


async def disable_client(call: Call[StateRequest, None]) -> Client:
    """Let nobody in through a client any more, and none of its tokens."""
    return await call.services.clients.set_enabled(call.context, call.path["client_id"], enabled=False)


async def enable_client(call: Call[StateRequest, None]) -> Client:
    """Undo disable."""
    return await call.services.clients.set_enabled(call.context, call.path["client_id"], enabled=True)


async def assign_roles(call: Call[RolesRequest, None]) -> Client:
    """Give a client's own service account roles."""
    return await call.services.clients.assign_roles(call.context, call.path["client_id"], call.body.roles)


async def remove_roles(call: Call[RolesRequest, None]) -> Client:
    """Take roles from a client's own service account."""
    return await call.services.clients.remove_roles(call.context, call.path["client_id"], call.body.roles)


async def rotate_secret(call: Call[RotateClientSecretRequest, None]) -> RotatedClientSecret:
    """Give a client a new secret; the one before it may stay good for a while."""
    return await call.services.clients.rotate_secret(
        call.context, call.path["client_id"], call.body.overlap_seconds or 0
    )


async def delete_client(call: Call[None, RealmQuery]) -> Deleted:
    """Remove a client for good."""
    return await call.services.clients.delete(call.context, call.path["client_id"])


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/auth/clients",
        name="clients.create",
        audit=recorded("target"),
        handler=create_client,
        request=CreateClientRequest,
        response=CreatedClient,
        permission=Permission.CLIENTS_CREATE,
        idempotent=True,
        summary="Register a client",
        example={"name": "shop", "redirect_uris": ["https://shop.example/callback"]},
    ),
    Endpoint(
        method="GET",
        path="/v1/auth/clients",
        name="clients.list",
        audit=COUNTED,
        handler=list_clients,
        query=ListQuery,
        response=Page[Client],
        permission=Permission.CLIENTS_READ,
        summary="List clients",
    ),
    Endpoint(
        method="GET",
        path="/v1/auth/clients/{client_id}",
        name="clients.get",
        audit=COUNTED,
        handler=get_client,
        query=RealmQuery,
        response=Client,
        permission=Permission.CLIENTS_READ,
        versioned=True,
        summary="Get a client",
    ),
    Endpoint(
        method="PATCH",
        path="/v1/auth/clients/{client_id}",
        name="clients.update",
        audit=recorded("target"),
        handler=update_client,
        request=UpdateClientRequest,
        response=Client,
        permission=Permission.CLIENTS_MANAGE,
        versioned=True,
        summary="Update a client",
        example={"name": "shop", "scope": "openid"},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/clients/{client_id}/disable",
        name="clients.disable",
        audit=recorded("target"),
        handler=disable_client,
        request=StateRequest,
        response=Client,
        permission=Permission.CLIENTS_MANAGE,
        optional_body=True,
        conflicts=True,
        summary="Disable a client",
        example={},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/clients/{client_id}/enable",
        name="clients.enable",
        audit=recorded("target"),
        handler=enable_client,
        request=StateRequest,
        response=Client,
        permission=Permission.CLIENTS_MANAGE,
        optional_body=True,
        summary="Enable a client",
        example={},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/clients/{client_id}/roles/assign",
        name="clients.assign-roles",
        audit=recorded("target"),
        handler=assign_roles,
        request=RolesRequest,
        response=Client,
        permission=Permission.CLIENTS_MANAGE,
        summary="Assign roles to a client",
        example={"roles": ["cipher"]},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/clients/{client_id}/roles/remove",
        name="clients.remove-roles",
        audit=recorded("target"),
        handler=remove_roles,
        request=RolesRequest,
        response=Client,
        permission=Permission.CLIENTS_MANAGE,
        summary="Remove roles from a client",
        example={"roles": ["cipher"]},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/clients/{client_id}/secret/rotate",
        name="clients.rotate-secret",
        audit=recorded("target"),
        handler=rotate_secret,
        request=RotateClientSecretRequest,
        response=RotatedClientSecret,
        permission=Permission.CLIENTS_MANAGE,
        optional_body=True,
        idempotent=True,
        summary="Rotate a client's secret",
        example={"overlap_seconds": 3600},
    ),
    Endpoint(
        method="DELETE",
        path="/v1/auth/clients/{client_id}",
        name="clients.delete",
        audit=recorded("target"),
        handler=delete_client,
        query=RealmQuery,
        response=Deleted,
        permission=Permission.CLIENTS_MANAGE,
        conflicts=True,
        summary="Delete a client",
    ),
)
"""Every operation of this resource."""
