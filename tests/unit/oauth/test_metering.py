"""Who is charged for what nobody signed in to, once and before anything is done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from qimem.errors import Invalid, Limited, Unauthenticated
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.metering import Charge, rate_limited
from qimem.oauth.bearer import BearerAuthenticator
from qimem.oauth.client_auth import ClientAuthenticator
from qimem.oauth.grants.client_credentials import ClientCredentialsGrant
from qimem.oauth.grants.password import PasswordGrant
from qimem.oauth.grants.refresh_token import RefreshTokenGrant
from qimem.oauth.introspection import IntrospectionService
from qimem.oauth.models import AuthMethod
from qimem.oauth.refresh_token import RefreshTokens, make_refresh_token
from qimem.oauth.revocation import RevocationEndpoint, RevocationService
from qimem.oauth.token_endpoint import TokenEndpoint
from qimem.wire.auth import IntrospectRequest, RefreshRequest, TokenRequest
from tests.support.audit import a_draft
from tests.support.metering import FakeMeter
from tests.unit.oauth.fakes import ACME, ADA, APP, SECRET, FakeLogin, Setting, a_client, a_grant, basic

pytestmark = pytest.mark.anyio

GRANT, LIVE = UUID(int=5), 3
LOGIN = {"realm_id": "acme", "username": "ada", "password": "hash"}
ADDRESS: list[tuple[str, ...]] = [()]
CLIENT: list[tuple[str, ...]] = [(ACME, APP, "pro")]
NOBODY: list[tuple[str, ...]] = []
"""Left to the dispatcher, which charges the address."""


class Exhausted(FakeMeter):
    """Refuses everybody."""

    async def charge_client(self, realm_id: RealmId, client_id: ClientId, tier: str) -> None:
        await super().charge_client(realm_id, client_id, tier)
        raise rate_limited(Charge(False, 5, 0, 100, 7))

    async def charge_address(self) -> None:
        await super().charge_address()
        raise rate_limited(Charge(False, 5, 0, 100, 7))


class Desk(Setting):
    """All four services that charge, with a grant of ada in its third generation."""

    def __init__(self) -> None:
        super().__init__()
        spa = a_client(
            "spa", secret_digest=None, auth_method=AuthMethod.NONE, grant_types=("password", "refresh_token")
        )
        self.clients.rows[ACME, "spa"] = spa
        self.grants.rows[ACME, GRANT] = a_grant(generation=LIVE)
        self.login: Any = FakeLogin(self.users)
        self.meter = FakeMeter()
        tokens = RefreshTokens(self.database, self.grants, self.keys)
        clients = ClientAuthenticator(self.database, self.caches, self.clients, self.standing, self.clock)
        self.bearer = BearerAuthenticator(
            self.caches, self.access_tokens, self.keys, self.standing, self.grants, self.clock
        )
        ending = RevocationService(self.work, self.epochs, self.grants, self.clock)
        password = PasswordGrant(self.login, self.issuer, self.grants, self.clock)
        self.tokens = TokenEndpoint(clients, password, ClientCredentialsGrant(self.issuer))
        self.refreshing = RefreshTokenGrant(tokens, self.grants, clients, self.issuer, ending, self.clock)
        self.revoking = RevocationEndpoint(ending, self.bearer, self.access_tokens, tokens, clients)
        self.telling = IntrospectionService(
            self.database, self.bearer, tokens, clients, self.standing, self.clock
        )

    async def refresh_token(self, generation: int = LIVE) -> str:
        return await make_refresh_token(
            self.keys, ACME, GRANT, generation, self.grants.rows[ACME, GRANT].client_id
        )

    async def sign_in(self, **asked: Any) -> None:
        await self.tokens.exchange(TokenRequest(**asked), a_draft(), self.meter)

    async def refresh(self, token: str, **proof: str) -> None:
        await self.refreshing.exchange(RefreshRequest(refresh_token=token, **proof), a_draft(), self.meter)

    async def revoke(self, token: str) -> None:
        await self.revoking.revoke(token, a_draft(), self.meter)

    async def introspect(self, header: bytes | None = None, **proof: str) -> None:
        await self.telling.by_client(header, IntrospectRequest(token="x", **proof), self.meter)


@pytest.fixture
async def desk() -> Desk:
    return Desk()


PROOF = {"client_id": APP, "client_secret": SECRET}


async def test_a_client_that_proves_itself_is_charged_once(desk: Desk) -> None:
    for number, charging in enumerate((
        desk.sign_in(**PROOF, **LOGIN),
        desk.sign_in(**PROOF, grant_type="client_credentials"),
        desk.introspect(**PROOF),
        desk.introspect(basic(APP, SECRET)),
        desk.refresh(await desk.refresh_token(), **PROOF),
    ), 1):  # fmt: skip
        await charging
        assert desk.meter.charged == CLIENT * number


@pytest.mark.parametrize("wrong", [{"client_secret": "x"}, {"client_id": "x"}, {"client_secret": None}])
async def test_who_is_merely_named_is_charged_nothing(desk: Desk, wrong: dict[str, Any]) -> None:
    proof = PROOF | wrong
    with pytest.raises(Unauthenticated):
        await desk.sign_in(**proof, **LOGIN)
    with pytest.raises(Unauthenticated):
        await desk.introspect(**{name: value for name, value in proof.items() if value is not None})
    with pytest.raises((Unauthenticated, Invalid)):
        await desk.refresh("qrt_x", **{name: value for name, value in proof.items() if value is not None})
    assert desk.meter.charged == NOBODY


async def test_a_client_of_another_realm_is_charged_nothing(desk: Desk) -> None:
    with pytest.raises(Unauthenticated):
        await desk.sign_in(**PROOF, **(LOGIN | {"realm_id": "other"}))
    assert desk.meter.charged == NOBODY


async def test_a_public_client_proves_nothing(desk: Desk) -> None:
    await desk.sign_in(client_id="spa", **LOGIN)
    assert desk.meter.charged == ADDRESS
    with pytest.raises(Unauthenticated):
        await desk.introspect(client_id="spa")
    assert desk.meter.charged == ADDRESS


async def test_a_live_refresh_token_proves_its_client(desk: Desk) -> None:
    await desk.refresh(await desk.refresh_token())
    assert desk.meter.charged == CLIENT
    await desk.revoke(await desk.refresh_token(LIVE + 1))
    assert desk.meter.charged == CLIENT * 2


async def test_the_client_of_a_token_is_charged_and_not_the_public_one_that_is_named(desk: Desk) -> None:
    desk.grants.rows[ACME, GRANT] = a_grant(generation=LIVE, client_id="spa")
    await desk.refresh(await desk.refresh_token(), client_id="spa")
    assert desk.meter.charged == [(ACME, "spa", "pro")]


@pytest.mark.parametrize("change", [{"revoked_us": 1}, {"expires_us": 1}])
async def test_a_dead_refresh_token_charges_nobodys_client(desk: Desk, change: dict[str, int]) -> None:
    desk.grants.rows[ACME, GRANT] = replace(desk.grants.rows[ACME, GRANT], **change)
    token = await desk.refresh_token()
    await desk.revoke(token)
    assert desk.meter.charged == ADDRESS
    with pytest.raises(Invalid):
        await desk.refresh(token)
    assert desk.meter.charged == ADDRESS * 2


async def test_an_access_token_proves_its_client_while_it_opens_something(desk: Desk) -> None:
    token = await desk.access_token(grant_id=GRANT)
    await desk.revoke(token)
    assert desk.meter.charged == CLIENT
    await desk.revoke(token)
    assert desk.meter.charged == [*CLIENT, *ADDRESS]


async def test_an_expired_access_token_charges_nobodys_client(desk: Desk) -> None:
    token = await desk.access_token(grant_id=GRANT, seconds=60)
    desk.clock.advance(61)
    await desk.revoke(token)
    assert desk.meter.charged == ADDRESS


async def test_the_token_of_a_disabled_user_charges_nobodys_client_and_is_ended(desk: Desk) -> None:
    token = await desk.access_token(grant_id=GRANT)
    desk.change(desk.users, (ACME, ADA), enabled=False)
    await desk.revoke(token)
    assert desk.meter.charged == ADDRESS
    assert len(desk.grants.dead) == 1


@pytest.mark.parametrize("token", ["x", "qrt_x", "a.b.c", ""])
async def test_what_is_no_token_is_charged_to_the_address(desk: Desk, token: str) -> None:
    await desk.revoke(token)
    assert desk.meter.charged == ADDRESS


async def test_a_client_that_is_gone_is_charged_nothing(desk: Desk) -> None:
    token = await desk.refresh_token()
    desk.change(desk.clients, (ACME, APP), enabled=False)
    await desk.revoke(token)
    assert desk.meter.charged == ADDRESS


async def test_nothing_is_done_for_who_has_nothing_left(desk: Desk) -> None:
    desk.meter = Exhausted()
    before = dict(desk.grants.rows)
    access, refresh = await desk.access_token(grant_id=GRANT), await desk.refresh_token()
    for charging in (
        desk.sign_in(**PROOF, **LOGIN),
        desk.sign_in(client_id="spa", **LOGIN),
        desk.sign_in(**PROOF, grant_type="client_credentials"),
        desk.refresh(refresh),
        desk.refresh(refresh, **PROOF),
        desk.refresh(await desk.refresh_token(LIVE - 1)),
        desk.revoke(refresh),
        desk.revoke(access),
        desk.introspect(**PROOF),
    ):
        with pytest.raises(Limited):
            await charging
    assert (desk.grants.rows, desk.grants.dead, desk.intents.kept) == (before, set(), [])
    assert desk.login.asked == []
    assert len(desk.meter.charged) == 9
