"""Role `platform-admin`: runs the platform, and gets no tenant's data to see, on no way."""

from __future__ import annotations

import pytest

from tests.support.api import PASSWORD, Person, World
from tests.support.server import ok, refused

KEYS = "/v1/security/keys"


@pytest.fixture(scope="module")
def runner(world: World) -> Person:
    return world.person(realm_id="system", roles=["platform-admin"])


@pytest.fixture
def tenant(world: World) -> Person:
    return world.person()


def test_realms_are_made_ended_and_seen(world: World, runner: Person) -> None:
    name = world.fresh("tenant")
    ok(runner.post("/v1/auth/realms", {"id": name, "name": name}))
    assert ok(runner.get(f"/v1/auth/realms/{name}"))["enabled"] is True
    ok(runner.post(f"/v1/auth/realms/{name}/disable"))
    ok(runner.http.delete(f"/v1/auth/realms/{name}?confirm={name}"))


def test_people_and_clients_of_tenants_are_looked_after(world: World, runner: Person, tenant: Person) -> None:
    there = {"realm_id": tenant.realm_id}
    made = ok(runner.post("/v1/auth/users", there | {"username": "ada", "password": PASSWORD, "roles": []}))
    ok(runner.post(f"/v1/auth/users/{made['id']}/disable", there))
    client = ok(runner.post("/v1/auth/clients", there | {"redirect_uris": [], "tier": "free"}))
    ok(runner.post(f"/v1/auth/clients/{client['client_id']}/secret/rotate", there))
    ok(runner.post("/v1/auth/keys/rotate", there))
    ok(runner.get("/v1/audit/events", params=there))


@pytest.mark.parametrize("where", ["own", "tenant"])
def test_no_key_is_used_seen_or_made(world: World, runner: Person, tenant: Person, where: str) -> None:
    key = ok(tenant.post(KEYS, {}))["key_id"]
    sealed = ok(tenant.post("/v1/security/encrypt", {"key_id": key, "input": "x"}))["envelope"]
    there = {} if where == "own" else {"realm_id": tenant.realm_id}
    refused(runner.get(KEYS, params=there), 403, "permission_denied")
    refused(runner.get(f"{KEYS}/{key}", params=there), 403, "permission_denied")
    for path, body in (
        (KEYS, {}),
        ("/v1/security/encrypt", {"key_id": key, "input": "x"}),
        ("/v1/security/decrypt", {"envelope": sealed}),
        ("/v1/security/rotate", {"key_id": key}),
        (f"{KEYS}/{key}/disable", {}),
    ):
        refused(runner.post(path, body | there), 403, "permission_denied")


def test_no_detour_leads_to_the_keys(world: World, runner: Person, tenant: Person) -> None:
    there = {"realm_id": tenant.realm_id}
    reader = world.role(tenant.realm_id, ["keys:decrypt"])
    strong_client = world.client(tenant.realm_id, roles=[reader])
    strong_user = world.user(tenant.realm_id, [reader])
    weak = world.user(tenant.realm_id)
    role = world.role(tenant.realm_id, [])
    star = {"headers": {"If-Match": "*"}}
    attempts = [
        runner.post("/v1/auth/roles", there | {"name": "x", "permissions": ["keys:decrypt"]}),
        runner.http.patch(f"/v1/auth/roles/{role}", json=there | {"permissions": ["keys:decrypt"]}, **star),
        runner.post(
            "/v1/auth/users", there | {"username": "x", "password": PASSWORD, "roles": ["realm-admin"]}
        ),
        runner.post("/v1/auth/users", there | {"username": "x", "password": PASSWORD, "roles": [reader]}),
        runner.post(f"/v1/auth/users/{weak['id']}/roles/assign", there | {"roles": [reader]}),
        runner.post(f"/v1/auth/users/{weak['id']}/roles/assign", there | {"roles": ["realm-admin"]}),
        runner.post(
            f"/v1/auth/users/{strong_user['id']}/password", there | {"password": "another-long-phrase"}
        ),
        runner.post("/v1/auth/clients", there | {"redirect_uris": [], "roles": [reader]}),
        runner.post(f"/v1/auth/clients/{strong_client['client_id']}/secret/rotate", there),
        runner.post("/v1/auth/users", {"username": "x", "password": PASSWORD, "roles": ["operator"]}),
        runner.post("/v1/auth/users", {"username": "x", "password": PASSWORD, "roles": ["realm-admin"]}),
    ]
    for answer in attempts:
        refused(answer, 403, "permission_denied")


