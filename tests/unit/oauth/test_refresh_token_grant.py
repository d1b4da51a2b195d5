from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from qimem.crypto.mac import digest
from qimem.errors import Conflict, Unauthenticated, Unavailable, storage_unavailable
from qimem.kernel.ids import ClientId
from qimem.oauth import issuer
from qimem.oauth.refresh_token import make_refresh_token
from tests.support.oauth import taken_apart
from tests.unit.oauth.fakes import ACME, ADA, APP, OTHER, SECRET, a_client, a_grant
from tests.unit.oauth.refresh_desk import AS_APP, GRANT, LIVE, NOBODY, OLD, SECOND, SPENT, RefreshDesk

pytestmark = pytest.mark.anyio


@pytest.fixture
async def desk() -> RefreshDesk:
    return RefreshDesk()


async def test_the_live_token_gives_the_next_pair_and_moves_the_grant_on(desk: RefreshDesk) -> None:
    before = desk.grant
    desk.clock.advance(60)
    answer = await desk.present(LIVE)
    now_us = desk.clock.now_us()
    assert desk.grant == replace(before, generation=LIVE + 1, rotated_us=now_us)
    assert desk.grant.rotated_by_client is False
    assert desk.grants.rows[OTHER, GRANT] == desk.elsewhere
    assert answer.refresh_token == await desk.token(LIVE + 1)
    claims = taken_apart(answer.access_token)[1]
    assert (claims["realm"], claims["sub"], claims["client_id"]) == (ACME, str(ADA), APP)
    assert (claims["grant_id"], claims["scope"], answer.scope) == (str(GRANT), "read", "read")
    assert (answer.expires_in, answer.token_type) == (900, "Bearer")


async def test_the_record_says_whose_grant_was_refreshed(desk: RefreshDesk) -> None:
    claims = taken_apart((await desk.present(LIVE)).access_token)[1]
    draft = desk.draft
    assert (draft.realm_id, draft.client_id, draft.subject) == (ACME, APP, str(ADA))
    assert (draft.target, draft.token_id, draft.outcome) == (str(GRANT), claims["jti"], "ok")
    assert desk.intents.kept == [(draft.intent, draft)]


async def test_a_chain_of_refreshes_stays_one_grant_with_one_end(desk: RefreshDesk) -> None:
    before, token = desk.grant, await desk.token(LIVE)
    for _ in range(5):
        desk.clock.advance(899)
        token = (await desk.send(token)).refresh_token or ""
    now_us = desk.clock.now_us()
    assert desk.grant == replace(before, generation=LIVE + 5, rotated_us=now_us)


@pytest.mark.parametrize(("client_id", "proof", "by_client"), [(APP, AS_APP, True), (APP, NOBODY, False), ("spa", {"client_id": "spa"}, False)], ids=["secret", "nothing", "public"])  # fmt: skip
async def test_whether_a_secret_came_along_is_remembered(
    desk: RefreshDesk, client_id: ClientId, proof: dict[str, str], by_client: bool
) -> None:
    desk.stands(client_id=client_id, rotated_by_client=not by_client)
    await desk.present(LIVE, **proof)
    assert (desk.grant.generation, desk.grant.rotated_by_client) == (LIVE + 1, by_client)


@pytest.mark.parametrize("away_us", [0, 1, 5 * SECOND, 10 * SECOND - 1, 10 * SECOND])
@pytest.mark.parametrize("direction", [1, -1])
async def test_within_the_grace_the_successor_is_given_again(
    desk: RefreshDesk, away_us: int, direction: int
) -> None:
    desk.clock.wall_us += direction * away_us
    for _ in range(2):
        await desk.given_again(SPENT)
    assert desk.draft.outcome == "ok"


@pytest.mark.parametrize("away_us", [10 * SECOND + 1, 11 * SECOND, 50 * SECOND])
@pytest.mark.parametrize("direction", [1, -1])
async def test_a_spent_token_outside_the_grace_ends_the_whole_grant(
    desk: RefreshDesk, away_us: int, direction: int
) -> None:
    desk.clock.wall_us += direction * away_us
    await desk.ended(SPENT)
    desk.intents.kept.clear()
    for generation in (OLD, SPENT, LIVE):
        await desk.refused(generation)


