from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from qimem.errors import storage_unavailable
from qimem.kernel.clock import MICROSECONDS
from qimem.kernel.ids import ClientId
from qimem.oauth.refresh_token import make_refresh_token
from qimem.oauth.standing import Standing
from tests.support.oauth import taken_apart
from tests.unit.kernel.fakes import NO_TX
from tests.unit.oauth.fakes import ACME, ADA, APP, OTHER, SECRET, a_client, a_grant, an_actor, readable
from tests.unit.oauth.introspecting import FAR, GRANT, INACTIVE, SECONDS, Desk

pytestmark = pytest.mark.anyio

BY = pytest.mark.parametrize("by", ["bearer", "client"])
KINDS = pytest.mark.parametrize("kind", ["access", "refresh"])


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@BY
@pytest.mark.parametrize(
    "token",
    ["", " ", "x", "a.b.c", "..", "qrt_", "QRT_", "qrt_" + "A" * 100, "qrt_a.b.c", "ü", "qrt_ü", "\ud800", "qrt_\ud800", "\0", "x" * 100_000],
    ids=readable,
)  # fmt: skip
async def test_nonsense_is_inactive(desk: Desk, token: str, by: str) -> None:
    assert await desk.by(by, token) == INACTIVE


@BY
@KINDS
async def test_another_spelling_of_a_token_is_inactive(desk: Desk, kind: str, by: str) -> None:
    token = await desk.token(kind)
    forms = [
        f" {token}",
        f"{token} ",
        f"{token}=",
        f"Bearer {token}",
        token[:-1],
        token.swapcase(),
        f"{token}é",
    ]
    middle = len(token) // 2
    forms.append(token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :])
    forms.append(token.removeprefix("qrt_") if kind == "refresh" else f"qrt_{token}")
    for form in forms:
        assert await desk.by(by, form) == INACTIVE
    assert (await desk.by(by, token))["active"]


@BY
@pytest.mark.parametrize("what", ["user", "client", "realm"])
@KINDS
async def test_tokens_of_the_disabled_are_inactive_at_once(desk: Desk, kind: str, what: str, by: str) -> None:
    desk.clients.rows[ACME, "shop"] = a_client("shop")
    token = await desk.token(kind)
    assert (await desk.by(by, token))["active"]
    table, key = {
        "user": (desk.users, (ACME, ADA)),
        "client": (desk.clients, (ACME, APP)),
        "realm": (desk.realms, ACME),
    }[what]
    desk.change(table, key, enabled=False)
    if by == "bearer":
        assert await desk.by_bearer(token) == INACTIVE
        assert await desk.by_bearer(token, "*") == INACTIVE
    elif what == "realm":
        await desk.refuse_client(client_id="shop", client_secret=SECRET)
    else:
        assert await desk.by_client(token, "shop") == INACTIVE
    desk.change(table, key, enabled=True)
    assert (await desk.by(by, token))["active"]


@KINDS
async def test_tokens_of_whoever_is_gone_are_inactive(desk: Desk, kind: str) -> None:
    token = await desk.token(kind)
    for table, key in (
        (desk.users, (ACME, ADA)),
        (desk.clients, (ACME, APP)),
        (desk.realms, ACME),
        (desk.grants, (ACME, GRANT)),
    ):
        row = table.rows.pop(key)
        desk.epochs.bump(None, ACME)  # type: ignore[arg-type]  # it needs no transaction
        assert await desk.by_bearer(token, "*") == INACTIVE
        table.rows[key] = row
        desk.epochs.bump(None, ACME)  # type: ignore[arg-type]  # it needs no transaction
        assert (await desk.by_bearer(token))["active"]


@KINDS
async def test_what_befalls_the_same_ids_in_another_realm_is_not_for_this_one(desk: Desk, kind: str) -> None:
    token = await desk.token(kind)
    desk.change(desk.users, (OTHER, ADA), enabled=False)
    desk.change(desk.grants, (OTHER, GRANT), revoked_us=1)
    desk.change(desk.realms, OTHER, enabled=False)
    assert (await desk.both(token))["active"]


@KINDS
@pytest.mark.parametrize("revoked_us", [0, 1, 2**62])
async def test_a_revoked_grant_takes_its_tokens_along(desk: Desk, kind: str, revoked_us: int) -> None:
    token = await desk.token(kind)
    assert (await desk.both(token))["active"]
    desk.change(desk.grants, (ACME, GRANT), revoked_us=revoked_us)
    assert await desk.both(token) == INACTIVE


async def test_a_revoked_access_token_is_inactive_and_others_stay(desk: Desk) -> None:
    one, two = await desk.token("access"), await desk.token("access")
    assert (await desk.both(one))["active"]
    desk.grants.dead.add((ACME, taken_apart(one)[1]["jti"]))
    desk.epochs.bump(None, ACME)  # type: ignore[arg-type]  # it needs no transaction
    assert await desk.both(one) == INACTIVE
    assert (await desk.both(two))["active"]


async def test_an_access_token_ends_at_its_second(desk: Desk) -> None:
    token = await desk.token("access")
    desk.clock.advance(899.999_999)
    assert (await desk.both(token))["active"]
    desk.clock.wall_us = (SECONDS + 900) * MICROSECONDS
    assert await desk.both(token) == INACTIVE


