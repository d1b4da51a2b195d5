"""`POST /v1/auth/token/refresh`: one use each, no honest client logged out, no thief let in."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import httpx
import pytest

from qimem.storage.schema import app_user, client, oauth_grant, realm, role_permission
from tests.support.api import Person, World
from tests.support.oauth import at_once, b64, change, nobody, protected, rows, taken_apart, unb64
from tests.support.server import Server, ok, refused
from tests.support.volume import volume

PATH = "/v1/auth/token/refresh"
SECOND = 1_000_000


def refresh(person: Person, token: str, **more: Any) -> httpx.Response:
    return person.http.post(PATH, json={"refresh_token": token, **more})


def as_client(person: Person) -> dict[str, str]:
    return {"client_id": person.client_id, "client_secret": person.client_secret}


def dead(answer: httpx.Response) -> None:
    """The one answer for everything that is no live refresh token."""
    body = refused(answer, 400, "invalid_grant")
    assert body["error"] == "invalid refresh token"
    assert body.keys() == {"error", "code", "request_id"}


def grant_of(pair: dict[str, Any]) -> UUID:
    return UUID(taken_apart(pair["access_token"])[1]["grant_id"])


def age(server: Server, realm_id: str, pair: dict[str, Any], seconds: float) -> None:
    """Let the last rotation of a grant have been some time ago."""
    (row,) = rows(server, oauth_grant, realm_id=realm_id, grant_id=grant_of(pair))
    rotated = row["rotated_us"] - int(seconds * SECOND)
    change(server, oauth_grant, {"rotated_us": rotated}, realm_id=realm_id, grant_id=grant_of(pair))


def lives(world: World, pair: dict[str, Any]) -> bool:
    status = protected(world, pair["access_token"]).status_code
    assert status in (200, 401)
    return status == 200


def test_a_refresh_gives_a_new_pair_of_the_same_grant(each_world: World) -> None:
    person = each_world.person()
    answer = refresh(person, person.refresh_token)
    pair = ok(answer)
    assert pair.keys() == {"access_token", "refresh_token", "expires_in", "token_type"}
    assert (pair["expires_in"], pair["token_type"]) == (900, "Bearer")
    assert answer.headers["cache-control"] == "no-store"
    assert pair["refresh_token"] != person.refresh_token
    old, new = (taken_apart(token)[1] for token in (person.access_token, pair["access_token"]))
    changing = ("jti", "iat", "exp")
    assert {name: old[name] for name in old if name not in changing} == {
        name: new[name] for name in new if name not in changing
    }
    assert old["jti"] != new["jti"]
    assert lives(each_world, pair)


def test_a_chain_of_refreshes_is_one_row(each_world: World) -> None:
    person, token = each_world.person(), ""
    token = person.refresh_token
    for _ in range(5):
        token = ok(refresh(person, token))["refresh_token"]
    (row,) = rows(each_world.server, oauth_grant, realm_id=person.realm_id)
    assert (row["generation"], row["revoked_us"]) == (6, None)
    assert row["expires_us"] - row["created_us"] == 86_400 * SECOND


def test_a_spent_token_presented_after_its_successor_ends_the_grant(each_world: World) -> None:
    person = each_world.person()
    second = ok(refresh(person, person.refresh_token))
    third = ok(refresh(person, second["refresh_token"]))
    other = person.login()
    assert all(lives(each_world, pair) for pair in (person.pair, second, third, other))
    dead(refresh(person, person.refresh_token))
    for pair in (person.pair, second, third):
        assert not lives(each_world, pair)
        dead(refresh(person, pair["refresh_token"]))
    assert lives(each_world, other)
    ok(refresh(person, other["refresh_token"]))


def test_a_lost_answer_is_given_again(each_world: World) -> None:
    person = each_world.person()
    pairs = [ok(refresh(person, person.refresh_token)) for _ in range(3)]
    assert {pair["refresh_token"] for pair in pairs} == {pairs[0]["refresh_token"]}
    assert all(lives(each_world, pair) for pair in (person.pair, *pairs))
    assert len(rows(each_world.server, oauth_grant, realm_id=person.realm_id)) == 1
    ok(refresh(person, pairs[2]["refresh_token"]))


@pytest.mark.parametrize("seconds", [11, 3600, -3600])
def test_after_the_grace_time_a_spent_token_ends_the_grant(each_world: World, seconds: int) -> None:
    person = each_world.person()
    pair = ok(refresh(person, person.refresh_token))
    age(each_world.server, person.realm_id, pair, seconds)
    assert lives(each_world, pair)
    dead(refresh(person, person.refresh_token))
    assert not lives(each_world, pair)
    dead(refresh(person, pair["refresh_token"]))


def test_shortly_before_the_grace_time_ends_the_successor_still_comes(world: World) -> None:
    person = world.person()
    pair = ok(refresh(person, person.refresh_token))
    age(world.server, person.realm_id, pair, 7)
    assert ok(refresh(person, person.refresh_token))["refresh_token"] == pair["refresh_token"]


def test_the_grace_time_is_not_prolonged_by_its_use(world: World) -> None:
    person = world.person()
    pair = ok(refresh(person, person.refresh_token))
    age(world.server, person.realm_id, pair, 7)
    ok(refresh(person, person.refresh_token))
    age(world.server, person.realm_id, pair, 4)
    dead(refresh(person, person.refresh_token))


@pytest.mark.parametrize("first_with_secret", [True, False])
def test_within_the_grace_time_another_client_authentication_is_a_thief(
    each_world: World, first_with_secret: bool
) -> None:
    person = each_world.person()
    ways: list[dict[str, str]] = [as_client(person), {}]
    first, second = ways if first_with_secret else reversed(ways)
    pair = ok(refresh(person, person.refresh_token, **first))
    assert lives(each_world, pair)
    dead(refresh(person, person.refresh_token, **second))
    assert not lives(each_world, pair)


def test_within_the_grace_time_the_same_client_authentication_gets_the_successor(each_world: World) -> None:
    person = each_world.person()
    one, two = (ok(refresh(person, person.refresh_token, **as_client(person))) for _ in range(2))
    assert one["refresh_token"] == two["refresh_token"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_secret": "wrong"}, {"client_secret": ""}, {"client_secret": None}, {"client_id": None},
        {"client_id": "unknown"}, {"client_id": ""}, {"client_id": "a\u0000b"},
    ],
    ids=ascii,
)  # fmt: skip
def test_wrong_client_credentials_are_refused_and_spend_nothing(
    each_world: World, wrong: dict[str, Any]
) -> None:
    person = each_world.person()
    answer = refresh(person, person.refresh_token, **(as_client(person) | wrong))
    assert refused(answer, 401, "invalid_client")["error"] == "invalid client credentials"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert ok(refresh(person, person.refresh_token))["refresh_token"]
    assert len(rows(each_world.server, oauth_grant, realm_id=person.realm_id, generation=2)) == 1


def test_the_credentials_of_another_client_are_refused_and_spend_nothing(world: World) -> None:
    person = world.person()
    for other in (world.client(person.realm_id), world.client(world.realm())):
        stolen = {name: other[name] for name in ("client_id", "client_secret")}
        refused(refresh(person, person.refresh_token, **stolen), 401, "invalid_client")
    public = world.client(person.realm_id, token_endpoint_auth_method="none")
    refused(refresh(person, person.refresh_token, client_id=public["client_id"]), 401, "invalid_client")
    assert lives(world, person.pair)
    ok(refresh(person, person.refresh_token, **as_client(person)))


def test_a_public_client_refreshes_by_its_id_or_without(world: World) -> None:
    person = world.person()
    public = world.client(person.realm_id, token_endpoint_auth_method="none")
    asked = person.credentials() | {"client_id": public["client_id"], "client_secret": None}
    token = ok(person.http.post("/v1/auth/token", json=asked))["refresh_token"]
    token = ok(refresh(person, token, client_id=public["client_id"]))["refresh_token"]
    refused(refresh(person, token, client_id=public["client_id"], client_secret="x"), 401, "invalid_client")
    ok(refresh(person, token))


def test_credentials_are_judged_before_the_token(admin: Person) -> None:
    refused(
        refresh(admin, "garbage", client_id=admin.client_id, client_secret="wrong"), 401, "invalid_client"
    )


@pytest.mark.parametrize(
    "token",
    ["", " ", "x", "qrt_", "qrt_=", "qrt_AA", "qrt_" + "A" * 84, "qrt_" + "_" * 84, "qrt_" + "A" * 251, "qrt_" + "A" * 5000,
     "QRT_AAAA", "qcs_AAAA", "\u0000", "qrt_\u0000", "ä", "qrt_ä", "null", "x" * 60_000],
    ids=lambda token: ascii(token[:12]),
)  # fmt: skip
def test_garbage_is_refused(admin: Person, token: str) -> None:
    dead(refresh(admin, token))


def test_an_access_token_is_no_refresh_token(admin: Person) -> None:
    dead(refresh(admin, admin.access_token))
    dead(refresh(admin, "qrt_" + admin.access_token))


def variants(token: str, flips: int) -> list[str]:
    data = unb64(token.removeprefix("qrt_"))
    bits = range(0, 8 * len(data), max(1, 8 * len(data) // flips))
    flipped = [
        bytes(byte ^ (0x80 >> bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(data))
        for bit in bits
    ]
    cut = [data[:length] for length in range(0, len(data), max(1, 4 * len(data) // flips))]
    longer = [data + b"\0", b"\0" + data, data + data, data[:-32] + bytes(32), data[:-32] + data[-32:][::-1]]
    return [f"qrt_{b64(one)}" for one in flipped + cut + longer]


def respelled(token: str) -> list[str]:
    return [
        token + "=", token + "==", token + " ", " " + token, token + "\n", token + "A", token[:-1], token.removeprefix("qrt_"),
        token.upper(), token.swapcase(), "qrt_" + token, token.replace("_", "-"), token[:20] + "\n" + token[20:], token + "\u0000",
    ]  # fmt: skip


@pytest.mark.acceptance
def test_no_variant_of_a_token_is_taken_or_does_harm(each_world: World) -> None:
    person = each_world.person()
    spent, live = person.refresh_token, ok(refresh(person, person.refresh_token))["refresh_token"]
    for token in (live, spent):
        for variant in variants(token, volume(800, share=0.1)) + respelled(token):
            dead(refresh(person, variant))
    (row,) = rows(each_world.server, oauth_grant, realm_id=person.realm_id)
    assert (row["generation"], row["revoked_us"]) == (2, None)
    ok(refresh(person, live))


def test_a_token_does_not_move_to_another_realm(world: World) -> None:
    person = world.person()
    other = world.person(realm_id=world.realm())
    data = unb64(person.refresh_token.removeprefix("qrt_"))
    realm_id = other.realm_id.encode()
    moved = bytes((len(realm_id),)) + realm_id + data[1 + data[0] :]
    dead(refresh(person, f"qrt_{b64(moved)}"))
    refused(refresh(other, person.refresh_token, **as_client(other)), 401, "invalid_client")
    ok(refresh(person, person.refresh_token))


def test_the_end_of_a_grant_is_absolute(each_world: World) -> None:
    server, person = each_world.server, each_world.person()
    where: dict[str, Any] = {"realm_id": person.realm_id, "grant_id": grant_of(person.pair)}
    change(server, oauth_grant, {"expires_us": (int(time.time()) + 600) * SECOND}, **where)
    pair = ok(refresh(person, person.refresh_token))
    assert 590 <= pair["expires_in"] <= 600
    claims = taken_apart(pair["access_token"])[1]
    assert claims["exp"] - claims["iat"] == pair["expires_in"]
    change(server, oauth_grant, {"expires_us": int(time.time()) * SECOND}, **where)
    for token in (pair["refresh_token"], person.refresh_token):
        dead(refresh(person, token))


@pytest.mark.parametrize("table", [app_user, client, realm], ids=str)
def test_whoever_is_disabled_refreshes_nothing(each_world: World, table: Any) -> None:
    server, person = each_world.server, each_world.person()
    change(server, table, {"enabled": False}, realm_id=person.realm_id)
    dead(refresh(person, person.refresh_token))
    if table is app_user:
        dead(refresh(person, person.refresh_token, **as_client(person)))
    else:
        refused(refresh(person, person.refresh_token, **as_client(person)), 401, "invalid_client")
    change(server, table, {"enabled": True}, realm_id=person.realm_id)
    ok(refresh(person, person.refresh_token))


def test_a_client_that_may_no_longer_refresh_gets_nothing(world: World) -> None:
    person = world.person()
    change(
        world.server,
        client,
        {"grant_types": '["password"]'},
        realm_id=person.realm_id,
        client_id=person.client_id,
    )
    dead(refresh(person, person.refresh_token))


def test_roles_are_those_of_now(each_world: World) -> None:
    person = each_world.person("keys:read", "orders:approve")
    change(
        each_world.server, role_permission, {"permission": "orders:cancel"}, realm_id=person.realm_id, permission="orders:approve"
    )  # fmt: skip
    pair = ok(refresh(person, person.refresh_token))
    assert taken_apart(pair["access_token"])[1]["permissions"] == ["keys:read", "orders:cancel"]


def test_scope_is_that_of_the_grant(world: World) -> None:
    person = world.person()
    made = world.client(person.realm_id, scope="read write")
    asked = (
        person.credentials()
        | {name: made[name] for name in ("client_id", "client_secret")}
        | {"scope": "read"}
    )
    pair = ok(person.http.post("/v1/auth/token", json=asked))
    assert ok(refresh(person, pair["refresh_token"]))["scope"] == "read"


def test_of_eight_refreshes_at_once_none_is_logged_out_and_none_branches_off(each_world: World) -> None:
    person = each_world.person()
    pairs = [ok(answer) for answer in at_once([lambda: refresh(person, person.refresh_token)] * 8)]
    assert len({pair["refresh_token"] for pair in pairs}) == 1
    assert len({pair["access_token"] for pair in pairs}) == 8
    (row,) = rows(each_world.server, oauth_grant, realm_id=person.realm_id)
    assert (row["generation"], row["revoked_us"]) == (2, None)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"/refresh_token": "required"}),
        ({"refresh_token": None}, {"/refresh_token": "expected str, got null"}),
        ({"refresh_token": 7}, {"/refresh_token": "expected str, got int"}),
        ({"refresh_token": "x", "scope": "read"}, {"/scope": "unknown field"}),
        ({"refresh_token": "x", "grant_type": "refresh_token"}, {"/grant_type": "unknown field"}),
        ({"token": "x"}, {"/token": "unknown field; did you mean refresh_token?"}),
    ],
    ids=str,
)
def test_a_body_of_another_shape_is_refused(admin: Person, body: dict, fields: dict[str, str]) -> None:
    found = refused(admin.post(PATH, body), 400, "invalid_field")["fields"]
    assert {key: value.partition(";")[0] for key, value in found.items()} == {
        key: value.partition(";")[0] for key, value in fields.items()
    }


def test_a_form_is_refused(admin: Person) -> None:
    refused(admin.http.post(PATH, data={"refresh_token": "x"}), 415, "unsupported_media_type")


def test_no_bearer_is_needed_and_a_bad_one_does_not_matter(world: World) -> None:
    person = world.person()
    pair = ok(nobody(world).post(PATH, json={"refresh_token": person.refresh_token}))
    ok(
        nobody(world).post(
            PATH, json={"refresh_token": pair["refresh_token"]}, headers={"Authorization": "Bearer garbage"}
        )
    )
