from __future__ import annotations

import pytest

from qimem.crypto.mac import digest
from qimem.errors import Forbidden, InvalidFields, storage_unavailable
from qimem.identity.models import RoleRecord
from qimem.kernel.clock import MICROSECONDS
from qimem.kernel.ids import RealmId
from qimem.wire.auth import IntrospectRequest
from tests.support.oauth import taken_apart
from tests.unit.oauth.fakes import ACME, ADA, APP, OTHER, SECRET, a_client, a_grant, an_actor, basic, readable
from tests.unit.oauth.introspecting import FAR, GRANT, INACTIVE, SECONDS, Desk, told

pytestmark = pytest.mark.anyio

KINDS = pytest.mark.parametrize("kind", ["access", "refresh"])


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_an_access_token_is_told_with_all_that_it_is_good_for(desk: Desk) -> None:
    desk.change(desk.users, (ACME, ADA), roles=("robot", "clerk"))
    token = await desk.access_token(scope="write", seconds=77)
    assert await desk.both(token) == {
        "active": True,
        "token_use": "access",
        "sub": str(ADA),
        "username": "Ada",
        "client_id": "app",
        "realm": "acme",
        "roles": ["robot", "clerk"],
        "permissions": ["keys:encrypt", "keys:read", "orders:approve"],
        "scope": "write",
        "iat": SECONDS,
        "exp": SECONDS + 77,
        "jti": taken_apart(token)[1]["jti"],
    }


async def test_a_refresh_token_is_told_with_all_that_it_is_good_for(desk: Desk) -> None:
    desk.change(desk.users, (ACME, ADA), roles=("robot", "clerk"))
    now_us = desk.clock.now_us()
    desk.grants.rows[ACME, GRANT] = a_grant(
        grant_id=GRANT, generation=7, scope="write", created_us=now_us - 1, expires_us=now_us + 1_999_999
    )
    assert await desk.both(await desk.token("refresh", generation=7)) == {
        "active": True,
        "token_use": "refresh",
        "sub": str(ADA),
        "username": "Ada",
        "client_id": "app",
        "realm": "acme",
        "roles": ["robot", "clerk"],
        "permissions": ["keys:encrypt", "keys:read", "orders:approve"],
        "scope": "write",
        "iat": SECONDS - 1,
        "exp": SECONDS + 1,
        "jti": f"{GRANT}.7",
    }


async def test_a_refresh_token_is_as_old_as_the_last_refresh(desk: Desk) -> None:
    for rotated_us, issued in ((SECONDS * MICROSECONDS + 5_999_999, SECONDS + 5), (0, 0), (None, SECONDS)):
        desk.grants.rows[ACME, GRANT] = a_grant(grant_id=GRANT, rotated_us=rotated_us)
        assert (await desk.both(await desk.token("refresh")))["iat"] == issued


async def test_a_client_that_acts_for_itself_has_no_username(desk: Desk) -> None:
    token = await desk.access_token(user=False)
    assert await desk.both(token) == {
        "active": True,
        "token_use": "access",
        "sub": "app",
        "client_id": "app",
        "realm": "acme",
        "roles": ["robot"],
        "permissions": ["keys:encrypt"],
        "iat": SECONDS,
        "exp": SECONDS + 900,
        "jti": taken_apart(token)[1]["jti"],
    }


async def test_a_client_is_not_taken_for_the_user_whose_id_it_has(desk: Desk) -> None:
    desk.clients.rows[ACME, str(ADA)] = a_client(str(ADA))
    found = await desk.both(await desk.access_token(user=False, client_id=str(ADA)))
    assert (found["sub"], found["client_id"], "username" in found) == (str(ADA), str(ADA), False)
    assert (found["roles"], found["permissions"]) == (["robot"], ["keys:encrypt"])


@KINDS
async def test_without_a_scope_none_is_told(desk: Desk, kind: str) -> None:
    desk.grants.rows[ACME, GRANT] = a_grant(grant_id=GRANT, scope=None)
    found = await desk.both(await (desk.token(kind) if kind == "refresh" else desk.access_token()))
    assert (found["active"], "scope" in found) == (True, False)


