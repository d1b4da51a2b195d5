"""Keys over HTTP: make one, look one up."""

from __future__ import annotations

import re
from uuid import UUID

import pytest

from tests.support.api import Person, World
from tests.support.kms import ABSENT, KEYS, Rows, alike, at_once, new_key, rotate, seal, unsealed, without_id
from tests.support.server import ok, refused

NAME_RULE = "must match [a-z0-9][a-z0-9._-]{0,62} and not be a UUID"


@pytest.fixture(scope="module")
def each_admin(each_world: World) -> Person:
    return each_world.person()


@pytest.fixture(scope="module")
def reader(world: World, admin: Person) -> Person:
    """Someone in the realm of `admin` who may read keys and nothing else."""
    return world.person("keys:read", realm_id=admin.realm_id)


def test_a_new_key_has_the_defaults(each_admin: Person) -> None:
    key = ok(each_admin.post(KEYS, {}))
    assert key == {
        "key_id": key["key_id"],
        "lineage_id": key["key_id"],
        "version": 1,
        "active": True,
        "enabled": True,
        "algorithm": "aes256_gcm",
        "name": None,
        "created_at": key["created_at"],
    }
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", key["created_at"])


def test_a_key_id_is_random_and_printed_in_lower_case_with_hyphens(admin: Person) -> None:
    ids = [new_key(admin)["key_id"] for _ in range(4)]
    assert len(set(ids)) == 4
    for key_id in ids:
        assert str(UUID(key_id)) == key_id
        assert UUID(key_id).version == 4


def test_a_key_can_be_made_without_a_body(admin: Person) -> None:
    assert ok(admin.post(KEYS))["algorithm"] == "aes256_gcm"


def test_null_stands_for_an_absent_field(admin: Person) -> None:
    key = ok(admin.post(KEYS, {"algorithm": None, "name": None, "realm_id": None}))
    assert (key["algorithm"], key["name"]) == ("aes256_gcm", None)


@pytest.mark.parametrize(
    ("spelled", "means"),
    [
        ("aes256_gcm", "aes256_gcm"),
        ("AES-256-GCM", "aes256_gcm"),
        ("chacha20_poly1305", "chacha20_poly1305"),
        ("ChaCha20-Poly1305", "chacha20_poly1305"),
    ],
)
def test_algorithms_are_read_in_both_spellings(admin: Person, spelled: str, means: str) -> None:
    key = new_key(admin, algorithm=spelled)
    assert key["algorithm"] == means
    assert unsealed(admin, seal(admin, "hello", key_id=key["key_id"])) == "hello"


@pytest.mark.parametrize(
    "algorithm",
    ["", "AES256_GCM", "aes-256-gcm", "aes128_gcm", "chacha20-poly1305", "cha_cha20_poly1305", "es256",
     "hmac_sha256", "aes256_gcm ", "1"],
)  # fmt: skip
def test_other_algorithms_are_refused(admin: Person, algorithm: str) -> None:
    body = refused(admin.post(KEYS, {"algorithm": algorithm}), 400, "invalid_field")
    assert body["fields"] == {"/algorithm": "one of aes256_gcm, chacha20_poly1305"}


@pytest.mark.parametrize(
    "name", ["0", "a", "orders.v2_eu-west", "a" * 63, "550e8400-e29b-41d4-a716-44665544000g"]
)
def test_a_key_answers_to_its_name(world: World, name: str) -> None:
    person = world.person("keys:create", "keys:encrypt")
    key = new_key(person, name=name)
    assert key["name"] == name
    assert ok(person.post("/v1/security/encrypt", {"name": name, "input": ""}))["key_id"] == key["key_id"]


@pytest.mark.parametrize(
    "name",
    ["", " ", "Orders", "ORDERS", "-a", ".a", "_a", "a b", "a/b", "a:b", "a\n", "a\0", "naïve", "ａ", "a" * 64,
     "550e8400-e29b-41d4-a716-446655440000", "550e8400e29b41d4a716446655440000"],
)  # fmt: skip
def test_a_name_that_is_not_well_formed_is_refused(each_admin: Person, name: str) -> None:
    body = refused(each_admin.post(KEYS, {"name": name}), 400, "invalid_field")
    assert list(body["fields"]) == ["/name"]
    if len(name) < 64:
        assert body["fields"]["/name"] == NAME_RULE


def test_a_taken_name_is_a_conflict_and_changes_nothing(each_admin: Person) -> None:
    first = new_key(each_admin, name="payroll")
    envelope = seal(each_admin, "hello", name="payroll")
    body = refused(
        each_admin.post(KEYS, {"name": "payroll", "algorithm": "chacha20_poly1305"}), 409, "already_exists"
    )
    assert body["error"] == "key already exists: payroll"
    assert ok(each_admin.get(f"{KEYS}/{first['key_id']}"))["versions"] == [first]
    assert unsealed(each_admin, envelope, name="payroll") == "hello"


