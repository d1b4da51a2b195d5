"""Revocation (RFC 7009): whoever holds a token may end it, and the answer never tells what it was."""

from __future__ import annotations

from qimem.errors import Unauthenticated
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.epochs import EpochSource
from qimem.kernel.transaction import Database, Tx
from qimem.oauth.access_token import AccessTokens
from qimem.oauth.ports import GrantStore, RefreshMac
from qimem.oauth.refresh_token import PREFIX, is_genuine, parse_refresh_token


class RevocationService:
    """Ends tokens; from the acknowledgement on no worker honors them."""

    def __init__(
        self,
        database: Database,
        epochs: EpochSource,
        grants: GrantStore,
        access_tokens: AccessTokens,
        macs: RefreshMac,
        clock: Clock,
    ) -> None:
        self._database = database
        self._epochs = epochs
        self._grants = grants
        self._access_tokens = access_tokens
        self._macs = macs
        self._clock = clock

    async def revoke(self, token: str) -> None:
        """End the token; a refresh token takes its grant and every access token of it along.

        Raises:
            Unavailable: it could not be written; the token may still be alive.
        """
        if token.startswith(PREFIX):
            await self._revoke_refresh_token(token)
        else:
            await self._revoke_access_token(token)

    async def _revoke_refresh_token(self, token: str) -> None:
        presented = parse_refresh_token(token)
        if presented is None:
            return
        realm_id, grant_id = presented.realm_id, presented.grant_id
        grant = await self._database.read(lambda tx: self._grants.find(tx, realm_id, grant_id))
        if grant is None or not await is_genuine(self._macs, presented, grant.client_id):
            return

        def revoke(tx: Tx) -> None:
            if self._grants.revoke(tx, realm_id, grant_id, self._clock.now_us()):
                self._epochs.bump(tx, realm_id)

        await self._database.write(revoke)

    async def _revoke_access_token(self, token: str) -> None:
        try:
            claims, _ = await self._access_tokens.verify(token)
        except Unauthenticated:
            return
        expires_us = claims.expires_at * MICROSECONDS
        if expires_us <= self._clock.now_us():
            return

        def revoke(tx: Tx) -> None:
            if self._grants.revoke_access_token(tx, claims.realm_id, claims.token_id, expires_us):
                self._epochs.bump(tx, claims.realm_id)

        await self._database.write(revoke)
