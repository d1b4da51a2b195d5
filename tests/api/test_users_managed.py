"""`/v1/auth/users`: who is there, and letting people in or not, from the next request on."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.support.api import PASSWORD, Person, World
from tests.support.audit_log import of_request
from tests.support.oauth import PROTECTED, nobody, protected
from tests.support.server import ok, refused

USERS = "/v1/auth/users"


@pytest.fixture
def admin(each_world: World) -> Person:
    return each_world.person()


def names(found: dict[str, Any]) -> list[str]:
    return [user["username"] for user in found["items"]]


def id_of(admin: Person, username: str) -> str:
    (found,) = [user for user in every(admin) if user["username"] == username]
    user_id: str = found["id"]
    return user_id


def every(admin: Person, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        more = query if cursor is None else query | {"cursor": cursor}
        found = ok(admin.get(USERS, params=more))
        items += found["items"]
        cursor = found["next_cursor"]
        if cursor is None:
            return items


def added(world: World, admin: Person, username: str, roles: list[str] | None = None) -> dict[str, Any]:
    body = {"username": username, "password": PASSWORD, "roles": roles or [], "realm_id": admin.realm_id}
    found: dict[str, Any] = ok(world.operator.post(USERS, json=body))
    return found


def test_users_are_listed_by_name_with_their_roles(each_world: World, admin: Person) -> None:
    role = each_world.role(admin.realm_id, ["keys:read"])
    made = [added(each_world, admin, name, [role, "realm-admin"]) for name in ("zoë", "Bob", "alice")]
    found = [user for user in every(admin) if user["username"] != admin.username]
    assert found == sorted(made, key=lambda user: user["username"].lower())
    assert found[0]["roles"] == [role, "realm-admin"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 200])
def test_pages_together_are_the_whole_list(each_world: World, admin: Person, limit: int) -> None:
    for number in range(6):
        added(each_world, admin, f"user{number}", ["realm-admin"] if number % 2 else [])
    found = every(admin, limit=limit)
    assert len(found) == 7
    assert found == every(admin)


def test_nobody_of_another_realm_is_shown(each_world: World, admin: Person) -> None:
    stranger = each_world.person()
    assert names(ok(admin.get(USERS))) == [admin.username]
    refused(admin.get(USERS, params={"realm_id": stranger.realm_id}), 404, "realm_not_found")
    shown = ok(each_world.operator.get(USERS, params={"realm_id": stranger.realm_id}))
    assert names(shown) == [stranger.username]


@pytest.mark.parametrize(
    "cursor", ["", "x", "WyJBIl0", "WzFd", "WyIiXQ", "WyJcdTAwMDAiXQ", "WyJhIGIiXQ", "W10"]
)
def test_another_cursor_is_refused(admin: Person, cursor: str) -> None:
    body = refused(admin.get(USERS, params={"cursor": cursor}), 400, "invalid_field")
    assert set(body["fields"]) == {"/cursor"}


@pytest.mark.parametrize("limit", ["0", "201", "x", "-1"])
def test_another_limit_is_refused(admin: Person, limit: str) -> None:
    refused(admin.get(USERS, params={"limit": limit}), 400, "invalid_field")


def test_a_user_is_shown_as_made(each_world: World, admin: Person) -> None:
    made = added(each_world, admin, "ada")
    assert ok(admin.get(f"{USERS}/{made['id']}")) == made
    assert ok(admin.get(f"{USERS}/{made['id'].upper()}")) == made


@pytest.mark.parametrize("verb", ["get", "disable", "enable"])
def test_who_is_elsewhere_is_nowhere(each_world: World, admin: Person, verb: str) -> None:
    stranger = each_world.user(each_world.realm())["id"]
    for user_id in (stranger, str(uuid4()), "x"):
        path = f"{USERS}/{user_id}"
        answer = admin.get(path) if verb == "get" else admin.post(f"{path}/{verb}")
        assert refused(answer, 404, "not_found")["error"] == f"user not found: {user_id}"


@pytest.mark.parametrize(
    ("path", "verb", "needed"),
    [("", "get", "users:read"), ("/x", "get", "users:read"), ("/x/disable", "post", "users:manage")],
)
def test_the_right_to_it_is_needed(each_world: World, path: str, verb: str, needed: str) -> None:
    others = {"users:read", "users:manage", "users:create"} - {needed}
    weak = each_world.person(*sorted(others))
    body = refused(weak.http.request(verb, USERS + path), 403, "permission_denied")
    assert body["permission"] == needed


def test_who_is_disabled_is_out_in_the_next_request_and_back_in_after_enable(
    each_world: World, admin: Person
) -> None:
    victim = each_world.person("keys:read", realm_id=admin.realm_id)
    user_id = id_of(admin, victim.username)
    ok(victim.get(PROTECTED))
    answer = admin.post(f"{USERS}/{user_id}/disable")
    assert ok(answer)["enabled"] is False
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"]) == ("users.disable", user_id)
    refused(victim.get(PROTECTED), 401, "invalid_token")
    refresh = {"refresh_token": victim.refresh_token}
    refused(nobody(each_world).post("/v1/auth/token/refresh", json=refresh), 400, "invalid_grant")
    refused(nobody(each_world).post("/v1/auth/token", json=victim.credentials()), 400, "invalid_grant")
    for token in (victim.access_token, victim.refresh_token):
        assert ok(admin.post("/v1/auth/token/introspect", {"token": token})) == {"active": False}
    assert ok(admin.get(f"{USERS}/{user_id}"))["enabled"] is False

    assert ok(admin.post(f"{USERS}/{user_id}/enable"))["enabled"] is True
    ok(victim.get(PROTECTED))
    ok(protected(each_world, victim.login()["access_token"]))


def test_both_can_be_repeated(each_world: World, admin: Person) -> None:
    user_id = each_world.user(admin.realm_id)["id"]
    for verb, enabled in (("disable", False), ("disable", False), ("enable", True), ("enable", True)):
        assert ok(admin.post(f"{USERS}/{user_id}/{verb}"))["enabled"] is enabled


def test_nobody_disables_themselves(admin: Person) -> None:
    user_id = id_of(admin, admin.username)
    refused(admin.post(f"{USERS}/{user_id}/disable"), 409, "conflict")
    ok(admin.get(PROTECTED))


def test_a_clerk_does_not_end_an_administrator(each_world: World, admin: Person) -> None:
    clerk = each_world.person("users:manage", "users:read", "keys:read", realm_id=admin.realm_id)
    other = each_world.person("keys:read", realm_id=admin.realm_id)
    stronger = each_world.person("keys:read", "keys:encrypt", realm_id=admin.realm_id)
    boss = id_of(admin, admin.username)
    assert refused(clerk.post(f"{USERS}/{boss}/disable"), 403, "permission_denied")["permission"] == "realm:*"
    body = refused(clerk.post(f"{USERS}/{id_of(admin, stronger.username)}/disable"), 403, "permission_denied")
    assert body["permission"] == "keys:encrypt"
    ok(admin.get(PROTECTED))
    ok(stronger.get(PROTECTED))
    ok(clerk.post(f"{USERS}/{id_of(admin, other.username)}/disable"))


def test_an_operator_names_the_realm(each_world: World, admin: Person) -> None:
    user_id = each_world.user(admin.realm_id)["id"]
    refused(each_world.operator.post(f"{USERS}/{user_id}/disable"), 404, "not_found")
    answer = each_world.operator.post(f"{USERS}/{user_id}/disable", json={"realm_id": admin.realm_id})
    assert ok(answer)["enabled"] is False


def grants(admin: Person, user_id: str, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ok(admin.get(f"{USERS}/{user_id}/grants", params=query))["items"]
    return found


def test_logins_are_listed_and_each_ends_alone(each_world: World, admin: Person) -> None:
    victim = each_world.person("keys:read", realm_id=admin.realm_id)
    user_id = id_of(admin, victim.username)
    (first,) = grants(admin, user_id)
    assert (first["client_id"], first["refreshed_at"]) == (victim.client_id, None)
    other = victim.login()
    (second,) = [found for found in grants(admin, user_id) if found != first]
    path = f"{USERS}/{user_id}/grants/revoke"
    answer = admin.post(path, {"grant_id": second["grant_id"]})
    assert ok(answer) == {"revoked": 1}
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"]) == ("users.revoke-grants", second["grant_id"])
    refused(protected(each_world, other["access_token"]), 401, "invalid_token")
    refresh = {"refresh_token": other["refresh_token"]}
    refused(nobody(each_world).post("/v1/auth/token/refresh", json=refresh), 400, "invalid_grant")
    ok(victim.get(PROTECTED))
    assert grants(admin, user_id) == [first]
    refused(admin.post(path, {"grant_id": second["grant_id"]}), 404, "not_found")


def test_all_logins_end_at_once(each_world: World, admin: Person) -> None:
    victim = each_world.person("keys:read", realm_id=admin.realm_id)
    user_id, others = id_of(admin, victim.username), [victim.login() for _ in range(3)]
    ok(victim.get(PROTECTED))
    assert ok(admin.post(f"{USERS}/{user_id}/grants/revoke")) == {"revoked": 4}
    for token in (victim.access_token, *(pair["access_token"] for pair in others)):
        refused(protected(each_world, token), 401, "invalid_token")
    assert grants(admin, user_id) == []
    assert ok(admin.post(f"{USERS}/{user_id}/grants/revoke")) == {"revoked": 0}
    ok(protected(each_world, victim.login()["access_token"]))


def test_pages_of_logins_together_are_all(each_world: World, admin: Person) -> None:
    victim = each_world.person("keys:read", realm_id=admin.realm_id)
    user_id = id_of(admin, victim.username)
    for _ in range(4):
        victim.login()
    seen, query = [], {"limit": 2}
    while True:
        found = ok(admin.get(f"{USERS}/{user_id}/grants", params=query))
        seen += [grant["grant_id"] for grant in found["items"]]
        if found["next_cursor"] is None:
            break
        query["cursor"] = found["next_cursor"]
    assert len(seen) == len(set(seen)) == 5


def test_logins_of_somebody_else_are_not_ended(each_world: World, admin: Person) -> None:
    victim = each_world.person("keys:read", realm_id=admin.realm_id)
    mine = grants(admin, id_of(admin, admin.username))[0]["grant_id"]
    path = f"{USERS}/{id_of(admin, victim.username)}/grants/revoke"
    for grant_id in (mine, str(uuid4())):
        refused(admin.post(path, {"grant_id": grant_id}), 404, "not_found")
    ok(admin.get(PROTECTED))
    clerk = each_world.person("users:manage", "users:read", realm_id=admin.realm_id)
    refused(clerk.post(f"{USERS}/{id_of(admin, admin.username)}/grants/revoke"), 403, "permission_denied")
    elsewhere = each_world.user(each_world.realm())["id"]
    for verb, tail in (("get", ""), ("post", "/revoke")):
        refused(admin.http.request(verb, f"{USERS}/{elsewhere}/grants{tail}"), 404, "not_found")


def test_who_is_deleted_is_gone_with_all_that_was_theirs(each_world: World, admin: Person) -> None:
    victim = each_world.person("keys:read", realm_id=admin.realm_id)
    user_id = id_of(admin, victim.username)
    answer = admin.http.delete(f"{USERS}/{user_id}")
    assert ok(answer) == {"deleted": True}
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"]) == ("users.delete", user_id)
    refused(victim.get(PROTECTED), 401, "invalid_token")
    refresh = {"refresh_token": victim.refresh_token}
    refused(nobody(each_world).post("/v1/auth/token/refresh", json=refresh), 400, "invalid_grant")
    refused(nobody(each_world).post("/v1/auth/token", json=victim.credentials()), 400, "invalid_grant")
    for path in ("", "/grants"):
        refused(admin.get(f"{USERS}/{user_id}{path}"), 404, "not_found")
    refused(admin.http.delete(f"{USERS}/{user_id}"), 404, "not_found")
    # The name is free again, and who takes it is somebody else.
    again = added(each_world, admin, victim.username)
    assert again["id"] != user_id
    refused(victim.get(PROTECTED), 401, "invalid_token")


def test_nobody_deletes_themselves_or_who_may_more(each_world: World, admin: Person) -> None:
    refused(admin.http.delete(f"{USERS}/{id_of(admin, admin.username)}"), 409, "conflict")
    clerk = each_world.person("users:manage", "users:read", realm_id=admin.realm_id)
    refused(clerk.http.delete(f"{USERS}/{id_of(admin, admin.username)}"), 403, "permission_denied")
    elsewhere = each_world.user(each_world.realm())["id"]
    refused(admin.http.delete(f"{USERS}/{elsewhere}"), 404, "not_found")
    ok(admin.get(PROTECTED))