@pytest.mark.parametrize(
    ("of_realm", "of_client", "seconds"),
    [(0, None, 0), (60, None, 60), (0, 60, 60), (60, 0, 0), (10, 1, 1), (1, 10, 10)],
)
async def test_the_grace_is_what_the_client_says_and_else_the_realm(
    desk: RefreshDesk, of_realm: int, of_client: int | None, seconds: int
) -> None:
    desk.change(desk.realms, ACME, refresh_grace_seconds=of_realm)
    desk.change(desk.clients, (ACME, APP), refresh_grace_seconds=of_client)
    if seconds:
        desk.clock.wall_us += seconds * SECOND
        await desk.given_again(SPENT)
        desk.clock.wall_us += 1
    await desk.ended(SPENT)


@pytest.mark.parametrize(("grace", "ends"), [(0, True), (60, False)])
async def test_a_copy_is_known_by_the_same_grace_where_something_else_is_refused(
    desk: RefreshDesk, grace: int, ends: bool
) -> None:
    desk.change(desk.clients, (ACME, APP), refresh_grace_seconds=grace, grant_types=("password",))
    await (desk.ended if ends else desk.refused)(SPENT)


async def test_a_client_that_must_be_there_shows_its_secret(desk: RefreshDesk) -> None:
    desk.change(desk.clients, (ACME, APP), refresh_requires_client=True)
    before = desk.grant
    with pytest.raises(Unauthenticated) as caught:
        await desk.present(LIVE)
    assert caught.value.code == "invalid_client"
    assert desk.grant == before
    await desk.present(LIVE, **AS_APP)
    assert desk.grant.generation == LIVE + 1
    # A copy in the hands of somebody without the secret is still a copy.
    await desk.ended(SPENT)


async def test_the_grace_is_not_prolonged_by_its_use(desk: RefreshDesk) -> None:
    desk.clock.advance(7)
    await desk.given_again(SPENT)
    desk.clock.advance(4)
    await desk.ended(SPENT)


async def test_the_record_of_a_reuse_names_the_grant_and_no_token(desk: RefreshDesk) -> None:
    desk.stands(rotated_us=0)
    await desk.ended(SPENT)
    draft = desk.draft
    assert (draft.realm_id, draft.client_id, draft.subject) == (ACME, APP, str(ADA))
    assert (draft.target, draft.token_id) == (str(GRANT), "")
    assert desk.intents.kept == [(draft.intent, draft)]


@pytest.mark.parametrize("generation", [0, 1, OLD, LIVE + 1, LIVE + 2, 2**32 - 1])
async def test_a_token_of_any_other_generation_ends_the_grant_at_once(
    desk: RefreshDesk, generation: int
) -> None:
    await desk.ended(generation)


@pytest.mark.parametrize("generation", [0, LIVE])
async def test_what_cannot_have_been_spent_yet_ends_a_grant_that_was_never_refreshed(
    desk: RefreshDesk, generation: int
) -> None:
    desk.stands(generation=1, rotated_us=None)
    await desk.ended(generation)


@pytest.mark.parametrize("by_client", [True, False])
async def test_within_the_grace_the_client_shows_what_it_showed_before(
    desk: RefreshDesk, by_client: bool
) -> None:
    ways = {True: AS_APP, False: NOBODY}
    desk.stands(rotated_us=desk.clock.now_us(), rotated_by_client=by_client)
    await desk.given_again(SPENT, **ways[by_client])
    await desk.ended(SPENT, **ways[not by_client])


async def test_the_id_of_a_public_client_proves_nothing(desk: RefreshDesk) -> None:
    desk.stands(client_id="spa", rotated_us=desk.clock.now_us())
    await desk.given_again(SPENT, client_id="spa")
    await desk.given_again(SPENT)
    desk.stands(client_id="spa", rotated_us=desk.clock.now_us(), rotated_by_client=True)
    await desk.ended(SPENT, client_id="spa")


@pytest.mark.parametrize("generation", [OLD, SPENT, LIVE])
async def test_a_revoked_grant_is_dead_and_stays_as_it_is(desk: RefreshDesk, generation: int) -> None:
    for revoked_us in (1, desk.clock.now_us(), desk.clock.now_us() + 1):
        desk.stands(rotated_us=desk.clock.now_us(), revoked_us=revoked_us)
        await desk.refused(generation)


