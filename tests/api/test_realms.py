"""`POST /v1/auth/realms`: operators make realms, and nobody makes one twice."""

from __future__ import annotations

import re

import pytest

from qimem.authz.permissions import REALM_SCOPED
from qimem.storage.schema import epoch, realm
from tests.support.api import Person, World
from tests.support.oauth import at_once, nobody, rows
from tests.support.server import ok, refused

PATH = "/v1/auth/realms"
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

BAD_IDS = [
    "", "A", "Acme", "-a", "_a", "a_b", "a.b", "a b", " a", "a ", "a/b", "../a", "a\n", "a\t", "a\u0000", "a%20",
    "é", "ａ", "а", "a\u200b", "*", "a:b", "a" * 64, "a" * 10_000,
]  # fmt: skip


def test_a_realm_is_answered_with_its_issuer(each_world: World) -> None:
    name = each_world.fresh("realm")
    body = ok(each_world.operator.post(PATH, json={"id": name, "name": "Acme Corporation ✓"}))
    assert body == {
        "id": name,
        "name": "Acme Corporation ✓",
        "issuer": f"{each_world.server.url}/realms/{name}",
        "enabled": True,
        "created_at": body["created_at"],
        "password_min_length": 8,
        "allow_password_grant": True,
        "refresh_grace_seconds": 10,
    }
    assert MOMENT.fullmatch(body["created_at"])


def test_a_new_realm_serves_at_once(each_world: World) -> None:
    realm_id = each_world.realm()
    assert len(ok(nobody(each_world).get(f"/realms/{realm_id}/jwks"))["keys"]) == 1
    ok(each_world.person(realm_id=realm_id).get("/v1/security/keys"))


def test_an_existing_id_is_refused_and_overwrites_nothing(each_world: World) -> None:
    server, person = each_world.server, each_world.person()
    before = rows(server, realm, realm_id=person.realm_id)
    keys = ok(nobody(each_world).get(f"/realms/{person.realm_id}/jwks"))
    body = {"id": person.realm_id, "name": "another owner"}
    answer = refused(each_world.operator.post(PATH, json=body), 409, "already_exists")
    assert answer["error"] == f"realm already exists: {person.realm_id}"
    assert rows(server, realm, realm_id=person.realm_id) == before
    assert ok(nobody(each_world).get(f"/realms/{person.realm_id}/jwks")) == keys
    person.login()
    ok(person.get("/v1/security/keys"))


def test_the_realm_of_the_operators_cannot_be_made_again(each_world: World) -> None:
    refused(each_world.operator.post(PATH, json={"id": "system", "name": "x"}), 409, "already_exists")


def test_of_eight_at_once_one_makes_the_realm(each_world: World) -> None:
    name = each_world.fresh("raced")
    make = [
        lambda number=number: each_world.operator.post(PATH, json={"id": name, "name": f"number {number}"})
        for number in range(8)
    ]
    answers = at_once(make)
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    (winner,) = [ok(answer) for answer in answers if answer.status_code == 200]
    (kept,) = rows(each_world.server, realm, realm_id=name)
    assert kept["name"] == winner["name"]
    assert len(ok(nobody(each_world).get(f"/realms/{name}/jwks"))["keys"]) == 1


@pytest.mark.parametrize("realm_id", ["a", "0", "a-", "0--0", "z" * 63])
def test_an_id_at_the_edge_of_the_rule_is_taken(world: World, realm_id: str) -> None:
    assert ok(world.operator.post(PATH, json={"id": realm_id, "name": "x"}))["id"] == realm_id
    assert len(ok(nobody(world).get(f"/realms/{realm_id}/jwks"))["keys"]) == 1


@pytest.mark.parametrize("realm_id", BAD_IDS, ids=ascii)
def test_an_id_against_the_rule_is_refused(world: World, realm_id: str) -> None:
    body = refused(world.operator.post(PATH, json={"id": realm_id, "name": "x"}), 400, "invalid_field")
    assert body["error"] == "/id: must match [a-z0-9][a-z0-9-]{0,62}"
    assert body["fields"] == {"/id": "must match [a-z0-9][a-z0-9-]{0,62}"}
    assert not rows(world.server, epoch, realm_id=realm_id)


