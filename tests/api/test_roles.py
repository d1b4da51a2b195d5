"""`POST /v1/auth/roles`: names, permissions, and that nobody gives what they lack."""

from __future__ import annotations

import pytest

from qimem.authz.permissions import REALM_SCOPED
from qimem.storage.schema import role, role_permission
from tests.support.api import Person, World
from tests.support.oauth import at_once, nobody, rows
from tests.support.server import ok, refused

PATH = "/v1/auth/roles"
NAME_RULE = "must match [a-z0-9][a-z0-9._-]{0,62} and not be a UUID"
LINEAGE = "0d3f6f2c-9a64-4d0e-8a52-6f0d3c1b2a19"

NOT_PERMISSIONS = [
    "*", "realm:*", "keys:*", "*:create", "keys:encrypt:*", "app*", "", " ", "a b", "a\n", "a\u0000", "ä", "a" * 129,
    "\u200bkeys:encrypt",
]  # fmt: skip
UNKNOWN_PERMISSIONS = [
    "keys", "keys:", "keys::", "keys:everything", "keys:Encrypt", "Keys:encrypt", "KEYS:ENCRYPT", "keys:encrypt:",
    "keys:encrypt:x", f"keys:encrypt:{LINEAGE}:x", f"keys:encrypt:{{{LINEAGE}}}", f"keys:encrypt:urn:uuid:{LINEAGE}",
    f"keys:create:{LINEAGE}", f"users:create:{LINEAGE}", "users:delete", "users:create:", "realms:delete",
    "realm:admin", "realm", "tokens", "sessions:read", "settings:write", "limits:manage", "audit:write", "operators:x",
    "system:x", "platform:x", "signing-keys:", "backups:create", "nodes:join", "authz:x", "plugins:run",
]  # fmt: skip
OWN_PERMISSIONS = [
    "orders:approve",
    "Orders:Approve",
    "a",
    "!",
    "~" * 128,
    "app.keys:encrypt",
    "key:read",
    "user",
]


def kept(world: World, realm_id: str, name: str) -> list[str]:
    found = rows(world.server, role_permission, realm_id=realm_id, role=name)
    return [row["permission"] for row in sorted(found, key=lambda row: row["position"])]


def test_a_role_is_answered_as_it_is_kept(each_world: World) -> None:
    realm_id = each_world.realm()
    body = {"realm_id": realm_id, "name": "cipher", "permissions": ["keys:encrypt", "orders:approve"]}
    assert ok(each_world.operator.post(PATH, json=body)) == body | {"built_in": False}
    assert kept(each_world, realm_id, "cipher") == ["keys:encrypt", "orders:approve"]


def test_without_a_realm_it_is_the_callers_own(world: World, admin: Person) -> None:
    body = ok(admin.post(PATH, {"name": world.fresh("role"), "permissions": []}))
    assert body["realm_id"] == admin.realm_id


def test_an_existing_name_is_refused_and_overwrites_nothing(each_world: World) -> None:
    realm_id = each_world.realm()
    ok(each_world.operator.post(PATH, json={"realm_id": realm_id, "name": "clerk", "permissions": ["a"]}))
    more = {"realm_id": realm_id, "name": "clerk", "permissions": ["keys:decrypt", "b"]}
    body = refused(each_world.operator.post(PATH, json=more), 409, "already_exists")
    assert body["error"] == "role already exists: clerk"
    assert kept(each_world, realm_id, "clerk") == ["a"]


def test_the_same_name_in_another_realm_is_another_role(each_world: World) -> None:
    here, there = each_world.realm(), each_world.realm()
    for realm_id in (here, there):
        body = {"realm_id": realm_id, "name": "clerk", "permissions": [realm_id]}
        ok(each_world.operator.post(PATH, json=body))
    assert (kept(each_world, here, "clerk"), kept(each_world, there, "clerk")) == ([here], [there])


def test_of_eight_at_once_one_makes_the_role(each_world: World) -> None:
    realm_id = each_world.realm()
    bodies = [{"realm_id": realm_id, "name": "raced", "permissions": [f"n{n}"]} for n in range(8)]
    answers = at_once([lambda body=body: each_world.operator.post(PATH, json=body) for body in bodies])
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    (winner,) = [ok(answer) for answer in answers if answer.status_code == 200]
    assert kept(each_world, realm_id, "raced") == winner["permissions"]