@pytest.mark.parametrize("generation", [OLD, SPENT, LIVE])
@pytest.mark.parametrize("since_us", [0, 1, 3600 * SECOND])
async def test_an_expired_grant_is_dead_and_not_ended_once_more(
    desk: RefreshDesk, generation: int, since_us: int
) -> None:
    now_us = desk.clock.now_us()
    desk.stands(rotated_us=now_us, expires_us=now_us - since_us)
    await desk.refused(generation)


async def test_to_its_last_microsecond_a_grant_lives(desk: RefreshDesk) -> None:
    now_us = desk.clock.now_us()
    last = {"rotated_us": now_us, "expires_us": now_us + 1}
    desk.stands(**last)
    await desk.given_again(SPENT)
    assert (await desk.present(LIVE)).expires_in == 1
    desk.stands(**last)
    await desk.ended(OLD)


@pytest.mark.parametrize("generation", [SPENT, LIVE])
async def test_a_clock_may_be_a_minute_behind_the_one_that_began_the_grant(
    desk: RefreshDesk, generation: int
) -> None:
    now_us = desk.clock.now_us()
    desk.stands(rotated_us=now_us, created_us=now_us + 60 * SECOND)
    assert (await desk.present(generation)).refresh_token == await desk.token(generation + 1)


@pytest.mark.parametrize("generation", [OLD, SPENT, LIVE])
@pytest.mark.parametrize("ahead_us", [60 * SECOND + 1, 3600 * SECOND])
async def test_a_grant_from_the_future_gives_nothing_and_is_not_harmed(
    desk: RefreshDesk, generation: int, ahead_us: int
) -> None:
    now_us = desk.clock.now_us()
    desk.stands(rotated_us=now_us, created_us=now_us + ahead_us)
    await desk.refused(generation)


async def test_a_refresh_that_comes_second_gets_what_the_first_one_got(desk: RefreshDesk) -> None:
    now_us = desk.clock.now_us()
    desk.tokens.meanwhile = lambda: desk.stands(generation=LIVE + 1, rotated_us=now_us)
    assert (await desk.present(LIVE)).refresh_token == await desk.token(LIVE + 1)
    assert desk.grant == a_grant(generation=LIVE + 1, rotated_us=now_us)


@pytest.mark.parametrize(
    "winner", [{"generation": LIVE + 1, "rotated_by_client": True}, {"generation": LIVE + 2}], ids=str
)
async def test_a_refresh_that_comes_second_to_a_stranger_ends_the_grant(
    desk: RefreshDesk, winner: dict[str, Any]
) -> None:
    row = a_grant(rotated_us=desk.clock.now_us(), **winner)
    desk.tokens.meanwhile = lambda: desk.grants.rows.update({(ACME, GRANT): row})
    await desk.dead(await desk.token(LIVE))
    assert desk.grant == replace(row, revoked_us=desk.clock.now_us())


@pytest.mark.parametrize("generation", [OLD, SPENT, LIVE])
@pytest.mark.parametrize("expired", [True, False])
async def test_a_grant_that_is_over_meanwhile_gives_nothing(
    desk: RefreshDesk, generation: int, expired: bool
) -> None:
    over = {"expires_us": desk.clock.now_us()} if expired else {"revoked_us": 1}
    row = a_grant(generation=LIVE, rotated_us=desk.clock.now_us(), **over)
    desk.tokens.meanwhile = lambda: desk.grants.rows.update({(ACME, GRANT): row})
    await desk.dead(await desk.token(generation))
    assert (desk.grant, desk.intents.kept, desk.draft.outcome) == (row, [], "ok")


@pytest.mark.parametrize("generation", [OLD, SPENT, LIVE])
async def test_a_grant_that_is_gone_meanwhile_gives_nothing(desk: RefreshDesk, generation: int) -> None:
    desk.tokens.meanwhile = lambda: desk.grants.rows.pop((ACME, GRANT), None)
    await desk.dead(await desk.token(generation))
    assert (desk.grants.rows, desk.draft.outcome) == ({(OTHER, GRANT): desk.elsewhere}, "ok")


