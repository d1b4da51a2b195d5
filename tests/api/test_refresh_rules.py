"""`refresh_grace_seconds` and `refresh_requires_client`: what a realm or client demands of a refresh."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api import Person, World
from tests.support.changes import changed
from tests.support.oauth import nobody
from tests.support.server import ok, refused

REALMS, CLIENTS, TOKEN = "/v1/auth/realms", "/v1/auth/clients", "/v1/auth/token"


def of_realm(world: World, person: Person, **settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = ok(changed(world.operator, f"{REALMS}/{person.realm_id}", settings))
    return found


def of_client(person: Person, **settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = ok(changed(person.http, f"{CLIENTS}/{person.client_id}", settings))
    return found


def refresh(world: World, token: str, **more: Any) -> Any:
    return nobody(world).post(f"{TOKEN}/refresh", json={"refresh_token": token} | more)


def secret_of(person: Person) -> dict[str, Any]:
    return {name: person.credentials()[name] for name in ("client_id", "client_secret")}


def begun(world: World, person: Person) -> dict[str, Any]:
    found: dict[str, Any] = ok(nobody(world).post(TOKEN, json=person.credentials()))
    return found


def ended(world: World, pair: dict[str, Any]) -> bool:
    status: int = refresh(world, pair["refresh_token"]).status_code
    return status == 400


def test_a_spent_token_gives_its_successor_again_unless_somebody_says_otherwise(each_world: World) -> None:
    person = each_world.person()
    pair = begun(each_world, person)
    successor = ok(refresh(each_world, pair["refresh_token"]))
    assert ok(refresh(each_world, pair["refresh_token"]))["refresh_token"] == successor["refresh_token"]


@pytest.mark.parametrize("who", ["realm", "client"])
def test_without_a_grace_the_second_use_ends_the_grant(each_world: World, who: str) -> None:
    person = each_world.person()
    if who == "realm":
        assert of_realm(each_world, person, refresh_grace_seconds=0)["refresh_grace_seconds"] == 0
    else:
        assert of_client(person, refresh_grace_seconds=0)["refresh_grace_seconds"] == 0
    pair = begun(each_world, person)
    successor = ok(refresh(each_world, pair["refresh_token"]))
    refused(refresh(each_world, pair["refresh_token"]), 400, "invalid_grant")
    assert ended(each_world, successor)


def test_a_client_has_a_grace_of_its_own_and_gives_it_up_with_null(each_world: World) -> None:
    person = each_world.person()
    of_realm(each_world, person, refresh_grace_seconds=0)
    assert of_client(person, refresh_grace_seconds=60)["refresh_grace_seconds"] == 60
    pair = begun(each_world, person)
    successor = ok(refresh(each_world, pair["refresh_token"]))
    assert ok(refresh(each_world, pair["refresh_token"]))["refresh_token"] == successor["refresh_token"]
    assert of_client(person, refresh_grace_seconds=None)["refresh_grace_seconds"] is None
    refused(refresh(each_world, pair["refresh_token"]), 400, "invalid_grant")
    assert ended(each_world, successor)


def test_without_a_grace_a_copy_is_noticed_also_where_something_else_is_refused_first(
    each_world: World,
) -> None:
    person = each_world.person()
    of_realm(each_world, person, refresh_grace_seconds=0)
    pair = begun(each_world, person)
    successor = ok(refresh(each_world, pair["refresh_token"]))
    of_client(person, grant_types=["password"])
    refused(refresh(each_world, pair["refresh_token"]), 400, "invalid_grant")
    of_client(person, grant_types=None)
    assert ended(each_world, successor)


def test_a_client_that_must_be_there_refreshes_with_its_secret_alone(each_world: World) -> None:
    person = each_world.person()
    assert of_client(person, refresh_requires_client=True)["refresh_requires_client"] is True
    pair = begun(each_world, person)
    token = pair["refresh_token"]
    refused(refresh(each_world, token), 401, "invalid_client")
    refused(refresh(each_world, token, client_id=person.client_id), 401, "invalid_client")
    refused(refresh(each_world, token, **secret_of(person) | {"client_secret": "x"}), 401, "invalid_client")
    # Nobody who failed has spent it.
    successor = ok(refresh(each_world, token, **secret_of(person)))
    assert ok(refresh(each_world, token, **secret_of(person)))["refresh_token"] == successor["refresh_token"]


def test_it_holds_for_grants_that_were_there_and_from_the_next_request_on(each_world: World) -> None:
    person = each_world.person()
    pair = begun(each_world, person)
    successor = ok(refresh(each_world, pair["refresh_token"]))
    of_client(person, refresh_requires_client=True)
    refused(refresh(each_world, successor["refresh_token"]), 401, "invalid_client")
    of_client(person, refresh_requires_client=None)
    ok(refresh(each_world, successor["refresh_token"]))


def test_a_copy_without_the_secret_ends_the_grant(each_world: World) -> None:
    person = each_world.person()
    of_client(person, refresh_requires_client=True)
    pair = begun(each_world, person)
    successor = ok(refresh(each_world, pair["refresh_token"], **secret_of(person)))
    refused(refresh(each_world, pair["refresh_token"]), 400, "invalid_grant")
    refused(refresh(each_world, successor["refresh_token"], **secret_of(person)), 400, "invalid_grant")


def test_a_public_client_cannot_be_asked_for_a_secret(each_world: World) -> None:
    person = each_world.person()
    public = {"redirect_uris": [], "token_endpoint_auth_method": "none"}
    body = refused(person.post(CLIENTS, public | {"refresh_requires_client": True}), 400, "invalid_field")
    assert list(body["fields"]) == ["/refresh_requires_client"]
    made = ok(person.post(CLIENTS, public | {"refresh_requires_client": False}))
    refused(
        changed(person.http, f"{CLIENTS}/{made['client_id']}", {"refresh_requires_client": True}),
        400,
        "invalid_field",
    )


@pytest.mark.parametrize("seconds", [-1, 61, 10**10])
def test_a_grace_is_between_nothing_and_a_minute(each_world: World, seconds: int) -> None:
    person = each_world.person()
    setting = {"refresh_grace_seconds": seconds}
    answers = [
        changed(each_world.operator, f"{REALMS}/{person.realm_id}", setting),
        each_world.operator.post(REALMS, json={"id": each_world.fresh("r"), "name": "R"} | setting),
        changed(person.http, f"{CLIENTS}/{person.client_id}", setting),
        person.post(CLIENTS, {"redirect_uris": []} | setting),
    ]
    for answer in answers:
        assert list(refused(answer, 400, "invalid_field")["fields"]) == ["/refresh_grace_seconds"]


def test_null_gives_a_realm_its_first_rules_back(each_world: World) -> None:
    person = each_world.person()
    of_realm(each_world, person, password_min_length=20, allow_password_grant=False, refresh_grace_seconds=3)
    back = of_realm(
        each_world, person, password_min_length=None, allow_password_grant=None, refresh_grace_seconds=None
    )
    seen = back["password_min_length"], back["allow_password_grant"], back["refresh_grace_seconds"]
    assert seen == (8, True, 10)


def test_null_gives_a_client_its_defaults_back(each_world: World) -> None:
    person = each_world.person()
    fields = ("grant_types", "response_types", "post_logout_redirect_uris")
    made = ok(person.post(CLIENTS, {"redirect_uris": []}))
    place = f"{CLIENTS}/{made['client_id']}"
    ok(
        changed(
            person.http,
            place,
            {
                "grant_types": ["password"],
                "response_types": [],
                "post_logout_redirect_uris": ["https://a.example/out"],
            },
        )
    )
    back = ok(changed(person.http, place, dict.fromkeys(fields)))
    assert {field: back[field] for field in fields} == {field: made[field] for field in fields}


def test_tiers_are_set_by_operators_also_with_null(each_world: World) -> None:
    person = each_world.person()
    refused(changed(person.http, f"{CLIENTS}/{person.client_id}", {"tier": None}), 403, "permission_denied")


def test_objects_are_merged_member_by_member(each_world: World) -> None:
    person = each_world.person()
    first = {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}  # fmt: skip
    made = ok(
        person.post(CLIENTS, {"redirect_uris": [], "jwks": {"keys": [first], "note": "a", "more": {"b": 1}}})
    )
    place = f"{CLIENTS}/{made['client_id']}"
    found = ok(changed(person.http, place, {"jwks": {"note": None, "more": {"c": 2}}}))
    assert found["jwks"] == {"keys": [first], "more": {"b": 1, "c": 2}}
    assert ok(changed(person.http, place, {"jwks": None}))["jwks"] is None
