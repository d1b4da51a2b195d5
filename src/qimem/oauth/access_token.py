"""Access tokens: RFC 9068 JWTs, signed ES256 by the realm's key.

A verified signature says who issued the token and to whom; what the holder may do is looked up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import UUID

import msgspec

from qimem.crypto.jose import CompactWriter, TokenInvalid, unverified_payload, verify_compact
from qimem.errors import Unauthenticated
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.ids import ClientId, RealmId, is_realm_id, parse_uuid
from qimem.kernel.limits import CACHED_REALMS_MAX
from qimem.oauth.client_secret import secret_id
from qimem.oauth.models import AccessClaims
from qimem.oauth.ports import TokenSigner
from qimem.oauth.standing import Standing

TOKEN_TYPE = "at+jwt"  # noqa: S105 - RFC 9068 §2.1


def invalid_token() -> Unauthenticated:
    """One answer for malformed, expired, revoked and foreign tokens."""
    return Unauthenticated("invalid access token", code="invalid_token")


@dataclass(frozen=True, slots=True)
class Issuers:
    """Issuer and audience of this installation.

    Args:
        external_url: From configuration, never from a request.
    """

    external_url: str

    def of(self, realm_id: RealmId) -> str:
        """The realm's issuer URL."""
        return f"{self.external_url}/realms/{realm_id}"


class AccessTokens:
    """Writes and verifies access tokens."""

    def __init__(self, signer: TokenSigner, issuers: Issuers, clock: Clock) -> None:
        self._signer = signer
        self._issuers = issuers
        self._clock = clock
        self._writers: dict[str, CompactWriter] = {}

    async def write(
        self,
        realm_id: RealmId,
        standing: Standing,
        grant_id: UUID | None,
        scope: str | None,
        lifetime_seconds: int,
        token_id: str,
    ) -> str:
        """A signed token for this subject, valid from now for the given time."""
        now = self._clock.now_us() // MICROSECONDS
        claims: dict[str, object] = {
            "iss": self._issuers.of(realm_id),
            "sub": standing.subject,
            "aud": self._issuers.external_url,
            "client_id": standing.client.client_id,
            "realm": realm_id,
            "roles": standing.roles,
            "permissions": sorted(standing.permissions.names),
            "jti": token_id,
            "token_use": "access",
            "iat": now,
            "exp": now + lifetime_seconds,
        }
        if grant_id is not None:
            claims["grant_id"] = str(grant_id)
        if standing.user is None and standing.proven_with is not None:
            # While two secrets overlap, a token of the old one must end with that one.
            claims["secret_id"] = secret_id(standing.proven_with)
        if scope is not None:
            claims["scope"] = scope
        kid, sign = await self._signer.active_signer(realm_id)
        signing_input = self._writer(kid).signing_input(msgspec.json.encode(claims))
        return self._writer(kid).finish(signing_input, sign(signing_input))

    async def verify(self, token: str) -> tuple[AccessClaims, str]:
        """What the token says and the kid that vouches for it. Neither expiry nor state is judged here.

        Raises:
            Unauthenticated: `invalid_token`: not a token of a realm of this installation.
        """
        realm_id = _claimed_realm(token)
        keys = await self._signer.public_keys(realm_id)
        try:
            payload, kid = verify_compact(token, keys, TOKEN_TYPE)
        except TokenInvalid:
            raise invalid_token() from None
        claims = _claims(payload)
        if claims.get("iss") != self._issuers.of(realm_id) or claims.get("aud") != self._issuers.external_url:
            raise invalid_token()
        if claims.get("realm") != realm_id or claims.get("token_use") != "access":
            raise invalid_token()
        return _parsed(realm_id, claims), kid

    def _writer(self, kid: str) -> CompactWriter:
        writer = self._writers.get(kid)
        if writer is None:
            if len(self._writers) >= CACHED_REALMS_MAX:
                self._writers.clear()
            writer = self._writers[kid] = CompactWriter(kid, TOKEN_TYPE)
        return writer


def _claimed_realm(token: str) -> RealmId:
    # Only chooses whose keys to try; the signature then covers the same claim.
    try:
        payload = unverified_payload(token)
    except TokenInvalid:
        raise invalid_token() from None
    realm = _claims(payload).get("realm")
    if not isinstance(realm, str) or not is_realm_id(realm):
        raise invalid_token()
    return RealmId(realm)


def _claims(payload: bytes) -> dict[str, object]:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        raise invalid_token() from None
    if not isinstance(claims, dict):
        raise invalid_token()
    return claims


def _parsed(realm_id: RealmId, claims: dict[str, object]) -> AccessClaims:
    grant = claims.get("grant_id")
    grant_id = parse_uuid(grant) if isinstance(grant, str) else None
    text = {name: claims.get(name) for name in ("sub", "client_id", "jti")}
    times = {name: claims.get(name) for name in ("iat", "exp")}
    if not all(isinstance(value, str) for value in text.values()) or (grant is not None and grant_id is None):
        raise invalid_token()
    if not all(type(value) is int for value in times.values()):
        raise invalid_token()
    scope, secret = claims.get("scope"), claims.get("secret_id")
    return AccessClaims(
        realm_id=realm_id,
        subject=str(text["sub"]),
        client_id=ClientId(str(text["client_id"])),
        token_id=str(text["jti"]),
        grant_id=grant_id,
        scope=scope if isinstance(scope, str) else None,
        issued_at=int(str(times["iat"])),
        expires_at=int(str(times["exp"])),
        secret_id=secret if isinstance(secret, str) else None,
    )