def test_roles_of_the_own_realm_do_not_cross_the_border(world: World, tenant: Person) -> None:
    key = ok(tenant.post(KEYS, {}))["key_id"]
    sealed = ok(tenant.post("/v1/security/encrypt", {"key_id": key, "input": "x"}))["envelope"]
    cipher = world.role("system", ["keys:decrypt", "keys:encrypt", "keys:read", "keys:create"])
    for roles in (["platform-admin", cipher], ["platform-admin", "realm-admin"]):
        mixed, there = world.person(realm_id="system", roles=roles), {"realm_id": tenant.realm_id}
        own = ok(mixed.post(KEYS, {}))["key_id"]
        ok(mixed.post("/v1/security/encrypt", {"key_id": own, "input": "x"}))
        refused(mixed.get(KEYS, params=there), 403, "permission_denied")
        refused(mixed.post("/v1/security/decrypt", there | {"envelope": sealed}), 403, "permission_denied")
        refused(
            mixed.post("/v1/security/encrypt", there | {"key_id": key, "input": "x"}),
            403,
            "permission_denied",
        )
        body = {"username": world.fresh("x"), "password": PASSWORD, "roles": ["realm-admin"]}
        refused(mixed.post("/v1/auth/users", there | body), 403, "permission_denied")
        ok(mixed.get("/v1/auth/users", params=there))


def test_clients_of_the_platform_are_looked_after_by_operators(world: World, runner: Person) -> None:
    client = world.client("system")
    path = f"/v1/auth/clients/{client['client_id']}"
    for answer in (
        runner.post(f"{path}/disable"), runner.post(f"{path}/secret/rotate"), runner.http.delete(path),
        runner.http.patch(path, json={"grant_types": []}, headers={"If-Match": "*"}),
    ):  # fmt: skip
        assert refused(answer, 403, "permission_denied")["permission"] == "*"
    ok(world.operator.post(f"{path}/disable"))


def test_the_role_is_given_by_its_holders_and_operators_alone(
    world: World, runner: Person, tenant: Person
) -> None:
    made = ok(
        runner.post(
            "/v1/auth/users",
            {"username": world.fresh("second"), "password": PASSWORD, "roles": ["platform-admin"]},
        )
    )
    assert made["roles"] == ["platform-admin"]
    body = {"username": world.fresh("x"), "password": PASSWORD, "roles": ["platform-admin"]}
    admin = world.person(realm_id="system", roles=["realm-admin"])
    assert refused(admin.post("/v1/auth/users", body), 403, "permission_denied")["permission"] == "platform:*"
    refused(
        admin.post(f"/v1/auth/users/{made['id']}/password", {"password": "another-long-phrase"}),
        403,
        "permission_denied",
    )
    # Elsewhere there is no such role.
    refused(tenant.post("/v1/auth/users", body), 400, "role_not_found")
    refused(
        tenant.post("/v1/auth/roles", {"name": "platform-admin", "permissions": []}), 409, "already_exists"
    )


def test_who_administers_the_system_realm_crosses_no_border(world: World, tenant: Person) -> None:
    admin = world.person(realm_id="system", roles=["realm-admin"])
    refused(admin.get("/v1/auth/users", params={"realm_id": tenant.realm_id}), 404, "realm_not_found")
    refused(admin.post("/v1/auth/realms", {"id": world.fresh("r"), "name": "x"}), 403, "permission_denied")
