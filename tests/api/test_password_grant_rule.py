"""`allow_password_grant` of realms: where it is off, no application takes a user's password for tokens."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api import Person, World
from tests.support.changes import changed
from tests.support.oauth import nobody
from tests.support.server import ok, refused

REALMS, TOKEN = "/v1/auth/realms", "/v1/auth/token"


def switch(world: World, realm_id: str, value: bool) -> None:
    made = ok(changed(world.operator, f"{REALMS}/{realm_id}", {"allow_password_grant": value}))
    assert made["allow_password_grant"] is value


def asked(person: Person, **more: Any) -> dict[str, Any]:
    return person.credentials() | more


def test_nobody_signs_in_with_a_password_from_the_next_request_on(each_world: World) -> None:
    person, other = each_world.person(), each_world.person()
    switch(each_world, person.realm_id, False)
    http = nobody(each_world)
    # Right, wrong and unknown alike: no password is compared, so nothing can be learned or locked.
    for more in ({}, {"password": "wrong"}, {"username": "nobody"}, {"grant_type": "password"}):
        body = refused(http.post(TOKEN, json=asked(person, **more)), 400, "unauthorized_client")
        assert body["error"] == "grant type not allowed"
    ok(http.post(TOKEN, json=other.credentials()))
    switch(each_world, person.realm_id, True)
    ok(http.post(TOKEN, json=person.credentials()))


def test_guesses_that_were_not_compared_lock_nobody(each_world: World) -> None:
    person = each_world.person()
    switch(each_world, person.realm_id, False)
    for _ in range(30):
        refused(
            nobody(each_world).post(TOKEN, json=asked(person, password="wrong")), 400, "unauthorized_client"
        )
    switch(each_world, person.realm_id, True)
    ok(nobody(each_world).post(TOKEN, json=person.credentials()))


def test_who_is_signed_in_stays_and_clients_act_for_themselves(each_world: World) -> None:
    person = each_world.person()
    switch(each_world, person.realm_id, False)
    ok(person.get("/v1/auth/me"))
    ok(person.post(f"{TOKEN}/refresh", {"refresh_token": person.refresh_token}))
    itself = asked(person, grant_type="client_credentials")
    ok(nobody(each_world).post(TOKEN, json=itself))


def test_a_realm_can_be_made_without_it(each_world: World) -> None:
    name = each_world.fresh("strict")
    body = {"id": name, "name": name, "allow_password_grant": False}
    made = ok(each_world.operator.post(REALMS, json=body))
    assert (made["allow_password_grant"], made["password_min_length"]) == (False, 8)
    client, user = each_world.client(name), each_world.user(name, ["realm-admin"])
    more = {key: client[key] for key in ("client_id", "client_secret")}
    request = more | {"realm_id": name, "username": user["username"], "password": "wrong"}
    refused(nobody(each_world).post(TOKEN, json=request), 400, "unauthorized_client")


def test_a_change_of_something_else_leaves_it(each_world: World) -> None:
    person = each_world.person()
    switch(each_world, person.realm_id, False)
    path = f"{REALMS}/{person.realm_id}"
    for change in ({"name": "Other"}, {"password_min_length": 9}):
        assert ok(changed(each_world.operator, path, change))["allow_password_grant"] is False
    switch(each_world, person.realm_id, True)
    assert ok(each_world.operator.get(path))["password_min_length"] == 9


def test_it_cannot_shut_the_operators_out(each_world: World) -> None:
    answer = changed(each_world.operator, f"{REALMS}/system", {"allow_password_grant": False})
    assert set(refused(answer, 400, "invalid_field")["fields"]) == {"/allow_password_grant"}
    assert ok(each_world.operator.get(f"{REALMS}/system"))["allow_password_grant"] is True
    switch(each_world, "system", True)


@pytest.mark.parametrize("value", [0, 1, "false", "true", [], {}, 1.0], ids=repr)
def test_what_is_neither_true_nor_false_is_refused(each_world: World, value: object) -> None:
    name = each_world.fresh("never")
    body = {"id": name, "name": name, "allow_password_grant": value}
    answer = refused(each_world.operator.post(REALMS, json=body), 400, "invalid_field")
    assert set(answer["fields"]) == {"/allow_password_grant"}
    person = each_world.person()
    answer = changed(each_world.operator, f"{REALMS}/{person.realm_id}", {"allow_password_grant": value})
    refused(answer, 400, "invalid_field")
    ok(nobody(each_world).post(TOKEN, json=person.credentials()))
