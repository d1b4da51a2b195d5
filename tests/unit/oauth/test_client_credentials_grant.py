from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from qimem.crypto.mac import digest
from qimem.errors import Invalid
from qimem.oauth.grants.client_credentials import ClientCredentialsGrant
from qimem.oauth.models import GrantType
from qimem.wire.auth import TokenRequest, TokenResponse
from tests.support.audit import a_draft
from tests.support.oauth import taken_apart
from tests.unit.oauth.fakes import ACME, ADA, APP, OTHER, Setting, a_client

pytestmark = pytest.mark.anyio


class Desk(Setting):
    """The grant, asked by the app as it was when it proved itself."""

    def __init__(self) -> None:
        super().__init__()
        self.draft = a_draft()
        self.proven = self.clients.rows[ACME, APP]
        self.grant = ClientCredentialsGrant(self.issuer)

    async def ask(self, **more: Any) -> TokenResponse:
        request = TokenRequest(client_id=APP, grant_type="client_credentials", **more)
        return await self.grant.exchange(self.proven, request, self.draft)

    async def refused(self, code: str, message: str, **more: Any) -> None:
        with pytest.raises(Invalid) as caught:
            await self.ask(**more)
        assert (caught.value.code, caught.value.message) == (code, message)


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_a_client_gets_an_access_token_for_itself(desk: Desk) -> None:
    answer = await desk.ask()
    assert (answer.expires_in, answer.token_type, answer.refresh_token) == (900, "Bearer", None)
    claims = taken_apart(answer.access_token)[1]
    assert (claims["realm"], claims["sub"], claims["client_id"]) == (ACME, APP, APP)
    assert (claims["roles"], claims["permissions"]) == (["robot"], ["keys:encrypt"])
    assert "grant_id" not in claims


async def test_nothing_is_written(desk: Desk) -> None:
    epochs = dict(desk.epochs.now)
    await desk.ask()
    assert (desk.grants.rows, desk.intents.kept, desk.draft.intent) == ({}, [], None)
    assert desk.epochs.now == epochs


async def test_the_record_says_who_got_which_token(desk: Desk) -> None:
    claims = taken_apart((await desk.ask()).access_token)[1]
    draft = desk.draft
    assert (draft.realm_id, draft.client_id, draft.subject) == (ACME, APP, APP)
    assert (draft.token_id, draft.target, draft.outcome) == (claims["jti"], "", "ok")


@pytest.mark.parametrize(
    ("asked", "granted"), [(None, "read write"), ("read", "read"), ("write read", "write read")]
)
async def test_scope_narrows(desk: Desk, asked: str | None, granted: str) -> None:
    assert (await desk.ask(scope=asked)).scope == granted


@pytest.mark.parametrize("asked", ["", " ", "delete", "read delete", "READ", "read "])
async def test_scope_never_widens(desk: Desk, asked: str) -> None:
    await desk.refused("invalid_scope", "scope exceeds what the client is registered for", scope=asked)
    assert desk.draft.token_id == ""


@pytest.mark.parametrize("more", [{"username": "ada"}, {"username": "ada", "password": "hash"}], ids=len)
async def test_who_the_request_names_besides_does_not_matter(desk: Desk, more: dict[str, Any]) -> None:
    assert taken_apart((await desk.ask(**more)).access_token)[1]["sub"] == APP


async def test_the_realm_is_that_of_the_client_whatever_the_request_says(desk: Desk) -> None:
    claims = taken_apart((await desk.ask(realm_id=OTHER)).access_token)[1]
    assert claims["realm"] == ACME
    desk.proven = a_client(realm_id=OTHER)
    await desk.refused("invalid_grant", "invalid credentials", realm_id=ACME)


async def test_a_client_of_the_same_id_elsewhere_is_another_one(desk: Desk) -> None:
    desk.clients.rows[OTHER, APP] = a_client(realm_id=OTHER, enabled=False, roles=(), scope=None)
    assert (await desk.ask()).scope == "read write"


@pytest.mark.parametrize("kept", [(), ("password",), ("password", "refresh_token", "authorization_code")])
async def test_a_client_registered_for_other_grants_gets_nothing(desk: Desk, kept: tuple[str, ...]) -> None:
    desk.change(desk.clients, (ACME, APP), grant_types=kept)
    await desk.refused("unauthorized_client", "grant type not allowed")


async def test_the_one_grant_type_is_enough(desk: Desk) -> None:
    desk.change(desk.clients, (ACME, APP), grant_types=(GrantType.CLIENT_CREDENTIALS.value,))
    assert (await desk.ask()).access_token


async def test_a_client_or_realm_disabled_after_the_proof_gets_nothing(desk: Desk) -> None:
    for table, key in ((desk.clients, (ACME, APP)), (desk.realms, ACME)):
        desk.change(table, key, enabled=False)
        await desk.refused("invalid_grant", "invalid credentials")
        desk.change(table, key, enabled=True)
    assert desk.draft.realm_id == ""


async def test_a_client_that_is_gone_gets_nothing(desk: Desk) -> None:
    del desk.clients.rows[ACME, APP]
    await desk.refused("invalid_grant", "invalid credentials")


async def test_a_secret_that_was_replaced_after_the_proof_gets_nothing(desk: Desk) -> None:
    desk.change(desk.clients, (ACME, APP), secret_digest=digest(b"another"))
    await desk.refused("invalid_grant", "invalid credentials")
    desk.proven = desk.clients.rows[ACME, APP]
    assert (await desk.ask()).access_token


async def test_users_are_not_asked_about(desk: Desk) -> None:
    desk.change(desk.users, (ACME, ADA), enabled=False)
    assert (await desk.ask()).access_token
    assert UUID(desk.draft.token_id).version == 4
