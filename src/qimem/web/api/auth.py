"""`/v1/auth`: the HTTP face of realms, roles, clients and tokens."""

from __future__ import annotations

from qimem.audit.schema import COUNTED, recorded
from qimem.authz.permissions import Permission
from qimem.errors import InvalidFields
from qimem.kms.signing_keys import RotationMode
from qimem.oauth.clients import Registration
from qimem.web.kit.endpoint import Call, Endpoint
from qimem.web.kit.gate import is_no_client
from qimem.wire.auth import (
    CreateClientRequest,
    CreatedClient,
    CreateRealmRequest,
    CreateRoleRequest,
    Introspection,
    IntrospectRequest,
    Realm,
    RefreshRequest,
    Revoked,
    RevokeRequest,
    Role,
    RotatedSigningKey,
    RotateSigningKeyRequest,
    TokenRequest,
    TokenResponse,
)


async def create_realm(call: Call[CreateRealmRequest, None]) -> Realm:
    """Make a realm."""
    return await call.services.realms.create(call.context, call.body.id, call.body.name)


async def create_role(call: Call[CreateRoleRequest, None]) -> Role:
    """Make a role."""
    return await call.services.roles.create(call.context, call.body.name, call.body.permissions)


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
        post_logout_redirect_uris=body.post_logout_redirect_uris or (),
        tier=body.tier,
        roles=body.roles or (),
    )
    return await call.services.clients.create(call.context, registration)


async def token(call: Call[TokenRequest, None]) -> TokenResponse:
    """Tokens for credentials."""
    return await call.services.tokens.exchange(call.body, call.draft)


async def refresh(call: Call[RefreshRequest, None]) -> TokenResponse:
    """A new pair for a refresh token."""
    return await call.services.refresh.exchange(call.body, call.draft)


async def revoke(call: Call[RevokeRequest, None]) -> Revoked:
    """End a token."""
    await call.services.revocation.revoke(call.body.token, call.draft)
    return Revoked(revoked=True)


async def introspect(call: Call[IntrospectRequest, None]) -> Introspection:
    """What a token is good for now."""
    header = call.authorization
    if header is not None and is_no_client(header):
        return await call.services.introspection.by_bearer(call.context.actor, header, call.body)
    return await call.services.introspection.by_client(header, call.body)


async def rotate_signing_key(call: Call[RotateSigningKeyRequest, None]) -> RotatedSigningKey:
    """Begin with a new signing key."""
    return await call.services.signing_keys.rotate(
        call.context, RotationMode(call.body.mode or RotationMode.NOW)
    )


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
        method="POST",
        path="/v1/auth/token",
        name="tokens.issue",
        audit=recorded("realm", "subject", "client", "token"),
        handler=token,
        request=TokenRequest,
        response=TokenResponse,
        summary="Get a token by password or client credentials",
        example={
            "grant_type": "client_credentials",
            "client_id": "{client_id}",
            "client_secret": "{client_secret}",
        },
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/token/refresh",
        name="tokens.refresh",
        audit=recorded("realm", "subject", "client", "token", "target"),
        handler=refresh,
        request=RefreshRequest,
        response=TokenResponse,
        summary="Refresh a token pair",
        example={"refresh_token": "{refresh_token}"},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/token/introspect",
        name="tokens.introspect",
        audit=COUNTED,
        handler=introspect,
        request=IntrospectRequest,
        response=Introspection,
        any_caller=True,
        summary="Ask what a token is good for",
        example={
            "token": "{refresh_token}",
            "client_id": "{client_id}",
            "client_secret": "{client_secret}",
        },
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/token/revoke",
        name="tokens.revoke",
        audit=recorded("realm", "subject", "client", "target"),
        handler=revoke,
        request=RevokeRequest,
        response=Revoked,
        summary="Revoke an access or refresh token",
        example={"token": "{refresh_token}"},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/keys/rotate",
        name="signing-keys.rotate",
        audit=recorded("key", "version", "target"),
        handler=rotate_signing_key,
        request=RotateSigningKeyRequest,
        response=RotatedSigningKey,
        permission=Permission.SIGNING_KEYS_ROTATE,
        optional_body=True,
        idempotent=True,
        summary="Rotate the key that signs tokens",
        example={"mode": "scheduled"},
    ),
)
"""Every operation of this resource."""