@KINDS
async def test_roles_and_permissions_are_those_of_now(desk: Desk, kind: str) -> None:
    token = await desk.token(kind)
    assert (await desk.both(token))["roles"] == ["clerk"]
    desk.change(desk.users, (ACME, ADA), roles=("robot",))
    found = await desk.both(token)
    assert (found["roles"], found["permissions"]) == (["robot"], ["keys:encrypt"])
    desk.change(desk.users, (ACME, ADA), roles=())
    found = await desk.both(token)
    assert (found["active"], found["roles"], found["permissions"]) == (True, [], [])


@KINDS
@pytest.mark.parametrize(
    ("granted", "registered", "left"),
    [
        ("read write", "write", "write"),
        ("read write", "write read more", "read write"),
        ("write read", "more read", "read"),
        (None, "read", None),
    ],
)
async def test_of_a_scope_is_told_what_the_client_may_still_have(
    desk: Desk, kind: str, granted: str | None, registered: str, left: str | None
) -> None:
    desk.grants.rows[ACME, GRANT] = a_grant(grant_id=GRANT, scope=granted)
    token = await (desk.token(kind) if kind == "refresh" else desk.access_token(scope=granted))
    desk.change(desk.clients, (ACME, APP), scope=registered)
    found = await desk.both(token)
    assert (found["active"], found.get("scope")) == (True, left)


@KINDS
@pytest.mark.parametrize("registered", ["more", "rea", "readwrite", None])
async def test_what_has_lost_all_of_its_scope_is_inactive(
    desk: Desk, kind: str, registered: str | None
) -> None:
    desk.grants.rows[ACME, GRANT] = a_grant(grant_id=GRANT, scope="read write")
    token = await (desk.token(kind) if kind == "refresh" else desk.access_token(scope="read write"))
    assert (await desk.both(token))["active"]
    desk.change(desk.clients, (ACME, APP), scope=registered)
    assert await desk.both(token) == INACTIVE
    # Given back in time, it is good again.
    desk.change(desk.clients, (ACME, APP), scope="read")
    assert (await desk.both(token))["scope"] == "read"


async def test_each_access_token_is_told_for_itself(desk: Desk) -> None:
    tokens = [await desk.access_token(scope="read"), await desk.access_token(scope="write", seconds=5)]
    for _ in range(2):
        found = [await desk.by_bearer(token) for token in tokens]
        assert [one["jti"] for one in found] == [taken_apart(token)[1]["jti"] for token in tokens]
        assert [one["scope"] for one in found] == ["read", "write"]


async def test_without_a_change_nothing_is_read_twice_for_an_access_token(desk: Desk) -> None:
    token = await desk.token("access")
    first = await desk.by_bearer(token)
    reads = desk.database.reads
    assert await desk.by_bearer(token) == first
    assert desk.database.reads == reads


@KINDS
@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "", "nonsense"])
async def test_the_hint_changes_nothing(desk: Desk, kind: str, hint: str) -> None:
    found = await desk.by_bearer(await desk.token(kind), token_type_hint=hint)
    assert found["token_use"] == kind


@pytest.mark.parametrize("permission", ["tokens:introspect", "realm:*", "platform:*", "*"])
@KINDS
async def test_whoever_may_introspect_is_told_of_tokens_of_the_own_realm(
    desk: Desk, kind: str, permission: str
) -> None:
    assert (await desk.by_bearer(await desk.token(kind), permission))["active"]


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER "])
async def test_a_holder_is_told_of_the_own_token(desk: Desk, scheme: bytes) -> None:
    token = await desk.token("access")
    actor, _ = await desk.bearer.authenticate(scheme + token.encode())
    found = await desk.told_to(actor, scheme + token.encode(), token)
    assert (found["active"], found["jti"]) == (True, actor.token_id)


async def test_a_holder_is_told_of_nothing_but_the_own_token(desk: Desk) -> None:
    token = await desk.token("access")
    header = b"Bearer " + token.encode()
    actor, _ = await desk.bearer.authenticate(header)
    others = [await desk.token("access"), await desk.token("refresh"), token[:-1], token + "x", " " + token]
    for other in (*others, token.upper(), header.decode(), "", "nonsense", token[7:], "é", "\ud800"):
        with pytest.raises(Forbidden):
            await desk.told_to(actor, header, other)


