from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from qimem.crypto.mac import digest
from qimem.errors import Invalid, InvalidFields, Limited, QimemError, Unavailable, storage_unavailable
from qimem.oauth.grants.password import PasswordGrant
from qimem.oauth.models import GrantRecord
from qimem.oauth.refresh_token import make_refresh_token
from qimem.wire.auth import TokenRequest, TokenResponse
from tests.support.audit import a_draft
from tests.support.oauth import taken_apart
from tests.unit.oauth.fakes import ACME, ADA, APP, OTHER, FakeLogin, Setting, a_client

pytestmark = pytest.mark.anyio

DAY_US = 86_400_000_000
LOGIN = {"realm_id": "acme", "username": "ada", "password": "hash"}


class Desk(Setting):
    """The grant, asked through the app as it was when it proved itself."""

    def __init__(self) -> None:
        super().__init__()
        self.draft = a_draft()
        self.proven = self.clients.rows[ACME, APP]
        self.login: Any = FakeLogin(self.users)
        self.grant = PasswordGrant(self.login, self.issuer, self.grants, self.clock)

    async def ask(self, **more: Any) -> TokenResponse:
        request = TokenRequest(client_id=APP, **(LOGIN | more))
        return await self.grant.exchange(self.proven, request, self.draft)

    async def refused(self, code: str, message: str, **more: Any) -> None:
        with pytest.raises(Invalid) as caught:
            await self.ask(**more)
        assert (caught.value.code, caught.value.message) == (code, message)
        assert (self.grants.rows, self.intents.kept, self.draft.token_id) == ({}, [], "")

    def written(self) -> GrantRecord:
        (grant,) = self.grants.rows.values()
        return grant


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_a_login_begins_a_grant_at_its_first_generation_for_a_day(desk: Desk) -> None:
    await desk.ask()
    ((realm_id, grant_id),) = desk.grants.rows
    now_us = desk.clock.now_us()
    assert grant_id.version == 4
    assert desk.written() == GrantRecord(
        realm_id=ACME,
        grant_id=grant_id,
        user_id=ADA,
        client_id=APP,
        scope="read write",
        generation=1,
        rotated_us=None,
        rotated_by_client=False,
        created_us=now_us,
        expires_us=now_us + DAY_US,
        revoked_us=None,
    )
    assert realm_id == ACME
    assert desk.written().rotated_by_client is False


async def test_the_pair_is_that_of_the_grant(desk: Desk) -> None:
    answer = await desk.ask()
    grant_id = desk.written().grant_id
    assert answer.refresh_token == await make_refresh_token(desk.keys, ACME, grant_id, 1, APP)
    claims = taken_apart(answer.access_token)[1]
    assert (claims["realm"], claims["sub"], claims["client_id"]) == (ACME, str(ADA), APP)
    assert (claims["roles"], claims["grant_id"]) == (["clerk"], str(grant_id))
    assert (answer.expires_in, answer.scope, claims["scope"]) == (900, "read write", "read write")


async def test_the_record_says_who_got_what(desk: Desk) -> None:
    claims = taken_apart((await desk.ask()).access_token)[1]
    draft = desk.draft
    assert (draft.realm_id, draft.client_id, draft.subject) == (ACME, APP, str(ADA))
    assert (draft.token_id, draft.target, draft.outcome) == (claims["jti"], claims["grant_id"], "ok")
    assert desk.intents.kept == [(draft.intent, draft)]


async def test_every_login_is_a_grant_of_its_own(desk: Desk) -> None:
    one, two = await desk.ask(), await desk.ask()
    assert one.refresh_token != two.refresh_token
    assert len(desk.grants.rows) == 2


async def test_a_transaction_that_runs_again_begins_one_grant(desk: Desk) -> None:
    desk.database.attempts = 3
    answer = await desk.ask()
    assert taken_apart(answer.access_token)[1]["grant_id"] == str(desk.written().grant_id)
    assert len(desk.intents.kept) == 1


@pytest.mark.parametrize(("asked", "granted"), [("read", "read"), ("write read", "write read")])
async def test_the_grant_has_the_scope_that_was_granted(desk: Desk, asked: str, granted: str) -> None:
    assert (await desk.ask(scope=asked)).scope == granted
    assert desk.written().scope == granted


@pytest.mark.parametrize("asked", ["", " ", "delete", "read delete", "READ", "read "])
async def test_scope_never_widens(desk: Desk, asked: str) -> None:
    await desk.refused("invalid_scope", "scope exceeds what the client is registered for", scope=asked)


@pytest.mark.parametrize("code", [None, "", "123456", "a recovery code"])
async def test_what_the_user_shows_is_handed_on_as_it_came(desk: Desk, code: str | None) -> None:
    await desk.ask(totp_code=code)
    ((realm_id, shown, draft),) = desk.login.asked
    assert (realm_id, shown.username, shown.password.reveal()) == (ACME, "ada", "hash")
    assert (shown.code is None) == (code is None)
    assert shown.code is None or shown.code.reveal() == code
    assert draft is desk.draft


