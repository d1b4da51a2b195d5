from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from qimem.errors import Unavailable, storage_unavailable
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.transaction import Tx
from qimem.oauth.bearer import BearerAuthenticator
from qimem.oauth.client_auth import ClientAuthenticator
from qimem.oauth.models import GrantRecord
from qimem.oauth.refresh_token import RefreshTokens, make_refresh_token
from qimem.oauth.revocation import RevocationEndpoint, RevocationService
from tests.support.audit import a_draft
from tests.support.metering import FakeMeter
from tests.support.oauth import b64, taken_apart, unb64
from tests.unit.kernel.fakes import NO_TX, FakeEpochs
from tests.unit.oauth.fakes import ACME, ADA, APP, OTHER, FakeKeys, Setting, a_grant

pytestmark = pytest.mark.anyio

GRANT = UUID(int=5)
LIVE = 3


class CountedEpochs(FakeEpochs):
    """Knows which realms moved on inside of transactions."""

    def __init__(self) -> None:
        super().__init__()
        self.bumped: list[RealmId] = []

    def bump(self, tx: Tx, realm_id: RealmId) -> None:
        super().bump(tx, realm_id)
        if tx is NO_TX:
            self.bumped.append(realm_id)


class Desk(Setting):
    """A grant of ada, in the other realm one with the same id, and who ends them."""

    def __init__(self) -> None:
        self.counted = CountedEpochs()
        super().__init__(epochs=self.counted)
        self.draft = a_draft()
        self.elsewhere = a_grant(realm_id=OTHER, generation=LIVE)
        self.grants.rows[ACME, GRANT] = a_grant(generation=LIVE)
        self.grants.rows[OTHER, GRANT] = self.elsewhere
        self.ending = RevocationService(self.work, self.epochs, self.grants, self.clock)
        self.service = RevocationEndpoint(
            self.ending,
            BearerAuthenticator(
                self.caches, self.access_tokens, self.keys, self.standing, self.grants, self.clock
            ),
            self.access_tokens,
            RefreshTokens(self.database, self.grants, self.keys),
            ClientAuthenticator(self.database, self.caches, self.clients, self.standing, self.clock),
        )

    @property
    def grant(self) -> GrantRecord:
        return self.grants.rows[ACME, GRANT]

    async def token(self, generation: int = LIVE) -> str:
        return await make_refresh_token(self.keys, ACME, GRANT, generation, APP)

    async def revoke(self, token: str) -> None:
        self.draft, self.meter = a_draft(), FakeMeter()
        await self.service.revoke(token, self.draft, self.meter)

    async def ignored(self, token: str) -> None:
        """Answered alike, and nothing comes of it."""
        before = dict(self.grants.rows)
        await self.revoke(token)
        assert (self.grants.rows, self.grants.dead, self.counted.bumped) == (before, set(), [])
        assert self.intents.kept == []
        assert noted(self.draft) == ("", "", "", "", "")


def noted(draft: AuditDraft) -> tuple[str, ...]:
    return draft.realm_id, draft.client_id, draft.subject, draft.target, draft.token_id


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize("generation", [0, 1, LIVE - 1, LIVE, LIVE + 1])
async def test_a_refresh_token_of_any_generation_ends_its_grant_and_no_other(
    desk: Desk, generation: int
) -> None:
    before = desk.grant
    desk.clock.advance(60)
    await desk.revoke(await desk.token(generation))
    assert desk.grant == replace(before, revoked_us=desk.clock.now_us())
    assert desk.grants.rows[OTHER, GRANT] == desk.elsewhere
    assert (desk.counted.bumped, desk.grants.dead) == ([ACME], set())


async def test_the_record_of_a_grant_says_whose_it_was(desk: Desk) -> None:
    await desk.revoke(await desk.token())
    assert noted(desk.draft) == (ACME, APP, str(ADA), str(GRANT), "")
    assert desk.intents.kept == [(desk.draft.intent, desk.draft)]


async def test_the_subject_of_a_grant_without_a_user_is_its_client(desk: Desk) -> None:
    desk.grants.rows[ACME, GRANT] = a_grant(user_id=None)
    await desk.revoke(await desk.token())
    assert noted(desk.draft) == (ACME, APP, APP, str(GRANT), "")


async def test_a_grant_ends_once(desk: Desk) -> None:
    await desk.revoke(await desk.token())
    ended = desk.grant
    for generation in (LIVE, LIVE - 1):
        desk.clock.advance(1)
        await desk.revoke(await desk.token(generation))
    assert (desk.grant, desk.counted.bumped) == (ended, [ACME])
    assert noted(desk.draft) == (ACME, APP, str(ADA), str(GRANT), "")
    assert len(desk.intents.kept) == 3


async def test_a_grant_that_is_gone_meanwhile_moves_no_realm_on(desk: Desk) -> None:
    stale = desk.grants.rows.pop((ACME, GRANT))
    await desk.ending.end(stale, desk.draft)
    assert (desk.grants.rows, desk.counted.bumped) == ({(OTHER, GRANT): desk.elsewhere}, [])


