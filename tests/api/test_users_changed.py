"""`PATCH /v1/auth/users/{user_id}` and roles of users."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api import Person, World
from tests.support.audit_log import of_request
from tests.support.changes import changed
from tests.support.oauth import PROTECTED, nobody
from tests.support.server import ok, refused

USERS = "/v1/auth/users"


@pytest.fixture
def admin(each_world: World) -> Person:
    return each_world.person()


def path_of(person: Person) -> str:
    return f"{USERS}/{ok(person.get('/v1/auth/me'))['sub']}"


def test_a_new_name_is_the_one_to_sign_in_with(each_world: World, admin: Person) -> None:
    person = each_world.person("keys:read", realm_id=admin.realm_id)
    path, name = path_of(person), each_world.fresh("Zoë")
    before = ok(admin.get(path))
    answer = changed(admin.http, path, {"username": name})
    assert ok(answer) == before | {"username": name}
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"]) == ("users.update", before["id"])
    # `sub` is the user, whatever the name: what they hold goes on.
    ok(person.get(PROTECTED))
    refused(nobody(each_world).post("/v1/auth/token", json=person.credentials()), 400, "invalid_grant")
    renamed = person.credentials() | {"username": name.upper()}
    ok(nobody(each_world).post("/v1/auth/token", json=renamed))


def test_a_name_that_is_taken_in_any_spelling_is_not_given_again(each_world: World, admin: Person) -> None:
    one, other = (each_world.user(admin.realm_id) for _ in range(2))
    path = f"{USERS}/{other['id']}"
    for name in (one["username"], one["username"].upper()):
        refused(changed(admin.http, path, {"username": name}), 409, "already_exists")
    assert ok(changed(admin.http, path, {"username": other["username"].upper()}))["username"].isupper()
    elsewhere = each_world.user(each_world.realm())["username"]
    ok(changed(admin.http, path, {"username": elsewhere}))


def test_an_address_is_set_and_taken_away(each_world: World, admin: Person) -> None:
    path = f"{USERS}/{each_world.user(admin.realm_id)['id']}"
    assert ok(changed(admin.http, path, {"email": "ada@shop.example"}))["email"] == "ada@shop.example"
    assert ok(changed(admin.http, path, {}))["email"] == "ada@shop.example"
    assert ok(changed(admin.http, path, {"email": None}))["email"] is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"username": ""}, "/username"), ({"username": "a b"}, "/username"), ({"username": "x" * 129}, "/username"),
        ({"username": None}, "/username"), ({"email": "no address"}, "/email"), ({"email": "ä@x"}, "/email"),
        ({"roles": ["realm-admin"]}, "/roles"), ({"password": "x"}, "/password"), ({"enabled": True}, "/enabled"),
        ({"id": "x"}, "/id"), ({"email_verified": True}, "/email_verified"),
    ],
    ids=str,
)  # fmt: skip
def test_an_update_is_checked_like_a_creation(
    each_world: World, admin: Person, change: dict[str, Any], field: str
) -> None:
    path = f"{USERS}/{each_world.user(admin.realm_id)['id']}"
    before = ok(admin.get(path))
    assert set(refused(changed(admin.http, path, change), 400, "invalid_field")["fields"]) == {field}
    assert ok(admin.get(path)) == before


def test_roles_count_from_the_next_request_on(each_world: World, admin: Person) -> None:
    person = each_world.person("shop:sell", realm_id=admin.realm_id)
    role, path = each_world.role(admin.realm_id, ["keys:read"]), path_of(person)
    (held,) = ok(admin.get(path))["roles"]
    refused(person.get(PROTECTED), 403, "permission_denied")
    for _ in range(2):
        answer = admin.post(f"{path}/roles/assign", {"roles": [role, role]})
        assert ok(answer)["roles"] == [held, role]
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert record["event"] == "users.assign-roles"
    ok(person.get(PROTECTED))
    for _ in range(2):
        assert ok(admin.post(f"{path}/roles/remove", {"roles": [role]}))["roles"] == [held]
    refused(person.get(PROTECTED), 403, "permission_denied")


def test_only_roles_that_exist_and_not_too_many(each_world: World, admin: Person) -> None:
    path = f"{USERS}/{each_world.user(admin.realm_id)['id']}/roles"
    foreign = each_world.role(each_world.realm(), [])
    for verb in ("assign", "remove"):
        for role in ("absent", foreign, "operator", "platform-admin", "Realm-Admin", ""):
            refused(admin.post(f"{path}/{verb}", {"roles": [role]}), 400, "role_not_found")
    roles = [each_world.role(admin.realm_id, []) for _ in range(65)]
    ok(admin.post(f"{path}/assign", {"roles": roles[:40]}))
    assert set(
        refused(admin.post(f"{path}/assign", {"roles": roles[40:]}), 400, "invalid_field")["fields"]
    ) == {"/roles"}
    assert len(ok(admin.post(f"{path}/assign", {"roles": roles[40:64]}))["roles"]) == 64


def test_nobody_gives_what_they_lack(each_world: World, admin: Person) -> None:
    clerk = each_world.person("users:manage", "keys:read", realm_id=admin.realm_id)
    weak = f"{USERS}/{each_world.user(admin.realm_id)['id']}"
    strong = each_world.role(admin.realm_id, ["keys:read", "keys:decrypt"])
    for verb in ("assign", "remove"):
        answer = clerk.post(f"{weak}/roles/{verb}", {"roles": [strong]})
        assert refused(answer, 403, "permission_denied")["permission"] == "keys:decrypt"
    ok(clerk.post(f"{weak}/roles/assign", {"roles": [each_world.role(admin.realm_id, ["keys:read"])]}))


@pytest.mark.parametrize("user_id", ["00000000-0000-4000-8000-000000000000", "x"])
def test_who_is_not_there_is_not_found(each_world: World, admin: Person, user_id: str) -> None:
    foreign = each_world.user(each_world.realm())["id"]
    for asked in (user_id, foreign):
        path = f"{USERS}/{asked}"
        for answer in (
            changed(admin.http, path, {}, "*"),
            admin.post(f"{path}/roles/assign", {"roles": []}),
            admin.post(f"{path}/roles/remove", {"roles": []}),
            admin.post(f"{path}/password", {"password": "a-long-enough-phrase"}),
        ):
            assert refused(answer, 404, "not_found")["error"] == f"user not found: {asked}"
