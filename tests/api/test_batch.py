"""Encrypt and decrypt of many items in one request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.api import Person, World
from tests.support.kms import ABSENT, DECRYPT, ENCRYPT, KEYS, Rows, new_key, rotate, seal, tampered
from tests.support.server import ok, refused

COUNT = {"/items": "1 to 1000 items"}
BOTH = pytest.mark.parametrize("path", [ENCRYPT, DECRYPT])


@pytest.fixture(scope="module")
def each_admin(each_world: World) -> Person:
    return each_world.person()


@pytest.fixture(scope="module")
def key(admin: Person) -> dict[str, Any]:
    return new_key(admin, name="batch")


def items(person: Person, path: str, given: list[Any], **outside: Any) -> list[dict[str, Any]]:
    """The results, as many as were asked for."""
    answer = ok(person.post(path, {"items": given, **outside}))
    assert list(answer) == ["items"]
    assert len(answer["items"]) == len(given)
    return answer["items"]


def errors(results: list[dict[str, Any]]) -> list[str | None]:
    return [result.get("code") for result in results]


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_results_come_in_the_order_of_the_items(each_admin: Person, count: int) -> None:
    key = new_key(each_admin)
    sealed = items(each_admin, ENCRYPT, [{"input": f"text {n}"} for n in range(count)], key_id=key["key_id"])
    assert all(set(result) == {"envelope", "key_id", "version"} for result in sealed)
    assert len({result["envelope"] for result in sealed}) == count
    opened = items(each_admin, DECRYPT, [{"input": result["envelope"]} for result in sealed])
    assert opened == [{"plaintext": f"text {n}", "key_id": key["key_id"], "version": 1} for n in range(count)]


@BOTH
@pytest.mark.parametrize("count", [0, 1001, 1500])
def test_no_items_and_too_many_are_refused(admin: Person, key: dict[str, Any], path: str, count: int) -> None:
    body = {"name": "batch", "items": [{"input": "x"}] * count}
    assert refused(admin.post(path, body), 400, "invalid_field")["fields"] == COUNT


def test_a_single_plaintext_or_envelope_does_not_stand_beside_items(admin: Person) -> None:
    for path, field in (
        (ENCRYPT, "input"),
        (ENCRYPT, "input_b64"),
        (DECRYPT, "input"),
        (DECRYPT, "envelope"),
    ):
        body = {"items": [{"input": "x"}], field: ""}
        assert refused(admin.post(path, body), 400, "invalid_field")["fields"] == {
            f"/{field}": "not beside items"
        }


def test_null_items_are_no_items(admin: Person, key: dict[str, Any]) -> None:
    assert "envelope" in ok(admin.post(ENCRYPT, {"items": None, "name": "batch", "input": "x"}))


@pytest.mark.parametrize("field", ["key_id", "lineage_id", "name"])
def test_the_key_may_stand_once_outside(admin: Person, key: dict[str, Any], field: str) -> None:
    results = items(admin, ENCRYPT, [{"input": "a"}, {"input": "b", field: None}], **{field: key[field]})
    assert [result["key_id"] for result in results] == [key["key_id"]] * 2


def test_each_item_may_name_a_key_of_its_own(admin: Person, key: dict[str, Any]) -> None:
    other = new_key(admin)
    given = [
        {"input": "a", "key_id": other["key_id"]},
        {"input": "b"},
        {"input": "c", "lineage_id": other["lineage_id"]},
    ]
    results = items(admin, ENCRYPT, given, name="batch")
    assert [result["key_id"] for result in results] == [other["key_id"], key["key_id"], other["key_id"]]


@BOTH
def test_two_keys_outside_are_refused_as_a_whole(admin: Person, key: dict[str, Any], path: str) -> None:
    body = {"items": [{"input": "x"}], "key_id": key["key_id"], "name": "batch"}
    answer = refused(admin.post(path, body), 400, "invalid_field")
    assert answer["fields"] == {"/key_id": "exactly one of key_id, lineage_id, name"}


def test_an_item_that_fails_leaves_the_others_alone(admin: Person, key: dict[str, Any]) -> None:
    given = [
        {"input": "first"},
        {},
        {"input": "x", "input_b64": "eA=="},
        {"input_b64": "eA"},
        {"input": "x", "key_id": ABSENT},
        {"input": "x", "name": "absent"},
        {"input": "x", "key_id": key["key_id"], "name": "batch"},
        {"input_b64": "eA=="},
        {"input": ""},
    ]
    results = items(admin, ENCRYPT, given, name="batch")
    bad, absent = "invalid_field", "key_not_found"
    assert errors(results) == [None, bad, bad, bad, absent, absent, bad, None, None]
    assert results[4] == {"error": f"key not found: {ABSENT}", "code": absent}
    assert results[3]["fields"] == {"/input_b64": "not standard base64 with padding"}


def test_an_item_without_a_key_inside_or_outside_fails(admin: Person, key: dict[str, Any]) -> None:
    results = items(admin, ENCRYPT, [{"input": "x"}, {"input": "x", "name": "batch"}])
    assert errors(results) == ["invalid_field", None]
    assert results[0]["fields"] == {"/key_id": "exactly one of key_id, lineage_id, name"}


def test_every_fault_of_an_envelope_is_told_at_its_item(admin: Person, key: dict[str, Any]) -> None:
    good = seal(admin, "good", name="batch")
    given = [
        {"input": good},
        {},
        {"input": good, "envelope": good},
        {"input": "!"},
        {"envelope": ""},
        {"input": "Ag=="},
        {"input": "AQk="},
        {"input": tampered(good)},
        {"input": good, "key_id": ABSENT},
        {"envelope": good},
    ]
    results = items(admin, DECRYPT, given)
    assert errors(results) == [
        None, "invalid_field", "invalid_field", "invalid_envelope", "invalid_envelope", "unsupported_version",
        "unsupported_algorithm", "decryption_failed", "key_mismatch", None,
    ]  # fmt: skip
    assert results[4]["error"] == "invalid envelope: missing version"


def test_an_error_of_an_item_has_the_shape_of_an_error_without_a_request_id(admin: Person) -> None:
    old = new_key(admin)
    rotate(admin, key_id=old["key_id"])
    answer = admin.post(
        ENCRYPT, {"items": [{"input": "x", "key_id": old["key_id"]}]}, headers={"X-Request-Id": "mine"}
    )
    assert ok(answer)["items"] == [
        {
            "error": f"key is inactive: {old['key_id']}",
            "code": "key_inactive",
            "hint": f"encrypt by lineage_id {old['lineage_id']}",
        }
    ]
    assert "request_id" not in answer.text
    assert answer.headers["x-request-id"] == "mine"


def test_an_encoding_outside_holds_for_items_without_their_own(admin: Person, key: dict[str, Any]) -> None:
    sealed = seal(admin, "hi", name="batch")
    given = [
        {"input": sealed},
        {"input": sealed, "encoding": "text"},
        {"input": sealed, "encoding": "base64"},
    ]
    shapes = [set(result) & {"plaintext", "plaintext_b64"} for result in items(admin, DECRYPT, given)]
    assert shapes == [{"plaintext"}, {"plaintext"}, {"plaintext_b64"}]
    results = items(admin, DECRYPT, given, encoding="base64")
    assert [result.get("plaintext_b64") for result in results] == ["aGk=", None, "aGk="]


def test_bytes_that_are_no_text_fail_alone(admin: Person, key: dict[str, Any]) -> None:
    sealed = items(admin, ENCRYPT, [{"input_b64": "/w=="}, {"input": "text"}], name="batch")
    results = items(admin, DECRYPT, [{"input": item["envelope"]} for item in sealed])
    assert errors(results) == ["not_text", None]
    assert results[0]["hint"] == '"encoding":"base64"'


def test_a_pin_outside_holds_for_items_without_their_own(admin: Person, key: dict[str, Any]) -> None:
    other = new_key(admin)
    mine, theirs = seal(admin, name="batch"), seal(admin, key_id=other["key_id"])
    given = [{"input": mine}, {"input": theirs}, {"input": theirs, "key_id": other["key_id"]}]
    assert errors(items(admin, DECRYPT, given, name="batch")) == [None, "key_mismatch", None]


@BOTH
@pytest.mark.parametrize(
    ("item", "pointer", "reason"),
    [
        ({"imput": "x"}, "/items/1/imput", "unknown field; did you mean input?"),
        ({"realm_id": "x"}, "/items/1/realm_id", "unknown field"),
        ({"items": []}, "/items/1/items", None),
        ({"input": 5}, "/items/1/input", None),
        ({"key_id": "x"}, "/items/1/key_id", None),
        (None, "/items/1", None),
        ("x", "/items/1", None),
        ([], "/items/1", None),
    ],
)
def test_an_item_of_the_wrong_shape_is_refused_with_its_place(
    admin: Person, path: str, item: object, pointer: str, reason: str | None
) -> None:
    body = refused(admin.post(path, {"items": [{"input": "x"}, item], "name": "batch"}), 400, "invalid_field")
    assert list(body["fields"]) == [pointer]
    if reason is not None:
        assert body["fields"][pointer] == reason


def test_a_duplicate_key_inside_an_item_is_refused(admin: Person) -> None:
    content = b'{"name":"batch","items":[{"input":"a"},{"input":"b","input":"c"}]}'
    answer = admin.http.post(ENCRYPT, content=content, headers={"Content-Type": "application/json"})
    refused(answer, 400, "invalid_json")


def test_a_scope_is_judged_item_by_item(each_world: World, each_admin: Person) -> None:
    mine, other = new_key(each_admin)["key_id"], new_key(each_admin)["key_id"]
    scopes = [f"keys:encrypt:{mine}", f"keys:decrypt:{mine}"]
    person = each_world.person(*scopes, realm_id=each_admin.realm_id)
    given = [{"input": "x", "key_id": key_id} for key_id in (other, mine, ABSENT, mine)]
    results = items(person, ENCRYPT, given)
    assert errors(results) == ["permission_denied", None, "key_not_found", None]
    assert results[0] == {
        "error": "permission denied: keys:encrypt",
        "code": "permission_denied",
        "permission": "keys:encrypt",
        "resource": f"lineage {other}",
        "hint": "ask an administrator for keys:encrypt",
    }
    sealed = [{"input": seal(each_admin, key_id=key_id)} for key_id in (mine, other)]
    assert errors(items(person, DECRYPT, sealed)) == [None, "permission_denied"]


@BOTH
def test_without_the_permission_the_whole_batch_is_refused(world: World, admin: Person, path: str) -> None:
    person = world.person("keys:read", realm_id=admin.realm_id)
    refused(person.post(path, {"items": []}), 403, "permission_denied")


@BOTH
def test_a_realm_that_is_not_found_refuses_the_whole_batch(admin: Person, path: str) -> None:
    refused(admin.post(path, {"items": [{"input": "x"}], "realm_id": "nowhere"}), 404, "realm_not_found")


def test_a_key_of_another_realm_fails_like_an_absent_one(each_world: World, each_admin: Person) -> None:
    them = each_world.person()
    theirs = new_key(them)["key_id"]
    results = items(each_admin, ENCRYPT, [{"input": "x", "key_id": theirs}, {"input": "x", "key_id": ABSENT}])
    assert json.dumps(results[0]).replace(theirs, ABSENT) == json.dumps(results[1])
    assert errors(results) == ["key_not_found"] * 2
    (result,) = items(each_admin, DECRYPT, [{"input": seal(them, key_id=theirs)}])
    assert result == {"error": f"key not found: {theirs}", "code": "key_not_found"}


def test_a_disabled_key_fails_its_own_items(each_admin: Person) -> None:
    off, on = new_key(each_admin)["key_id"], new_key(each_admin)["key_id"]
    sealed = [{"input": seal(each_admin, key_id=key_id)} for key_id in (off, on)]
    ok(each_admin.post(f"{KEYS}/{off}/disable"))
    given = [{"input": "x", "key_id": key_id} for key_id in (off, on)]
    for path, batch in ((ENCRYPT, given), (DECRYPT, sealed)):
        results = items(each_admin, path, batch)
        assert errors(results) == ["key_disabled", None]
        assert results[0]["error"] == f"key is disabled: {off}"


def test_a_key_that_runs_out_in_the_middle_fails_the_rest(each_world: World, each_admin: Person) -> None:
    key_id = new_key(each_admin)["key_id"]
    Rows(each_world.server).set_messages_leased(each_admin.realm_id, key_id, 2**32 - 3)
    results = items(each_admin, ENCRYPT, [{"input": "x"}] * 5, key_id=key_id)
    assert errors(results) == [None, None, None, "key_exhausted", "key_exhausted"]
    assert results[4] == {
        "error": f"key exhausted: {key_id}",
        "code": "key_exhausted",
        "hint": "rotate the key",
    }
