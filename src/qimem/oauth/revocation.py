"""Revocation (RFC 7009): whoever holds a token may end it, and the answer never tells what it was."""

from __future__ import annotations

from qimem.errors import Unauthenticated
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.epochs import EpochSource
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.oauth.access_token import AccessTokens
from qimem.oauth.models import GrantRecord
from qimem.oauth.ports import GrantStore
from qimem.oauth.refresh_token import PREFIX, RefreshTokens


class RevocationService:
    """Ends tokens; from the acknowledgement on no worker honors them."""

    def __init__(
        self,
        work: UnitOfWork,
        epochs: EpochSource,
        grants: GrantStore,
        access_tokens: AccessTokens,
        refresh_tokens: RefreshTokens,
        clock: Clock,
    ) -> None:
        self._work = work
        self._epochs = epochs
        self._grants = grants
        self._access_tokens = access_tokens
        self._refresh_tokens = refresh_tokens
        self._clock = clock

    async def revoke(self, token: str, draft: AuditDraft) -> None:
        """End the token; a refresh token takes its grant and every access token of it along.

        Args:
            token: Of either kind.
            draft: The audit record of the request; whose token it was is noted in it.

        Raises:
            Unavailable: it could not be written; the token may still be alive.
        """
        if token.startswith(PREFIX):
            found = await self._refresh_tokens.find(token)
            if found is not None:
                await self.end(found[1], draft)
        else:
            await self._revoke_access_token(token, draft)

    async def end(self, grant: GrantRecord, draft: AuditDraft) -> None:
        """End a grant, and with it every token of it.

        Raises:
            Unavailable: it could not be written.
        """
        draft.realm_id, draft.client_id, draft.target = grant.realm_id, grant.client_id, str(grant.grant_id)
        draft.subject = grant.client_id if grant.user_id is None else str(grant.user_id)

        def revoke(tx: Tx) -> None:
            if self._grants.revoke(tx, grant.realm_id, grant.grant_id, self._clock.now_us()):
                self._epochs.bump(tx, grant.realm_id)

        await self._work.apply(draft, revoke)

    async def _revoke_access_token(self, token: str, draft: AuditDraft) -> None:
        try:
            claims, _ = await self._access_tokens.verify(token)
        except Unauthenticated:
            return
        expires_us = claims.expires_at * MICROSECONDS
        if expires_us <= self._clock.now_us():
            return
        draft.realm_id, draft.subject, draft.client_id = claims.realm_id, claims.subject, claims.client_id
        draft.token_id = draft.target = claims.token_id

        def revoke(tx: Tx) -> None:
            if self._grants.revoke_access_token(tx, claims.realm_id, claims.token_id, expires_us):
                self._epochs.bump(tx, claims.realm_id)

        await self._work.apply(draft, revoke)
