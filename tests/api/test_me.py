"""`/v1/auth/me`: who one is, and one's own password."""

from __future__ import annotations

import pytest

from tests.support.api import PASSWORD, Person, World
from tests.support.audit_log import of_request
from tests.support.oauth import PROTECTED, nobody, protected
from tests.support.server import ok, refused

ME = "/v1/auth/me"
CHANGE = f"{ME}/password"
OTHER = "another long phrase"


@pytest.fixture
def person(each_world: World) -> Person:
    return each_world.person("shop:sell")


def test_everybody_may_ask_who_they_are(each_world: World, person: Person) -> None:
    found = ok(person.get(ME))
    assert found == {
        "realm_id": person.realm_id,
        "sub": found["sub"],
        "kind": "user",
        "client_id": person.client_id,
        "username": person.username,
        "email": None,
        "roles": found["roles"],
        "permissions": ["shop:sell"],
        "second_factor": False,
    }
    assert len(found["roles"]) == 1


def test_a_client_is_told_that_it_is_one(each_world: World) -> None:
    realm_id = each_world.realm()
    client = each_world.client(realm_id, roles=["realm-admin"])
    body = {"grant_type": "client_credentials", **{n: client[n] for n in ("client_id", "client_secret")}}
    token = ok(nobody(each_world).post("/v1/auth/token", json=body))["access_token"]
    found = ok(each_world.bearer(token).get(ME))
    assert (found["kind"], found["sub"], found["username"]) == ("client", client["client_id"], None)
    assert (found["roles"], found["permissions"]) == (["realm-admin"], ["realm:*"])
    answer = each_world.bearer(token).post(CHANGE, json={"current_password": "x", "password": OTHER})
    refused(answer, 409, "conflict")


def test_nobody_is_nobody(each_world: World) -> None:
    refused(nobody(each_world).get(ME), 401, "unauthenticated")
    refused(each_world.bearer("x").get(ME), 401, "invalid_token")


def test_a_changed_password_ends_all_that_the_old_one_began(each_world: World, person: Person) -> None:
    second = person.login()
    answer = person.post(CHANGE, {"current_password": PASSWORD, "password": OTHER})
    assert ok(answer) == {"revoked": 2}
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"]) == ("me.change-password", record["subject"])
    for pair in (person.pair, second):
        refused(protected(each_world, pair["access_token"]), 401, "invalid_token")
        refresh = {"refresh_token": pair["refresh_token"]}
        refused(nobody(each_world).post("/v1/auth/token/refresh", json=refresh), 400, "invalid_grant")
    refused(nobody(each_world).post("/v1/auth/token", json=person.credentials()), 400, "invalid_grant")
    ok(nobody(each_world).post("/v1/auth/token", json=person.credentials() | {"password": OTHER}))


@pytest.mark.parametrize("current", ["", "x", PASSWORD.upper(), PASSWORD + " ", "x" * 10_000])
def test_who_does_not_know_the_password_does_not_change_it(person: Person, current: str) -> None:
    answer = person.post(CHANGE, {"current_password": current, "password": OTHER})
    refused(answer, 400, "invalid_grant")
    person.login()


@pytest.mark.parametrize("weak", ["", "short", "x" * 257, "password1234"])
def test_the_new_one_has_to_be_good(person: Person, weak: str) -> None:
    refused(person.post(CHANGE, {"current_password": PASSWORD, "password": weak}), 400, "weak_password")
    person.login()


def test_an_administrator_sets_a_password_and_the_old_one_is_out(each_world: World) -> None:
    admin = each_world.person()
    victim = each_world.person("keys:read", realm_id=admin.realm_id)
    ok(victim.get(PROTECTED))
    user_id = ok(victim.get(ME))["sub"]
    path = f"/v1/auth/users/{user_id}/password"
    refused(admin.post(path, {"password": "short"}), 400, "weak_password")
    answer = admin.post(path, {"password": OTHER})
    assert ok(answer) == {"revoked": 1}
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"]) == ("users.set-password", user_id)
    refused(victim.get(PROTECTED), 401, "invalid_token")
    refused(nobody(each_world).post("/v1/auth/token", json=victim.credentials()), 400, "invalid_grant")
    ok(nobody(each_world).post("/v1/auth/token", json=victim.credentials() | {"password": OTHER}))


def test_a_stolen_token_of_an_administrator_is_no_way_around_the_password(each_world: World) -> None:
    admin = each_world.person()
    own = f"/v1/auth/users/{ok(admin.get(ME))['sub']}"
    told = refused(admin.post(f"{own}/password", {"password": OTHER}), 409, "conflict")
    assert told["hint"] == "POST /v1/auth/me/password"
    refused(admin.post(f"{own}/totp/disable"), 409, "conflict")
    admin.login()


def test_an_administrator_unlocks_by_a_new_password(each_world: World) -> None:
    admin = each_world.person()
    victim = each_world.person("keys:read", realm_id=admin.realm_id)
    subject = ok(victim.get(ME))["sub"]
    for _ in range(25):
        answer = victim.post(CHANGE, {"current_password": "x", "password": OTHER})
    refused(answer, 429, "too_many_attempts")
    # Guesses of who is signed in keep nobody from signing in.
    victim.login()
    ok(admin.post(f"/v1/auth/users/{subject}/password", {"password": OTHER}))
    ok(nobody(each_world).post("/v1/auth/token", json=victim.credentials() | {"password": OTHER}))


def test_a_clerk_does_not_take_over_an_administrator(each_world: World) -> None:
    admin = each_world.person()
    clerk = each_world.person("users:manage", realm_id=admin.realm_id)
    path = f"/v1/auth/users/{ok(admin.get(ME))['sub']}"
    for answer in (
        clerk.post(f"{path}/password", {"password": OTHER}),
        clerk.post(f"{path}/roles/remove", {"roles": ["realm-admin"]}),
        clerk.http.patch(path, json={"username": "mine"}, headers={"If-Match": "*"}),
    ):
        assert refused(answer, 403, "permission_denied")["permission"] == "realm:*"
    own = f"/v1/auth/users/{ok(clerk.get(ME))['sub']}"
    answer = clerk.post(f"{own}/roles/assign", {"roles": ["realm-admin"]})
    assert refused(answer, 403, "permission_denied")["permission"] == "realm:*"
    admin.login()
