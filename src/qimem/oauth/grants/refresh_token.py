"""Refresh with rotation: each refresh token works once, and a lost answer logs nobody out.

The grant row carries the generation of its one live refresh token. Presenting it moves the
generation on, in one conditional statement. Presenting the one just spent, within the grace time of
client or realm, with the same client authentication and while its successor is unused, gives that same successor
again. Anything older is a copy in someone's hands: the whole grant ends.
"""

from __future__ import annotations

from qimem.errors import Conflict, Invalid, Unauthenticated
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.limits import REFRESH_GRACE_SECONDS
from qimem.kernel.metering import Meter
from qimem.kernel.secret import SecretText
from qimem.kernel.transaction import Tx
from qimem.oauth.client_auth import ClientAuthenticator, invalid_client
from qimem.oauth.issuer import Authorization, Issuer, invalid_grant
from qimem.oauth.models import ClientRecord, GrantRecord, GrantType
from qimem.oauth.ports import GrantStore
from qimem.oauth.refresh_token import PresentedRefreshToken, RefreshTokens
from qimem.oauth.revocation import RevocationService
from qimem.wire.auth import RefreshRequest, TokenResponse


class _Reused(Exception):
    """A spent refresh token came back: a signal, which undoes nothing but the attempt."""


def invalid_refresh_token() -> Invalid:
    """One answer for unknown, spent, expired, revoked and forged refresh tokens."""
    return invalid_grant("invalid refresh token")


class RefreshTokenGrant:
    """Spends a refresh token for a new pair."""

    def __init__(
        self,
        tokens: RefreshTokens,
        grants: GrantStore,
        clients: ClientAuthenticator,
        issuer: Issuer,
        revocation: RevocationService,
        clock: Clock,
    ) -> None:
        self._tokens = tokens
        self._grants = grants
        self._clients = clients
        self._issuer = issuer
        self._revocation = revocation
        self._clock = clock

    async def exchange(self, request: RefreshRequest, draft: AuditDraft, meter: Meter) -> TokenResponse:
        """A new pair for the grant behind the token.

        Raises:
            Limited: `rate_limited`.
            Unauthenticated: `invalid_client`: client credentials were sent and are wrong, or were not sent by a
                client that must.
            Invalid: `invalid_grant`.
            Unavailable: the refresh could not be written.
        """
        client = await self._client(request, meter)
        found = await self._tokens.find(request.refresh_token)
        if found is None:
            raise invalid_refresh_token()
        token, grant = found
        if client is not None and client.client_id != grant.client_id:
            raise invalid_client()
        judged = client if request.client_secret is not None else None
        if judged is None:
            await self._clients.charge_grant(meter, grant)
        try:
            return await self._issue(grant, token, draft, judged)
        except (Conflict, Invalid, Unauthenticated) as error:
            # Which of user, client or realm fell away is nobody's business here. A copy of an old token is one for all
            # that: the grant would live on when they are enabled again.
            if not await self._is_copy(request.refresh_token, by_client=judged is not None):
                if isinstance(error, Invalid):
                    raise invalid_refresh_token() from error
                raise
        except _Reused:
            pass
        draft.outcome = "refresh_token_reused"
        await self._revocation.end(grant, draft)
        raise invalid_refresh_token()

    async def _is_copy(self, text: str, *, by_client: bool) -> bool:
        """Whether a token that was refused for another reason had been spent, and its grant lives."""
        found = await self._tokens.find(text)
        if found is None:
            return False
        token, grant = found
        now_us = self._clock.now_us()
        if not grant.lives_at(now_us) or token.generation >= grant.generation:
            return False
        grace = await self._clients.grace_seconds(grant.realm_id, grant.client_id)
        return not _in_grace(grant, token.generation, now_us, by_client=by_client, grace=grace)

    async def _client(self, request: RefreshRequest, meter: Meter) -> ClientRecord | None:
        if request.client_id is None:
            if request.client_secret is not None:
                raise invalid_client()
            return None
        secret = SecretText(request.client_secret) if request.client_secret is not None else None
        return await self._clients.authenticate(request.client_id, secret, None, meter)

    async def _issue(
        self, grant: GrantRecord, token: PresentedRefreshToken, draft: AuditDraft, judged: ClientRecord | None
    ) -> TokenResponse:
        by_client = judged is not None

        def rotate(tx: Tx, _: str | None, client: ClientRecord) -> GrantRecord:
            now_us = self._clock.now_us()
            if not grant.lives_at(now_us):
                raise invalid_refresh_token()
            if client.refresh_requires_client and not by_client:
                raise invalid_client()
            rotated = self._grants.rotate(
                tx,
                grant.realm_id,
                grant.grant_id,
                presented=token.generation,
                now_us=now_us,
                by_client=by_client,
            )
            if rotated is not None:
                return rotated
            current = self._grants.find(tx, grant.realm_id, grant.grant_id)
            if current is None or not current.lives_at(now_us):
                raise invalid_refresh_token()
            grace = client.refresh_grace_seconds
            if _in_grace(current, token.generation, now_us, by_client=by_client, grace=grace):
                return current
            raise _Reused

        return await self._issuer.issue(
            Authorization(
                grant_type=GrantType.REFRESH_TOKEN,
                realm_id=grant.realm_id,
                client_id=grant.client_id,
                judged=judged,
                user_id=grant.user_id,
                scope=None,
                write_grant=rotate,
                draft=draft,
            )
        )


def _in_grace(
    current: GrantRecord, presented: int, now_us: int, *, by_client: bool, grace: int | None
) -> bool:
    if presented != current.generation - 1 or current.rotated_us is None:
        return False
    if grace is None:
        grace = REFRESH_GRACE_SECONDS
    # Both ways: a clock set back must not turn an honest retry into a theft.
    recent = abs(now_us - current.rotated_us) <= grace * MICROSECONDS
    return grace > 0 and recent and current.rotated_by_client == by_client
