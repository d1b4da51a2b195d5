from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from qimem.authz.permissions import Permission, compile_permissions
from qimem.errors import NotFound, Unauthenticated, storage_unavailable
from qimem.identity.models import RoleRecord
from qimem.kernel.context import Actor, ActorKind
from qimem.kernel.limits import BEARER_CHARS_MAX
from qimem.oauth import bearer
from qimem.oauth.bearer import BearerAuthenticator
from qimem.oauth.models import AccessClaims
from tests.support.oauth import taken_apart
from tests.unit.oauth.fakes import ACME, ADA, APP, OTHER, Setting, a_client, a_grant, an_actor, readable

pytestmark = pytest.mark.anyio

GRANT = UUID(int=5)


class Door(Setting):
    """A bearer authenticator in front of acme."""

    def __init__(self) -> None:
        super().__init__()
        self.grants.rows[ACME, GRANT] = a_grant(grant_id=GRANT)
        self.bearer = BearerAuthenticator(
            self.caches, self.access_tokens, self.keys, self.standing, self.grants, self.clock
        )

    async def enter(self, token: str) -> Actor:
        actor, state = await self.bearer.authenticate(f"Bearer {token}".encode())
        assert (state.realm_id, state.epoch) == (actor.realm_id, self.epochs.now[actor.realm_id])
        return actor

    async def refuse(self, token: str) -> None:
        await self.refuse_header(f"Bearer {token}".encode())

    async def refuse_header(self, header: bytes) -> None:
        with pytest.raises(Unauthenticated) as caught:
            await self.bearer.authenticate(header)
        assert (caught.value.code, caught.value.message) == ("invalid_token", "invalid access token")


@pytest.fixture
async def door() -> Door:
    return Door()


async def test_a_user_enters_as_who_they_are_now(door: Door) -> None:
    token = await door.access_token(grant_id=GRANT)
    actor = await door.enter(token)
    assert (actor.realm_id, actor.kind, actor.subject, actor.client_id) == (
        ACME,
        ActorKind.USER,
        str(ADA),
        APP,
    )
    assert actor.token_id == taken_apart(token)[1]["jti"]
    assert actor.permissions.names == {"keys:read", "orders:approve"}


async def test_a_client_enters_for_itself(door: Door) -> None:
    actor = await door.enter(await door.access_token(user=False))
    assert (actor.kind, actor.subject, actor.permissions.names) == (ActorKind.CLIENT, APP, {"keys:encrypt"})


async def test_without_a_header_nobody_is_there(door: Door) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await door.bearer.authenticate(None)
    assert (caught.value.code, caught.value.message) == ("unauthenticated", "authentication required")


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER ", b"bEARER "])
async def test_the_scheme_is_read_in_any_case(door: Door, scheme: bytes) -> None:
    await door.bearer.authenticate(scheme + (await door.access_token()).encode())


@pytest.mark.parametrize(
    "template",
    [b"", b"Bearer", b"Bearer ", b"%s", b"Basic %s", b"Bearer\t%s", b"Bearer  %s", b" Bearer %s", b"Bearer %s ", b"Bearer %s\0", b"Bearer %s,",
     b"Bearer \xe9%s", b"Bearer \xff", b"Bearer \0", b"bearer:%s", "Bearer Ａ%s".encode()],
)  # fmt: skip
async def test_another_form_of_header_is_refused(door: Door, template: bytes) -> None:
    await door.refuse_header(template.replace(b"%s", (await door.access_token()).encode()))


