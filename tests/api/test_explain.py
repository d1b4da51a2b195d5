"""`POST /v1/authz/explain`: what it says is what happens, and why."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.support.api import Person, World
from tests.support.oauth import PROTECTED
from tests.support.server import ok, refused

EXPLAIN = "/v1/authz/explain"
USERS = "/v1/auth/users"


@pytest.fixture
def admin(each_world: World) -> Person:
    return each_world.person()


def explained(admin: Person, person: Person, permission: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = ok(
        admin.post(EXPLAIN, {"permission": permission, "user_id": id_of(person)} | more)
    )
    return found


def id_of(person: Person) -> str:
    found: str = ok(person.get("/v1/auth/me"))["sub"]
    return found


def test_a_role_that_allows_it_is_named(each_world: World, admin: Person) -> None:
    person = each_world.person("keys:read", "shop:sell", realm_id=admin.realm_id)
    told = explained(admin, person, "keys:read")
    assert told == {
        "allowed": True, "rule": "held", "permission": "keys:read", "resource": None,
        "role": person.roles[0], "grant": "keys:read", "hint": None,
    }  # fmt: skip
    ok(person.get(PROTECTED))
    assert explained(admin, admin, "users:manage")["grant"] == "realm:*"


def test_what_is_not_held_is_told_and_what_would_help(each_world: World, admin: Person) -> None:
    person = each_world.person("shop:sell", realm_id=admin.realm_id)
    told = explained(admin, person, "keys:read")
    assert (told["allowed"], told["rule"], told["role"]) == (False, "not_held", None)
    assert "keys:read" in told["hint"]
    denied = refused(person.get(PROTECTED), 403, "permission_denied")
    assert denied["permission"] == told["permission"]
    assert denied["hint"]


def test_a_permission_for_one_key_is_one_for_that_key(each_world: World, admin: Person) -> None:
    mine, other = (ok(admin.post("/v1/security/keys", {}))["lineage_id"] for _ in range(2))
    person = each_world.person(f"keys:encrypt:{mine}", realm_id=admin.realm_id)
    rules = {
        key: explained(admin, person, "keys:encrypt", lineage_id=key)["rule"]
        for key in (mine, other, str(uuid4()))
    }
    assert rules[mine] == "held_for_this_key"
    assert {rule for key, rule in rules.items() if key != mine} == {"held_for_other_keys"}
    assert explained(admin, person, "keys:encrypt")["allowed"] is True
    for key, rule in rules.items():
        answer = person.post("/v1/security/encrypt", {"lineage_id": key, "input": "x"})
        assert (answer.status_code == 200) is (rule == "held_for_this_key"), answer.text


def test_a_client_is_explained_too(each_world: World, admin: Person) -> None:
    role = each_world.role(admin.realm_id, ["keys:read"])
    client = each_world.client(admin.realm_id, roles=[role])
    told = ok(admin.post(EXPLAIN, {"permission": "keys:read", "client_id": client["client_id"]}))
    assert (told["allowed"], told["role"]) == (True, role)


def test_who_has_no_standing_may_nothing(each_world: World, admin: Person) -> None:
    person = each_world.person("keys:read", realm_id=admin.realm_id)
    user_id = id_of(person)
    ok(admin.post(f"{USERS}/{user_id}/disable"))
    told = ok(admin.post(EXPLAIN, {"permission": "keys:read", "user_id": user_id}))
    assert (told["allowed"], told["rule"]) == (False, "no_standing")


def test_what_counts_for_the_platform_counts_there_alone(each_world: World, admin: Person) -> None:
    role = each_world.role(admin.realm_id, ["realms:create"])
    person = each_world.person(realm_id=admin.realm_id, roles=[role])
    assert explained(admin, person, "realms:create")["rule"] == "platform_only"
    refused(
        person.post("/v1/auth/realms", {"id": each_world.fresh("r"), "name": "x"}), 403, "permission_denied"
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"permission": "shop:sell", "client_id": "x"}, "/permission"),
        ({"permission": "realm:*", "client_id": "x"}, "/permission"),
        ({"permission": "keys:read"}, "/user_id"),
        ({"permission": "keys:read", "client_id": "x", "user_id": str(uuid4())}, "/user_id"),
        ({"permission": "keys:read", "user_id": "x"}, "/user_id"),
    ],
)
def test_another_question_is_none(admin: Person, body: dict[str, Any], field: str) -> None:
    assert set(refused(admin.post(EXPLAIN, body), 400, "invalid_field")["fields"]) == {field}


def test_nobody_of_another_realm_is_explained(each_world: World, admin: Person) -> None:
    stranger = each_world.person()
    for body in (
        {"user_id": id_of(stranger)},
        {"user_id": str(uuid4())},
        {"client_id": stranger.client_id},
        {"client_id": "x"},
    ):
        refused(admin.post(EXPLAIN, {"permission": "keys:read"} | body), 404, "not_found")
    weak = each_world.person("users:read", realm_id=admin.realm_id)
    body = {"permission": "keys:read", "user_id": id_of(admin)}
    assert refused(weak.post(EXPLAIN, body), 403, "permission_denied")["permission"] == "authz:explain"
