"""Bearer authentication: whose token is this, and what may they do right now.

Three things are remembered, for three reasons. That a signature verified depends only on the realm's
signing keys, so it is kept across epochs by the token's digest, together with the key that vouched
for it. What the holder may do is state, so it is kept under the realm's epoch and looked up again
whenever anything in the realm changed. And a few headers are known as they came, because a digest of each
costs 5 of 60 µs of an encrypt under load.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from qimem.authz.decisions import permits
from qimem.authz.permissions import Permission
from qimem.crypto.mac import digest
from qimem.errors import Unauthenticated, realm_not_found
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.context import Actor, ActorKind
from qimem.kernel.epochs import RealmCache, RealmCaches
from qimem.kernel.ids import RealmId, is_realm_id, parse_uuid
from qimem.kernel.limits import (
    BEARER_CHARS_MAX,
    CLOCK_SKEW_SECONDS,
    RECENT_BEARER_CHARS_MAX,
    RECENT_BEARERS_MAX,
    VERIFIED_TOKENS_MAX,
)
from qimem.kernel.transaction import Tx
from qimem.oauth.access_token import AccessTokens, invalid_token
from qimem.oauth.client_secret import FOREVER_US, taken_until_us
from qimem.oauth.models import AccessClaims
from qimem.oauth.ports import GrantStore, TokenSigner
from qimem.oauth.scope import left_of
from qimem.oauth.standing import StandingCheck

_SCHEME = b"bearer "
_SKEW_US = CLOCK_SKEW_SECONDS * MICROSECONDS


@dataclass(frozen=True, slots=True)
class _Verified:
    claims: AccessClaims
    kid: str


_Known = tuple[Actor, int]
"""Who it is, and until when if nothing changes before: wall time in microseconds."""


class BearerAuthenticator:
    """Turns an Authorization header into an actor."""

    def __init__(
        self,
        caches: RealmCaches,
        access_tokens: AccessTokens,
        signer: TokenSigner,
        standing: StandingCheck,
        grants: GrantStore,
        clock: Clock,
    ) -> None:
        self._caches = caches
        self._access_tokens = access_tokens
        self._signer = signer
        self._standing = standing
        self._grants = grants
        self._clock = clock
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._recent: dict[bytes, tuple[bytes, _Verified]] = {}

    async def authenticate(self, authorization: bytes | None) -> tuple[Actor, RealmCache]:
        """The caller behind a header, and the state of the caller's realm that this was decided on.

        Raises:
            Unauthenticated: `unauthenticated` without a header, else `invalid_token`.
            Unavailable: the current state cannot be read; nobody is let in on memory alone.
        """
        if authorization is None:
            raise Unauthenticated("authentication required", code="unauthenticated")
        actor, cache, _ = await self._judge(authorization)
        return actor, cache

    async def inspect(self, token: str) -> tuple[AccessClaims, RealmCache] | None:
        """What a token says, if it would be honored now, and the state that this was decided on.

        Raises:
            Unavailable: the current state cannot be read.
        """
        try:
            _, cache, claims = await self._judge(b"Bearer " + token.encode("ascii"))
        except (Unauthenticated, UnicodeEncodeError):
            return None
        return claims, cache

    async def _judge(self, authorization: bytes) -> tuple[Actor, RealmCache, AccessClaims]:
        known = self._recent.get(authorization)
        token_digest, verified = known if known is not None else await self._recognize(authorization)
        claims = verified.claims
        now_us = self._clock.now_us()
        if not claims.issued_at * MICROSECONDS - _SKEW_US <= now_us < claims.expires_at * MICROSECONDS:
            raise invalid_token()
        cache = await self._caches.fresh(claims.realm_id)
        if cache is None:
            raise invalid_token()
        known_actor: _Known | None = cache.find("actor", token_digest)
        actor, until_us = known_actor or await self._look_up(cache, token_digest, verified)
        if now_us >= until_us:
            # The end of an overlap of two secrets is no change, so no epoch tells of it.
            raise invalid_token()
        return actor, cache, claims

    def permits(self, actor: Actor, permission: Permission) -> bool:
        """Whether the actor holds the permission with any scope."""
        return permits(actor.permissions, permission)

    async def other_realm(self, actor: Actor, realm_id: str) -> tuple[Actor, RealmCache]:
        """The caller as they count in a realm that is not their own, and its state; for who runs the platform.

        Raises:
            NotFound: `realm_not_found`, alike for absent realms and for callers without the right.
        """
        state = None
        if actor.permissions.crosses_realms and is_realm_id(realm_id):
            state = await self._caches.fresh(RealmId(realm_id))
        if state is None:
            raise realm_not_found(realm_id)
        abroad = actor.permissions.abroad
        return actor if abroad is None else replace(actor, permissions=abroad), state

    async def _recognize(self, authorization: bytes) -> tuple[bytes, _Verified]:
        if len(authorization) > BEARER_CHARS_MAX or authorization[:7].lower() != _SCHEME:
            raise invalid_token()
        token = authorization[7:]
        token_digest = digest(token)
        verified = self._verified.get(token_digest) or await self._verify(token_digest, token)
        if len(authorization) <= RECENT_BEARER_CHARS_MAX:
            # Only good ones enter: a stranger cannot push them out. What they may do is not kept here.
            if len(self._recent) >= RECENT_BEARERS_MAX:
                self._recent.clear()
            self._recent[authorization] = token_digest, verified
        return token_digest, verified

    async def _verify(self, token_digest: bytes, token: bytes) -> _Verified:
        try:
            text = token.decode("ascii")
        except UnicodeDecodeError:
            raise invalid_token() from None
        verified = _Verified(*await self._access_tokens.verify(text))
        self._verified[token_digest] = verified
        if len(self._verified) > VERIFIED_TOKENS_MAX:
            self._verified.popitem(last=False)
        return verified

    async def _look_up(self, cache: RealmCache, token_digest: bytes, verified: _Verified) -> _Known:
        claims = verified.claims
        if verified.kid not in await self._signer.public_keys(claims.realm_id):
            raise invalid_token()
        known = await cache.get(
            "actor",
            token_digest,
            lambda tx: self._current(tx, claims),
            lambda found: found[0].permissions.weight,
        )
        if known is None:
            raise invalid_token()
        return known

    def _current(self, tx: Tx, claims: AccessClaims) -> _Known | None:
        user_id = None if claims.subject == claims.client_id else parse_uuid(claims.subject)
        if user_id is None and claims.subject != claims.client_id:
            return None
        standing = self._standing.load(tx, claims.realm_id, claims.client_id, user_id)
        if standing is None or self._grants.is_access_token_revoked(tx, claims.realm_id, claims.token_id):
            return None
        if left_of(claims.scope, standing.client.scope) == "":
            return None
        until_us = FOREVER_US if user_id is not None else taken_until_us(standing.client, claims.secret_id)
        if self._clock.now_us() >= until_us:
            return None
        if claims.grant_id is not None:
            grant = self._grants.find(tx, claims.realm_id, claims.grant_id)
            if grant is None or grant.revoked_us is not None:
                return None
        actor = Actor(
            realm_id=claims.realm_id,
            kind=ActorKind.CLIENT if user_id is None else ActorKind.USER,
            subject=standing.subject,
            client_id=claims.client_id,
            token_id=claims.token_id,
            permissions=standing.permissions,
            tier=standing.client.tier,
        )
        return actor, until_us