def test_a_name_stays_taken_after_rotation_and_disabling(each_admin: Person) -> None:
    key = new_key(each_admin, name="kept")
    rotate(each_admin, name="kept")
    ok(each_admin.post(f"{KEYS}/{key['key_id']}/disable", {"scope": "lineage"}))
    refused(each_admin.post(KEYS, {"name": "kept"}), 409, "already_exists")


def test_another_realm_may_use_the_same_name(each_world: World) -> None:
    first, second = each_world.person(), each_world.person()
    assert new_key(first, name="same")["key_id"] != new_key(second, name="same")["key_id"]


def test_of_many_that_want_a_name_at_once_one_gets_it(each_admin: Person) -> None:
    answers = at_once([lambda: each_admin.post(KEYS, {"name": "wanted"})] * 8)
    assert sorted(answer.status_code for answer in answers) == [200] + 7 * [409]
    made = next(answer.json() for answer in answers if answer.status_code == 200)
    assert (
        ok(each_admin.post("/v1/security/encrypt", {"name": "wanted", "input": ""}))["key_id"]
        == made["key_id"]
    )


@pytest.mark.parametrize(
    ("body", "pointer", "reason"),
    [
        ({"algoritm": "aes256_gcm"}, "/algoritm", "unknown field; did you mean algorithm?"),
        ({"Name": "x"}, "/Name", "unknown field; did you mean name?"),
        ({"zzz": 1}, "/zzz", "unknown field"),
        ({"name": 5}, "/name", None),
        ({"algorithm": ["aes256_gcm"]}, "/algorithm", None),
        ({"realm_id": False}, "/realm_id", None),
        ([], "", None),
        ("name", "", None),
    ],
)
def test_unknown_and_mistyped_fields_are_refused(
    admin: Person, body: object, pointer: str, reason: str | None
) -> None:
    answer = refused(admin.post(KEYS, body), 400, "invalid_field")
    assert list(answer["fields"]) == [pointer]
    if reason is not None:
        assert answer["fields"][pointer] == reason
        assert answer["error"] == f"{pointer}: {reason}"


def test_creating_needs_its_permission_before_the_body_is_looked_at(reader: Person) -> None:
    for body in ({}, {"name": "Not A Name"}, {"unknown": 1}, {"realm_id": "nowhere"}):
        answer = refused(reader.post(KEYS, body), 403, "permission_denied")
        assert (answer["error"], answer["permission"]) == ("permission denied: keys:create", "keys:create")


def test_an_operator_makes_a_key_in_another_realm(world: World, admin: Person) -> None:
    key = ok(world.operator.post(KEYS, json={"realm_id": admin.realm_id, "name": "from-above"}))
    assert ok(admin.get(f"{KEYS}/{key['key_id']}"))["name"] == "from-above"
    refused(world.operator.get(f"{KEYS}/{key['key_id']}"), 404, "key_not_found")


def test_naming_ones_own_realm_needs_no_operator(admin: Person) -> None:
    key = new_key(admin, realm_id=admin.realm_id)
    assert ok(admin.get(f"{KEYS}/{key['key_id']}?realm_id={admin.realm_id}"))["key_id"] == key["key_id"]


@pytest.mark.parametrize("method", ["create", "list", "get"])
def test_another_realm_is_not_found_like_an_absent_one(world: World, admin: Person, method: str) -> None:
    answers = []
    for realm_id in (world.realm(), "nowhere", "system"):
        if method == "create":
            answer = admin.post(KEYS, {"realm_id": realm_id})
        else:
            path = KEYS if method == "list" else f"{KEYS}/{ABSENT}"
            answer = admin.get(f"{path}?realm_id={realm_id}")
        assert refused(answer, 404, "realm_not_found")["error"] == f"realm not found: {realm_id}"
        answers.append((answer, realm_id))
    alike(answers[0], answers[1])
    alike(answers[0], answers[2])


@pytest.mark.parametrize("realm_id", ["", "nowhere", "No Realm", "a\0", "null"])
def test_a_realm_that_does_not_exist_is_not_found_for_operators_either(
    each_world: World, realm_id: str
) -> None:
    body = refused(each_world.operator.post(KEYS, json={"realm_id": realm_id}), 404, "realm_not_found")
    assert body["error"] == f"realm not found: {realm_id}"
    query = each_world.operator.get(KEYS, params={"realm_id": realm_id})
    refused(query, 404, "realm_not_found")


def test_a_key_shows_all_versions_of_its_lineage_oldest_first(each_admin: Person) -> None:
    first = new_key(each_admin, name="three")
    second, third = rotate(each_admin, name="three"), rotate(each_admin, name="three")
    versions = [{**first, "active": False}, {**second, "active": False}, third]
    for version in versions:
        assert ok(each_admin.get(f"{KEYS}/{version['key_id']}")) == {**version, "versions": versions}


@pytest.mark.parametrize("spelled", [str.upper, lambda text: text.replace("-", ""), str.title])
def test_a_key_is_found_by_its_id_in_any_spelling_of_a_uuid(admin: Person, spelled) -> None:
    key = new_key(admin)
    assert ok(admin.get(f"{KEYS}/{spelled(key['key_id'])}"))["key_id"] == key["key_id"]