@pytest.mark.parametrize("generation", [SPENT, LIVE, LIVE + 1])
async def test_whoever_is_disabled_refreshes_nothing_and_learns_not_why(
    desk: RefreshDesk, generation: int
) -> None:
    for table, key in ((desk.users, (ACME, ADA)), (desk.clients, (ACME, APP)), (desk.realms, ACME)):
        desk.change(table, key, enabled=False)
        await desk.refused(generation)
        if table is not desk.users:
            await desk.unknown(await desk.token(generation), **AS_APP)
        desk.change(table, key, enabled=True)
    await desk.present(LIVE)


@pytest.mark.parametrize("generation", [0, OLD, SPENT])
@pytest.mark.parametrize("disabled", ["user", "client", "realm", "grant type", "scope"])
async def test_a_copy_ends_the_grant_also_of_whoever_is_disabled(
    desk: RefreshDesk, generation: int, disabled: str
) -> None:
    desk.stands(rotated_us=desk.clock.now_us() - 11 * SECOND)
    match disabled:
        case "user":
            desk.change(desk.users, (ACME, ADA), enabled=False)
        case "client":
            desk.change(desk.clients, (ACME, APP), enabled=False)
        case "realm":
            desk.change(desk.realms, ACME, enabled=False)
        case "grant type":
            desk.change(desk.clients, (ACME, APP), grant_types=("password",))
        case "scope":
            desk.change(desk.clients, (ACME, APP), scope="more")
    await desk.ended(generation)


@pytest.mark.parametrize("whose", ["client", "realm"])
@pytest.mark.parametrize(("grace", "ago", "copy"), [(0, 1, True), (5, 6, True), (60, 30, False)])
async def test_the_grace_is_the_same_for_whoever_is_disabled(
    desk: RefreshDesk, whose: str, grace: int, ago: int, *, copy: bool
) -> None:
    desk.stands(rotated_us=desk.clock.now_us() - ago * SECOND)
    of_client = grace if whose == "client" else None
    desk.change(desk.clients, (ACME, APP), refresh_grace_seconds=of_client, enabled=False)
    desk.change(desk.realms, ACME, refresh_grace_seconds=grace)
    if copy:
        await desk.ended(SPENT)
    else:
        await desk.refused(SPENT)


async def test_a_copy_ends_the_grant_also_of_whoever_has_too_many_roles(
    desk: RefreshDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer, "BEARER_CHARS_MAX", 0)
    with pytest.raises(Conflict):
        await desk.present(LIVE)
    await desk.ended(OLD)


async def test_a_client_that_may_no_longer_refresh_learns_not_why(desk: RefreshDesk) -> None:
    desk.change(desk.clients, (ACME, APP), grant_types=("password", "client_credentials"))
    for proof in (NOBODY, AS_APP):
        await desk.refused(LIVE, **proof)


async def test_a_secret_that_was_replaced_after_the_proof_refreshes_nothing(desk: RefreshDesk) -> None:
    desk.tokens.meanwhile = lambda: desk.clients.rows.update(
        {(ACME, APP): a_client(secret_digest=digest(b"another"))}
    )
    await desk.refused(LIVE, **AS_APP)
    assert (await desk.present(LIVE)).refresh_token == await desk.token(LIVE + 1)


@pytest.mark.parametrize(
    "proof",
    [
        {"client_id": APP},
        {"client_id": APP, "client_secret": ""},
        {"client_id": APP, "client_secret": SECRET + "x"},
        {"client_id": ""},
        {"client_id": "", "client_secret": SECRET},
        {"client_id": "", "client_secret": ""},
        {"client_id": "absent", "client_secret": SECRET},
        {"client_secret": SECRET},
        {"client_secret": ""},
        {"client_id": "two", "client_secret": SECRET},
        {"client_id": "far", "client_secret": SECRET},
        {"client_id": "spa"},
        {"client_id": "spa", "client_secret": ""},
    ],
    ids=str,
)
async def test_a_wrong_client_is_refused_whatever_token_it_shows(
    desk: RefreshDesk, proof: dict[str, str]
) -> None:
    for generation in (OLD, SPENT, LIVE):
        await desk.unknown(await desk.token(generation), **proof)
        assert desk.draft.outcome == "ok"
    await desk.present(LIVE)


@pytest.mark.parametrize("secret", ["", "x", SECRET])
async def test_a_public_client_has_no_secret_not_even_an_empty_one(desk: RefreshDesk, secret: str) -> None:
    desk.stands(client_id="spa", rotated_us=desk.clock.now_us())
    for generation in (OLD, SPENT, LIVE):
        await desk.unknown(await desk.token(generation), client_id="spa", client_secret=secret)


