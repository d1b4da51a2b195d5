"""`POST /v1/auth/token/introspect`: a token is active exactly as long as it opens anything, and strangers learn nothing."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest

from qimem.storage.schema import app_user, client, oauth_grant, user_role
from tests.support.api import Person, World
from tests.support.audit_log import of_request
from tests.support.oauth import PROTECTED, change, nobody, remove, taken_apart
from tests.support.server import ok, refused

PATH = "/v1/auth/token/introspect"
INACTIVE = {"active": False}


def asked(caller: httpx.Client, token: str, **more: Any) -> httpx.Response:
    return caller.post(PATH, json={"token": token, **more})


def basic(client_id: str, secret: str) -> dict[str, str]:
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


@pytest.fixture
def resource_server(each_world: World) -> Person:
    """Someone who may introspect tokens of a realm, and nothing else."""
    return each_world.person("tokens:introspect")


def neighbor(world: World, person: Person, *permissions: str) -> Person:
    return world.person(*permissions, realm_id=person.realm_id)


def test_an_access_token_is_told_with_who_holds_it_and_what_for(
    each_world: World, resource_server: Person
) -> None:
    holder = neighbor(each_world, resource_server, "keys:read", "app:thing")
    found = ok(asked(resource_server.http, holder.access_token))
    _, claims, _ = taken_apart(holder.access_token)
    assert found == {
        "active": True,
        "token_use": "access",
        "sub": claims["sub"],
        "username": holder.username,
        "client_id": holder.client_id,
        "realm": holder.realm_id,
        "roles": list(holder.roles),
        "permissions": ["app:thing", "keys:read"],
        "iat": claims["iat"],
        "exp": claims["exp"],
        "jti": claims["jti"],
    }


def test_a_refresh_token_is_told_too(each_world: World, resource_server: Person) -> None:
    holder = neighbor(each_world, resource_server, "keys:read")
    found = ok(asked(resource_server.http, holder.refresh_token))
    assert (found["active"], found["token_use"], found["username"]) == (True, "refresh", holder.username)
    assert found["exp"] - found["iat"] == 86_400
    pair = ok(holder.post("/v1/auth/token/refresh", {"refresh_token": holder.refresh_token}))
    assert ok(asked(resource_server.http, holder.refresh_token)) == INACTIVE
    again = ok(asked(resource_server.http, pair["refresh_token"]))
    assert again["active"]
    assert again["jti"] != found["jti"]
    assert again["exp"] == found["exp"]


def test_a_client_acts_for_itself_without_a_username(each_world: World, resource_server: Person) -> None:
    service = each_world.client(resource_server.realm_id)
    secret = {name: service[name] for name in ("client_id", "client_secret")}
    token = ok(nobody(each_world).post("/v1/auth/token", json=secret | {"grant_type": "client_credentials"}))
    found = ok(asked(resource_server.http, token["access_token"]))
    assert found["sub"] == found["client_id"] == service["client_id"]
    assert "username" not in found


@pytest.mark.parametrize("where", ["body", "header"])
def test_a_client_of_the_realm_asks_with_its_credentials(each_world: World, where: str) -> None:
    person = each_world.person()
    known = {"client_id": person.client_id, "client_secret": person.client_secret}
    if where == "body":
        answer = asked(nobody(each_world), person.access_token, **known)
    else:
        headers = basic(person.client_id, person.client_secret)
        answer = nobody(each_world).post(PATH, json={"token": person.access_token}, headers=headers)
    assert ok(answer)["active"]


def test_a_bearer_introspects_itself_and_nothing_else(each_world: World) -> None:
    person = each_world.person("keys:read")
    assert ok(asked(person.http, person.access_token))["active"]
    for other in (person.login()["access_token"], person.refresh_token, "nonsense"):
        body = refused(asked(person.http, other), 403, "permission_denied")
        assert body["permission"] == "tokens:introspect"


def test_nobody_is_not_told(each_world: World) -> None:
    person = each_world.person()
    refused(asked(nobody(each_world), person.access_token), 401, "invalid_client")


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_secret": "wrong"},
        {"client_secret": None},
        {"client_id": "unknown"},
        {"client_id": None},
        {"client_id": ""},
        {"client_id": "x" * 200},
    ],
)
def test_wrong_credentials_are_not_told(each_world: World, wrong: dict[str, Any]) -> None:
    person = each_world.person()
    known = {"client_id": person.client_id, "client_secret": person.client_secret} | wrong
    answer = asked(nobody(each_world), person.access_token, **known)
    refused(answer, 401, "invalid_client")
    assert "www-authenticate" in answer.headers


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic !!!",
        "Basic bm9jb2xvbg==",
        "Basic Og==",
        "Basic //8=",
        "basic Og==",
        "Basic OnNlY3JldA==",
    ],
)
def test_a_broken_basic_header_is_not_told(each_world: World, header: str) -> None:
    person = each_world.person()
    answer = nobody(each_world).post(
        PATH, json={"token": person.access_token}, headers={"authorization": header}
    )
    code = "invalid_client" if header.partition(" ")[0].lower() == "basic" else "invalid_token"
    refused(answer, 401, code)


@pytest.mark.parametrize("header", ["Bearer nonsense", "Digest x", "Bearer", ""])
def test_a_bad_bearer_is_refused_before_the_body_is_read(each_world: World, header: str) -> None:
    person = each_world.person()
    known = {"client_id": person.client_id, "client_secret": person.client_secret}
    for body in ({"token": person.access_token} | known, {"unknown": 1}):
        answer = nobody(each_world).post(PATH, json=body, headers={"authorization": header})
        refused(answer, 401, "invalid_token")


def test_a_public_client_proves_nothing(each_world: World) -> None:
    person = each_world.person()
    public = each_world.client(person.realm_id, token_endpoint_auth_method="none")
    refused(
        asked(nobody(each_world), person.access_token, client_id=public["client_id"]), 401, "invalid_client"
    )


def test_credentials_in_two_places_are_refused(each_world: World, resource_server: Person) -> None:
    known = {"client_id": resource_server.client_id, "client_secret": resource_server.client_secret}
    refused(asked(resource_server.http, "x", **known), 400, "invalid_field")
    headers = basic(resource_server.client_id, resource_server.client_secret)
    answer = nobody(each_world).post(PATH, json={"token": "x", **known}, headers=headers)
    refused(answer, 400, "invalid_field")


def test_tokens_of_another_realm_are_inactive_but_for_operators(
    each_world: World, resource_server: Person
) -> None:
    stranger = each_world.person()
    for token in (stranger.access_token, stranger.refresh_token):
        assert ok(asked(resource_server.http, token)) == INACTIVE
        known = {"client_id": resource_server.client_id, "client_secret": resource_server.client_secret}
        assert ok(asked(nobody(each_world), token, **known)) == INACTIVE
        assert ok(asked(each_world.operator, token))["realm"] == stranger.realm_id


@pytest.mark.parametrize(
    "token", ["", "x", "a.b.c", "qrt_", "qrt_" + "A" * 100, "\u00fc", "x" * 20_000, " ", "Bearer x"]
)
def test_nonsense_is_inactive(each_world: World, resource_server: Person, token: str) -> None:
    assert ok(asked(resource_server.http, token)) == INACTIVE


def test_what_is_changed_is_inactive(each_world: World, resource_server: Person) -> None:
    holder = neighbor(each_world, resource_server, "keys:read")
    for token in (holder.access_token, holder.refresh_token):
        for at in (5, len(token) // 2, len(token) - 3):
            changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
            assert ok(asked(resource_server.http, changed)) == INACTIVE


@pytest.mark.parametrize("what", ["access", "refresh"])
def test_what_is_revoked_is_inactive_in_the_next_request(
    each_world: World, resource_server: Person, what: str
) -> None:
    holder = neighbor(each_world, resource_server, "keys:read")
    token = holder.pair[f"{what}_token"]
    assert ok(asked(resource_server.http, token))["active"]
    ok(nobody(each_world).post("/v1/auth/token/revoke", json={"token": holder.refresh_token}))
    assert ok(asked(resource_server.http, token)) == INACTIVE


@pytest.mark.parametrize("what", ["user", "client"])
def test_tokens_of_the_disabled_are_inactive_in_the_next_request(
    each_world: World, resource_server: Person, what: str
) -> None:
    holder = neighbor(each_world, resource_server, "keys:read")
    tokens = (holder.access_token, holder.refresh_token)
    assert [ok(asked(resource_server.http, token))["active"] for token in tokens] == [True, True]
    table, row = (app_user, {"username": holder.username}) if what == "user" else (client, {})
    row = row or {"client_id": holder.client_id}
    assert change(each_world.server, table, {"enabled": False}, realm_id=holder.realm_id, **row) == 1
    assert [ok(asked(resource_server.http, token)) for token in tokens] == [INACTIVE, INACTIVE]


def test_permissions_are_those_of_now(each_world: World, resource_server: Person) -> None:
    holder = neighbor(each_world, resource_server, "keys:read")
    assert ok(asked(resource_server.http, holder.access_token))["permissions"] == ["keys:read"]
    assert remove(each_world.server, user_role, realm_id=holder.realm_id, role=holder.roles[0]) == 1
    found = ok(asked(resource_server.http, holder.access_token))
    assert (found["active"], found["roles"], found["permissions"]) == (True, [], [])


def test_a_denial_has_a_record_and_an_answer_none(each_world: World) -> None:
    person = each_world.person("keys:read")
    denied = asked(person.http, "nonsense")
    (record,) = of_request(each_world.server.data, denied.headers["x-request-id"])
    assert (record["event"], record["outcome"]) == ("tokens.introspect", "permission_denied")
    served = asked(person.http, person.access_token)
    assert of_request(each_world.server.data, served.headers["x-request-id"]) == []
    assert ok(person.get(PROTECTED)) is not None


def test_an_expired_grant_is_inactive(each_world: World, resource_server: Person) -> None:
    holder = neighbor(each_world, resource_server, "keys:read")
    values = {"expires_us": 1}
    change(each_world.server, oauth_grant, values, realm_id=holder.realm_id, client_id=holder.client_id)
    assert ok(asked(resource_server.http, holder.refresh_token)) == INACTIVE