@pytest.mark.parametrize("name", ["operator", "realm-admin"])
@pytest.mark.parametrize("where", ["system", None])
def test_the_name_of_a_built_in_role_is_taken_everywhere(world: World, where: str | None, name: str) -> None:
    body = {"realm_id": where or world.realm(), "name": name, "permissions": []}
    error = refused(world.operator.post(PATH, json=body), 409, "already_exists")["error"]
    assert error == f"role already exists: {name}"


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-d", "z" * 63])
def test_a_name_at_the_edge_of_the_rule_is_taken(world: World, name: str) -> None:
    body = {"realm_id": world.realm(), "name": name, "permissions": []}
    assert ok(world.operator.post(PATH, json=body))["name"] == name


@pytest.mark.parametrize(
    "name",
    ["", "A", ".a", "-a", "_a", "a b", " a", "a\n", "a\u0000", "a:b", "a/b", "é", "ａ", "a" * 64, "b2b02b83-ee6d-42ad-bdc5-7e47584d0b0e", "0" * 32],
    ids=ascii,
)  # fmt: skip
def test_a_name_against_the_rule_is_refused(world: World, admin: Person, name: str) -> None:
    body = refused(admin.post(PATH, {"name": name, "permissions": []}), 400, "invalid_field")
    assert body["fields"] == {"/name": NAME_RULE}
    assert not rows(world.server, role, realm_id=admin.realm_id, name=name)


@pytest.mark.parametrize("permission", NOT_PERMISSIONS, ids=ascii)
def test_what_no_permission_can_be_is_refused_even_of_an_operator(world: World, permission: str) -> None:
    body = {"name": "never", "permissions": ["fine", permission]}
    answer = refused(world.operator.post(PATH, json=body), 400, "invalid_field")
    assert answer["fields"] == {"/permissions/1": f"not a permission: {permission[:128]}"}
    assert not rows(world.server, role, realm_id="system", name="never")


@pytest.mark.parametrize("permission", UNKNOWN_PERMISSIONS)
def test_an_unknown_action_on_a_platform_resource_is_refused(world: World, permission: str) -> None:
    answer = world.operator.post(PATH, json={"name": "never", "permissions": [permission]})
    fields = refused(answer, 400, "invalid_field")["fields"]
    assert fields == {"/permissions/0": f"unknown permission: {permission}"}
    assert not rows(world.server, role, realm_id="system", name="never")


@pytest.mark.parametrize("permission", OWN_PERMISSIONS)
def test_the_applications_own_permission_is_kept_as_it_is_spelled(world: World, permission: str) -> None:
    person = world.person("roles:create")
    name = world.fresh("role")
    assert ok(person.post(PATH, {"name": name, "permissions": [permission]}))["permissions"] == [permission]
    assert kept(world, person.realm_id, name) == [permission]


def test_a_permission_is_kept_once_and_in_one_spelling(world: World, admin: Person) -> None:
    spelled = [
        f"keys:encrypt:{LINEAGE.upper()}",
        f"keys:encrypt:{LINEAGE.replace('-', '')}",
        "keys:read",
        "keys:read",
    ]
    body = ok(admin.post(PATH, {"name": world.fresh("role"), "permissions": spelled}))
    assert body["permissions"] == [f"keys:encrypt:{LINEAGE}", "keys:read"]


def test_more_than_256_permissions_are_refused(world: World, admin: Person) -> None:
    many = [f"p{number}" for number in range(257)]
    ok(admin.post(PATH, {"name": world.fresh("role"), "permissions": many[1:]}))
    body = refused(admin.post(PATH, {"name": "never", "permissions": many}), 400, "invalid_field")
    assert body["fields"] == {"/permissions": "at most 256 permissions"}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"name": "never"}, {"/permissions": "required"}),
        ({"permissions": []}, {"/name": "required"}),
        ({"name": "never", "permissions": "keys:read"}, {"/permissions": "expected array, got str"}),
        ({"name": "never", "permissions": [1]}, {"/permissions/0": "expected str, got int"}),
        ({"name": "never", "permissions": None}, {"/permissions": "expected array, got null"}),
        ({"name": "never", "permissions": [], "permission": []}, {"/permission": "unknown field; did you mean permissions?"}),
        ({"name": "never", "permissions": [], "built_in": True}, {"/built_in": "unknown field"}),
    ],
    ids=str,
)  # fmt: skip
def test_a_body_of_another_shape_is_refused(admin: Person, body: object, fields: dict[str, str]) -> None:
    assert refused(admin.post(PATH, body), 400, "invalid_field")["fields"] == fields