@pytest.mark.parametrize(
    "permissions",
    [(), ("keys:read",), ("tokens:introspect2",), ("TOKENS:INTROSPECT",), ("authz:explain", "audit:read", "users:manage")],
    ids=readable,
)  # fmt: skip
@pytest.mark.parametrize("token", ["access", "refresh", "nonsense", "", "\ud800"], ids=readable)
async def test_without_the_permission_nothing_is_looked_up(
    desk: Desk, token: str, permissions: tuple[str, ...]
) -> None:
    token = await desk.token(token) if token in ("access", "refresh") else token
    desk.database.reads = 0
    desk.epochs.failure = storage_unavailable()
    with pytest.raises(Forbidden) as caught:
        await desk.told_to(an_actor(*permissions), b"Bearer own", token)
    assert caught.value.message == "permission denied: tokens:introspect"
    assert (caught.value.permission, caught.value.resource) == ("tokens:introspect", None)
    assert caught.value.hint == "ask an administrator for tokens:introspect"
    assert desk.database.reads == 0


@pytest.mark.parametrize(
    "credentials",
    [{"client_id": APP, "client_secret": SECRET}, {"client_id": APP}, {"client_secret": SECRET}, {"client_id": ""}, {"client_secret": ""}],
    ids=readable,
)  # fmt: skip
@pytest.mark.parametrize("permissions", [(), ("tokens:introspect",), ("*",)], ids=readable)
async def test_credentials_beside_a_bearer_are_refused(
    desk: Desk, credentials: dict[str, str], permissions: tuple[str, ...]
) -> None:
    token = await desk.token("access")
    with pytest.raises(InvalidFields) as caught:
        await desk.told_to(an_actor(*permissions), b"Bearer " + token.encode(), token, **credentials)
    assert caught.value.fields == {"/client_id": "the bearer says already who asks"}


@pytest.mark.parametrize(
    "permissions",
    [("tokens:introspect",), ("realm:*",), ("platform:*",), ("realm:*", "platform:*", "tokens:introspect", "shop:*")],
    ids=readable,
)  # fmt: skip
@KINDS
async def test_a_token_of_another_realm_is_inactive(
    desk: Desk, kind: str, permissions: tuple[str, ...]
) -> None:
    assert await desk.by_bearer(await desk.token(kind, OTHER), *permissions) == INACTIVE
    abroad = an_actor(*permissions, realm_id=OTHER)
    assert await desk.told_to(abroad, b"Bearer own", await desk.token(kind)) == INACTIVE


@KINDS
async def test_an_operator_is_told_of_tokens_of_every_realm(desk: Desk, kind: str) -> None:
    for realm_id in (ACME, OTHER, RealmId("system")):
        operator = an_actor("*", realm_id=realm_id)
        found = await desk.told_to(operator, b"Bearer own", await desk.token(kind, OTHER))
        assert (found["realm"], found["username"], found["client_id"]) == ("other", "Eve", "far")
        assert (found["roles"], found["permissions"]) == (["clerk"], ["users:read"])
        found = await desk.told_to(operator, b"Bearer own", await desk.token(kind))
        assert (found["realm"], found["username"], found["client_id"]) == ("acme", "Ada", "app")


async def test_for_an_operator_too_what_opens_nothing_is_inactive(desk: Desk) -> None:
    tokens = [await desk.token("access", OTHER), await desk.token("refresh", OTHER), "nonsense", ""]
    desk.change(desk.users, (OTHER, ADA), enabled=False)
    for token in tokens:
        assert await desk.by_bearer(token, "*") == INACTIVE


@pytest.mark.parametrize("realm_id", [ACME, OTHER])
@KINDS
async def test_a_client_is_told_of_tokens_of_its_realm(desk: Desk, kind: str, realm_id: RealmId) -> None:
    client_id, token = APP if realm_id == ACME else FAR, await desk.token(kind, realm_id)
    in_body = await desk.by_client(token, client_id)
    assert (in_body["active"], in_body["realm"]) == (True, realm_id)
    header = basic(client_id, SECRET)
    assert told(await desk.service.by_client(header, IntrospectRequest(token=token), desk.meter)) == in_body