@pytest.mark.parametrize("name", ["", "x" * 257], ids=len)
def test_a_name_of_no_or_too_many_characters_is_refused(world: World, name: str) -> None:
    realm_id = world.fresh("realm")
    body = refused(world.operator.post(PATH, json={"id": realm_id, "name": name}), 400, "invalid_field")
    assert body["fields"] == {"/name": "must have 1 to 256 characters"}
    assert not rows(world.server, realm, realm_id=realm_id)


def test_a_name_of_256_characters_is_kept(world: World) -> None:
    body = {"id": world.fresh("realm"), "name": "名" * 256}
    assert ok(world.operator.post(PATH, json=body))["name"] == "名" * 256


def test_realms_are_made_from_realm_system_alone(world: World) -> None:
    asked = {"id": world.fresh("realm"), "name": "never"}
    tenant = world.person("realms:create", "roles:create")
    answer = refused(tenant.post(PATH, asked), 403, "permission_denied")
    assert (answer["error"], answer["permission"]) == ("permission denied: realms:create", "realms:create")
    delegate = world.person("realms:create", realm_id="system")
    assert ok(delegate.post(PATH, asked))["id"] == asked["id"]


def test_a_name_with_a_null_character_is_refused_on_every_database(each_world: World) -> None:
    body = {"id": each_world.fresh("realm"), "name": "a\u0000b"}
    assert "/name" in refused(each_world.operator.post(PATH, json=body), 400, "invalid_field")["fields"]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"id": "never"}, {"/name": "required"}),
        ({"name": "never"}, {"/id": "required"}),
        ({"id": None, "name": "never"}, {"/id": "expected str, got null"}),
        ({"id": 7, "name": "never"}, {"/id": "expected str, got int"}),
        ({"id": "never", "name": ["x"]}, {"/name": "expected str, got array"}),
        ({"id": "never", "name": "x", "nmae": "y"}, {"/nmae": "unknown field; did you mean name?"}),
        ({"id": "never", "name": "x", "enabled": False}, {"/enabled": "unknown field"}),
        ({"id": "never", "name": "x", "issuer": "https://evil.example"}, {"/issuer": "unknown field"}),
        (["never"], {"": "expected object, got array"}),
    ],
    ids=str,
)
def test_a_body_of_another_shape_is_refused(world: World, body: object, fields: dict[str, str]) -> None:
    assert refused(world.operator.post(PATH, json=body), 400, "invalid_field")["fields"] == fields
    assert not rows(world.server, realm, realm_id="never")


def test_nobody_makes_no_realm(world: World) -> None:
    answer = nobody(world).post(PATH, json={"id": "never", "name": "x"})
    refused(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_realm_admin_makes_no_realm(admin: Person) -> None:
    body = refused(admin.post(PATH, {"id": "never", "name": "x"}), 403, "permission_denied")
    assert (body["error"], body["permission"]) == ("permission denied: realms:create", "realms:create")


def test_every_permission_inside_a_realm_together_makes_no_realm(world: World) -> None:
    person = world.person(*sorted(REALM_SCOPED))
    refused(person.post(PATH, {"id": "never", "name": "x"}), 403, "permission_denied")


def test_the_right_is_judged_before_the_body(admin: Person) -> None:
    answer = admin.post(PATH, content=b"{", headers={"Content-Type": "text/plain"})
    refused(answer, 403, "permission_denied")


def test_a_repetition_with_its_idempotency_key_gets_the_same_answer(each_world: World) -> None:
    body, key = {"id": each_world.fresh("realm"), "name": "x"}, {"Idempotency-Key": each_world.fresh("key")}
    first = each_world.operator.post(PATH, json=body, headers=key)
    second = each_world.operator.post(PATH, json=body, headers=key)
    assert ok(second) == ok(first)
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"


def test_an_idempotency_key_with_another_body_makes_nothing(each_world: World) -> None:
    key, other = {"Idempotency-Key": each_world.fresh("key")}, each_world.fresh("realm")
    first = {"id": each_world.fresh("realm"), "name": "x"}
    ok(each_world.operator.post(PATH, json=first, headers=key))
    again = each_world.operator.post(PATH, json={"id": other, "name": "x"}, headers=key)
    refused(again, 422, "idempotency_mismatch")
    assert not rows(each_world.server, realm, realm_id=other)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_only_creation_and_the_list_are_offered(world: World, method: str) -> None:
    answer = world.operator.request(method, PATH)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
