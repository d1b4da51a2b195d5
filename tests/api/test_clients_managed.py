"""`/v1/auth/clients`: what is there, and changes that count from the next request on."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.support.api import Person, World
from tests.support.audit_log import of_request
from tests.support.changes import changed
from tests.support.oauth import PROTECTED, nobody, protected
from tests.support.server import ok, refused

CLIENTS = "/v1/auth/clients"


@pytest.fixture
def admin(each_world: World) -> Person:
    return each_world.person()


def own_token(world: World, client: dict[str, Any], secret: str | None = None) -> httpx.Response:
    body = {"grant_type": "client_credentials", "client_id": client["client_id"]}
    return nobody(world).post(
        "/v1/auth/token", json=body | {"client_secret": secret or client["client_secret"]}
    )


def test_clients_are_listed_without_their_secrets(each_world: World, admin: Person) -> None:
    each_world.client(each_world.realm())
    role = each_world.role(admin.realm_id, [])
    made = [each_world.client(admin.realm_id, name=f"shop {n}", roles=[role]) for n in range(4)]
    wanted = {one["client_id"]: {k: v for k, v in one.items() if k != "client_secret"} for one in made}
    for limit in (1, 2, 200):
        found, query = [], {"limit": limit}
        while True:
            page = ok(admin.get(CLIENTS, params=query))
            found += page["items"]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        assert len(found) == 5
        assert {one["client_id"]: one for one in found if one["client_id"] != admin.client_id} == wanted
    for client_id, client in wanted.items():
        assert ok(admin.get(f"{CLIENTS}/{client_id}")) == client


@pytest.mark.parametrize("cursor", ["", "x", "WzFd", "WyIiXQ", "WyJcdTAwMDAiXQ", "W10"])
def test_another_cursor_is_refused(admin: Person, cursor: str) -> None:
    answer = admin.get(CLIENTS, params={"cursor": cursor})
    assert set(refused(answer, 400, "invalid_field")["fields"]) == {"/cursor"}


def test_who_is_disabled_is_out_in_the_next_request_and_back_in_after_enable(
    each_world: World, admin: Person
) -> None:
    role = each_world.role(admin.realm_id, ["keys:read"])
    client = each_world.client(admin.realm_id, roles=[role])
    person = each_world.person("keys:read", realm_id=admin.realm_id)
    theirs = {"client_id": client["client_id"], "client_secret": client["client_secret"]}
    pair = ok(nobody(each_world).post("/v1/auth/token", json=person.credentials() | theirs))
    token = ok(own_token(each_world, client))["access_token"]
    for held in (token, pair["access_token"]):
        ok(protected(each_world, held))
    answer = admin.post(f"{CLIENTS}/{client['client_id']}/disable")
    assert ok(answer)["enabled"] is False
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"]) == ("clients.disable", client["client_id"])
    for held in (token, pair["access_token"]):
        refused(protected(each_world, held), 401, "invalid_token")
    refresh = {"refresh_token": pair["refresh_token"]}
    refused(nobody(each_world).post("/v1/auth/token/refresh", json=refresh), 400, "invalid_grant")
    refused(own_token(each_world, client), 401, "invalid_client")
    ok(person.get(PROTECTED))
    assert ok(admin.post(f"{CLIENTS}/{client['client_id']}/enable"))["enabled"] is True
    ok(protected(each_world, token))
    ok(own_token(each_world, client))


def test_what_is_deleted_is_gone_with_every_sign_in_through_it(each_world: World, admin: Person) -> None:
    client = each_world.client(admin.realm_id)
    person = each_world.person("keys:read", realm_id=admin.realm_id)
    theirs = {"client_id": client["client_id"], "client_secret": client["client_secret"]}
    pair = ok(nobody(each_world).post("/v1/auth/token", json=person.credentials() | theirs))
    assert ok(admin.http.delete(f"{CLIENTS}/{client['client_id']}")) == {"deleted": True}
    refused(protected(each_world, pair["access_token"]), 401, "invalid_token")
    refresh = {"refresh_token": pair["refresh_token"]}
    refused(nobody(each_world).post("/v1/auth/token/refresh", json=refresh), 400, "invalid_grant")
    refused(own_token(each_world, client), 401, "invalid_client")
    refused(admin.get(f"{CLIENTS}/{client['client_id']}"), 404, "not_found")
    refused(admin.http.delete(f"{CLIENTS}/{client['client_id']}"), 404, "not_found")
    ok(person.get(PROTECTED))


def test_nobody_saws_at_the_branch_they_sit_on(admin: Person) -> None:
    path = f"{CLIENTS}/{admin.client_id}"
    refused(admin.post(f"{path}/disable"), 409, "conflict")
    refused(admin.http.delete(path), 409, "conflict")
    ok(admin.get(PROTECTED))


def test_a_new_secret_counts_at_once_and_the_old_one_does_not(each_world: World, admin: Person) -> None:
    client = each_world.client(admin.realm_id)
    ok(own_token(each_world, client))
    answer = admin.post(f"{CLIENTS}/{client['client_id']}/secret/rotate")
    rotated = ok(answer)
    assert (rotated["client_id"], rotated["previous_expires_at"]) == (client["client_id"], None)
    assert rotated["client_secret"] != client["client_secret"]
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"]) == ("clients.rotate-secret", client["client_id"])
    refused(own_token(each_world, client), 401, "invalid_client")
    ok(own_token(each_world, client, rotated["client_secret"]))
    assert "client_secret" not in ok(admin.get(f"{CLIENTS}/{client['client_id']}"))


def test_tokens_of_a_secret_end_with_it(each_world: World, admin: Person) -> None:
    client = each_world.client(admin.realm_id, roles=["realm-admin"])
    path = f"{CLIENTS}/{client['client_id']}/secret/rotate"
    stolen = each_world.bearer(ok(own_token(each_world, client))["access_token"])
    person = ok(nobody(each_world).post("/v1/auth/token", json=admin.credentials()))["access_token"]
    second = ok(admin.post(path, {"overlap_seconds": 600}))
    ok(stolen.get(PROTECTED))
    ok(admin.post(path))
    refused(stolen.get(PROTECTED), 401, "invalid_token")
    # Else whoever has it would rotate the secret once more, and keep what comes of it.
    refused(stolen.post(path), 401, "invalid_token")
    refused(own_token(each_world, client, second["client_secret"]), 401, "invalid_client")
    # Of people who signed in through a client, and of other clients, nothing ends.
    ok(each_world.bearer(person).get(PROTECTED))


def test_tokens_of_the_old_secret_end_with_the_overlap(each_world: World, admin: Person) -> None:
    client = each_world.client(admin.realm_id, roles=["realm-admin"])
    path = f"{CLIENTS}/{client['client_id']}/secret/rotate"
    before = each_world.bearer(ok(own_token(each_world, client))["access_token"])
    second = ok(admin.post(path, {"overlap_seconds": 2}))
    during = each_world.bearer(ok(own_token(each_world, client))["access_token"])
    new = each_world.bearer(ok(own_token(each_world, client, second["client_secret"]))["access_token"])
    for caller in (before, during, new):
        ok(caller.get(PROTECTED))
    # Nothing changes in the realm any more: the time alone has to tell.
    time.sleep(2.1)
    refused(before.get(PROTECTED), 401, "invalid_token")
    refused(during.get(PROTECTED), 401, "invalid_token")
    ok(new.get(PROTECTED))


def test_a_rotation_of_the_client_of_others_signs_nobody_out(each_world: World, admin: Person) -> None:
    other = each_world.person(realm_id=admin.realm_id)
    ok(admin.post(f"{CLIENTS}/{other.client_id}/secret/rotate"))
    ok(other.get(PROTECTED))


def test_both_secrets_are_good_for_the_overlap_and_never_three(each_world: World, admin: Person) -> None:
    client = each_world.client(admin.realm_id)
    path = f"{CLIENTS}/{client['client_id']}/secret/rotate"
    second = ok(admin.post(path, {"overlap_seconds": 600}))
    ok(own_token(each_world, client))
    ok(own_token(each_world, client, second["client_secret"]))
    third = ok(admin.post(path, {"overlap_seconds": 1}))
    refused(own_token(each_world, client), 401, "invalid_client")
    ok(own_token(each_world, client, third["client_secret"]))
    time.sleep(1.1)
    refused(own_token(each_world, client, second["client_secret"]), 401, "invalid_client")
    ok(own_token(each_world, client, third["client_secret"]))
    # Without an overlap whoever knew an earlier one is out.
    ok(admin.post(path, {"overlap_seconds": 600}))
    fifth = ok(admin.post(path))
    refused(own_token(each_world, client, third["client_secret"]), 401, "invalid_client")
    ok(own_token(each_world, client, fifth["client_secret"]))


@pytest.mark.parametrize("overlap", [-1, 604_801, 1.5, "1", 2**63])
def test_an_overlap_has_limits(each_world: World, admin: Person, overlap: Any) -> None:
    client = each_world.client(admin.realm_id)
    answer = admin.post(f"{CLIENTS}/{client['client_id']}/secret/rotate", {"overlap_seconds": overlap})
    assert set(refused(answer, 400, "invalid_field")["fields"]) == {"/overlap_seconds"}
    ok(own_token(each_world, client))


def test_a_secret_is_shown_once_and_rotated_once(each_world: World, admin: Person) -> None:
    client = each_world.client(admin.realm_id)
    path = f"{CLIENTS}/{client['client_id']}/secret/rotate"
    headers = {"Idempotency-Key": each_world.fresh("rotate")}
    rotated = ok(admin.http.post(path, json={}, headers=headers))
    again = refused(admin.http.post(path, json={}, headers=headers), 409, "already_done")
    assert again["object_id"] == client["client_id"]
    ok(own_token(each_world, client, rotated["client_secret"]))


def test_a_key_for_one_client_is_none_for_another(each_world: World, admin: Person) -> None:
    one, other = (each_world.client(admin.realm_id) for _ in range(2))
    headers = {"Idempotency-Key": each_world.fresh("rotate")}
    ok(admin.http.post(f"{CLIENTS}/{one['client_id']}/secret/rotate", json={}, headers=headers))
    answer = admin.http.post(f"{CLIENTS}/{other['client_id']}/secret/rotate", json={}, headers=headers)
    refused(answer, 422, "idempotency_mismatch")
    ok(own_token(each_world, other))


def test_a_public_client_has_no_secret_to_rotate(each_world: World, admin: Person) -> None:
    client = each_world.client(admin.realm_id, token_endpoint_auth_method="none")
    refused(admin.post(f"{CLIENTS}/{client['client_id']}/secret/rotate"), 409, "conflict")
    refused(own_token(each_world, client, "qcs_x"), 401, "invalid_client")


def test_a_scope_taken_from_a_client_is_gone_from_its_grants(each_world: World, admin: Person) -> None:
    client = each_world.client(admin.realm_id, scope="a b")
    as_client = {name: client[name] for name in ("client_id", "client_secret")}
    pair = ok(admin.http.post("/v1/auth/token", json=admin.credentials() | as_client))
    path = f"{CLIENTS}/{client['client_id']}"

    def told(token: str) -> tuple[bool, str | None]:
        found = ok(admin.post("/v1/auth/token/introspect", {"token": token}))
        return found["active"], found.get("scope")

    def refreshed(token: str) -> httpx.Response:
        return admin.http.post("/v1/auth/token/refresh", json={"refresh_token": token})

    assert {told(pair[kind]) for kind in ("access_token", "refresh_token")} == {(True, "a b")}
    ok(changed(admin.http, path, {"scope": "b"}))
    assert {told(pair[kind]) for kind in ("access_token", "refresh_token")} == {(True, "b")}
    newer = ok(refreshed(pair["refresh_token"]))
    assert newer["scope"] == "b"
    own = each_world.bearer(newer["access_token"])
    ok(own.get("/v1/auth/me"))
    ok(changed(admin.http, path, {"scope": "c"}))
    # What introspection says is what the token opens.
    refused(own.get("/v1/auth/me"), 401, "invalid_token")
    assert {told(newer[kind]) for kind in ("access_token", "refresh_token")} == {(False, None)}
    refused(refreshed(newer["refresh_token"]), 400, "invalid_grant")
    ok(changed(admin.http, path, {"scope": "a b"}))
    assert ok(refreshed(newer["refresh_token"]))["scope"] == "a b"


def test_a_client_is_changed_in_part(each_world: World, admin: Person) -> None:
    client = each_world.client(
        admin.realm_id, name="shop", scope="a b", redirect_uris=["https://a.example/x"]
    )
    path = f"{CLIENTS}/{client['client_id']}"
    before = ok(admin.get(path))
    assert ok(changed(admin.http, path, {"scope": "a"})) == before | {"scope": "a"}
    assert ok(changed(admin.http, path, {"name": None})) == before | {"scope": "a", "name": None}
    jwks = {"keys": [{"kty": "EC", "crv": "P-256", "x": "x", "y": "y"}]}
    found = ok(changed(admin.http, path, {"jwks": jwks, "grant_types": ["password"], "redirect_uris": []}))
    assert (found["jwks"], found["grant_types"], found["redirect_uris"]) == (jwks, ["password"], [])
    assert found["response_types"] == before["response_types"]
    refused(own_token(each_world, client), 400, "unauthorized_client")
    assert ok(changed(admin.http, path, {"jwks": None}))["jwks"] is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"redirect_uris": ["http://shop.example"]}, "/redirect_uris/0"),
        ({"redirect_uris": ["https://shop.example/*"]}, "/redirect_uris/0"),
        ({"redirect_uris": None}, "/redirect_uris"),
        ({"post_logout_redirect_uris": ["javascript:x"]}, "/post_logout_redirect_uris/0"),
        ({"grant_types": ["implicit"]}, "/grant_types/0"),
        ({"response_types": ["token"]}, "/response_types"),
        ({"scope": "a  b"}, "/scope"),
        ({"name": ""}, "/name"),
        ({"jwks": {"keys": [{"kty": "EC", "d": "x"}]}}, "/jwks"),
        ({"jwks_uri": "http://shop.example/jwks"}, "/jwks_uri"),
        ({"token_endpoint_auth_method": "none"}, "/token_endpoint_auth_method"),
        ({"grant_types": ["password"] * 9}, "/grant_types"),
        ({"jwks": {"keys": [{"kty": "EC"}] * 65}}, "/jwks"),
        ({"roles": ["realm-admin"]}, "/roles"),
        ({"client_secret": "x"}, "/client_secret"),
        ({"client_id": "x"}, "/client_id"),
        ({"enabled": False}, "/enabled"),
    ],
    ids=str,
)
def test_an_update_is_checked_like_a_registration(
    each_world: World, admin: Person, change: dict[str, Any], field: str
) -> None:
    client = (
        each_world.client(admin.realm_id, jwks={"keys": []})
        if "jwks_uri" not in change
        else each_world.client(admin.realm_id)
    )
    path = f"{CLIENTS}/{client['client_id']}"
    before = ok(admin.get(path))
    assert set(refused(changed(admin.http, path, change), 400, "invalid_field")["fields"]) == {field}
    assert ok(admin.get(path)) == before


def test_what_is_good_alone_and_bad_together_is_refused(each_world: World, admin: Person) -> None:
    client = each_world.client(admin.realm_id, jwks={"keys": []})
    path = f"{CLIENTS}/{client['client_id']}"
    refused(changed(admin.http, path, {"jwks_uri": "https://shop.example/jwks"}), 400, "invalid_field")
    ok(changed(admin.http, path, {"jwks_uri": "https://shop.example/jwks", "jwks": None}))
    public = each_world.client(admin.realm_id, token_endpoint_auth_method="none")
    answer = changed(admin.http, f"{CLIENTS}/{public['client_id']}", {"grant_types": ["client_credentials"]})
    assert set(refused(answer, 400, "invalid_field")["fields"]) == {"/grant_types"}


def test_tiers_are_set_by_who_runs_the_platform(each_world: World, admin: Person) -> None:
    client = each_world.client(admin.realm_id)
    path = f"{CLIENTS}/{client['client_id']}"
    refused(changed(admin.http, path, {"tier": "unlimited"}), 403, "permission_denied")
    answer = each_world.operator.patch(
        path, json={"tier": "unlimited", "realm_id": admin.realm_id}, headers={"If-Match": "*"}
    )
    assert ok(answer)["tier"] == "unlimited"


def test_roles_of_a_client_count_from_the_next_request_on(each_world: World, admin: Person) -> None:
    role = each_world.role(admin.realm_id, ["keys:read"])
    client = each_world.client(admin.realm_id)
    path = f"{CLIENTS}/{client['client_id']}/roles"
    token = ok(own_token(each_world, client))["access_token"]
    refused(protected(each_world, token), 403, "permission_denied")
    for _ in range(2):
        assert ok(admin.post(f"{path}/assign", {"roles": [role]}))["roles"] == [role]
    ok(protected(each_world, token))
    for _ in range(2):
        assert ok(admin.post(f"{path}/remove", {"roles": [role]}))["roles"] == []
    refused(protected(each_world, token), 403, "permission_denied")
    refused(admin.post(f"{path}/assign", {"roles": ["absent"]}), 400, "role_not_found")
    refused(admin.post(f"{path}/remove", {"roles": ["absent"]}), 400, "role_not_found")


def test_a_clerk_has_no_power_over_a_stronger_client(each_world: World, admin: Person) -> None:
    clerk = each_world.person("clients:manage", "clients:read", "keys:read", realm_id=admin.realm_id)
    strong = each_world.client(admin.realm_id, roles=["realm-admin"])
    path = f"{CLIENTS}/{strong['client_id']}"
    attempts = [
        changed(clerk.http, path, {"name": "mine"}),
        clerk.post(f"{path}/disable"),
        clerk.post(f"{path}/secret/rotate"),
        clerk.post(f"{path}/roles/assign", {"roles": []}),
        clerk.post(f"{path}/roles/remove", {"roles": ["realm-admin"]}),
        clerk.http.delete(path),
    ]
    for answer in attempts:
        assert refused(answer, 403, "permission_denied")["permission"] == "realm:*"
    weak = each_world.client(admin.realm_id)
    answer = clerk.post(f"{CLIENTS}/{weak['client_id']}/roles/assign", {"roles": ["realm-admin"]})
    assert refused(answer, 403, "permission_denied")["permission"] == "realm:*"
    ok(clerk.post(f"{CLIENTS}/{weak['client_id']}/secret/rotate"))
    ok(own_token(each_world, strong))


@pytest.mark.parametrize("client_id", ["00000000-0000-4000-8000-000000000000", "x", "x" * 129])
def test_what_is_not_there_is_not_found(each_world: World, admin: Person, client_id: str) -> None:
    foreign = each_world.client(each_world.realm())["client_id"]
    for asked in (client_id, foreign):
        path = f"{CLIENTS}/{asked}"
        for answer in (
            admin.get(path),
            changed(admin.http, path, {}, "*"),
            admin.post(f"{path}/disable"),
            admin.post(f"{path}/enable"),
            admin.post(f"{path}/secret/rotate"),
            admin.post(f"{path}/roles/assign", {"roles": []}),
            admin.http.delete(path),
        ):
            assert refused(answer, 404, "not_found")["error"] == f"client not found: {asked}"[:256]