@KINDS
async def test_another_client_of_the_realm_is_told_too(desk: Desk, kind: str) -> None:
    desk.clients.rows[ACME, "shop"] = a_client("shop", secret_digest=digest(b"open"))
    assert (await desk.by_client(await desk.token(kind), "shop", "open"))["client_id"] == "app"


@KINDS
async def test_a_client_is_not_told_of_tokens_of_another_realm(desk: Desk, kind: str) -> None:
    assert await desk.by_client(await desk.token(kind), FAR) == INACTIVE
    assert await desk.by_client(await desk.token(kind, OTHER)) == INACTIVE


@KINDS
async def test_no_role_lets_a_client_see_tokens_of_another_realm(desk: Desk, kind: str) -> None:
    desk.roles.rows[ACME, "robot"] = RoleRecord(ACME, "robot", ("*",), built_in=True, created_us=0)
    assert await desk.by_client(await desk.token(kind, OTHER)) == INACTIVE


@pytest.mark.parametrize(
    "asked",
    [
        {}, {"client_id": APP}, {"client_secret": SECRET}, {"client_id": ""}, {"client_id": "", "client_secret": ""},
        {"client_id": APP, "client_secret": ""}, {"client_id": APP, "client_secret": SECRET + "x"}, {"client_id": "unknown", "client_secret": SECRET},
        {"client_id": "APP", "client_secret": SECRET}, {"client_id": SECRET, "client_secret": APP}, {"client_id": "spa", "client_secret": ""},
        {"client_id": "spa", "client_secret": SECRET},
    ],
    ids=readable,
)  # fmt: skip
async def test_a_client_that_does_not_prove_itself_is_refused(desk: Desk, asked: dict[str, str]) -> None:
    await desk.refuse_client(**asked)


async def test_a_public_client_proves_nothing(desk: Desk) -> None:
    await desk.refuse_client(client_id="spa")
    await desk.refuse_client(basic("spa", ""))


async def test_a_secret_without_a_client_asks_nothing_of_the_database(desk: Desk) -> None:
    for asked in ({}, {"client_secret": SECRET}):
        await desk.refuse_client(**asked)
    assert desk.database.reads == 0


@pytest.mark.parametrize(
    "header",
    [b"Basic", b"Basic ", b"Basic !!!", basic(APP, ""), basic(APP, SECRET + "x"), basic("spa", SECRET), basic(SECRET, APP)],
    ids=readable,
)  # fmt: skip
async def test_a_client_that_its_header_does_not_prove_is_refused(desk: Desk, header: bytes) -> None:
    await desk.refuse_client(header)


@pytest.mark.parametrize(
    "asked",
    [{"client_id": APP, "client_secret": SECRET}, {"client_id": APP}, {"client_secret": SECRET}, {"client_id": ""}, {"client_secret": ""}],
    ids=readable,
)  # fmt: skip
@pytest.mark.parametrize("header", [basic(APP, SECRET), basic(APP, "wrong"), b""], ids=readable)
async def test_credentials_in_two_places_are_refused(
    desk: Desk, header: bytes, asked: dict[str, str]
) -> None:
    request = IntrospectRequest(token=await desk.token("access"), **asked)
    with pytest.raises(InvalidFields) as caught:
        await desk.service.by_client(header, request, desk.meter)
    assert caught.value.fields == {"/client_id": "the Authorization header says already who asks"}


@pytest.mark.parametrize("what", ["client", "realm"])
async def test_a_disabled_client_is_not_told_and_comes_back(desk: Desk, what: str) -> None:
    table, key = (desk.clients, (OTHER, FAR)) if what == "client" else (desk.realms, OTHER)
    desk.change(table, key, enabled=False)
    await desk.refuse_client(client_id=FAR, client_secret=SECRET)
    await desk.refuse_client(basic(FAR, SECRET))
    desk.change(table, key, enabled=True)
    assert await desk.by_client(await desk.token("access", OTHER), FAR) != INACTIVE