@pytest.mark.parametrize(
    "spelled",
    [lambda text: f"urn:uuid:{text}", lambda text: text[:-1], lambda text: text + "0", lambda text: text.replace("-", "", 1),
     lambda text: f"-{text[1:]}", lambda text: text.replace("-", "_"), lambda _: "orders", lambda _: "0"],
)  # fmt: skip
def test_what_is_no_uuid_names_no_key(admin: Person, spelled) -> None:
    asked = spelled(new_key(admin)["key_id"])
    body = refused(admin.get(f"{KEYS}/{asked}"), 404, "key_not_found")
    assert body["error"] == f"key not found: {asked}"


def test_braces_around_a_uuid_are_refused(admin: Person) -> None:
    answer = admin.get(f"{KEYS}/{{{new_key(admin)['key_id']}}}")
    refused(answer, 400, "invalid_request")


def test_an_absent_key_is_named_in_lower_case_with_hyphens(admin: Person) -> None:
    for asked in (ABSENT, ABSENT.upper(), ABSENT.replace("-", "")):
        body = refused(admin.get(f"{KEYS}/{asked}"), 404, "key_not_found")
        assert body["error"] == f"key not found: {ABSENT}"


def test_a_key_of_another_realm_is_not_found_like_an_absent_one(
    each_world: World, each_admin: Person
) -> None:
    theirs = new_key(each_world.person())["key_id"]
    alike((each_admin.get(f"{KEYS}/{theirs}"), theirs), (each_admin.get(f"{KEYS}/{ABSENT}"), ABSENT))


def test_an_operator_reads_a_key_of_another_realm(world: World, admin: Person) -> None:
    key = new_key(admin)
    path = f"{KEYS}/{key['key_id']}"
    assert ok(world.operator.get(f"{path}?realm_id={admin.realm_id}"))["versions"] == [key]
    refused(world.operator.get(path), 404, "key_not_found")


def test_the_realms_own_keys_are_not_found(each_world: World, each_admin: Person) -> None:
    for key_id in Rows(each_world.server).internal_keys(each_admin.realm_id):
        body = refused(each_admin.get(f"{KEYS}/{key_id}"), 404, "key_not_found")
        assert body["error"] == f"key not found: {key_id}"


@pytest.mark.parametrize(
    ("query", "pointer", "reason"),
    [("realm=x", "/realm", "unknown field; did you mean realm_id?"), ("limit=1", "/limit", "unknown field")],
)
def test_an_unknown_query_parameter_is_refused(admin: Person, query: str, pointer: str, reason: str) -> None:
    body = refused(admin.get(f"{KEYS}/{new_key(admin)['key_id']}?{query}"), 400, "invalid_field")
    assert body["fields"] == {pointer: reason}


def test_reading_needs_its_permission_and_nothing_is_looked_up_without_it(
    world: World, admin: Person
) -> None:
    stranger = world.person("keys:create", "keys:encrypt", realm_id=admin.realm_id)
    key_id = new_key(stranger)["key_id"]
    answers = [(stranger.get(f"{KEYS}/{asked}"), asked) for asked in (key_id, ABSENT)]
    alike(*answers)
    body = refused(answers[0][0], 403, "permission_denied")
    assert (body["permission"], body["hint"]) == ("keys:read", "ask an administrator for keys:read")
    assert "resource" not in body


def test_a_scope_lets_its_own_lineage_be_read(world: World, admin: Person) -> None:
    mine, other = new_key(admin), new_key(admin)
    person = world.person(f"keys:read:{mine['lineage_id']}", realm_id=admin.realm_id)
    second = rotate(admin, lineage_id=mine["lineage_id"])
    for key_id in (mine["key_id"], second["key_id"]):
        assert len(ok(person.get(f"{KEYS}/{key_id}"))["versions"]) == 2
    refused(person.get(f"{KEYS}/{ABSENT}"), 404, "key_not_found")
    body = refused(person.get(f"{KEYS}/{other['key_id']}"), 403, "permission_denied")
    assert (body["permission"], body["resource"]) == ("keys:read", f"lineage {other['lineage_id']}")


def test_a_scope_in_one_realm_says_nothing_about_another(world: World, admin: Person) -> None:
    theirs = new_key(world.person())["key_id"]
    person = world.person(f"keys:read:{theirs}", realm_id=admin.realm_id)
    alike((person.get(f"{KEYS}/{theirs}"), theirs), (person.get(f"{KEYS}/{ABSENT}"), ABSENT))


def test_a_key_is_asked_for_by_head_as_well(admin: Person) -> None:
    answer = admin.http.head(f"{KEYS}/{new_key(admin)['key_id']}")
    assert (answer.status_code, answer.content) == (200, b"")


def test_an_error_carries_the_request_id_of_its_caller(admin: Person) -> None:
    answer = admin.get(f"{KEYS}/{ABSENT}", headers={"X-Request-Id": "mine-7"})
    assert answer.headers["x-request-id"] == "mine-7"
    assert without_id(answer) == {"error": f"key not found: {ABSENT}", "code": "key_not_found"}