@pytest.mark.parametrize("realm_id", ["absent", "", "System", "a/b", "x" * 64])
def test_an_operator_is_told_that_a_realm_is_not_there(world: World, realm_id: str) -> None:
    body = {"realm_id": realm_id, "name": "never", "permissions": []}
    error = refused(world.operator.post(PATH, json=body), 404, "realm_not_found")["error"]
    assert error == f"realm not found: {realm_id}"


def test_another_realm_looks_like_an_absent_one(world: World, admin: Person) -> None:
    for realm_id in (world.realm(), "system", "absent"):
        body = {"realm_id": realm_id, "name": "never", "permissions": []}
        error = refused(admin.post(PATH, body), 404, "realm_not_found")["error"]
        assert error == f"realm not found: {realm_id}"
        assert not rows(world.server, role, realm_id=realm_id, name="never")


def test_ones_own_realm_may_be_named(world: World, admin: Person) -> None:
    body = {"realm_id": admin.realm_id, "name": world.fresh("role"), "permissions": []}
    assert ok(admin.post(PATH, body)) == body | {"built_in": False}


def test_without_the_right_no_role_is_made(world: World) -> None:
    person = world.person(*sorted(REALM_SCOPED - {"roles:create"}))
    body = refused(person.post(PATH, {"name": "never", "permissions": []}), 403, "permission_denied")
    assert (body["error"], body["permission"]) == ("permission denied: roles:create", "roles:create")
    refused(nobody(world).post(PATH, json={}), 401, "unauthenticated")


def test_an_applications_permission_of_that_name_is_not_the_right(world: World) -> None:
    person = world.person("role:create", "xroles:create", "roles.create")
    refused(person.post(PATH, {"name": "never", "permissions": []}), 403, "permission_denied")


@pytest.mark.parametrize("permission", [*sorted(REALM_SCOPED - {"roles:create"}), "realms:create"])
def test_the_right_to_make_roles_gives_no_platform_permission_away(world: World, permission: str) -> None:
    person = world.person("roles:create", "mine")
    granted = {"name": "never", "permissions": ["mine", "another", "roles:create", permission]}
    body = refused(person.post(PATH, granted), 403, "permission_denied")
    assert (body["error"], body["permission"]) == (f"permission denied: {permission}", permission)
    assert not rows(world.server, role, realm_id=person.realm_id, name="never")


def test_what_one_holds_one_may_give(world: World) -> None:
    person = world.person("roles:create", "keys:encrypt", "users:create")
    given = ["users:create", "keys:encrypt", "roles:create", f"keys:encrypt:{LINEAGE}"]
    body = {"name": world.fresh("role"), "permissions": given}
    assert ok(person.post(PATH, body))["permissions"] == given


@pytest.mark.parametrize(
    "wider",
    [
        "keys:encrypt",
        "keys:encrypt:2e18099d-513e-474a-ba04-82bc56b7a02f",
        f"keys:decrypt:{LINEAGE}",
        "keys:decrypt",
    ],
)
def test_a_permission_on_one_lineage_is_given_on_that_lineage_alone(world: World, wider: str) -> None:
    person = world.person("roles:create", f"keys:encrypt:{LINEAGE}")
    ok(person.post(PATH, {"name": world.fresh("role"), "permissions": [f"keys:encrypt:{LINEAGE.upper()}"]}))
    body = refused(person.post(PATH, {"name": "never", "permissions": [wider]}), 403, "permission_denied")
    assert body["permission"] == wider


def test_a_realm_admin_gives_everything_of_the_realm_and_nothing_beyond(world: World, admin: Person) -> None:
    everything = sorted(REALM_SCOPED)
    ok(admin.post(PATH, {"name": world.fresh("role"), "permissions": everything}))
    body = refused(
        admin.post(PATH, {"name": "never", "permissions": ["realms:create"]}), 403, "permission_denied"
    )
    assert body["permission"] == "realms:create"


def test_a_repetition_with_its_idempotency_key_gets_the_same_answer(each_world: World) -> None:
    body = {"realm_id": each_world.realm(), "name": "clerk", "permissions": ["a"]}
    key = {"Idempotency-Key": each_world.fresh("key")}
    first, second = (each_world.operator.post(PATH, json=body, headers=key) for _ in range(2))
    assert ok(second) == ok(first) == body | {"built_in": False}
    assert second.headers["idempotency-replayed"] == "true"
    wider = body | {"permissions": ["keys:decrypt"]}
    refused(each_world.operator.post(PATH, json=wider, headers=key), 422, "idempotency_mismatch")