@pytest.mark.parametrize(
    "missing",
    [
        ("realm_id",),
        ("username",),
        ("password",),
        ("realm_id", "password"),
        ("username", "password"),
        ("realm_id", "username", "password"),
    ],
    ids="-".join,
)
async def test_each_missing_field_is_named_and_nobody_is_asked(desk: Desk, missing: tuple[str, ...]) -> None:
    with pytest.raises(InvalidFields) as caught:
        await desk.ask(**dict.fromkeys(missing))
    assert caught.value.fields == {f"/{name}": "required for the password grant" for name in missing}
    assert caught.value.code == "invalid_field"
    assert caught.value.message == f"/{missing[0]}: required for the password grant"
    assert (desk.login.asked, desk.database.reads, desk.grants.rows) == ([], 0, {})


@pytest.mark.parametrize("empty", ["username", "password"])
async def test_what_is_empty_is_judged_and_not_missing(desk: Desk, empty: str) -> None:
    await desk.refused("invalid_grant", "invalid credentials", **{empty: ""})
    assert len(desk.login.asked) == 1


@pytest.mark.parametrize("wrong", [{"password": "wrong"}, {"username": "bob"}], ids=str)
async def test_wrong_credentials_begin_nothing(desk: Desk, wrong: dict[str, str]) -> None:
    await desk.refused("invalid_grant", "invalid credentials", **wrong)
    assert desk.draft.client_id == ""


@pytest.mark.parametrize(
    "refusal",
    [
        Invalid("a code is needed", code="mfa_required"),
        Limited("too many attempts", retry_after_seconds=7, code="too_many_attempts"),
        Unavailable("too many logins at once", code="overloaded"),
    ],
    ids=lambda error: error.code,
)
async def test_what_the_login_refuses_is_refused_as_it_says(desk: Desk, refusal: QimemError) -> None:
    desk.login.refusal = refusal
    with pytest.raises(type(refusal)) as caught:
        await desk.ask(password="wrong")
    assert caught.value is refusal
    assert desk.grants.rows == {}


async def test_a_user_of_the_same_name_elsewhere_is_somebody_else(desk: Desk) -> None:
    # The realm is that of the client: what the request says was compared with it before.
    await desk.ask(realm_id=OTHER)
    assert [realm_id for realm_id, _, _ in desk.login.asked] == [ACME]
    desk.grants.rows.clear()
    desk.intents.kept.clear()
    desk.proven, desk.draft = a_client(realm_id=OTHER), a_draft()
    await desk.refused("invalid_grant", "invalid credentials")


async def test_a_password_that_changed_after_it_was_judged_begins_nothing(desk: Desk) -> None:
    user, _ = desk.users.rows[ACME, ADA]
    desk.login.meanwhile = lambda: desk.users.rows.update({(ACME, ADA): (user, "another")})
    await desk.refused("invalid_grant", "invalid credentials")


async def test_whoever_is_disabled_after_the_password_was_judged_gets_nothing(desk: Desk) -> None:
    for table, key in ((desk.users, (ACME, ADA)), (desk.clients, (ACME, APP)), (desk.realms, ACME)):
        desk.login.meanwhile = lambda table=table, key=key: desk.change(table, key, enabled=False)
        await desk.refused("invalid_grant", "invalid credentials")
        desk.change(table, key, enabled=True)


async def test_a_client_whose_secret_was_replaced_meanwhile_gets_nothing(desk: Desk) -> None:
    desk.login.meanwhile = lambda: desk.change(desk.clients, (ACME, APP), secret_digest=digest(b"another"))
    await desk.refused("invalid_grant", "invalid credentials")


@pytest.mark.parametrize("kept", [(), ("client_credentials", "refresh_token")])
async def test_a_client_that_may_no_longer_ask_for_passwords_gets_nothing(
    desk: Desk, kept: tuple[str, ...]
) -> None:
    desk.login.meanwhile = lambda: desk.change(desk.clients, (ACME, APP), grant_types=kept)
    await desk.refused("unauthorized_client", "grant type not allowed")


async def test_a_realm_that_takes_no_passwords_any_more_gives_nothing(desk: Desk) -> None:
    desk.login.meanwhile = lambda: desk.change(desk.realms, ACME, allow_password_grant=False)
    await desk.refused("unauthorized_client", "grant type not allowed")


async def test_a_client_without_refresh_gets_a_grant_and_no_token_for_it(desk: Desk) -> None:
    desk.change(desk.clients, (ACME, APP), grant_types=("password",))
    answer = await desk.ask()
    assert answer.refresh_token is None
    assert taken_apart(answer.access_token)[1]["grant_id"] == str(desk.written().grant_id)


async def test_the_day_begins_when_the_grant_is_written(desk: Desk) -> None:
    desk.login.meanwhile = lambda: desk.clock.advance(1.5)
    began_us = desk.clock.now_us()
    await desk.ask()
    grant = desk.written()
    assert (grant.created_us, grant.expires_us) == (began_us + 1_500_000, began_us + 1_500_000 + DAY_US)


async def test_a_grant_that_could_not_be_written_gives_no_token(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise storage_unavailable()

    monkeypatch.setattr(desk.database, "write", away)
    with pytest.raises(Unavailable) as caught:
        await desk.ask()
    assert caught.value.code == "storage_unavailable"


async def test_ids_of_grants_are_not_guessed_from_one_another(desk: Desk) -> None:
    for _ in range(20):
        await desk.ask()
    ids = {grant_id for _, grant_id in desk.grants.rows}
    assert len(ids) == 20
    assert {UUID(str(one)).version for one in ids} == {4}
