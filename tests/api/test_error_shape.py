"""Every endpoint, called wrongly in every way: the answer has the one shape of an error and gives nothing away."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from qimem.bootstrap.serving import ENDPOINTS
from qimem.web.kit.endpoint import Endpoint
from tests.api.examples import Stage, stage
from tests.support.api import Person, World
from tests.support.paths import filled
from tests.support.server import refused

CODES = set(tomllib.loads((Path(__file__).parents[2] / "docs" / "errors.toml").read_text()))
MEMBERS = {"error", "code", "request_id", "hint", "fields", "permission", "resource", "object_id"}
LEAKS = re.compile(
    r"Traceback|File \"|\bline \d+|\.py\b|site-packages|SELECT |INSERT |UPDATE |sqlite|psycopg|apsw|msgspec|uvicorn"
    r"|qimem\.\w|object at 0x|/usr/|/tmp/|/home/|Error:|Exception",
    re.IGNORECASE,
)
CANARY = "canary-7f3a"
SECRET = {
    "password", "client_secret", "refresh_token", "token", "totp_code", "input", "input_b64", "envelope", "encoding",
    "items", "jwks",
}  # fmt: skip
"""Fields whose value never comes back in an error."""

GUARDED = [endpoint for endpoint in ENDPOINTS if endpoint.permission is not None]
WRITES = [endpoint for endpoint in ENDPOINTS if endpoint.request is not None]
FIELDS = [
    pytest.param(endpoint, field.encode_name, id=f"{endpoint.name}-{field.encode_name}")
    for endpoint in WRITES
    for field in msgspec.structs.fields(endpoint.request)
]
TOKENS = {
    "a word": "Bearer x",
    "three words": "Bearer a.b.c",
    "no scheme": "eyJhbGciOiJub25lIn0.e30.",
    "basic": "Basic YTpi",
    "only the scheme": "Bearer",
    "two spaces": "Bearer  x",
    "alg none": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.",
    "not ASCII": "Bearer \xff\xfe",
    "9 KB": "Bearer " + "x" * 9_000,
}
DEEP = b'{"a":' + b"[" * 32 + b"1" + b"]" * 32 + b"}"
NOT_JSON = {
    "a line end": b"\n",
    "half": b'{"a":',
    "words": b"input=1",
    "two values": b"{} {}",
    "a comma too many": b'{"a":1,}',
    "single quotes": b"{'a':1}",
    "a comment": b"{/* */}",
    "not UTF-8": b'{"a":"\xff"}',
    "overlong UTF-8": b'{"a":"\xc0\xaf"}',
    "a raw surrogate": b'{"a":"\xed\xa0\x80"}',
    "a lone surrogate": b'{"a":"\\ud800"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-32": '{"a":1}'.encode("utf-32"),
    "a byte order mark": b'\xef\xbb\xbf{"a":1}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":-Infinity}',
    "1e400": b'{"a":1e400}',
    "a control character": b'{"a":"\n"}',
    "a NUL": b'{"a":"\x00"}',
    "33 levels": DEEP,
    "a million levels": b"[" * 1_000_000,
    "a key twice": b'{"a":1,"a":1}',
    "a key twice, once escaped": b'{"a":1,"\\u0061":1}',
    "a key twice inside": b'{"a":{"b":1,"b":2}}',
}
LATE = {"a comma too many", "two values", "a lone surrogate", "1e400", "a million levels"}
"""A parser stops at an unknown field, or at an array, before it meets these; then that is what it says."""
WRONG_TYPES = [1, 1.5, True, "", [], {}, ["a", 1], {"a": 1}, 10**30, -1]


@pytest.fixture(scope="module")
def place(world: World) -> Stage:
    return stage(world)


@pytest.fixture(scope="module")
def powerless(world: World) -> Person:
    return world.person("orders:approve")


def send(
    caller: httpx.Client, endpoint: Endpoint, body: bytes | None = None, **headers: str
) -> httpx.Response:
    more: dict[str, Any] = {"headers": headers}
    if body is not None:
        more = {"content": body, "headers": {"Content-Type": "application/json"} | headers}
    return caller.request(endpoint.method, filled(endpoint.path), **more)


def example(endpoint: Endpoint, **more: Any) -> bytes:
    return json.dumps((endpoint.example or {}) | more).encode()


def check(answer: httpx.Response, status: int, *codes: str) -> dict[str, Any]:
    """The body of an error, which has the shape of one and is one of these."""
    body = answer.json()
    assert (answer.status_code, body["code"]) in [(status, code) for code in codes], answer.text
    assert {"error", "code", "request_id"} <= set(body) <= MEMBERS
    assert body["code"] in CODES
    assert body["request_id"] == answer.headers["x-request-id"]
    assert 0 < len(body["error"]) < 400
    assert not LEAKS.search(answer.text), answer.text
    assert len(answer.content) < 2_000
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert ("www-authenticate" in answer.headers) == (status == 401)
    for pointer, reason in body.get("fields", {}).items():
        assert pointer == "" or re.fullmatch(r"(/([^~/]|~[01])*)+", pointer)
        assert reason
    return body


def test_every_code_of_an_error_is_documented() -> None:
    assert {"invalid_json", "invalid_field", "unauthenticated", "internal"} <= CODES


@pytest.mark.parametrize("endpoint", GUARDED, ids=lambda e: e.name)
def test_no_token(place: Stage, endpoint: Endpoint) -> None:
    answer = send(place.nobody, endpoint, example(endpoint))
    assert "qimem token" in check(answer, 401, "unauthenticated")["hint"]
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("endpoint", GUARDED, ids=lambda e: e.name)
def test_a_token_that_is_none(place: Stage, endpoint: Endpoint, token: str) -> None:
    answer = send(place.nobody, endpoint, example(endpoint), Authorization=TOKENS[token].encode("latin-1"))
    check(answer, 401, "invalid_token")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize("endpoint", GUARDED, ids=lambda e: e.name)
def test_a_token_without_the_permission(powerless: Person, endpoint: Endpoint) -> None:
    body = check(send(powerless.http, endpoint, example(endpoint)), 403, "permission_denied")
    assert body["permission"] == endpoint.permission
    assert body["error"] == f"permission denied: {endpoint.permission}"


@pytest.mark.parametrize("fault", NOT_JSON)
@pytest.mark.parametrize("endpoint", WRITES, ids=lambda e: e.name)
def test_a_body_that_is_not_json(place: Stage, endpoint: Endpoint, fault: str) -> None:
    answer = send(place.caller(endpoint), endpoint, NOT_JSON[fault])
    check(answer, 400, "invalid_json", *(["invalid_field"] if fault in LATE else []))


@pytest.mark.parametrize("value", ["[]", '"a"', "1", "null", "true", "[{}]"])
@pytest.mark.parametrize("endpoint", WRITES, ids=lambda e: e.name)
def test_json_that_is_no_object(place: Stage, endpoint: Endpoint, value: str) -> None:
    body = check(send(place.caller(endpoint), endpoint, value.encode()), 400, "invalid_field")
    assert list(body["fields"]) == [""]


@pytest.mark.parametrize("endpoint", WRITES, ids=lambda e: e.name)
def test_an_unknown_field(place: Stage, endpoint: Endpoint) -> None:
    answer = send(place.caller(endpoint), endpoint, example(endpoint, nonsense=1))
    assert check(answer, 400, "invalid_field")["fields"] == {"/nonsense": "unknown field"}


@pytest.mark.parametrize(("endpoint", "field"), FIELDS)
def test_an_unknown_field_names_the_nearest_known(place: Stage, endpoint: Endpoint, field: str) -> None:
    answer = send(place.caller(endpoint), endpoint, json.dumps({f"{field}z": 1}).encode())
    body = check(answer, 400, "invalid_field")
    assert body["fields"] == {f"/{field}z": f"unknown field; did you mean {field}?"}
    assert body["error"] == f"/{field}z: unknown field; did you mean {field}?"


@pytest.mark.parametrize(("endpoint", "field"), FIELDS)
def test_a_field_of_another_type(place: Stage, endpoint: Endpoint, field: str) -> None:
    shape = {f.encode_name: f for f in msgspec.structs.fields(endpoint.request)}[field]
    for value in WRONG_TYPES:
        try:
            msgspec.convert(value, shape.type)
        except msgspec.ValidationError:
            answer = send(place.caller(endpoint), endpoint, example(endpoint, **{field: value}))
            body = check(answer, 400, "invalid_field", *(["invalid_json"] if value == 10**30 else []))
            assert all(pointer.startswith(f"/{field}") for pointer in body.get("fields", {}))


@pytest.mark.parametrize(("endpoint", "field"), FIELDS)
def test_a_field_is_not_given_back(place: Stage, endpoint: Endpoint, field: str) -> None:
    """Whatever stands in it, and however long it is: a secret in the wrong place stays where it is."""
    for value in (f"{CANARY} ", f"{CANARY}{'x' * 100_000}", [CANARY], {CANARY: 1}):
        body = example(endpoint, **{field: value})
        answer = send(place.caller(endpoint), endpoint, body)
        if answer.status_code == 200:
            continue
        check(answer, answer.status_code, answer.json()["code"])
        if field in SECRET:
            assert CANARY not in answer.text


@pytest.mark.parametrize("endpoint", WRITES, ids=lambda e: e.name)
def test_the_wrong_media_type(place: Stage, endpoint: Endpoint) -> None:
    answer = send(place.caller(endpoint), endpoint, example(endpoint), **{"Content-Type": "text/plain"})
    check(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("endpoint", WRITES, ids=lambda e: e.name)
def test_an_encoded_body(place: Stage, endpoint: Endpoint) -> None:
    answer = send(place.caller(endpoint), endpoint, example(endpoint), **{"Content-Encoding": "gzip"})
    check(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("endpoint", WRITES, ids=lambda e: e.name)
def test_a_body_of_5_mib_or_more(place: Stage, endpoint: Endpoint) -> None:
    size = endpoint.body_bytes_max + 1024 * 1024
    check(send(place.caller(endpoint), endpoint, b"{" + b" " * size), 413, "payload_too_large")


@pytest.mark.parametrize(
    "endpoint", [e for e in GUARDED if e.names_realm and not e.realm_in_path], ids=lambda e: e.name
)
@pytest.mark.parametrize(
    "realm_id", ["system", "absent", "", "../system", "x" * 1_000, "ab\x00", "SYSTEM", "é"]
)
def test_another_realm_is_an_absent_one(place: Stage, endpoint: Endpoint, realm_id: str) -> None:
    if endpoint.request is not None:
        answer = send(place.admin.http, endpoint, example(endpoint, realm_id=realm_id))
    else:
        answer = place.admin.get(filled(endpoint.path), params={"realm_id": realm_id})
    check(answer, 404, "realm_not_found")


@pytest.mark.parametrize(
    "name", ["x", "1", "a" * 5_000, "null", "%", "{key_id}", "00000000-0000-4000-8000-00000000000g"]
)
@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if "{key_id}" in e.path], ids=lambda e: e.name)
def test_a_path_names_no_object(place: Stage, endpoint: Endpoint, name: str) -> None:
    path = endpoint.path.replace("{key_id}", name)
    answer = place.admin.http.request(endpoint.method, path)
    if "%" in str(answer.request.url.raw_path):
        check(answer, 400, "invalid_request")
    else:
        check(answer, 404, "key_not_found")


def test_a_fault_of_the_method_and_of_the_path(place: Stage) -> None:
    check(place.nobody.get("/v1/nothing"), 404, "not_found")
    check(place.nobody.delete("/health"), 405, "method_not_allowed")
    check(place.nobody.get("/v1//nothing"), 400, "invalid_request")


def test_wrong_client_credentials_ask_for_authentication(place: Stage) -> None:
    login = place.admin.credentials() | {"client_secret": CANARY}
    answer = place.nobody.post("/v1/auth/token", json=login)
    check(answer, 401, "invalid_client")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert CANARY not in answer.text


def test_an_error_of_a_batch_gives_little_back(place: Stage) -> None:
    body = {"name": "n" * 100_000, "items": [{"input": "a"}] * 100}
    answer = place.admin.post("/v1/security/encrypt", body)
    assert {item["code"] for item in answer.json()["items"]} == {"key_not_found"}
    assert len(answer.content) < 100 * 500


def test_a_long_unknown_name_is_cut(place: Stage) -> None:
    body = json.dumps({"n" * 1_000_000: 1}).encode()
    answer = place.nobody.post("/v1/auth/token", content=body, headers={"Content-Type": "application/json"})
    assert list(refused(answer, 400, "invalid_field")["fields"]) == ["/" + "n" * 64]
