"""Encrypt over HTTP: which key, which plaintext, for whom."""

from __future__ import annotations

import base64
import struct
from typing import Any
from uuid import UUID

import pytest

from tests.support.api import Person, World
from tests.support.kms import (
    ABSENT,
    DECRYPT,
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
ONE_INPUT = {"/input": "exactly one of input and input_b64"}
MESSAGES = 2**32


@pytest.fixture(scope="module")
def each_admin(each_world: World) -> Person:
    return each_world.person()


@pytest.fixture(scope="module")
def key(admin: Person) -> dict[str, Any]:
    return new_key(admin, name="encrypt")


def test_a_key_is_named_by_its_id_its_lineage_or_its_name(each_admin: Person) -> None:
    key = new_key(each_admin, name="thrice")
    for field, value in (("key_id", key["key_id"]), ("lineage_id", key["lineage_id"]), ("name", "thrice")):
        answer = ok(each_admin.post(ENCRYPT, {field: value, "input": "hello"}))
        assert answer == {"envelope": answer["envelope"], "key_id": key["key_id"], "version": 1}
        assert unsealed(each_admin, answer["envelope"]) == "hello"


@pytest.mark.parametrize(("algorithm", "number"), [("aes256_gcm", 1), ("chacha20_poly1305", 2)])
def test_an_envelope_has_the_layout_of_the_contract(admin: Person, algorithm: str, number: int) -> None:
    key_id = new_key(admin, algorithm=algorithm)["key_id"]
    text = seal(admin, "hello", key_id=key_id)
    data = base64.b64decode(text, validate=True)
    assert base64.b64encode(data).decode() == text
    assert len(data) == 5 + 53
    assert struct.unpack(">BB16sH", data[:20]) == (1, number, UUID(key_id).bytes, 12)
    assert struct.unpack(">I", data[32:36]) == (5,)
    assert data[41] == 16
    assert b"hello" not in data


def test_the_same_plaintext_twice_has_nothing_in_common_but_the_head(
    admin: Person, key: dict[str, Any]
) -> None:
    envelopes = [base64.b64decode(seal(admin, "x" * 32, key_id=key["key_id"])) for _ in range(50)]
    assert len({data[:20] for data in envelopes}) == 1
    for part in (slice(20, 32), slice(36, 68), slice(69, None)):
        assert len({data[part] for data in envelopes}) == 50


@pytest.mark.parametrize(
    "text", ["", " ", "hello", "Grüße, 世界 🌍", "\0", '\n\t"\\/', "\ufeffx", "\u2028", "e\u0301"]
)
def test_any_text_comes_back_unchanged(admin: Person, key: dict[str, Any], text: str) -> None:
    envelope = seal(admin, text, key_id=key["key_id"])
    assert len(base64.b64decode(envelope)) == len(text.encode()) + 53
    assert unsealed(admin, envelope) == text


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff\xfe\x00\x80", bytes(range(256)), b"text"])
def test_any_bytes_come_back_unchanged(admin: Person, key: dict[str, Any], data: bytes) -> None:
    text = base64.b64encode(data).decode()
    envelope = ok(admin.post(ENCRYPT, {"key_id": key["key_id"], "input_b64": text}))["envelope"]
    answer = ok(admin.post(DECRYPT, {"input": envelope, "encoding": "base64"}))
    assert base64.b64decode(answer["plaintext_b64"], validate=True) == data


@pytest.mark.parametrize(
    "text",
    [
        "Y",
        "YQ",
        "YQ=",
        "YQ===",
        "YQ==\n",
        " YQ==",
        "YQ ==",
        "YR==",
        "YWF=",
        "_-==",
        "YQ==YQ==",
        "é",
        "=",
        "====",
        "Y\0==",
    ],
)
def test_input_b64_is_read_strictly(admin: Person, key: dict[str, Any], text: str) -> None:
    body = refused(admin.post(ENCRYPT, {"key_id": key["key_id"], "input_b64": text}), 400, "invalid_field")
    assert body["fields"] == {"/input_b64": "not standard base64 with padding"}


@pytest.mark.parametrize(
    "more", [{}, {"input": "x", "input_b64": "eA=="}, {"input": "", "input_b64": ""}, {"input": None}]
)
def test_exactly_one_plaintext_is_needed(admin: Person, key: dict[str, Any], more: dict[str, Any]) -> None:
    body = refused(admin.post(ENCRYPT, {"key_id": key["key_id"], **more}), 400, "invalid_field")
    assert body["fields"] == ONE_INPUT


@pytest.mark.parametrize("fields", [[], ["key_id", "lineage_id"], ["key_id", "name"], ["lineage_id", "name"],
                                    ["key_id", "lineage_id", "name"]])  # fmt: skip
def test_exactly_one_key_is_needed(admin: Person, key: dict[str, Any], fields: list[str]) -> None:
    body = refused(
        admin.post(ENCRYPT, {"input": "x", **{field: key[field] for field in fields}}), 400, "invalid_field"
    )
    assert body["fields"] == ONE_KEY


def test_null_stands_for_an_absent_field(admin: Person, key: dict[str, Any]) -> None:
    nothing = dict.fromkeys(["key_id", "lineage_id", "input_b64", "items", "realm_id"])
    assert ok(admin.post(ENCRYPT, {**nothing, "name": "encrypt", "input": "x"}))["key_id"] == key["key_id"]
    refused(admin.post(ENCRYPT, {**nothing, "name": None, "input": "x"}), 400, "invalid_field")


@pytest.mark.parametrize("field", ["key_id", "lineage_id"])
@pytest.mark.parametrize("spelled", [str.upper, lambda text: text.replace("-", ""), str.title])
def test_a_uuid_is_read_in_any_case_with_or_without_hyphens(
    admin: Person, key: dict[str, Any], field: str, spelled
) -> None:
    answer = ok(admin.post(ENCRYPT, {field: spelled(key[field]), "input": "x"}))
    assert answer["key_id"] == key["key_id"]


@pytest.mark.parametrize("path", [ENCRYPT, DECRYPT, ROTATE])
@pytest.mark.parametrize("field", ["key_id", "lineage_id"])
@pytest.mark.parametrize(
    "spelled",
    [lambda text: f"{{{text}}}", lambda text: f"urn:uuid:{text}", lambda text: text[:-1], lambda text: text + "0",
     lambda text: text.replace("-", "", 1), lambda text: text.replace("-", "_"), lambda text: f" {text}",
     lambda text: f"{text}\n", lambda text: text.replace("-", "") + "----", lambda _: "", lambda _: "encrypt",
     lambda _: 5, lambda text: [text], lambda _: True],
)  # fmt: skip
def test_what_is_no_uuid_is_refused_wherever_a_key_is_named(
    admin: Person, key: dict[str, Any], path: str, field: str, spelled
) -> None:
    body = {field: spelled(key[field]), **({} if path == ROTATE else {"input": "x"})}
    assert list(refused(admin.post(path, body), 400, "invalid_field")["fields"]) == [f"/{field}"]


@pytest.mark.parametrize(
    ("body", "pointer", "reason"),
    [
        ({"imput": "x"}, "/imput", "unknown field; did you mean input?"),
        ({"keyid": "x"}, "/keyid", "unknown field; did you mean key_id?"),
        ({"plaintext": "x"}, "/plaintext", "unknown field"),
        ({"aad": "x"}, "/aad", "unknown field"),
        ({"input": 5}, "/input", None),
        ({"input": ["x"]}, "/input", None),
        ({"input_b64": True}, "/input_b64", None),
        ({"name": 5}, "/name", None),
        ({"items": {}}, "/items", None),
        ({"items": "x"}, "/items", None),
    ],
)
def test_unknown_and_mistyped_fields_are_refused(
    admin: Person, body: Any, pointer: str, reason: str | None
) -> None:
    answer = refused(admin.post(ENCRYPT, body), 400, "invalid_field")
    assert list(answer["fields"]) == [pointer]
    if reason is not None:
        assert answer["error"] == f"{pointer}: {reason}"


@pytest.mark.parametrize("path", [ENCRYPT, DECRYPT, ROTATE])
def test_a_body_is_needed(admin: Person, path: str) -> None:
    refused(admin.post(path), 400, "invalid_json")


def test_a_text_that_no_unicode_text_can_be_is_refused(admin: Person) -> None:
    content = b'{"name":"encrypt","input":"\\ud800"}'
    answer = admin.http.post(ENCRYPT, content=content, headers={"Content-Type": "application/json"})
    refused(answer, 400, "invalid_json")


@pytest.mark.parametrize("field", ["key_id", "lineage_id"])
def test_an_absent_key_is_named_in_lower_case_with_hyphens(each_admin: Person, field: str) -> None:
    for asked in (ABSENT, ABSENT.upper(), ABSENT.replace("-", "")):
        body = refused(each_admin.post(ENCRYPT, {field: asked, "input": "x"}), 404, "key_not_found")
        assert body["error"] == f"key not found: {ABSENT}"


@pytest.mark.parametrize("path", [ENCRYPT, ROTATE])
@pytest.mark.parametrize("name", ["nobody", "", "Thrice", "a b", "naïve", "nul\0", "\0", "%", "x" * 64])
def test_a_name_that_no_key_has_is_not_found(each_admin: Person, path: str, name: str) -> None:
    body = {"name": name, **({"input": "x"} if path == ENCRYPT else {})}
    assert refused(each_admin.post(path, body), 404, "key_not_found")["error"] == f"key not found: {name}"


def test_an_inactive_version_tells_how_to_encrypt_instead(each_admin: Person) -> None:
    old = new_key(each_admin, name="inactive")
    new = rotate(each_admin, name="inactive")
    body = refused(each_admin.post(ENCRYPT, {"key_id": old["key_id"], "input": "x"}), 400, "key_inactive")
    assert body["error"] == f"key is inactive: {old['key_id']}"
    assert body["hint"] == f"encrypt by lineage_id {old['lineage_id']}"
    for named in ({"key_id": new["key_id"]}, {"lineage_id": old["lineage_id"]}, {"name": "inactive"}):
        answer = ok(each_admin.post(ENCRYPT, {**named, "input": "x"}))
        assert (answer["key_id"], answer["version"]) == (new["key_id"], 2)


def test_a_later_versions_id_names_no_lineage(each_admin: Person) -> None:
    second = rotate(each_admin, key_id=new_key(each_admin)["key_id"])["key_id"]
    refused(each_admin.post(ENCRYPT, {"lineage_id": second, "input": "x"}), 404, "key_not_found")


@pytest.mark.parametrize("field", ["key_id", "lineage_id"])
def test_a_key_of_another_realm_is_not_found_like_an_absent_one(
    each_world: World, each_admin: Person, field: str
) -> None:
    theirs = new_key(each_world.person())["key_id"]
    answers = [(each_admin.post(ENCRYPT, {field: asked, "input": "x"}), asked) for asked in (theirs, ABSENT)]
    assert answers[0][0].status_code == 404
    alike(*answers)


def test_a_name_of_another_realm_is_not_found_like_an_absent_one(
    each_world: World, each_admin: Person
) -> None:
    new_key(each_world.person(), name="theirs")
    answers = [
        (each_admin.post(ENCRYPT, {"name": asked, "input": "x"}), asked) for asked in ("theirs", "absent")
    ]
    assert answers[0][0].status_code == 404
    alike(*answers)


def test_the_realms_own_keys_do_not_encrypt(each_world: World, each_admin: Person) -> None:
    for key_id in Rows(each_world.server).internal_keys(each_admin.realm_id):
        for field in ("key_id", "lineage_id"):
            refused(each_admin.post(ENCRYPT, {field: key_id, "input": "x"}), 404, "key_not_found")


def test_an_operator_encrypts_in_another_realm_only_by_naming_it(
    world: World, admin: Person, key: dict[str, Any]
) -> None:
    body = {"key_id": key["key_id"], "input": "x"}
    refused(world.operator.post(ENCRYPT, json=body), 404, "key_not_found")
    assert (
        ok(world.operator.post(ENCRYPT, json={**body, "realm_id": admin.realm_id}))["key_id"] == key["key_id"]
    )
    refused(world.operator.post(ENCRYPT, json={**body, "realm_id": "nowhere"}), 404, "realm_not_found")


def test_another_realm_is_not_found_like_an_absent_one(
    world: World, admin: Person, key: dict[str, Any]
) -> None:
    for path in (ENCRYPT, DECRYPT, ROTATE):
        body = {"key_id": key["key_id"], **({} if path == ROTATE else {"input": "x"})}
        asked = [(admin.post(path, {**body, "realm_id": name}), name) for name in (world.realm(), "nowhere")]
        refused(asked[0][0], 404, "realm_not_found")
        alike(*asked)


def test_without_the_permission_nothing_is_looked_up(
    world: World, admin: Person, key: dict[str, Any]
) -> None:
    person = world.person("keys:decrypt", "keys:read", "keys:create", realm_id=admin.realm_id)
    asked = [(person.post(ENCRYPT, {"key_id": name, "input": "x"}), name) for name in (key["key_id"], ABSENT)]
    alike(*asked)
    for body in ({}, {"x": 1}, {"realm_id": "nowhere"}, {"key_id": "x"}, {"items": []}):
        answer = refused(person.post(ENCRYPT, body), 403, "permission_denied")
        assert (answer["error"], answer["permission"]) == ("permission denied: keys:encrypt", "keys:encrypt")


def test_a_scope_covers_its_own_lineage_and_no_other(each_world: World, each_admin: Person) -> None:
    mine, other = new_key(each_admin, name="scoped"), new_key(each_admin, name="unscoped")
    person = each_world.person(f"keys:encrypt:{mine['lineage_id'].upper()}", realm_id=each_admin.realm_id)
    newer = rotate(each_admin, name="scoped")
    for named in ({"key_id": newer["key_id"]}, {"lineage_id": mine["lineage_id"]}, {"name": "scoped"}):
        ok(person.post(ENCRYPT, {**named, "input": "x"}))
    for _ in ("not known yet", "known"):
        for named in ({"key_id": other["key_id"]}, {"lineage_id": other["lineage_id"]}, {"name": "unscoped"}):
            body = refused(person.post(ENCRYPT, {**named, "input": "x"}), 403, "permission_denied")
            assert (body["permission"], body["resource"]) == (
                "keys:encrypt",
                f"lineage {other['lineage_id']}",
            )
        ok(each_admin.post(ENCRYPT, {"name": "unscoped", "input": "x"}))
    refused(person.post(ENCRYPT, {"key_id": ABSENT, "input": "x"}), 404, "key_not_found")


def test_a_scope_is_judged_before_the_state_of_the_key(
    world: World, admin: Person, key: dict[str, Any]
) -> None:
    other = new_key(admin)
    person = world.person(f"keys:encrypt:{key['lineage_id']}", realm_id=admin.realm_id)
    ok(admin.post(f"{KEYS}/{other['key_id']}/disable"))
    refused(person.post(ENCRYPT, {"key_id": other["key_id"], "input": "x"}), 403, "permission_denied")


def test_a_version_encrypts_no_message_beyond_its_limit(each_world: World, each_admin: Person) -> None:
    key = new_key(each_admin, name="exhausted")
    Rows(each_world.server).set_messages_leased(each_admin.realm_id, key["key_id"], MESSAGES - 2)
    envelopes = [seal(each_admin, name="exhausted") for _ in range(2)]
    for named in ({"key_id": key["key_id"]}, {"lineage_id": key["lineage_id"]}, {"name": "exhausted"}):
        body = refused(each_admin.post(ENCRYPT, {**named, "input": "x"}), 409, "key_exhausted")
        assert (body["error"], body["hint"]) == (f"key exhausted: {key['key_id']}", "rotate the key")
    assert {unsealed(each_admin, envelope) for envelope in envelopes} == {"a secret"}
    assert rotate(each_admin, name="exhausted")["version"] == 2
    assert unsealed(each_admin, seal(each_admin, "again", name="exhausted")) == "again"


def test_many_callers_at_once_do_not_pass_the_limit(each_world: World, each_admin: Person) -> None:
    key_id = new_key(each_admin)["key_id"]
    Rows(each_world.server).set_messages_leased(each_admin.realm_id, key_id, MESSAGES - 5)
    answers = at_once([lambda: each_admin.post(ENCRYPT, {"key_id": key_id, "input": "x"})] * 16)
    assert sorted(answer.status_code for answer in answers) == 5 * [200] + 11 * [409]