@pytest.mark.parametrize(
    ("registered", "left"), [("write", "write"), ("more write read", "read write"), ("more read", "read")]
)
async def test_a_refresh_gives_what_the_client_may_still_have(
    desk: RefreshDesk, registered: str, left: str
) -> None:
    desk.stands(scope="read write")
    desk.change(desk.clients, (ACME, APP), scope=registered)
    answer = await desk.present(LIVE)
    assert answer.scope == taken_apart(answer.access_token)[1]["scope"] == left
    # What was granted stays written: given back to the client, it is given again.
    assert desk.grant.scope == "read write"


@pytest.mark.parametrize("registered", ["more", "rea", "readwrite", None])
async def test_nothing_is_spent_when_the_client_has_lost_all_of_the_scope(
    desk: RefreshDesk, registered: str | None
) -> None:
    desk.stands(scope="read write")
    desk.change(desk.clients, (ACME, APP), scope=registered)
    await desk.dead(await desk.token(LIVE))
    desk.change(desk.clients, (ACME, APP), scope="read")
    assert (await desk.present(LIVE)).scope == "read"


async def test_a_grant_without_a_scope_is_refreshed_without_one(desk: RefreshDesk) -> None:
    desk.change(desk.clients, (ACME, APP), scope=None)
    desk.stands(scope=None)
    answer = await desk.present(LIVE)
    assert (answer.scope, desk.grant.scope) == (None, None)


async def test_the_proof_is_judged_before_the_token(desk: RefreshDesk) -> None:
    for proof in ({"client_id": APP, "client_secret": "wrong"}, {"client_secret": SECRET}):
        await desk.unknown("garbage", **proof)
    await desk.dead("garbage", **AS_APP)


async def test_what_is_no_token_of_ours_is_dead(desk: RefreshDesk) -> None:
    keys = desk.keys
    texts = [
        "",
        "qrt_",
        (await desk.token(LIVE))[:-1],
        await make_refresh_token(keys, ACME, UUID(int=6), LIVE, APP),
        await make_refresh_token(keys, ACME, GRANT, LIVE, ClientId("two")),
        await desk.access_token(),
    ]
    before = dict(desk.grants.rows)
    for text in texts:
        for proof in (NOBODY, AS_APP):
            await desk.dead(text, **proof)
            draft = desk.draft
            assert (draft.realm_id, draft.client_id, draft.subject, draft.target) == ("", "", "", "")
    assert (desk.grants.rows, desk.intents.kept) == (before, [])


async def test_a_client_for_itself_may_hold_a_grant(desk: RefreshDesk) -> None:
    desk.stands(user_id=None, rotated_us=0)
    assert taken_apart((await desk.present(LIVE)).access_token)[1]["sub"] == APP
    await desk.ended(OLD)
    assert desk.draft.subject == APP


async def test_a_transaction_that_runs_again_moves_one_step(desk: RefreshDesk) -> None:
    desk.database.attempts = 3
    answer = await desk.present(LIVE)
    assert (desk.grant.generation, len(desk.intents.kept)) == (LIVE + 1, 1)
    assert answer.refresh_token == await desk.token(LIVE + 1)


@pytest.mark.parametrize("generation", [OLD, SPENT, LIVE])
async def test_a_storage_that_is_away_is_not_taken_for_a_dead_token(
    desk: RefreshDesk, monkeypatch: pytest.MonkeyPatch, generation: int
) -> None:
    async def away(_: object) -> None:
        raise storage_unavailable()

    token = await desk.token(generation)
    monkeypatch.setattr(desk.database, "write", away)
    with pytest.raises(Unavailable) as caught:
        await desk.send(token)
    assert caught.value.code == "storage_unavailable"


async def test_a_theft_that_could_not_be_answered_is_not_called_refused(
    desk: RefreshDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bool:
        raise storage_unavailable()

    monkeypatch.setattr(desk.grants, "revoke", away)
    with pytest.raises(Unavailable) as caught:
        await desk.present(OLD)
    assert caught.value.code == "storage_unavailable"
    assert (desk.grant.revoked_us, desk.intents.kept) == (None, [])
