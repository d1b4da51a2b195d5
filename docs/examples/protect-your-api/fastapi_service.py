"""A service that takes QIMEM access tokens and verifies them with the realm's public keys.

QIMEM_URL is QIMEM's external URL, without a slash at the end; QIMEM_REALM the one realm whose tokens count.
QIMEM_CLIENT_ID and QIMEM_CLIENT_SECRET are the service's own client, for introspection alone.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import jwt
from fastapi import Depends, FastAPI, HTTPException, Request

QIMEM = os.environ["QIMEM_URL"]
REALM = os.environ["QIMEM_REALM"]
ISSUER = f"{QIMEM}/realms/{REALM}"
OWN_CLIENT = (os.environ["QIMEM_CLIENT_ID"], os.environ["QIMEM_CLIENT_SECRET"])
CLOCK_SKEW_SECONDS = 10
CLAIMS = ["iss", "aud", "exp", "iat", "sub", "jti", "client_id"]

# One for the process: it remembers the key set for 300 s, as long as QIMEM allows, and asks for an unknown
# key once in 30 s at most, however many tokens a stranger makes up.
keys = jwt.PyJWKClient(f"{ISSUER}/jwks", lifespan=300, timeout=3)
qimem = httpx.Client(base_url=QIMEM, timeout=3)
app = FastAPI()


@dataclass(frozen=True)
class Caller:
    """Who holds the token, and what it lets them do."""

    subject: str
    client_id: str
    permissions: frozenset[str]
    scopes: frozenset[str]
    token: str


def unauthorized(challenge: str, detail: str) -> HTTPException:
    """The 401 that tells a client to get another token (RFC 6750 §3)."""
    return HTTPException(401, detail, {"WWW-Authenticate": challenge})


def unavailable() -> HTTPException:
    """Without keys or an answer nobody is let in; the token may be good all the same."""
    return HTTPException(503, "tokens cannot be checked now", {"Retry-After": "5"})


def verified(token: str) -> dict[str, Any]:
    """The claims of a good access token of the realm."""
    bad = unauthorized('Bearer error="invalid_token"', "invalid access token")
    try:
        key = keys.get_signing_key_from_jwt(token)
        # The algorithm is named here and never read from the token (RFC 8725 §3.1).
        found = jwt.decode_complete(
            token,
            key,
            algorithms=["ES256"],
            issuer=ISSUER,
            audience=QIMEM,
            leeway=CLOCK_SKEW_SECONDS,
            options={"require": CLAIMS},
        )
    except jwt.PyJWKClientConnectionError:
        raise unavailable() from None
    except jwt.PyJWTError:
        raise bad from None
    # The same keys may sign other kinds of tokens, which are no access tokens (RFC 9068 §4).
    if found["header"].get("typ") != "at+jwt":
        raise bad
    claims: dict[str, Any] = found["payload"]
    return claims


def caller(request: Request) -> Caller:
    """Whoever sent the request, verified offline. Runs in a thread, because fetching keys may block."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise unauthorized("Bearer", "authentication required")
    claims = verified(token)
    return Caller(
        subject=claims["sub"],
        client_id=claims["client_id"],
        permissions=frozenset(claims.get("permissions", [])),
        scopes=frozenset(claims.get("scope", "").split()),
        token=token,
    )


def caller_now(known: Annotated[Caller, Depends(caller)]) -> Caller:
    """The same, with what QIMEM says of the token at this moment."""
    try:
        answer = qimem.post("/v1/auth/token/introspect", json={"token": known.token}, auth=OWN_CLIENT)
        now = answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        raise unavailable() from None
    if now["active"] is not True:
        raise unauthorized('Bearer error="invalid_token"', "invalid access token")
    return Caller(
        known.subject,
        known.client_id,
        frozenset(now["permissions"]),
        frozenset(now.get("scope", "").split()),
        known.token,
    )


def allow(
    permission: str, scope: str | None = None, who: Callable[..., Caller] = caller
) -> Callable[..., Caller]:
    """A dependency: the caller, if they have the permission and their application the scope; else 403."""

    def judge(found: Annotated[Caller, Depends(who)]) -> Caller:
        challenge = 'Bearer error="insufficient_scope"'
        if permission not in found.permissions:
            raise HTTPException(403, f"needs permission {permission}", {"WWW-Authenticate": challenge})
        if scope is not None and scope not in found.scopes:
            header = {"WWW-Authenticate": f'{challenge}, scope="{scope}"'}
            raise HTTPException(403, f"needs scope {scope}", header)
        return found

    return judge


@app.get("/orders")
def list_orders(who: Annotated[Caller, Depends(allow("orders:read"))]) -> dict[str, str]:
    """Verified offline: no request to QIMEM."""
    return {"orders_of": who.subject}


@app.post("/orders")
def order(who: Annotated[Caller, Depends(allow("orders:write", scope="orders"))]) -> dict[str, str]:
    """The user needs the permission, and the application in their hand the scope."""
    return {"ordered_by": who.subject, "through": who.client_id}


@app.post("/refunds")
def refund(who: Annotated[Caller, Depends(allow("orders:refund", who=caller_now))]) -> dict[str, str]:
    """Money leaves: one request to QIMEM, and a token revoked a moment ago is refused."""
    return {"refunded_by": who.subject}