async def test_an_access_token_dies_alone_and_is_remembered_until_its_end(desk: Desk) -> None:
    token, before = await desk.access_token(grant_id=GRANT), dict(desk.grants.rows)
    claims = taken_apart(token)[1]
    desk.clock.advance(60)
    await desk.revoke(token)
    assert desk.grants.dead_until == {(ACME, claims["jti"]): claims["exp"] * 1_000_000}
    assert (desk.grants.rows, desk.counted.bumped) == (before, [ACME])


@pytest.mark.parametrize("user", [True, False])
async def test_the_record_of_an_access_token_says_whose_it_was(desk: Desk, user: bool) -> None:
    token = await desk.access_token(user=user)
    token_id = taken_apart(token)[1]["jti"]
    await desk.revoke(token)
    assert noted(desk.draft) == (ACME, APP, str(ADA) if user else APP, token_id, token_id)
    assert desk.intents.kept == [(desk.draft.intent, desk.draft)]


async def test_an_access_token_dies_once(desk: Desk) -> None:
    one, two = await desk.access_token(), await desk.access_token()
    for token in (one, one, two, one):
        await desk.revoke(token)
    assert desk.counted.bumped == [ACME, ACME]
    assert {token_id for _, token_id in desk.grants.dead} == {
        taken_apart(each)[1]["jti"] for each in (one, two)
    }
    assert len(desk.intents.kept) == 4


@pytest.mark.parametrize("late_us", [0, 1, 3_600_000_000])
async def test_an_expired_access_token_leaves_no_trace(desk: Desk, late_us: int) -> None:
    token = await desk.access_token()
    desk.clock.wall_us = taken_apart(token)[1]["exp"] * 1_000_000 + late_us
    await desk.ignored(token)


async def test_to_its_last_microsecond_an_access_token_is_revoked(desk: Desk) -> None:
    token = await desk.access_token()
    desk.clock.wall_us = taken_apart(token)[1]["exp"] * 1_000_000 - 1
    await desk.revoke(token)
    assert len(desk.grants.dead) == 1


async def test_a_token_of_whoever_is_disabled_is_revoked_for_good(desk: Desk) -> None:
    token = await desk.access_token(grant_id=GRANT)
    for table, key in ((desk.users, (ACME, ADA)), (desk.clients, (ACME, APP)), (desk.realms, ACME)):
        desk.change(table, key, enabled=False)
    for one in (token, await desk.token()):
        await desk.revoke(one)
    assert desk.grants.dead == {(ACME, taken_apart(token)[1]["jti"])}
    assert desk.grant.revoked_us == desk.clock.now_us()


@pytest.mark.parametrize(
    "token",
    ["", " ", "x", "a.b.c", "...", "qrt_", "qrt_AAAA", "qrt_" + "A" * 84, "qrt", "\0", "ä.ö.ü", "null", "e30.e30.", "bnVsbA.bnVsbA.AA"],
    ids=lambda token: ascii(token[:12]).replace("\\", "/"),
)  # fmt: skip
async def test_what_is_no_token_is_answered_alike(desk: Desk, token: str) -> None:
    await desk.ignored(token)


async def test_no_variant_of_a_refresh_token_ends_its_grant(desk: Desk) -> None:
    data = unb64((await desk.token()).removeprefix("qrt_"))
    for at in range(len(data)):
        await desk.ignored(f"qrt_{b64(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])}")
    good = await desk.token()
    for text in (good + "=", good[:-1], good + "\n", " " + good, good.removeprefix("qrt_"), good.upper()):
        await desk.ignored(text)
    await desk.ignored(await make_refresh_token(desk.keys, ACME, GRANT, LIVE, ClientId("two")))
    await desk.ignored(await make_refresh_token(desk.keys, ACME, UUID(int=6), LIVE, APP))


async def test_no_variant_of_an_access_token_ends_it(desk: Desk) -> None:
    good = await desk.access_token()
    header, claims, signature = good.split(".")
    for text in (
        f"{header}.{claims}.",
        f"{header}.{claims}",
        f"{header}.{claims}.{b64(bytes(64))}",
        f"{header}.{claims}.{signature[:-2]}",
        good + " ",
        "Bearer " + good,
        "qrt_" + good,
    ):
        await desk.ignored(text)


async def test_a_token_signed_by_somebody_else_ends_nothing(desk: Desk) -> None:
    token = await desk.access_token()
    desk.keys.published[ACME] = FakeKeys(ACME).published[ACME]
    await desk.ignored(token)


async def test_a_storage_that_is_away_is_not_taken_for_no_token(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise storage_unavailable()

    tokens = [await desk.access_token(), await desk.token()]
    for target, name in ((desk.database, "write"), (desk.database, "read"), (desk.keys, "public_keys")):
        with monkeypatch.context() as patched:
            patched.setattr(target, name, away)
            for token in tokens:
                if name == "write" or (name == "read") == token.startswith("qrt_"):
                    with pytest.raises(Unavailable) as caught:
                        await desk.revoke(token)
                    assert caught.value.code == "storage_unavailable"
    assert (desk.grant.revoked_us, desk.grants.dead, desk.intents.kept) == (None, set(), [])


async def test_a_transaction_that_runs_again_is_recorded_once(desk: Desk) -> None:
    desk.database.attempts = 3
    await desk.revoke(await desk.token())
    assert desk.grant.revoked_us == desk.clock.now_us()
    assert len(desk.intents.kept) == 1
