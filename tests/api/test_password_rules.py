"""`password_min_length` of realms: every way to a new password asks for it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api import PASSWORD, World
from tests.support.changes import changed
from tests.support.oauth import nobody
from tests.support.server import ok, refused

REALMS, USERS = "/v1/auth/realms", "/v1/auth/users"
LENGTH = len(PASSWORD) + 4
TOO_SHORT = f"password too weak: at least {LENGTH} characters"
LONG_ENOUGH = PASSWORD + "more"


@pytest.fixture
def strict(each_world: World) -> str:
    """A realm that asks for more than `PASSWORD` has."""
    name = each_world.fresh("strict")
    body = {"id": name, "name": name, "password_min_length": LENGTH}
    made = ok(each_world.operator.post(REALMS, json=body))
    assert made["password_min_length"] == LENGTH
    return name


def new_user(world: World, realm_id: str, password: str, **more: Any) -> dict[str, Any]:
    return {"realm_id": realm_id, "username": world.fresh("user"), "password": password, "roles": [], **more}


def test_a_new_user_has_a_password_of_that_length(each_world: World, strict: str) -> None:
    caller = each_world.operator
    for password in (PASSWORD, LONG_ENOUGH[:-1]):
        answer = caller.post(USERS, json=new_user(each_world, strict, password))
        assert refused(answer, 400, "weak_password")["error"] == TOO_SHORT
    ok(caller.post(USERS, json=new_user(each_world, strict, LONG_ENOUGH)))
    # Other realms ask for what they asked for.
    ok(caller.post(USERS, json=new_user(each_world, each_world.realm(), PASSWORD)))


def test_a_password_that_is_set_has_that_length(each_world: World, strict: str) -> None:
    made = ok(each_world.operator.post(USERS, json=new_user(each_world, strict, LONG_ENOUGH)))
    path = f"{USERS}/{made['id']}/password"
    answer = each_world.operator.post(path, json={"realm_id": strict, "password": PASSWORD})
    assert refused(answer, 400, "weak_password")["error"] == TOO_SHORT
    ok(each_world.operator.post(path, json={"realm_id": strict, "password": LONG_ENOUGH + "!"}))


def test_a_longer_minimum_counts_for_new_passwords_alone(each_world: World) -> None:
    admin = each_world.person()
    path = f"{REALMS}/{admin.realm_id}"
    assert ok(admin.get(path))["password_min_length"] == 8
    assert ok(changed(admin.http, path, {"password_min_length": LENGTH}))["password_min_length"] == LENGTH
    again = ok(nobody(each_world).post("/v1/auth/token", json=admin.credentials()))
    person = each_world.bearer(again["access_token"])
    change = {"current_password": PASSWORD, "password": "12345679x"}
    answer = person.post("/v1/auth/me/password", json=change)
    assert refused(answer, 400, "weak_password")["error"] == TOO_SHORT
    ok(person.post("/v1/auth/me/password", json=change | {"password": LONG_ENOUGH}))


def test_a_name_changes_without_the_rules(each_world: World, strict: str) -> None:
    path = f"{REALMS}/{strict}"
    found = ok(changed(each_world.operator, path, {"name": "Other"}))
    assert (found["name"], found["password_min_length"]) == ("Other", LENGTH)
    found = ok(changed(each_world.operator, path, {"password_min_length": 64}))
    assert (found["name"], found["password_min_length"]) == ("Other", 64)


def test_the_owners_name_or_address_is_no_password(each_world: World) -> None:
    realm_id = each_world.realm()
    for more in ({"username": "Ada-Lovelace"}, {"email": "ada-lovelace@shop.example"}):
        password = next(iter(more.values())).lower()
        answer = each_world.operator.post(USERS, json=new_user(each_world, realm_id, password, **more))
        assert refused(answer, 400, "weak_password")["error"].endswith("name or address of its owner")


@pytest.mark.parametrize(
    "length", [7, 65, 0, -1, 1, 10**30, "8", 8.5, True], ids=lambda value: str(value)[:9]
)
def test_what_is_no_length_is_refused_and_changes_nothing(each_world: World, strict: str, length) -> None:
    name = each_world.fresh("never")
    body = {"id": name, "name": name, "password_min_length": length}
    answer = refused(each_world.operator.post(REALMS, json=body), 400, "invalid_field")
    assert set(answer["fields"]) == {"/password_min_length"}
    refused(each_world.operator.get(f"{REALMS}/{name}"), 404, "realm_not_found")
    path = f"{REALMS}/{strict}"
    answer = refused(changed(each_world.operator, path, body | {"id": None}), 400, "invalid_field")
    refused(changed(each_world.operator, path, {"password_min_length": length}), 400, "invalid_field")
    assert ok(each_world.operator.get(path))["password_min_length"] == LENGTH


def test_null_is_the_rule_of_the_beginning(each_world: World, strict: str) -> None:
    found = ok(changed(each_world.operator, f"{REALMS}/{strict}", {"password_min_length": None}))
    assert found["password_min_length"] == 8
