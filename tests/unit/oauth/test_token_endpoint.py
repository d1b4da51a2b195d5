from __future__ import annotations

from typing import Any

import pytest

from qimem.errors import Invalid, InvalidFields, Unauthenticated, storage_unavailable
from qimem.oauth.client_auth import ClientAuthenticator
from qimem.oauth.grants.client_credentials import ClientCredentialsGrant
from qimem.oauth.grants.password import PasswordGrant
from qimem.oauth.models import AuthMethod
from qimem.oauth.token_endpoint import TokenEndpoint
from qimem.wire.auth import TokenRequest, TokenResponse
from tests.support.audit import a_draft
from tests.support.metering import FakeMeter
from tests.support.oauth import taken_apart
from tests.unit.oauth.fakes import ACME, ADA, APP, OTHER, SECRET, FakeLogin, Setting, a_client

pytestmark = pytest.mark.anyio

LOGIN = {"realm_id": "acme", "username": "ada", "password": "hash"}
ITSELF = {"grant_type": "client_credentials"}


class Desk(Setting):
    """The endpoint with both of its grants."""

    def __init__(self) -> None:
        super().__init__()
        self.draft = a_draft()
        self.clients.rows[ACME, "spa"] = a_client(
            "spa", secret_digest=None, auth_method=AuthMethod.NONE, grant_types=("password", "refresh_token")
        )
        self.clients.rows[OTHER, "far"] = a_client("far", OTHER, roles=())
        self.login: Any = FakeLogin(self.users)
        self.endpoint = TokenEndpoint(
            ClientAuthenticator(self.database, self.caches, self.clients, self.standing, self.clock),
            PasswordGrant(self.login, self.issuer, self.grants, self.clock),
            ClientCredentialsGrant(self.issuer),
        )

    async def ask(self, **asked: Any) -> TokenResponse:
        self.draft, self.meter = a_draft(), FakeMeter()
        return await self.endpoint.exchange(
            TokenRequest(**({"client_id": APP, "client_secret": SECRET} | asked)), self.draft, self.meter
        )

    async def refused(self, code: str, message: str, **asked: Any) -> None:
        """The client is known by then: the record is its own."""
        with pytest.raises(Invalid) as caught:
            await self.ask(**asked)
        assert (caught.value.code, caught.value.message) == (code, message)
        assert (self.draft.realm_id, self.draft.client_id, self.draft.token_id) == (ACME, APP, "")
        self.nothing_was_done()

    async def unknown(self, **asked: Any) -> None:
        with pytest.raises(Unauthenticated) as caught:
            await self.ask(**asked)
        assert (caught.value.code, caught.value.message) == ("invalid_client", "invalid client credentials")
        assert (self.draft.realm_id, self.draft.client_id) == ("", "")
        self.nothing_was_done()

    def nothing_was_done(self) -> None:
        assert (self.login.asked, self.grants.rows, self.intents.kept) == ([], {}, [])


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize("named", [{}, {"grant_type": None}, {"grant_type": "password"}], ids=str)
async def test_the_password_grant_is_meant_unless_another_is_named(desk: Desk, named: dict[str, Any]) -> None:
    answer = await desk.ask(**LOGIN, **named)
    claims = taken_apart(answer.access_token)[1]
    assert (claims["sub"], claims["client_id"], claims["realm"]) == (str(ADA), APP, ACME)
    assert answer.refresh_token is not None
    assert (desk.draft.realm_id, desk.draft.client_id, desk.draft.subject) == (ACME, APP, str(ADA))
    ((_, _, draft),) = desk.login.asked
    assert draft is desk.draft


@pytest.mark.parametrize("realm_id", [None, "acme"])
async def test_a_client_asks_for_itself_with_its_realm_or_without(desk: Desk, realm_id: str | None) -> None:
    answer = await desk.ask(**ITSELF, realm_id=realm_id)
    claims = taken_apart(answer.access_token)[1]
    assert (claims["sub"], claims["client_id"], claims["realm"]) == (APP, APP, ACME)
    assert answer.refresh_token is None
    assert (desk.draft.realm_id, desk.draft.client_id, desk.draft.subject) == (ACME, APP, APP)
    assert desk.draft.token_id == claims["jti"]
    desk.nothing_was_done()


async def test_a_password_that_comes_along_is_not_tried(desk: Desk) -> None:
    answer = await desk.ask(**ITSELF, **LOGIN)
    assert taken_apart(answer.access_token)[1]["sub"] == APP
    desk.nothing_was_done()


async def test_the_scope_that_was_asked_for_arrives(desk: Desk) -> None:
    assert (await desk.ask(**ITSELF, scope="read")).scope == "read"
    assert (await desk.ask(**LOGIN, scope="write")).scope == "write"


@pytest.mark.parametrize("grant", [LOGIN, ITSELF], ids=["password", "client_credentials"])
async def test_a_scope_that_is_too_wide_is_refused(desk: Desk, grant: dict[str, str]) -> None:
    with pytest.raises(Invalid) as caught:
        await desk.ask(**grant, scope="delete")
    assert caught.value.code == "invalid_scope"
    assert desk.grants.rows == {}


@pytest.mark.parametrize("grant", [LOGIN, ITSELF, {"grant_type": "implicit"}], ids=["password", "own", "odd"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"client_secret": None},
        {"client_secret": ""},
        {"client_secret": SECRET + "x"},
        {"client_secret": SECRET.upper()},
        {"client_id": "absent"},
        {"client_id": ""},
        {"client_id": "spa"},
        {"realm_id": "other"},
        {"realm_id": "absent"},
        {"realm_id": ""},
        {"client_id": "far", "realm_id": "acme"},
    ],
    ids=str,
)
async def test_a_wrong_client_is_refused_whatever_it_asks_for(
    desk: Desk, grant: dict[str, str], wrong: dict[str, Any]
) -> None:
    await desk.unknown(**(grant | wrong))