async def test_a_header_beyond_the_limit_is_not_looked_at(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def verify(token: str) -> Any:
        asked.append(token)
        raise Unauthenticated("invalid access token")

    monkeypatch.setattr(door.access_tokens, "verify", verify)
    await door.refuse("x" * (BEARER_CHARS_MAX - 6))
    assert asked == []
    await door.refuse("x" * (BEARER_CHARS_MAX - 7))
    assert len(asked) == 1


@pytest.mark.parametrize("remembered", [True, False])
async def test_a_token_ends_at_its_second(door: Door, remembered: bool) -> None:
    token = await door.access_token()
    if remembered:
        await door.enter(token)
    door.clock.advance(899.999)
    await door.enter(token)
    door.clock.advance(0.001)
    await door.refuse(token)
    door.clock.wall_us -= 1
    await door.enter(token)


@pytest.mark.parametrize("remembered", [True, False])
async def test_whoever_is_disabled_is_out_at_once(door: Door, remembered: bool) -> None:
    token = await door.access_token(grant_id=GRANT)
    for table, key in ((door.users, (ACME, ADA)), (door.clients, (ACME, APP)), (door.realms, ACME)):
        if remembered:
            await door.enter(token)
        door.change(table, key, enabled=False)
        for _ in range(2):
            await door.refuse(token)
        door.change(table, key, enabled=True)
    await door.enter(token)


async def test_a_token_of_a_client_for_itself_needs_no_user_but_the_client(door: Door) -> None:
    token = await door.access_token(user=False)
    door.change(door.users, (ACME, ADA), enabled=False)
    await door.enter(token)
    door.change(door.clients, (ACME, APP), enabled=False)
    await door.refuse(token)


async def test_whoever_is_gone_is_out(door: Door) -> None:
    token = await door.access_token(grant_id=GRANT)
    await door.enter(token)
    for table, key in (
        (door.grants, (ACME, GRANT)),
        (door.users, (ACME, ADA)),
        (door.clients, (ACME, APP)),
        (door.realms, ACME),
    ):
        row = table.rows.pop(key)
        door.epochs.bump(None, ACME)  # type: ignore[arg-type]  # it needs no transaction
        await door.refuse(token)
        table.rows[key] = row
        door.epochs.bump(None, ACME)  # type: ignore[arg-type]  # it needs no transaction
        await door.enter(token)


async def test_a_revoked_token_is_out_and_others_stay(door: Door) -> None:
    one, two = await door.access_token(), await door.access_token()
    await door.enter(one)
    door.grants.dead.add((ACME, taken_apart(one)[1]["jti"]))
    door.epochs.bump(None, ACME)  # type: ignore[arg-type]  # it needs no transaction
    await door.refuse(one)
    await door.enter(two)


async def test_a_revocation_in_another_realm_is_not_for_this_one(door: Door) -> None:
    token = await door.access_token()
    door.grants.dead.add((OTHER, taken_apart(token)[1]["jti"]))
    await door.enter(token)


async def test_a_revoked_grant_takes_its_tokens_along(door: Door) -> None:
    of_it, of_none = await door.access_token(grant_id=GRANT), await door.access_token()
    await door.enter(of_it)
    door.change(door.grants, (ACME, GRANT), revoked_us=1)
    await door.refuse(of_it)
    await door.enter(of_none)


async def test_permissions_are_those_of_now(door: Door) -> None:
    token = await door.access_token()
    await door.enter(token)
    door.roles.rows[ACME, "clerk"] = RoleRecord(
        ACME, "clerk", ("users:create",), built_in=False, created_us=0
    )
    door.epochs.bump(None, ACME)  # type: ignore[arg-type]  # it needs no transaction
    assert (await door.enter(token)).permissions.names == {"users:create"}
    door.change(door.users, (ACME, ADA), roles=())
    assert (await door.enter(token)).permissions.names == frozenset()


async def test_a_withdrawn_key_takes_its_tokens_along_though_they_were_verified(door: Door) -> None:
    token, kid = await door.access_token(), door.keys.active[ACME]
    await door.enter(token)
    door.keys.rotate(ACME)
    del door.keys.published[ACME][kid]
    door.epochs.bump(None, ACME)  # type: ignore[arg-type]  # it needs no transaction
    await door.refuse(token)
    await door.enter(await door.access_token())


async def test_without_a_change_nothing_is_read_twice(door: Door) -> None:
    token = await door.access_token(grant_id=GRANT)
    first = await door.enter(token)
    reads = door.database.reads
    assert await door.enter(token) is first
    assert door.database.reads == reads


async def test_a_refusal_is_not_remembered(door: Door) -> None:
    token = await door.access_token()
    ada = door.users.rows.pop((ACME, ADA))
    await door.refuse(token)
    door.users.rows[ACME, ADA] = ada
    await door.enter(token)


async def test_nobody_is_let_in_on_memory_alone(door: Door) -> None:
    token = await door.access_token()
    await door.enter(token)
    door.epochs.failure = storage_unavailable()
    with pytest.raises(type(storage_unavailable())):
        await door.enter(token)


async def test_a_realm_that_vanished_takes_its_tokens_along(door: Door) -> None:
    token = await door.access_token()
    await door.enter(token)
    del door.epochs.now[ACME]
    await door.refuse(token)


async def test_an_operator_reaches_another_realm_and_nobody_else_does(door: Door) -> None:
    actor, state = await door.bearer.other_realm(an_actor("*"), "other")
    assert (actor, state.realm_id) == (an_actor("*"), OTHER)
    for actor in (an_actor("realm:*"), an_actor("realms:create"), an_actor()):
        with pytest.raises(NotFound) as caught:
            await door.bearer.other_realm(actor, "other")
        assert (caught.value.code, caught.value.message) == ("realm_not_found", "realm not found: other")


@pytest.mark.parametrize("crossing", ["*", "platform:*"])
async def test_roles_of_the_own_realm_do_not_come_along(door: Door, crossing: str) -> None:
    for more in (("keys:decrypt",), ("realm:*",), ("keys:encrypt", "shop:sell")):
        actor, _ = await door.bearer.other_realm(an_actor(crossing, *more), "other")
        assert actor.permissions == compile_permissions(frozenset({crossing}))


@pytest.mark.parametrize("realm_id", ["absent", "", "OTHER", "other ", "../other", "a" * 64, "\0"])
async def test_an_operator_is_told_that_a_realm_is_absent(door: Door, realm_id: str) -> None:
    with pytest.raises(NotFound) as caught:
        await door.bearer.other_realm(an_actor("*"), realm_id)
    assert caught.value.message == f"realm not found: {realm_id}"


async def test_a_scoped_permission_passes_the_coarse_question(door: Door) -> None:
    assert door.bearer.permits(an_actor(f"keys:encrypt:{UUID(int=1)}"), Permission.KEYS_ENCRYPT)
    assert not door.bearer.permits(an_actor("keys:decrypt"), Permission.KEYS_ENCRYPT)


async def test_only_good_headers_of_usual_length_are_recognized_as_they_came(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    await door.refuse("no.such.token")
    token = await door.access_token(grant_id=GRANT)
    await door.refuse(token[:-4] + "AAAA")
    assert not door.bearer._recent
    await door.enter(token)
    assert list(door.bearer._recent) == [f"Bearer {token}".encode()]
    monkeypatch.setattr(bearer, "RECENT_BEARER_CHARS_MAX", len(token))
    await door.enter(await door.access_token(grant_id=GRANT))
    assert len(door.bearer._recent) == 1


async def test_so_many_headers_are_recognized_and_no_more(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bearer, "RECENT_BEARERS_MAX", 3)
    for _ in range(10):
        await door.enter(await door.access_token(grant_id=GRANT))
        assert 1 <= len(door.bearer._recent) <= 3


async def test_what_a_good_token_says_is_told_with_the_state_it_was_judged_on(door: Door) -> None:
    token = await door.access_token(grant_id=GRANT, scope="read", seconds=77)
    found = await door.bearer.inspect(token)
    assert found is not None
    claims, state = found
    said = taken_apart(token)[1]
    assert claims == AccessClaims(
        realm_id=ACME,
        subject=str(ADA),
        client_id=APP,
        token_id=said["jti"],
        grant_id=GRANT,
        scope="read",
        issued_at=said["iat"],
        expires_at=said["iat"] + 77,
    )
    assert state is await door.caches.fresh(ACME)


async def test_a_token_is_told_about_in_its_own_realm(door: Door) -> None:
    door.clients.rows[OTHER, "far"] = a_client("far", OTHER)
    token = await door.access_token(user=False, realm_id=OTHER, client_id="far")
    found = await door.bearer.inspect(token)
    assert found is not None
    claims, state = found
    assert (claims.realm_id, claims.subject, claims.client_id, claims.secret_id is None) == (
        OTHER,
        "far",
        "far",
        False,
    )
    assert state.realm_id == OTHER


async def test_a_token_that_is_told_about_is_recognized_like_one_that_is_shown(door: Door) -> None:
    token = await door.access_token(grant_id=GRANT)
    assert await door.bearer.inspect(token)
    assert list(door.bearer._recent) == [f"Bearer {token}".encode()]
    await door.enter(token)
    assert len(door.bearer._recent) == 1


@pytest.mark.parametrize(
    "template",
    ["", " ", "x", "a.b.c", "Bearer %s", "bearer %s", " %s", "%s ", "%s=", "%s\0", "%s,", "%s\n", "é%s", "%sé", "Ａ%s", "\ud800%s", "%s.", ".%s", "qrt_%s"],
    ids=readable,
)  # fmt: skip
async def test_of_what_is_no_token_nothing_is_told(door: Door, template: str) -> None:
    token = await door.access_token()
    assert await door.bearer.inspect(template.replace("%s", token)) is None
    assert await door.bearer.inspect(token) is not None


async def test_of_a_token_beyond_the_limit_nothing_is_told(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await door.access_token()
    monkeypatch.setattr(bearer, "BEARER_CHARS_MAX", len(token) + 6)
    assert await door.bearer.inspect(token) is None
    monkeypatch.setattr(bearer, "BEARER_CHARS_MAX", len(token) + 7)
    assert await door.bearer.inspect(token) is not None


@pytest.mark.parametrize("remembered", [True, False])
async def test_of_a_token_that_opens_nothing_now_nothing_is_told(door: Door, remembered: bool) -> None:
    token = await door.access_token(grant_id=GRANT)
    for table, key, change in (
        (door.users, (ACME, ADA), {"enabled": False}),
        (door.clients, (ACME, APP), {"enabled": False}),
        (door.realms, ACME, {"enabled": False}),
        (door.grants, (ACME, GRANT), {"revoked_us": 1}),
    ):
        if remembered:
            assert await door.bearer.inspect(token)
        door.change(table, key, **change)
        assert await door.bearer.inspect(token) is None
        door.change(table, key, **({"enabled": True} if "enabled" in change else {"revoked_us": None}))
    door.grants.dead.add((ACME, taken_apart(token)[1]["jti"]))
    door.epochs.bump(None, ACME)  # type: ignore[arg-type]  # it needs no transaction
    assert await door.bearer.inspect(token) is None


@pytest.mark.parametrize("remembered", [True, False])
async def test_of_a_token_out_of_its_time_nothing_is_told(door: Door, remembered: bool) -> None:
    token, began_us = await door.access_token(), door.clock.now_us()
    if remembered:
        assert await door.bearer.inspect(token)
    for moved_us, good in (
        (-60_000_001, False),
        (-60_000_000, True),
        (899_999_999, True),
        (900_000_000, False),
        (10**12, False),
    ):
        door.clock.wall_us = began_us + moved_us
        assert (await door.bearer.inspect(token) is not None) is good


async def test_of_no_token_anything_is_told_on_memory_alone(door: Door) -> None:
    token = await door.access_token()
    assert await door.bearer.inspect(token)
    door.epochs.failure = storage_unavailable()
    with pytest.raises(type(storage_unavailable())):
        await door.bearer.inspect(token)
