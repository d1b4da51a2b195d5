"""Decrypt over HTTP: which envelope, which answer, for whom."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID

import pytest

from tests.support.api import Person, World
from tests.support.kms import (
    ABSENT,
    DECRYPT,
    ENCRYPT,
    KEYS,
    Rows,
    alike,
    naming,
    new_key,
    patched,
    repacked,
    rotate,
    seal,
    tampered,
)
from tests.support.server import ok, refused

ONE_ENVELOPE = {"/input": "exactly one of input and envelope"}


@pytest.fixture(scope="module")
def each_admin(each_world: World) -> Person:
    return each_world.person()


@pytest.fixture(scope="module")
def key(admin: Person) -> dict[str, Any]:
    return new_key(admin, name="decrypt")


@pytest.fixture(scope="module")
def envelope(admin: Person, key: dict[str, Any]) -> str:
    return seal(admin, "hello", key_id=key["key_id"])


def seal_bytes(person: Person, data: bytes, **key: Any) -> str:
    body = {"input_b64": base64.b64encode(data).decode(), **key}
    return ok(person.post(ENCRYPT, body))["envelope"]


@pytest.mark.parametrize("field", ["input", "envelope"])
def test_an_envelope_opens_under_either_name(
    admin: Person, key: dict[str, Any], envelope: str, field: str
) -> None:
    answer = ok(admin.post(DECRYPT, {field: envelope}))
    assert answer == {"plaintext": "hello", "key_id": key["key_id"], "version": 1}


@pytest.mark.parametrize("names", [[], ["input", "envelope"]])
def test_exactly_one_envelope_is_needed(admin: Person, envelope: str, names: list[str]) -> None:
    body = refused(admin.post(DECRYPT, dict.fromkeys(names, envelope)), 400, "invalid_field")
    assert body["fields"] == ONE_ENVELOPE


def test_null_stands_for_an_absent_field(admin: Person, envelope: str) -> None:
    nothing = dict.fromkeys(["input", "encoding", "key_id", "lineage_id", "name", "items", "realm_id"])
    assert ok(admin.post(DECRYPT, {**nothing, "envelope": envelope}))["plaintext"] == "hello"
    refused(admin.post(DECRYPT, {**nothing, "envelope": None}), 400, "invalid_field")


def test_text_is_answered_as_text_when_asked_for(admin: Person, envelope: str) -> None:
    assert ok(admin.post(DECRYPT, {"input": envelope, "encoding": "text"}))["plaintext"] == "hello"


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xfe\x00\x80", b"\xed\xa0\x80", b"\xc0\x80"])
def test_base64_is_answered_for_any_bytes(admin: Person, key: dict[str, Any], data: bytes) -> None:
    sealed = seal_bytes(admin, data, key_id=key["key_id"])
    answer = ok(admin.post(DECRYPT, {"input": sealed, "encoding": "base64"}))
    encoded = base64.b64encode(data).decode()
    assert answer == {"plaintext_b64": encoded, "key_id": key["key_id"], "version": 1}


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\x00\x80", b"\x80", b"abc\xe2\x82", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80"]
)
@pytest.mark.parametrize("more", [{}, {"encoding": "text"}, {"encoding": None}])
def test_bytes_that_are_no_text_are_refused_with_the_way_out(
    admin: Person, key: dict[str, Any], data: bytes, more: dict[str, Any]
) -> None:
    sealed = seal_bytes(admin, data, key_id=key["key_id"])
    body = refused(admin.post(DECRYPT, {"input": sealed, **more}), 400, "not_text")
    assert (body["error"], body["hint"]) == ("plaintext is not UTF-8", '"encoding":"base64"')


@pytest.mark.parametrize("encoding", ["hex", "BASE64", "utf-8", "", 5, ["base64"]])
def test_another_encoding_is_refused(admin: Person, envelope: str, encoding: object) -> None:
    body = refused(admin.post(DECRYPT, {"input": envelope, "encoding": encoding}), 400, "invalid_field")
    assert list(body["fields"]) == ["/encoding"]


@pytest.mark.parametrize(
    ("body", "pointer", "reason"),
    [
        ({"imput": "x"}, "/imput", "unknown field; did you mean input?"),
        ({"envelop": "x"}, "/envelop", "unknown field; did you mean envelope?"),
        ({"ciphertext": "x"}, "/ciphertext", "unknown field"),
        ({"input": 5}, "/input", None),
        ({"envelope": {}}, "/envelope", None),
    ],
)
def test_unknown_and_mistyped_fields_are_refused(
    admin: Person, body: Any, pointer: str, reason: str | None
) -> None:
    answer = refused(admin.post(DECRYPT, body), 400, "invalid_field")
    assert list(answer["fields"]) == [pointer]
    if reason is not None:
        assert answer["error"] == f"{pointer}: {reason}"


def test_every_version_decrypts_what_it_encrypted(each_admin: Person) -> None:
    key = new_key(each_admin, name="versions")
    sealed = [(1, key["key_id"], seal(each_admin, "v1", name="versions"))]
    for version in (2, 3):
        newer = rotate(each_admin, name="versions")["key_id"]
        sealed.append((version, newer, seal(each_admin, f"v{version}", name="versions")))
    for version, key_id, envelope in sealed:
        answer = ok(each_admin.post(DECRYPT, {"input": envelope}))
        assert answer == {"plaintext": f"v{version}", "key_id": key_id, "version": version}


def test_a_pin_that_fits_lets_the_envelope_open(each_admin: Person) -> None:
    key = new_key(each_admin, name="pinned")
    envelope = seal(each_admin, "hello", name="pinned")
    rotate(each_admin, name="pinned")
    fitting = [{"key_id": key["key_id"]}, {"key_id": key["key_id"].upper()}, {"lineage_id": key["lineage_id"]},
               {"lineage_id": key["lineage_id"].replace("-", "")}, {"name": "pinned"}]  # fmt: skip
    for pin in fitting:
        assert ok(each_admin.post(DECRYPT, {"input": envelope, **pin}))["plaintext"] == "hello"


def test_a_pin_on_another_key_is_a_mismatch(each_admin: Person) -> None:
    key = new_key(each_admin, name="expected")
    newer = rotate(each_admin, key_id=key["key_id"])
    other = new_key(each_admin, name="unexpected")
    envelope = seal(each_admin, "hello", lineage_id=key["lineage_id"])
    pins = [
        {"key_id": key["key_id"]},
        {"key_id": other["key_id"]},
        {"lineage_id": newer["key_id"]},
        {"lineage_id": other["lineage_id"]},
        {"name": "unexpected"},
        {"name": "Expected"},
        {"name": ""},
        {"name": "absent"},
        {"name": "nul\0"},
        {"name": key["lineage_id"]},
        {"key_id": ABSENT},
        {"lineage_id": ABSENT},
    ]
    for pin in pins:
        body = refused(each_admin.post(DECRYPT, {"input": envelope, **pin}), 400, "key_mismatch")
        assert body["error"] == "key mismatch"


def test_a_key_without_a_name_fits_no_pinned_name(admin: Person) -> None:
    envelope = seal(admin, key_id=new_key(admin)["key_id"])
    for name in ("", "None", "null"):
        refused(admin.post(DECRYPT, {"input": envelope, "name": name}), 400, "key_mismatch")


def test_two_pins_are_refused(admin: Person, key: dict[str, Any], envelope: str) -> None:
    pins = {field: key[field] for field in ("key_id", "lineage_id", "name")}
    for left_out in pins:
        two = {field: value for field, value in pins.items() if field != left_out}
        body = refused(admin.post(DECRYPT, {"input": envelope, **two}), 400, "invalid_field")
        assert body["fields"] == {"/key_id": "exactly one of key_id, lineage_id, name"}


def test_an_envelope_is_judged_before_its_key_and_the_key_before_the_pin(
    admin: Person, envelope: str
) -> None:
    refused(admin.post(DECRYPT, {"input": envelope + "\n", "key_id": ABSENT}), 400, "invalid_envelope")
    absent = naming(envelope, str(UUID(int=0)))
    refused(admin.post(DECRYPT, {"input": absent, "key_id": ABSENT}), 404, "key_not_found")
    other = repacked(envelope, lambda data: patched(data, 1, b"\2"))
    body = refused(admin.post(DECRYPT, {"input": other, "key_id": ABSENT}), 400, "invalid_envelope")
    assert body["error"] == "invalid envelope: algorithm mismatch"


def test_an_envelope_of_an_absent_key_names_that_key(each_admin: Person) -> None:
    envelope = seal(each_admin, key_id=new_key(each_admin)["key_id"])
    absent = naming(envelope, ABSENT)
    body = refused(each_admin.post(DECRYPT, {"input": absent}), 404, "key_not_found")
    assert body["error"] == f"key not found: {ABSENT}"


def test_an_envelope_of_another_realm_is_answered_like_one_of_an_absent_key(
    each_world: World, each_admin: Person
) -> None:
    them = each_world.person()
    theirs = new_key(them)["key_id"]
    envelope = seal(them, key_id=theirs)
    absent = naming(envelope, ABSENT)
    answer = each_admin.post(DECRYPT, {"input": envelope})
    assert refused(answer, 404, "key_not_found")["error"] == f"key not found: {theirs}"
    alike((answer, theirs), (each_admin.post(DECRYPT, {"input": absent}), ABSENT))


def test_an_envelope_that_names_one_of_the_realms_own_keys_finds_none(
    each_world: World, each_admin: Person
) -> None:
    envelope = seal(each_admin, key_id=new_key(each_admin)["key_id"])
    for key_id in Rows(each_world.server).internal_keys(each_admin.realm_id):
        body = refused(each_admin.post(DECRYPT, {"input": naming(envelope, key_id)}), 404, "key_not_found")
        assert body["error"] == f"key not found: {key_id}"


def test_an_operator_decrypts_in_another_realm_only_by_naming_it(
    world: World, admin: Person, envelope: str
) -> None:
    refused(world.operator.post(DECRYPT, json={"input": envelope}), 404, "key_not_found")
    body = {"input": envelope, "realm_id": admin.realm_id}
    assert ok(world.operator.post(DECRYPT, json=body))["plaintext"] == "hello"
    refused(world.operator.post(DECRYPT, json={**body, "realm_id": "nowhere"}), 404, "realm_not_found")


def test_without_the_permission_nothing_is_looked_up(world: World, admin: Person, envelope: str) -> None:
    person = world.person("keys:encrypt", "keys:read", "keys:manage", realm_id=admin.realm_id)
    for body in ({"input": envelope}, {"input": "!"}, {}, {"x": 1}, {"realm_id": "nowhere"}):
        answer = refused(person.post(DECRYPT, body), 403, "permission_denied")
        assert (answer["error"], answer["permission"]) == ("permission denied: keys:decrypt", "keys:decrypt")
        assert "resource" not in answer


def test_a_scope_covers_its_own_lineage_and_no_other(each_world: World, each_admin: Person) -> None:
    mine, other = new_key(each_admin), new_key(each_admin)
    person = each_world.person(f"keys:decrypt:{mine['lineage_id']}", realm_id=each_admin.realm_id)
    old = seal(each_admin, "old", key_id=mine["key_id"])
    newer = rotate(each_admin, key_id=mine["key_id"])
    for envelope, text in ((old, "old"), (seal(each_admin, "new", key_id=newer["key_id"]), "new")):
        assert ok(person.post(DECRYPT, {"input": envelope}))["plaintext"] == text
    envelope = seal(each_admin, key_id=other["key_id"])
    for _ in ("not known yet", "known"):
        body = refused(person.post(DECRYPT, {"input": envelope}), 403, "permission_denied")
        assert (body["permission"], body["resource"]) == ("keys:decrypt", f"lineage {other['lineage_id']}")
        ok(each_admin.post(DECRYPT, {"input": envelope}))
    refused(person.post(DECRYPT, {"input": envelope + "\n"}), 400, "invalid_envelope")
    refused(person.post(DECRYPT, {"input": naming(envelope, ABSENT)}), 404, "key_not_found")


def test_a_scope_is_judged_before_the_state_of_the_key_the_pin_and_the_tag(
    world: World, admin: Person
) -> None:
    mine, other = new_key(admin), new_key(admin)
    person = world.person(f"keys:decrypt:{mine['lineage_id']}", realm_id=admin.realm_id)
    envelope = seal(admin, key_id=other["key_id"])
    refused(person.post(DECRYPT, {"input": tampered(envelope)}), 403, "permission_denied")
    refused(person.post(DECRYPT, {"input": envelope, "key_id": mine["key_id"]}), 403, "permission_denied")
    ok(admin.post(f"{KEYS}/{other['key_id']}/disable"))
    refused(person.post(DECRYPT, {"input": envelope}), 403, "permission_denied")
