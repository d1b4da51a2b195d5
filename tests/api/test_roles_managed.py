"""`/v1/auth/roles`: what is there, and changes that count from the next request on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api import Person, World
from tests.support.audit_log import of_request
from tests.support.changes import changed
from tests.support.oauth import PROTECTED
from tests.support.server import ok, refused

ROLES = "/v1/auth/roles"


@pytest.fixture
def admin(each_world: World) -> Person:
    return each_world.person()


def every(admin: Person, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    while True:
        found = ok(admin.get(ROLES, params=query))
        items += found["items"]
        if found["next_cursor"] is None:
            return items
        query["cursor"] = found["next_cursor"]


def test_roles_are_listed_by_name_with_what_they_carry(each_world: World, admin: Person) -> None:
    each_world.role(each_world.realm(), ["keys:read"])
    made = [
        each_world.role(admin.realm_id, given) for given in (["keys:read", "shop:sell"], [], ["keys:rotate"])
    ]
    found = every(admin)
    assert [role["name"] for role in found] == sorted([*made, "realm-admin"])
    assert {role["name"]: role["permissions"] for role in found}[made[0]] == ["keys:read", "shop:sell"]
    assert [role["name"] for role in found if role["built_in"]] == ["realm-admin"]
    for limit in (1, 2, 3):
        assert every(admin, limit=limit) == found
    for role in found:
        assert ok(admin.get(f"{ROLES}/{role['name']}")) == role


def test_the_system_realm_has_roles_of_its_own(each_world: World) -> None:
    found = ok(each_world.operator.get(ROLES))["items"]
    assert {role["name"]: role["permissions"] for role in found if role["built_in"]} == {
        "operator": ["*"],
        "platform-admin": ["platform:*"],
        "realm-admin": ["realm:*"],
    }


@pytest.mark.parametrize("cursor", ["", "x", "WyJBIl0", "WzFd", "WyIiXQ", "W10"])
def test_another_cursor_is_refused(admin: Person, cursor: str) -> None:
    assert set(refused(admin.get(ROLES, params={"cursor": cursor}), 400, "invalid_field")["fields"]) == {
        "/cursor"
    }


def test_what_a_role_carries_counts_from_the_next_request_on(each_world: World, admin: Person) -> None:
    role = each_world.role(admin.realm_id, ["keys:read"])
    person = each_world.person(realm_id=admin.realm_id, roles=[role])
    ok(person.get(PROTECTED))
    answer = changed(
        admin.http, f"{ROLES}/{role}", {"permissions": ["keys:create", "keys:create", "shop:sell"]}
    )
    assert ok(answer)["permissions"] == ["keys:create", "shop:sell"]
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"]) == ("roles.update", role)
    refused(person.get(PROTECTED), 403, "permission_denied")
    ok(person.post("/v1/security/keys", {}))


def test_a_deleted_role_is_taken_from_all_who_had_it(each_world: World, admin: Person) -> None:
    role, other = (each_world.role(admin.realm_id, given) for given in (["keys:read"], ["shop:sell"]))
    person = each_world.person(realm_id=admin.realm_id, roles=[other, role])
    client = each_world.client(admin.realm_id, roles=[role])
    ok(person.get(PROTECTED))
    answer = admin.http.delete(f"{ROLES}/{role}")
    assert ok(answer) == {"deleted": True}
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"]) == ("roles.delete", role)
    refused(person.get(PROTECTED), 403, "permission_denied")
    assert ok(person.get("/v1/auth/me"))["roles"] == [other]
    assert ok(admin.get(f"/v1/auth/clients/{client['client_id']}"))["roles"] == []
    refused(admin.get(f"{ROLES}/{role}"), 404, "not_found")
    # Who makes a role of that name again gives it to nobody.
    ok(admin.post(ROLES, {"name": role, "permissions": ["keys:read"]}))
    refused(person.get(PROTECTED), 403, "permission_denied")


def test_a_body_beside_a_deletion_deletes_nothing(each_world: World, admin: Person) -> None:
    role = each_world.role(admin.realm_id, [])
    answer = admin.http.request("DELETE", f"{ROLES}/{role}", json={"realm_id": admin.realm_id})
    assert refused(answer, 400, "invalid_field")["hint"] == "fields go into the query"
    ok(admin.get(f"{ROLES}/{role}"))


@pytest.mark.parametrize("role", ["realm-admin"])
def test_built_in_roles_stay_as_they_are(admin: Person, role: str) -> None:
    before = ok(admin.get(f"{ROLES}/{role}"))
    refused(changed(admin.http, f"{ROLES}/{role}", {"permissions": []}), 409, "conflict")
    refused(admin.http.delete(f"{ROLES}/{role}"), 409, "conflict")
    assert ok(admin.get(f"{ROLES}/{role}")) == before


@pytest.mark.parametrize("role", ["operator", "platform-admin", "realm-admin"])
def test_not_even_an_operator_changes_them(each_world: World, role: str) -> None:
    refused(changed(each_world.operator, f"{ROLES}/{role}", {"permissions": []}), 409, "conflict")
    refused(each_world.operator.delete(f"{ROLES}/{role}"), 409, "conflict")


def test_nobody_gives_or_takes_by_a_role_what_they_lack(each_world: World, admin: Person) -> None:
    clerk = each_world.person("roles:manage", "roles:read", "keys:read", realm_id=admin.realm_id)
    mine, strong = (
        each_world.role(admin.realm_id, given) for given in (["keys:read"], ["keys:read", "keys:encrypt"])
    )
    for name, wanted in ((mine, ["keys:encrypt"]), (strong, []), (strong, ["keys:read"])):
        answer = changed(clerk.http, f"{ROLES}/{name}", {"permissions": wanted})
        assert refused(answer, 403, "permission_denied")["permission"] == "keys:encrypt"
    assert (
        refused(clerk.http.delete(f"{ROLES}/{strong}"), 403, "permission_denied")["permission"]
        == "keys:encrypt"
    )
    # An application's own permission takes who makes roles.
    answer = changed(clerk.http, f"{ROLES}/{mine}", {"permissions": ["shop:sell"]})
    assert refused(answer, 403, "permission_denied")["permission"] == "roles:create"
    ok(changed(clerk.http, f"{ROLES}/{mine}", {"permissions": []}))
    ok(clerk.http.delete(f"{ROLES}/{mine}"))


@pytest.mark.parametrize("permission", ["*", "realm:*", "platform:*", "nonsense:", "keys:nothing", "", "a b"])
def test_an_update_is_checked_like_a_creation(each_world: World, admin: Person, permission: str) -> None:
    role = each_world.role(admin.realm_id, [])
    body = {"name": each_world.fresh("role"), "permissions": [permission]}
    made = admin.post(ROLES, body)
    answer = changed(admin.http, f"{ROLES}/{role}", {"permissions": [permission]})
    assert (answer.status_code, answer.json().get("code")) == (made.status_code, made.json().get("code"))
    if made.status_code != 200:
        assert answer.json().get("fields") == made.json().get("fields")


@pytest.mark.parametrize(
    "change", [{"name": "x"}, {"built_in": True}, {"permissions": None}, {"permissions": "keys:read"}]
)
def test_nothing_else_of_a_role_can_be_changed(
    each_world: World, admin: Person, change: dict[str, Any]
) -> None:
    role = each_world.role(admin.realm_id, [])
    refused(changed(admin.http, f"{ROLES}/{role}", change), 400, "invalid_field")


@pytest.mark.parametrize("name", ["absent", "Realm-Admin", "x" * 64, "00000000-0000-4000-8000-000000000000"])
def test_what_is_not_there_is_not_found(each_world: World, admin: Person, name: str) -> None:
    path = f"{ROLES}/{name}"
    for answer in (admin.get(path), changed(admin.http, path, {}, "*"), admin.http.delete(path)):
        assert refused(answer, 404, "not_found")["error"] == f"role not found: {name}"


def test_roles_of_another_realm_are_not_there(each_world: World, admin: Person) -> None:
    foreign = each_world.role(each_world.realm(), [])
    path = f"{ROLES}/{foreign}"
    for answer in (admin.get(path), changed(admin.http, path, {}, "*"), admin.http.delete(path)):
        assert refused(answer, 404, "not_found")["error"] == f"role not found: {foreign}"
