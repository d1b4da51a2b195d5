"""Revocation (RFC 7009): whoever holds a token may end it, and the answer never tells what it was."""

from __future__ import annotations

from qimem.errors import Unauthenticated
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.epochs import EpochSource
from qimem.kernel.metering import Meter
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.oauth.access_token import AccessTokens
from qimem.oauth.bearer import BearerAuthenticator
from qimem.oauth.client_auth import ClientAuthenticator
from qimem.oauth.models import AccessClaims, GrantRecord
from qimem.oauth.ports import GrantStore
from qimem.oauth.refresh_token import PREFIX, RefreshTokens


class RevocationService:
    """Ends grants and tokens; from the acknowledgement on no worker honors them."""

    def __init__(self, work: UnitOfWork, epochs: EpochSource, grants: GrantStore, clock: Clock) -> None:
        self._work = work
        self._epochs = epochs
        self._grants = grants
        self._clock = clock

    async def end(self, grant: GrantRecord, draft: AuditDraft) -> None:
        """End a grant, and with it every token of it.

        Args:
            grant: Alive or not.
            draft: The audit record of the request; whose grant it was is noted in it.

        Raises:
            Unavailable: it could not be written; the grant may still be alive.
        """
        draft.realm_id, draft.client_id, draft.target = grant.realm_id, grant.client_id, str(grant.grant_id)
        draft.subject = grant.client_id if grant.user_id is None else str(grant.user_id)

        def revoke(tx: Tx) -> None:
            if self._grants.revoke(tx, grant.realm_id, grant.grant_id, self._clock.now_us()):
                self._epochs.bump(tx, grant.realm_id)

        await self._work.apply(draft, revoke)

    async def end_access_token(self, claims: AccessClaims, draft: AuditDraft) -> None:
        """End one access token; one that has expired is left as it is.

        Args:
            claims: Of a token whose signature was verified.
            draft: The audit record of the request; whose token it was is noted in it.

        Raises:
            Unavailable: it could not be written; the token may still be alive.
        """
        expires_us = claims.expires_at * MICROSECONDS
        if expires_us <= self._clock.now_us():
            return
        draft.realm_id, draft.subject, draft.client_id = claims.realm_id, claims.subject, claims.client_id
        draft.token_id = draft.target = claims.token_id

        def revoke(tx: Tx) -> None:
            if self._grants.revoke_access_token(tx, claims.realm_id, claims.token_id, expires_us):
                self._epochs.bump(tx, claims.realm_id)

        await self._work.apply(draft, revoke)


class RevocationEndpoint:
    """Ends the token that somebody shows."""

    def __init__(
        self,
        revocation: RevocationService,
        bearer: BearerAuthenticator,
        access_tokens: AccessTokens,
        refresh_tokens: RefreshTokens,
        clients: ClientAuthenticator,
    ) -> None:
        self._revocation = revocation
        self._bearer = bearer
        self._access_tokens = access_tokens
        self._refresh_tokens = refresh_tokens
        self._clients = clients

    async def revoke(self, token: str, draft: AuditDraft, meter: Meter) -> None:
        """End the token; a refresh token takes its grant and every access token of it along.

        Args:
            token: Of either kind.
            draft: The audit record of the request; whose token it was is noted in it.
            meter: The client of a token that is alive is charged, else the address.

        Raises:
            Limited: `rate_limited`; the token may still be alive.
            Unavailable: it could not be written; the token may still be alive.
        """
        if token.startswith(PREFIX):
            found = await self._refresh_tokens.find(token)
            if found is None:
                await meter.charge_address()
                return
            grant = found[1]
            await self._clients.charge_grant(meter, grant)
            await self._revocation.end(grant, draft)
            return
        try:
            claims, _ = await self._access_tokens.verify(token)
        except Unauthenticated:
            await meter.charge_address()
            return
        if await self._bearer.inspect(token) is None:
            # Anybody may have one that is dead, from a log of last year.
            await meter.charge_address()
        else:
            await self._clients.charge_holder(meter, claims.realm_id, claims.client_id)
        await self._revocation.end_access_token(claims, draft)
