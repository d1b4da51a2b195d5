"""`/v1/auth`: the HTTP face of tokens and the keys that sign them."""

from __future__ import annotations

from qimem.audit.schema import COUNTED, recorded
from qimem.authz.permissions import Permission
from qimem.kms.signing_keys import RotationMode
from qimem.web.kit.endpoint import Call, Endpoint
from qimem.web.kit.gate import is_no_client
from qimem.wire.auth import (
    Introspection,
    IntrospectRequest,
    RefreshRequest,
    Revoked,
    RevokeRequest,
    RotatedSigningKey,
    RotateSigningKeyRequest,
    TokenRequest,
    TokenResponse,
)


async def token(call: Call[TokenRequest, None]) -> TokenResponse:
    """Tokens for credentials."""
    return await call.services.tokens.exchange(call.body, call.draft, call.meter)


async def refresh(call: Call[RefreshRequest, None]) -> TokenResponse:
    """A new pair for a refresh token."""
    return await call.services.refresh.exchange(call.body, call.draft, call.meter)


async def revoke(call: Call[RevokeRequest, None]) -> Revoked:
    """End a token."""
    await call.services.revocation.revoke(call.body.token, call.draft, call.meter)
    return Revoked(revoked=True)


async def introspect(call: Call[IntrospectRequest, None]) -> Introspection:
    """What a token is good for now."""
    header = call.headers.get(b"authorization")
    if header is not None and is_no_client(header):
        return await call.services.introspection.by_bearer(call.context.actor, header, call.body)
    return await call.services.introspection.by_client(header, call.body, call.meter)


async def rotate_signing_key(call: Call[RotateSigningKeyRequest, None]) -> RotatedSigningKey:
    """Begin with a new signing key."""
    return await call.services.signing_keys.rotate(
        call.context, RotationMode(call.body.mode or RotationMode.NOW)
    )


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/auth/token",
        name="tokens.issue",
        audit=recorded("realm", "subject", "client", "token"),
        proves_client=True,
        handler=token,
        request=TokenRequest,
        response=TokenResponse,
        conflicts=True,
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
        proves_client=True,
        handler=refresh,
        request=RefreshRequest,
        response=TokenResponse,
        conflicts=True,
        summary="Refresh a token pair",
        example={"refresh_token": "{refresh_token}"},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/token/introspect",
        name="tokens.introspect",
        audit=COUNTED,
        proves_client=True,
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
        proves_client=True,
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