async def test_a_client_of_another_realm_gets_tokens_there_alone(desk: Desk) -> None:
    answer = await desk.ask(**ITSELF, client_id="far", realm_id="other")
    assert taken_apart(answer.access_token)[1]["realm"] == OTHER
    assert (desk.draft.realm_id, desk.draft.client_id) == (OTHER, "far")
    await desk.unknown(**ITSELF, client_id="far", realm_id="acme")


async def test_a_public_client_signs_its_users_in_without_a_secret(desk: Desk) -> None:
    answer = await desk.ask(**LOGIN, client_id="spa", client_secret=None)
    assert taken_apart(answer.access_token)[1]["client_id"] == "spa"
    assert desk.draft.client_id == "spa"


@pytest.mark.parametrize("secret", ["", SECRET, "x"])
async def test_a_public_client_has_no_secret_not_even_an_empty_one(desk: Desk, secret: str) -> None:
    await desk.unknown(**LOGIN, client_id="spa", client_secret=secret)


async def test_a_public_client_gets_nothing_for_itself(desk: Desk) -> None:
    with pytest.raises(Invalid) as caught:
        await desk.ask(**ITSELF, client_id="spa", client_secret=None)
    assert (caught.value.code, caught.value.message) == ("unauthorized_client", "grant type not allowed")
    assert (desk.draft.realm_id, desk.draft.client_id) == (ACME, "spa")
    desk.nothing_was_done()


@pytest.mark.parametrize(
    "named",
    ["authorization_code", "refresh_token", "implicit", "", " ", "PASSWORD", "password ", "Client_Credentials", "none", "\0",
     "urn:ietf:params:oauth:grant-type:device_code"],
    ids=lambda named: ascii(named).replace("\\", "/"),
)  # fmt: skip
async def test_another_grant_type_is_not_served_here(desk: Desk, named: str) -> None:
    # Registered for it or not: what is not offered is not a matter of rights.
    for kept in (("password", named), ("password", "client_credentials")):
        desk.change(desk.clients, (ACME, APP), grant_types=kept)
        await desk.refused(
            "unsupported_grant_type", "unsupported grant type", **(LOGIN | {"grant_type": named})
        )


@pytest.mark.parametrize("password", ["hash", "wrong", None])
@pytest.mark.parametrize("kept", [(), ("client_credentials",), ("refresh_token", "authorization_code")])
async def test_a_client_that_may_not_take_passwords_has_none_compared(
    desk: Desk, kept: tuple[str, ...], password: str | None
) -> None:
    desk.change(desk.clients, (ACME, APP), grant_types=kept)
    for named in (None, "password"):
        await desk.refused(
            "unauthorized_client",
            "grant type not allowed",
            **(LOGIN | {"grant_type": named, "password": password}),
        )


@pytest.mark.parametrize("kept", [(), ("password",), ("password", "refresh_token", "authorization_code")])
async def test_a_client_that_may_not_act_for_itself_gets_nothing(desk: Desk, kept: tuple[str, ...]) -> None:
    desk.change(desk.clients, (ACME, APP), grant_types=kept)
    await desk.refused("unauthorized_client", "grant type not allowed", **ITSELF)


async def test_each_grant_type_needs_no_other(desk: Desk) -> None:
    desk.change(desk.clients, (ACME, APP), grant_types=("client_credentials",))
    assert (await desk.ask(**ITSELF)).access_token
    desk.change(desk.clients, (ACME, APP), grant_types=("password",))
    assert (await desk.ask(**LOGIN)).access_token


async def test_where_the_realm_takes_no_passwords_none_is_compared(desk: Desk) -> None:
    desk.change(desk.realms, ACME, allow_password_grant=False)
    await desk.refused("unauthorized_client", "grant type not allowed", **LOGIN)
    assert (await desk.ask(**ITSELF)).access_token


@pytest.mark.parametrize("missing", ["realm_id", "username", "password"])
async def test_the_password_grant_needs_its_fields(desk: Desk, missing: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        await desk.ask(**(LOGIN | {missing: None}))
    assert caught.value.fields == {f"/{missing}": "required for the password grant"}
    desk.nothing_was_done()


async def test_a_wrong_password_is_not_the_fault_of_the_client(desk: Desk) -> None:
    with pytest.raises(Invalid) as caught:
        await desk.ask(**(LOGIN | {"password": "wrong"}))
    assert (caught.value.code, caught.value.message) == ("invalid_grant", "invalid credentials")
    assert (desk.draft.realm_id, desk.draft.client_id) == (ACME, APP)


@pytest.mark.parametrize("grant", [LOGIN, ITSELF], ids=["password", "client_credentials"])
async def test_a_disabled_client_or_realm_is_unknown(desk: Desk, grant: dict[str, str]) -> None:
    for table, key in ((desk.clients, (ACME, APP)), (desk.realms, ACME)):
        desk.change(table, key, enabled=False)
        await desk.unknown(**grant)
        desk.change(table, key, enabled=True)


async def test_a_storage_that_is_away_is_not_taken_for_a_wrong_client(desk: Desk) -> None:
    desk.epochs.failure = storage_unavailable()
    with pytest.raises(type(storage_unavailable())):
        await desk.ask(**ITSELF)
    desk.nothing_was_done()
