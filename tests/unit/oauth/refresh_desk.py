"""The refresh grant over one grant of ada, and the ways in which it can answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from qimem.errors import Invalid, Unauthenticated
from qimem.oauth.client_auth import ClientAuthenticator
from qimem.oauth.grants.refresh_token import RefreshTokenGrant
from qimem.oauth.models import AuthMethod, GrantRecord
from qimem.oauth.refresh_token import PresentedRefreshToken, RefreshTokens, make_refresh_token
from qimem.oauth.revocation import RevocationService
from qimem.wire.auth import RefreshRequest, TokenResponse
from tests.support.audit import a_draft
from tests.support.metering import FakeMeter
from tests.unit.oauth.fakes import ACME, APP, OTHER, SECRET, Setting, a_client, a_grant

GRANT = UUID(int=5)
SECOND = 1_000_000
OLD, SPENT, LIVE = 3, 4, 5
NOBODY: dict[str, str] = {}
AS_APP = {"client_id": APP, "client_secret": SECRET}


class SlowTokens(RefreshTokens):
    """After a grant was found and before anything comes of it, something else happens."""

    meanwhile: Callable[[], object] | None = None

    async def find(self, text: str) -> tuple[PresentedRefreshToken, GrantRecord] | None:
        found = await super().find(text)
        if self.meanwhile is not None:
            self.meanwhile()
        return found


class RefreshDesk(Setting):
    """A grant of ada that was refreshed four times; in the other realm one with the same ids."""

    def __init__(self) -> None:
        super().__init__()
        self.draft = a_draft()
        public = a_client("spa", secret_digest=None, auth_method=AuthMethod.NONE)
        for client in (public, a_client("two"), a_client("far", OTHER), a_client(realm_id=OTHER)):
            self.clients.rows.setdefault((client.realm_id, client.client_id), client)
        self.elsewhere = a_grant(realm_id=OTHER, generation=LIVE)
        self.grants.rows[OTHER, GRANT] = self.elsewhere
        self.stands(rotated_us=self.clock.now_us())
        self.tokens = SlowTokens(self.database, self.grants, self.keys)
        self.meter = FakeMeter()
        revocation = RevocationService(self.work, self.epochs, self.grants, self.clock)
        clients = ClientAuthenticator(self.database, self.caches, self.clients, self.standing, self.clock)
        self.refresh = RefreshTokenGrant(
            self.tokens, self.grants, clients, self.issuer, revocation, self.clock
        )

    def stands(self, **more: Any) -> None:
        self.grants.rows[ACME, GRANT] = a_grant(**({"generation": LIVE} | more))

    @property
    def grant(self) -> GrantRecord:
        return self.grants.rows[ACME, GRANT]

    async def token(self, generation: int) -> str:
        return await make_refresh_token(self.keys, ACME, GRANT, generation, self.grant.client_id)

    async def send(self, token: str, **proof: str) -> TokenResponse:
        self.draft, self.meter = a_draft(), FakeMeter()
        request = RefreshRequest(refresh_token=token, **proof)
        return await self.refresh.exchange(request, self.draft, self.meter)

    async def present(self, generation: int, **proof: str) -> TokenResponse:
        return await self.send(await self.token(generation), **proof)

    async def dead(self, token: str, **proof: str) -> None:
        """Refused, in the one way there is."""
        with pytest.raises(Invalid) as caught:
            await self.send(token, **proof)
        assert (caught.value.code, caught.value.message) == ("invalid_grant", "invalid refresh token")
        assert caught.value.hint is None

    async def refused(self, generation: int, **proof: str) -> None:
        """Refused, and nothing else comes of it."""
        before, epochs = dict(self.grants.rows), dict(self.epochs.now)
        await self.dead(await self.token(generation), **proof)
        assert (self.grants.rows, self.epochs.now, self.intents.kept) == (before, epochs, [])
        assert (self.draft.outcome, self.draft.token_id, self.draft.target) == ("ok", "", "")

    async def unknown(self, token: str, **proof: str) -> None:
        """Refused for who asks, and nothing else comes of it."""
        before = dict(self.grants.rows)
        with pytest.raises(Unauthenticated) as caught:
            await self.send(token, **proof)
        assert (caught.value.code, caught.value.message) == ("invalid_client", "invalid client credentials")
        assert (self.grants.rows, self.intents.kept) == (before, [])

    async def ended(self, generation: int, **proof: str) -> None:
        """Refused, and the grant is over: that one and no other."""
        before, epochs = self.grant, dict(self.epochs.now)
        await self.dead(await self.token(generation), **proof)
        assert self.grant == replace(before, revoked_us=self.clock.now_us())
        assert self.grants.rows[OTHER, GRANT] == self.elsewhere
        assert self.epochs.now[ACME].number == epochs[ACME].number + 1
        assert self.epochs.now[OTHER] == epochs[OTHER]
        assert self.draft.outcome == "refresh_token_reused"

    async def given_again(self, generation: int, **proof: str) -> None:
        """The successor, once more, and the grant stays as it is."""
        before = self.grant
        answer = await self.present(generation, **proof)
        assert answer.refresh_token == await self.token(generation + 1)
        assert self.grant == before