async def test_an_access_token_whose_user_left_since_it_was_recognized_is_inactive(desk: Desk) -> None:
    # No epoch is bumped: the holder is still remembered, and the snapshot alone knows better.
    token = await desk.token("access")
    await desk.bearer.authenticate(b"Bearer " + token.encode())
    ada, hashed = desk.users.rows[ACME, ADA]
    desk.users.rows[ACME, ADA] = (replace(ada, enabled=False), hashed)
    assert await desk.by_bearer(token) == INACTIVE


async def test_a_subject_that_is_nobody_is_not_taken_for_the_client(desk: Desk) -> None:
    ada, _ = desk.users.rows[ACME, ADA]
    for subject in ("nobody", "", "APP", FAR, UUID(int=9)):
        stranger = Standing(a_client(), replace(ada, user_id=subject), an_actor().permissions)
        token = await desk.access_tokens.write(ACME, stranger, None, None, 900, "jti")
        assert await desk.both(token) == INACTIVE


@pytest.mark.parametrize(("generation", "stands"), [(1, 2), (2, 1), (0, 1), (3, 9), (1, 2**32 - 1)])
async def test_a_refresh_token_of_another_generation_is_inactive(
    desk: Desk, generation: int, stands: int
) -> None:
    desk.grants.rows[ACME, GRANT] = a_grant(grant_id=GRANT, generation=stands)
    assert await desk.both(await desk.token("refresh", generation=generation)) == INACTIVE
    assert (await desk.both(await desk.token("refresh", generation=stands)))["active"]


async def test_a_spent_refresh_token_is_inactive_and_its_successor_is_not(desk: Desk) -> None:
    token, now_us = await desk.token("refresh"), desk.clock.now_us()
    desk.grants.rotate(NO_TX, ACME, GRANT, presented=1, now_us=now_us, by_client=True)
    assert await desk.both(token) == INACTIVE
    assert (await desk.both(await desk.token("refresh", generation=2)))["jti"] == f"{GRANT}.2"


async def test_a_refresh_token_ends_with_its_grant(desk: Desk) -> None:
    token, ends_us = await desk.token("refresh"), desk.grants.rows[ACME, GRANT].expires_us
    desk.clock.wall_us = ends_us - 1
    assert (await desk.both(token))["active"]
    for after_us in (0, 1, 1_000_000, 10**12):
        desk.clock.wall_us = ends_us + after_us
        assert await desk.both(token) == INACTIVE


async def test_a_refresh_token_from_further_ahead_than_clocks_may_be_apart_is_inactive(desk: Desk) -> None:
    token, now_us = await desk.token("refresh"), desk.clock.now_us()
    for ahead_us, good in (
        (0, True),
        (1, True),
        (60_000_000, True),
        (60_000_001, False),
        (86_000_000_000, False),
    ):
        desk.grants.rows[ACME, GRANT] = a_grant(grant_id=GRANT, created_us=now_us + ahead_us)
        assert (await desk.both(token))["active"] is good


async def test_a_refresh_token_of_a_client_that_may_not_refresh_is_inactive(desk: Desk) -> None:
    access, refresh = await desk.token("access"), await desk.token("refresh")
    for grant_types in ((), ("password", "client_credentials"), ("refresh_token2", "REFRESH_TOKEN")):
        desk.change(desk.clients, (ACME, APP), grant_types=grant_types)
        assert await desk.both(refresh) == INACTIVE
        assert (await desk.both(access))["active"]
    desk.change(desk.clients, (ACME, APP), grant_types=("refresh_token",))
    assert (await desk.both(refresh))["active"]


async def test_a_refresh_token_of_other_parts_than_its_grant_is_inactive(desk: Desk) -> None:
    for parts in (
        (ACME, GRANT, 1, FAR),
        (ACME, GRANT, 1, ClientId("spa")),
        (ACME, UUID(int=6), 1, APP),
        (OTHER, GRANT, 1, APP),
    ):
        token = await make_refresh_token(desk.keys, *parts)
        assert await desk.by_bearer(token, "*") == INACTIVE
        assert await desk.by_client(token) == INACTIVE


async def test_nothing_of_a_refresh_token_is_remembered(desk: Desk) -> None:
    # Its state is read each time: no epoch is bumped here.
    token = await desk.token("refresh")
    assert (await desk.both(token))["active"]
    ada, hashed = desk.users.rows[ACME, ADA]
    desk.users.rows[ACME, ADA] = (replace(ada, enabled=False), hashed)
    assert await desk.both(token) == INACTIVE


@BY
async def test_a_state_that_cannot_be_read_is_not_taken_for_a_bad_token(desk: Desk, by: str) -> None:
    token = await desk.token("access")
    assert (await desk.by(by, token))["active"]
    desk.epochs.failure = storage_unavailable()
    with pytest.raises(type(storage_unavailable())):
        await desk.by(by, token)


async def test_a_database_that_is_away_is_not_taken_for_a_bad_token(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise storage_unavailable()

    tokens = [await desk.token("access"), await desk.token("refresh")]
    monkeypatch.setattr(desk.database, "read", away)
    for token in tokens:
        with pytest.raises(type(storage_unavailable())):
            await desk.by_bearer(token)
