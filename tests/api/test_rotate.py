"""Rotate over HTTP: one new version, and the old one stops encrypting in the same instant."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.api import Person, World
from tests.support.kms import (
    ABSENT,
    ENCRYPT,
    KEYS,
    ROTATE,
    Rows,
    alike,
    at_once,
    new_key,
    rotate,
    seal,
    unsealed,
)
from tests.support.server import ok, refused

ONE_KEY = {"/key_id": "exactly one of key_id, lineage_id, name"}


@pytest.fixture(scope="module")
def each_admin(each_world: World) -> Person:
    return each_world.person()


@pytest.fixture(scope="module")
def key(admin: Person) -> dict[str, Any]:
    return new_key(admin, name="rotate")


def versions(person: Person, key_id: str) -> list[dict[str, Any]]:
    return ok(person.get(f"{KEYS}/{key_id}"))["versions"]


@pytest.mark.parametrize("field", ["key_id", "lineage_id", "name"])
@pytest.mark.parametrize("algorithm", ["aes256_gcm", "chacha20_poly1305"])
def test_a_rotation_answers_with_the_new_version(each_world: World, field: str, algorithm: str) -> None:
    person = each_world.person("keys:create", "keys:rotate", "keys:read")
    old = new_key(person, name="rotated", algorithm=algorithm)
    new = rotate(person, **{field: old[field]})
    assert new == {**old, "key_id": new["key_id"], "version": 2, "created_at": new["created_at"]}
    assert new["key_id"] != old["key_id"]
    assert new["created_at"] > old["created_at"]
    assert versions(person, old["key_id"]) == [{**old, "active": False}, new]


def test_the_new_version_has_a_key_of_its_own(each_admin: Person) -> None:
    old = new_key(each_admin)
    envelope = seal(each_admin, "hello", key_id=old["key_id"])
    new = rotate(each_admin, key_id=old["key_id"])
    body = refused(
        each_admin.post("/v1/security/decrypt", {"input": envelope, "key_id": new["key_id"]}),
        400,
        "key_mismatch",
    )
    assert body["error"] == "key mismatch"
    assert unsealed(each_admin, envelope, lineage_id=old["lineage_id"]) == "hello"


def test_the_old_version_stops_encrypting_at_once_and_goes_on_decrypting(each_admin: Person) -> None:
    old = new_key(each_admin, name="stops")
    envelope = seal(each_admin, "hello", key_id=old["key_id"])
    for number in range(2, 6):
        new = rotate(each_admin, name="stops")
        refused(each_admin.post(ENCRYPT, {"key_id": old["key_id"], "input": "x"}), 400, "key_inactive")
        answer = ok(each_admin.post(ENCRYPT, {"name": "stops", "input": "x"}))
        assert (answer["key_id"], answer["version"]) == (new["key_id"], number)
        old = new
    assert unsealed(each_admin, envelope) == "hello"


def test_an_inactive_version_does_not_rotate(each_admin: Person) -> None:
    old = new_key(each_admin)
    new = rotate(each_admin, key_id=old["key_id"])
    for _ in range(2):
        body = refused(each_admin.post(ROTATE, {"key_id": old["key_id"]}), 409, "key_inactive")
        assert body["error"] == f"key is inactive: {old['key_id']}"
        assert old["lineage_id"] in body["hint"]
    assert len(versions(each_admin, old["key_id"])) == 2
    assert rotate(each_admin, key_id=new["key_id"])["version"] == 3


def test_rotation_is_the_way_out_of_a_disabled_version(each_admin: Person) -> None:
    old = new_key(each_admin, name="way-out")
    envelope = seal(each_admin, name="way-out")
    ok(each_admin.post(f"{KEYS}/{old['key_id']}/disable"))
    refused(each_admin.post(ENCRYPT, {"name": "way-out", "input": "x"}), 400, "key_disabled")
    new = rotate(each_admin, name="way-out")
    assert (new["enabled"], new["active"]) == (True, True)
    assert unsealed(each_admin, seal(each_admin, "again", name="way-out")) == "again"
    refused(each_admin.post("/v1/security/decrypt", {"input": envelope}), 400, "key_disabled")


@pytest.mark.parametrize("fields", [[], ["key_id", "lineage_id"], ["key_id", "name"], ["lineage_id", "name"],
                                    ["key_id", "lineage_id", "name"]])  # fmt: skip
def test_exactly_one_key_is_needed(admin: Person, key: dict[str, Any], fields: list[str]) -> None:
    body = refused(admin.post(ROTATE, {field: key[field] for field in fields}), 400, "invalid_field")
    assert body["fields"] == ONE_KEY
    assert len(versions(admin, key["key_id"])) == 1


def test_null_stands_for_an_absent_field(admin: Person) -> None:
    key = new_key(admin)
    assert rotate(admin, key_id=key["key_id"], lineage_id=None, name=None, realm_id=None)["version"] == 2


@pytest.mark.parametrize(
    ("body", "pointer", "reason"),
    [
        ({"keyid": "x"}, "/keyid", "unknown field; did you mean key_id?"),
        ({"algorithm": "aes256_gcm"}, "/algorithm", "unknown field"),
        ({"name": 5}, "/name", None),
    ],
)
def test_unknown_and_mistyped_fields_are_refused(
    admin: Person, body: Any, pointer: str, reason: str | None
) -> None:
    answer = refused(admin.post(ROTATE, body), 400, "invalid_field")
    assert list(answer["fields"]) == [pointer]
    if reason is not None:
        assert answer["fields"] == {pointer: reason}


@pytest.mark.parametrize("spelled", [str.upper, lambda text: text.replace("-", "")])
def test_a_uuid_is_read_in_any_case_with_or_without_hyphens(admin: Person, spelled) -> None:
    key_id = new_key(admin)["key_id"]
    assert rotate(admin, key_id=spelled(key_id))["lineage_id"] == key_id
    assert rotate(admin, lineage_id=spelled(key_id))["version"] == 3


@pytest.mark.parametrize("field", ["key_id", "lineage_id"])
def test_a_key_of_another_realm_is_not_found_like_an_absent_one(
    each_world: World, each_admin: Person, field: str
) -> None:
    them = each_world.person()
    theirs = new_key(them)["key_id"]
    answers = [(each_admin.post(ROTATE, {field: asked}), asked) for asked in (theirs, ABSENT)]
    assert refused(answers[1][0], 404, "key_not_found")["error"] == f"key not found: {ABSENT}"
    alike(*answers)
    assert len(versions(them, theirs)) == 1


def test_a_name_of_another_realm_is_not_found(each_world: World, each_admin: Person) -> None:
    new_key(each_world.person(), name="elsewhere")
    answers = [(each_admin.post(ROTATE, {"name": asked}), asked) for asked in ("elsewhere", "nowhere")]
    refused(answers[0][0], 404, "key_not_found")
    alike(*answers)


def test_a_later_versions_id_names_no_lineage(each_admin: Person) -> None:
    second = rotate(each_admin, key_id=new_key(each_admin)["key_id"])["key_id"]
    refused(each_admin.post(ROTATE, {"lineage_id": second}), 404, "key_not_found")


def test_the_realms_own_keys_do_not_rotate_here(each_world: World, each_admin: Person) -> None:
    for key_id in Rows(each_world.server).internal_keys(each_admin.realm_id):
        for field in ("key_id", "lineage_id"):
            refused(each_admin.post(ROTATE, {field: key_id}), 404, "key_not_found")


def test_an_operator_rotates_in_another_realm_only_by_naming_it(world: World, admin: Person) -> None:
    key_id = new_key(admin)["key_id"]
    refused(world.operator.post(ROTATE, json={"key_id": key_id}), 404, "key_not_found")
    assert (
        ok(world.operator.post(ROTATE, json={"key_id": key_id, "realm_id": admin.realm_id}))["version"] == 2
    )


def test_without_the_permission_nothing_is_looked_up(
    world: World, admin: Person, key: dict[str, Any]
) -> None:
    person = world.person("keys:create", "keys:manage", "keys:read", realm_id=admin.realm_id)
    for body in ({"key_id": key["key_id"]}, {"key_id": ABSENT}, {}, {"x": 1}, {"realm_id": "nowhere"}):
        answer = refused(person.post(ROTATE, body), 403, "permission_denied")
        assert (answer["error"], answer["permission"]) == ("permission denied: keys:rotate", "keys:rotate")


def test_a_scope_covers_its_own_lineage_and_no_other(each_world: World, each_admin: Person) -> None:
    mine, other = new_key(each_admin), new_key(each_admin, name="not-mine")
    person = each_world.person(f"keys:rotate:{mine['lineage_id']}", realm_id=each_admin.realm_id)
    second = rotate(person, key_id=mine["key_id"])
    assert rotate(person, key_id=second["key_id"])["version"] == 3
    for named in ({"key_id": other["key_id"]}, {"lineage_id": other["lineage_id"]}, {"name": "not-mine"}):
        body = refused(person.post(ROTATE, named), 403, "permission_denied")
        assert (body["permission"], body["resource"]) == ("keys:rotate", f"lineage {other['lineage_id']}")
    refused(person.post(ROTATE, {"key_id": ABSENT}), 404, "key_not_found")
    assert len(versions(each_admin, other["key_id"])) == 1


def test_a_scope_is_judged_before_the_state_of_the_key(each_world: World, each_admin: Person) -> None:
    mine, other = new_key(each_admin), new_key(each_admin)
    person = each_world.person(f"keys:rotate:{mine['lineage_id']}", realm_id=each_admin.realm_id)
    rotate(each_admin, key_id=other["key_id"])
    refused(person.post(ROTATE, {"key_id": other["key_id"]}), 403, "permission_denied")


def test_of_many_rotations_by_one_key_id_exactly_one_wins(each_admin: Person) -> None:
    key = new_key(each_admin)
    for number in range(2, 6):
        answers = at_once([lambda key=key: each_admin.post(ROTATE, {"key_id": key["key_id"]})] * 10)
        assert sorted(answer.status_code for answer in answers) == [200] + 9 * [409]
        for answer in answers:
            if answer.status_code == 409:
                assert refused(answer, 409, "key_inactive")["error"] == f"key is inactive: {key['key_id']}"
        key = next(answer.json() for answer in answers if answer.status_code == 200)
        assert key["version"] == number


def test_rotations_by_lineage_at_once_never_fork_it(each_admin: Person) -> None:
    key = new_key(each_admin)
    answers = at_once([lambda: each_admin.post(ROTATE, {"lineage_id": key["lineage_id"]})] * 10)
    made = [answer.json() for answer in answers if answer.status_code == 200]
    assert made
    for answer in answers:
        if answer.status_code != 200:
            assert answer.status_code in (409, 503), answer.text
    found = versions(each_admin, key["key_id"])
    assert [version["version"] for version in found] == list(range(1, len(made) + 2))
    assert [version["active"] for version in found] == [False] * len(made) + [True]
    assert {version["key_id"] for version in found[1:]} == {version["key_id"] for version in made}


def test_who_encrypts_by_name_notices_nothing_and_never_gets_an_old_version(each_admin: Person) -> None:
    new_key(each_admin, name="busy")
    acknowledged, done, found = [1], threading.Event(), []

    def encrypt() -> None:
        while not done.is_set():
            least = acknowledged[0]
            found.append((least, each_admin.post(ENCRYPT, {"name": "busy", "input": "x"})))

    threads = [threading.Thread(target=encrypt) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            acknowledged[0] = rotate(each_admin, name="busy")["version"]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(found) >= 20
    for least, answer in found:
        assert ok(answer)["version"] >= least
