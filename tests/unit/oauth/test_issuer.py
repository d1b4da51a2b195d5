from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from qimem.crypto.mac import digest
from qimem.errors import Conflict, Invalid, Unavailable, storage_unavailable
from qimem.identity.models import RoleRecord
from qimem.kernel import epochs
from qimem.kernel.ids import ClientId
from qimem.kernel.limits import BEARER_CHARS_MAX
from qimem.kernel.transaction import Tx
from qimem.oauth.issuer import Authorization, Issuer, invalid_grant
from qimem.oauth.models import ClientRecord, GrantRecord, GrantType
from qimem.oauth.refresh_token import make_refresh_token
from tests.support.audit import a_draft
from tests.support.oauth import taken_apart
from tests.unit.kernel.fakes import NO_TX
from tests.unit.oauth.fakes import ACME, ADA, APP, OTHER, Setting, a_client, a_grant

pytestmark = pytest.mark.anyio


class Desk(Setting):
    """An issuer, and grant types that say what was established."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str | None] = []
        self.grant = a_grant()
        self.issuer = Issuer(self.caches, self.work, self.standing, self.access_tokens, self.keys, self.clock)

    def write(self, tx: Tx, scope: str | None, client: ClientRecord) -> GrantRecord:
        self.written.append(scope)
        grant = replace(self.grant, scope=scope)
        self.grants.insert(tx, grant)
        return grant

    def for_ada(self, **more: Any) -> Authorization:
        established = Authorization(
            grant_type=GrantType.PASSWORD,
            realm_id=ACME,
            client_id=APP,
            user_id=ADA,
            scope=None,
            write_grant=self.write,
            draft=a_draft(),
        )
        return replace(established, **more)

    def for_itself(self, **more: Any) -> Authorization:
        return self.for_ada(
            **({"grant_type": GrantType.CLIENT_CREDENTIALS, "user_id": None, "write_grant": None} | more)
        )

    async def refused(self, asked: Authorization, code: str, message: str) -> None:
        with pytest.raises(Invalid) as caught:
            await self.issuer.issue(asked)
        assert (caught.value.code, caught.value.message) == (code, message)
        assert self.written == []
        assert self.grants.rows == {}


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_a_user_gets_a_pair_of_the_grant_that_was_written(desk: Desk) -> None:
    answer = await desk.issuer.issue(desk.for_ada())
    assert (answer.expires_in, answer.token_type, answer.scope) == (900, "Bearer", "read write")
    assert desk.written == ["read write"]
    assert answer.refresh_token == await make_refresh_token(desk.keys, ACME, desk.grant.grant_id, 1, APP)
    claims = taken_apart(answer.access_token)[1]
    assert (claims["sub"], claims["grant_id"], claims["scope"]) == (
        str(ADA),
        str(desk.grant.grant_id),
        "read write",
    )


async def test_a_client_gets_an_access_token_alone_and_leaves_no_grant(desk: Desk) -> None:
    answer = await desk.issuer.issue(desk.for_itself())
    assert answer.refresh_token is None
    assert desk.grants.rows == {}
    claims = taken_apart(answer.access_token)[1]
    assert (claims["sub"], claims["permissions"]) == (APP, ["keys:encrypt"])
    assert "grant_id" not in claims


async def test_a_client_that_cannot_refresh_gets_no_refresh_token(desk: Desk) -> None:
    desk.change(desk.clients, (ACME, APP), grant_types=("password",))
    assert (await desk.issuer.issue(desk.for_ada())).refresh_token is None


async def test_the_refresh_token_is_of_the_generation_that_stands(desk: Desk) -> None:
    desk.grant = a_grant(generation=41)
    answer = await desk.issuer.issue(desk.for_ada())
    assert answer.refresh_token == await make_refresh_token(desk.keys, ACME, desk.grant.grant_id, 41, APP)


@pytest.mark.parametrize(
    ("asked", "granted"),
    [(None, "read write"), ("read", "read"), ("write read", "write read"), ("read read write", "read write")],
)
async def test_scope_narrows(desk: Desk, asked: str | None, granted: str) -> None:
    assert (await desk.issuer.issue(desk.for_ada(scope=asked))).scope == granted
    assert desk.written == [granted]
    assert (await desk.issuer.issue(desk.for_itself(scope=asked))).scope == granted


@pytest.mark.parametrize(
    "asked",
    ["", " ", "read ", " read", "read  write", "READ", "delete", "read delete", "read\twrite", "*", "\0"],
)
@pytest.mark.parametrize("registered", ["read write", None])
async def test_scope_never_widens(desk: Desk, asked: str, registered: str | None) -> None:
    desk.change(desk.clients, (ACME, APP), scope=registered)
    for established in (desk.for_ada(scope=asked), desk.for_itself(scope=asked)):
        await desk.refused(established, "invalid_scope", "scope exceeds what the client is registered for")


async def test_without_a_registered_scope_there_is_none(desk: Desk) -> None:
    desk.change(desk.clients, (ACME, APP), scope=None)
    answer = await desk.issuer.issue(desk.for_ada())
    assert answer.scope is None
    assert "scope" not in taken_apart(answer.access_token)[1]


async def test_the_scope_of_the_grant_counts_once_it_is_written(desk: Desk) -> None:
    def keeps_its_scope(tx: Tx, scope: str | None, client: ClientRecord) -> GrantRecord:
        return a_grant(scope="read")

    answer = await desk.issuer.issue(desk.for_ada(write_grant=keeps_its_scope))
    assert answer.scope == taken_apart(answer.access_token)[1]["scope"] == "read"


async def test_the_record_names_who_got_which_token_of_which_grant(desk: Desk) -> None:
    asked = desk.for_ada()
    claims = taken_apart((await desk.issuer.issue(asked)).access_token)[1]
    draft = asked.draft
    assert (draft.realm_id, draft.subject, draft.client_id) == (ACME, str(ADA), APP)
    assert draft.token_id == claims["jti"]
    assert UUID(draft.token_id).version == 4
    assert draft.target == str(desk.grant.grant_id)
    asked = desk.for_itself(draft=a_draft())
    claims = taken_apart((await desk.issuer.issue(asked)).access_token)[1]
    draft = asked.draft
    assert (draft.subject, draft.client_id, draft.target) == (APP, APP, a_draft().target)
    assert draft.token_id == claims["jti"]


async def test_who_is_refused_after_the_proof_has_a_record_and_no_token(desk: Desk) -> None:
    asked = desk.for_ada(scope="delete")
    await desk.refused(asked, "invalid_scope", "scope exceeds what the client is registered for")
    assert (asked.draft.realm_id, asked.draft.subject, asked.draft.client_id) == (ACME, str(ADA), APP)
    assert asked.draft.token_id == a_draft().token_id


async def test_no_two_tokens_have_one_id(desk: Desk) -> None:
    tokens = [(await desk.issuer.issue(desk.for_itself())).access_token for _ in range(2)]
    assert len({taken_apart(token)[1]["jti"] for token in tokens}) == 2


async def test_the_grant_is_written_in_the_transaction(desk: Desk) -> None:
    seen = []

    def write(tx: Tx, scope: str | None, client: ClientRecord) -> GrantRecord:
        seen.append(tx)
        return a_grant()

    await desk.issuer.issue(desk.for_ada(write_grant=write))
    assert seen == [NO_TX]


OLD, NEW, OTHER_SECRET = digest(b"old"), digest(b"new"), digest(b"other")


@pytest.mark.parametrize(
    ("shown", "now", "left_us", "stands"),
    [
        # What the client has shown, what is taken now and how long the one before still is.
        ((NEW, None), (NEW, None), None, True),
        ((OLD, None), (NEW, None), None, False),
        ((OLD, None), (NEW, OLD), 1, True),
        ((OLD, None), (NEW, OLD), 0, False),
        ((OLD, None), (NEW, OLD), -1, False),
        ((OLD, None), (NEW, OLD), None, False),
        ((NEW, OLD), (NEW, OLD), 0, True),
        # That it had another one before makes a secret that is taken no more none of its own.
        ((OTHER_SECRET, OLD), (NEW, OLD), 1, False),
        ((OTHER_SECRET, None), (NEW, OLD), 1, False),
        ((OTHER_SECRET, None), (NEW, None), 1, False),
        ((None, None), (None, None), None, True),
        ((None, None), (NEW, None), None, False),
        ((NEW, None), (None, None), None, False),
        ((OLD, None), (None, OLD), 1, True),
    ],
)
async def test_a_secret_that_was_taken_away_meanwhile_gets_nothing(
    desk: Desk, shown: tuple, now: tuple, left_us: int | None, stands: bool
) -> None:
    judged = a_client(secret_digest=shown[0], previous_digest=shown[1])
    until_us = None if left_us is None else desk.clock.now_us() + left_us
    desk.change(
        desk.clients,
        (ACME, APP),
        secret_digest=now[0],
        previous_digest=now[1],
        previous_until_us=until_us,
    )
    for asked in (desk.for_ada(judged=judged), desk.for_itself(judged=judged)):
        if stands:
            await desk.issuer.issue(asked)
            desk.written.clear()
            desk.grants.rows.clear()
        else:
            await desk.refused(asked, "invalid_grant", "invalid credentials")


async def test_a_token_that_no_server_would_take_is_not_issued(desk: Desk) -> None:
    # Base64 makes four characters of three; the rest is for the other claims.
    room = -(-(BEARER_CHARS_MAX - 5 * 1024 + 1) * 3 // 4) - 1
    desk.roles.rows[ACME, "clerk"] = of_length(room)
    answer = await desk.issuer.issue(desk.for_ada())
    assert BEARER_CHARS_MAX - 5 * 1024 < len(answer.access_token) < BEARER_CHARS_MAX
    desk.roles.rows[ACME, "clerk"] = of_length(room + 1)
    with pytest.raises(Conflict) as caught:
        await desk.issuer.issue(desk.for_ada())
    assert caught.value.message == "the roles carry more permissions than fit into a token"
    assert caught.value.hint == "give this subject fewer roles"


def of_length(length: int) -> RoleRecord:
    """A role whose name and permission take so many characters in a token."""
    permission = "x" * (length - len('[["clerk"],[""]]'))
    return RoleRecord(ACME, "clerk", (permission,), built_in=False, created_us=0)


async def test_a_client_that_asks_again_is_remembered_until_its_realm_changes(desk: Desk) -> None:
    await desk.issuer.issue(desk.for_itself())
    before = desk.database.reads
    second = await desk.issuer.issue(desk.for_itself())
    assert desk.database.reads == before
    desk.roles.rows[ACME, "robot"] = replace(desk.roles.rows[ACME, "robot"], permissions=("keys:read",))
    desk.epochs.bump(desk.database, ACME)  # type: ignore[arg-type]  # it needs no transaction
    third = await desk.issuer.issue(desk.for_itself())
    assert [taken_apart(one.access_token)[1]["permissions"] for one in (second, third)] == [
        ["keys:encrypt"],
        ["keys:read"],
    ]


@pytest.mark.parametrize("table", ["clients", "realms"])
async def test_no_memory_outlives_a_disabled_client_or_realm(desk: Desk, table: str) -> None:
    await desk.issuer.issue(desk.for_itself())
    desk.change(getattr(desk, table), (ACME, APP) if table == "clients" else ACME, enabled=False)
    await desk.refused(desk.for_itself(), "invalid_grant", "invalid credentials")


async def test_what_is_remembered_of_one_client_is_not_told_of_another(desk: Desk) -> None:
    await desk.issuer.issue(desk.for_itself())
    await desk.refused(
        desk.for_itself(client_id=ClientId("qc_nobody")), "invalid_grant", "invalid credentials"
    )


async def test_clients_that_may_do_very_much_do_not_fill_the_memory(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "CACHED_ENTRIES_PER_REALM_MAX", 20)
    names = tuple(f"orders:approve-{number}" for number in range(10 * 16))
    desk.roles.rows[ACME, "robot"] = replace(desk.roles.rows[ACME, "robot"], permissions=names)
    kept = []
    for name in ("app", "two", "three"):
        desk.clients.rows[ACME, ClientId(name)] = replace(a_client(), client_id=ClientId(name))
        await desk.issuer.issue(desk.for_itself(client_id=ClientId(name)))
        cache = await desk.caches.fresh(ACME)
        assert cache is not None
        kept.append(cache.find("standing", (name, None)) is not None)
    assert kept == [True] * 3
    assert cache.find("standing", ("app", None)) is None


async def test_no_token_is_written_on_memory_alone(desk: Desk) -> None:
    await desk.issuer.issue(desk.for_itself())
    desk.epochs.failure = storage_unavailable()
    with pytest.raises(Unavailable):
        await desk.issuer.issue(desk.for_itself())


@pytest.mark.parametrize("grant_type", list(GrantType))
async def test_a_grant_type_that_the_client_is_not_registered_for_is_refused(
    desk: Desk, grant_type: GrantType
) -> None:
    others = tuple(one for one in GrantType if one != grant_type)
    desk.change(desk.clients, (ACME, APP), grant_types=others)
    for established in (desk.for_ada(grant_type=grant_type), desk.for_itself(grant_type=grant_type)):
        await desk.refused(established, "unauthorized_client", "grant type not allowed")


async def test_no_password_opens_anything_where_the_realm_takes_none(desk: Desk) -> None:
    # The endpoint has looked before: this one looks again, in the transaction of the effect.
    desk.change(desk.realms, ACME, allow_password_grant=False)
    await desk.refused(desk.for_ada(), "unauthorized_client", "grant type not allowed")
    assert (await desk.issuer.issue(desk.for_itself())).access_token


async def test_whoever_is_disabled_gets_nothing(desk: Desk) -> None:
    for table, key, still in (
        (desk.users, (ACME, ADA), True),
        (desk.clients, (ACME, APP), False),
        (desk.realms, ACME, False),
    ):
        desk.change(table, key, enabled=False)
        await desk.refused(desk.for_ada(), "invalid_grant", "invalid credentials")
        if still:
            assert (await desk.issuer.issue(desk.for_itself())).access_token
        else:
            await desk.refused(desk.for_itself(), "invalid_grant", "invalid credentials")
        desk.change(table, key, enabled=True)
    assert (await desk.issuer.issue(desk.for_ada())).access_token


@pytest.mark.parametrize(
    "wrong",
    [{"user_id": UUID(int=9)}, {"client_id": "absent"}, {"realm_id": OTHER}, {"realm_id": "absent"}],
    ids=str,
)
async def test_whoever_is_absent_gets_nothing(desk: Desk, wrong: dict[str, Any]) -> None:
    await desk.refused(desk.for_ada(**wrong), "invalid_grant", "invalid credentials")


async def test_standing_is_judged_in_the_transaction_of_the_effect(desk: Desk) -> None:
    # The user is disabled after the password was judged and before the grant is written.
    asked = desk.for_ada()
    desk.change(desk.users, (ACME, ADA), enabled=False)
    await desk.refused(asked, "invalid_grant", "invalid credentials")


async def test_roles_are_those_of_now(desk: Desk) -> None:
    desk.change(desk.users, (ACME, ADA), roles=("robot",))
    claims = taken_apart((await desk.issuer.issue(desk.for_ada())).access_token)[1]
    assert (claims["roles"], claims["permissions"]) == (["robot"], ["keys:encrypt"])


@pytest.mark.parametrize(
    ("left_us", "lasts"),
    [(86_400_000_000, 900), (900_000_000, 900), (899_999_999, 899), (1_500_000, 1), (1_000_000, 1), (1, 1)],
)
async def test_a_token_does_not_outlive_its_grant(desk: Desk, left_us: int, lasts: int) -> None:
    desk.grant = a_grant(expires_us=desk.clock.now_us() + left_us)
    answer = await desk.issuer.issue(desk.for_ada())
    claims = taken_apart(answer.access_token)[1]
    assert answer.expires_in == claims["exp"] - claims["iat"] == lasts


async def test_what_the_grant_type_refuses_is_refused(desk: Desk) -> None:
    def refuse(tx: Tx, scope: str | None, client: ClientRecord) -> GrantRecord:
        desk.grants.insert(tx, a_grant())
        raise invalid_grant("spent")

    await desk.refused(desk.for_ada(write_grant=refuse), "invalid_grant", "spent")


async def test_a_grant_that_could_not_be_written_gives_no_token(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise storage_unavailable()

    monkeypatch.setattr(desk.database, "write", away)
    with pytest.raises(type(storage_unavailable())):
        await desk.issuer.issue(desk.for_ada())
