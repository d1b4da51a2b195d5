"""The rules of the contract that hold for every endpoint, on everything the endpoint table lists."""

from __future__ import annotations

import base64
import json
import re
from itertools import pairwise

import httpx
import pytest

from qimem.bootstrap.serving import ENDPOINTS
from qimem.kernel import limits
from qimem.web.kit.endpoint import Endpoint
from tests.api.raw import Raw, chunked, get, post
from tests.support.api import Person, World
from tests.support.oauth import CHANGING
from tests.support.paths import OPERATORS_ONLY, filled
from tests.support.server import Server, ok, refused

MEDIA_HINT = "send Content-Type: application/json"
FORM_HINT = "form-encoded OAuth clients: /realms/{realm}/token"
PATHS = sorted({endpoint.path for endpoint in ENDPOINTS})
READS = [endpoint for endpoint in ENDPOINTS if endpoint.method == "GET"]
WRITES = [endpoint for endpoint in ENDPOINTS if endpoint.request is not None]
LISTS = [endpoint for endpoint in READS if "cursor" in getattr(endpoint.query, "__struct_fields__", ())]
QUERYLESS = [endpoint for endpoint in READS if endpoint.query is None and endpoint.needs_bearer]
FIELDLESS = [endpoint for endpoint in WRITES if endpoint.optional_body]
ANSWERS = {
    "success": ("GET", "/health", {}),
    "absent path": ("GET", "/v1/nothing", {}),
    "path in another spelling": ("GET", "/health%2f", {}),
    "wrong method": ("DELETE", "/health", {}),
    "options": ("OPTIONS", "/health", {}),
    "no token": ("GET", "/v1/security/keys", {}),
    "bad token": ("GET", "/v1/security/keys", {"headers": {"Authorization": "Bearer x"}}),
    "wrong media type": ("POST", "/v1/auth/token", {"content": b"a=b"}),
    "bad body": ("POST", "/v1/auth/token", {"json": [1]}),
    "bad field": ("POST", "/v1/auth/token", {"json": {"x": 1}}),
    "wrong client": ("POST", "/v1/auth/token", {"json": {"client_id": "x", "grant_type": "client_credentials"}}),
    "absent realm": ("GET", "/realms/nowhere/jwks", {}),
    "the public keys": ("GET", "/realms/system/jwks", {}),
    "the document": ("GET", "/v1/openapi.json", {}),
    "the page": ("GET", "/docs", {}),
}  # fmt: skip


def name_of(endpoint: Endpoint) -> str:
    return endpoint.name


@pytest.fixture(scope="module")
def nobody(world: World) -> httpx.Client:
    return world.anonymous()


@pytest.fixture(scope="module")
def key(admin: Person) -> str:
    return ok(admin.post("/v1/security/keys", {}))["key_id"]


# --- paths and methods ------------------------------------------------------------------------


def test_the_root_says_what_this_is(nobody: httpx.Client) -> None:
    assert ok(nobody.get("/")) == {"name": "qimem", "versions": ["v1"], "openapi": "/v1/openapi.json"}


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/"])
def test_a_trailing_slash_is_another_path_and_the_hint_names_the_right_one(nobody, path: str) -> None:
    body = refused(nobody.get(filled(path) + "/"), 404, "not_found")
    assert body["hint"] == f"the path is {filled(path)}"


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/"])
def test_a_path_in_capitals_is_another_path(nobody, path: str) -> None:
    refused(nobody.get(filled(path).upper()), 404, "not_found")


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/security/keys", "/v0/auth/token", "/v10/", "/v01/security/keys"]
)
def test_an_unknown_version_is_told_which_one_is_spoken(nobody, path: str) -> None:
    assert refused(nobody.get(path), 404, "not_found")["hint"] == "this server speaks v1"


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/nothing", "/version", "/vx/a", "/security/keys", "/.well-known/x"]
)
def test_an_unknown_path_gets_no_hint(nobody, path: str) -> None:
    assert "hint" not in refused(nobody.get(path), 404, "not_found")


@pytest.mark.parametrize("endpoint", READS, ids=name_of)
def test_head_is_get_without_the_body(world: World, endpoint: Endpoint) -> None:
    path = filled(endpoint.path)
    got, head = world.operator.get(path), world.operator.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    apart = CHANGING
    assert [pair for pair in head.headers.items() if pair[0] not in apart] == [
        pair for pair in got.headers.items() if pair[0] not in apart
    ]


@pytest.mark.parametrize("path", PATHS)
def test_options_names_the_methods_without_a_token(nobody, path: str) -> None:
    answer = nobody.options(filled(path))
    known = {endpoint.method for endpoint in ENDPOINTS if endpoint.path == path}
    known |= {"OPTIONS"} | ({"HEAD"} if "GET" in known else set())
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["allow"] == ", ".join(sorted(known))
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/nothing", "/v2/security/keys", "/health/"])
def test_options_of_an_unknown_path_is_404(nobody, path: str) -> None:
    refused(nobody.options(path), 404, "not_found")


@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_method_is_told_the_right_ones(nobody, path: str) -> None:
    known = {endpoint.method for endpoint in ENDPOINTS if endpoint.path == path}
    wrong = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - known
    wrong -= {"HEAD"} if "GET" in known else set()
    for method in sorted(wrong):
        answer = nobody.request(method, filled(path))
        assert answer.status_code == 405
        assert answer.headers["allow"] == nobody.options(filled(path)).headers["allow"]
        if method != "HEAD":
            assert answer.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_a_method_cannot_be_overridden_by_a_header(nobody, header: str) -> None:
    refused(nobody.post("/health", headers={header: "GET"}), 405, "method_not_allowed")


# --- bodies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", WRITES, ids=name_of)
def test_a_declared_length_over_the_limit_is_refused_unread(
    sqlite_server: Server, endpoint: Endpoint
) -> None:
    limit = limits.DECRYPT_BODY_BYTES_MAX if endpoint.name == "keys.decrypt" else limits.BODY_BYTES_MAX
    head = post(filled(endpoint.path), b"").replace(b"Length: 0", b"Length: %d" % (limit + 1))
    head = head.replace(b"POST", endpoint.method.encode(), 1)
    with Raw(sqlite_server.url) as connection:
        connection.send(head)
        answer = connection.answer()
        assert (answer.status, answer.json["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize("endpoint", WRITES, ids=name_of)
def test_chunks_over_the_limit_are_refused_before_their_end(
    sqlite_server: Server, world: World, endpoint: Endpoint
) -> None:
    limit = limits.DECRYPT_BODY_BYTES_MAX if endpoint.name == "keys.decrypt" else limits.BODY_BYTES_MAX
    token = (f"Authorization: {world.operator.headers['authorization']}",)
    data = chunked(filled(endpoint.path), b"{" + b" " * limit, lines=token)
    data = data.replace(b"POST", endpoint.method.encode(), 1)
    with Raw(sqlite_server.url) as connection:
        connection.send(data[: -len(b"\r\n0\r\n\r\n")])
        answer = connection.answer()
        assert (answer.status, answer.json["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    "media_type",
    ["application/json", "application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON",
     "application/json ; a=b", 'application/json; charset="utf-8"'],
)  # fmt: skip
def test_json_is_taken_with_any_parameters(nobody, media_type: str) -> None:
    body = {"content": b'{"token":"x"}', "headers": {"Content-Type": media_type}}
    ok(nobody.post("/v1/auth/token/revoke", **body))


@pytest.mark.parametrize(
    "media_type",
    ["text/plain", "text/json", "application/json5", "application/jsonx", "application/vnd.api+json",
     "application/xml", "multipart/form-data; boundary=a", "application/octet-stream", "json", "*/*", "",
     "application/json, text/plain", "text/plain; a=application/json"],
)  # fmt: skip
def test_another_media_type_is_refused(nobody, media_type: str) -> None:
    body = {"content": b'{"token":"x"}', "headers": {"Content-Type": media_type}}
    answer = refused(nobody.post("/v1/auth/token/revoke", **body), 415, "unsupported_media_type")
    assert answer["hint"] == MEDIA_HINT


def test_a_body_without_media_type_is_refused(nobody) -> None:
    answer = nobody.post("/v1/auth/token/revoke", content=b'{"token":"x"}')
    assert refused(answer, 415, "unsupported_media_type")["hint"] == MEDIA_HINT


@pytest.mark.parametrize("path", ["/v1/auth/token", "/v1/auth/token/refresh", "/v1/auth/token/revoke"])
def test_a_form_is_told_where_forms_are_taken(nobody, path: str) -> None:
    answer = nobody.post(path, data={"grant_type": "client_credentials"})
    assert refused(answer, 415, "unsupported_media_type")["hint"] == FORM_HINT


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity", "", "gzip, gzip"])
def test_an_encoded_body_is_refused_unread(nobody, coding: str) -> None:
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    answer = nobody.post("/v1/auth/token/revoke", content=b"\x1f\x8b\x08", headers=headers)
    assert refused(answer, 415, "unsupported_media_type")["hint"] == "send the body unencoded"


@pytest.mark.parametrize("endpoint", FIELDLESS, ids=name_of)
def test_an_operation_that_needs_no_field_needs_no_body(
    world: World, admin: Person, key: str, endpoint: Endpoint
) -> None:
    known = {
        "key_id": key,
        "user_id": world.user(admin.realm_id)["id"],
        "client_id": world.client(admin.realm_id)["client_id"],
        "realm_id": world.realm(),
    }
    caller = world.operator if endpoint.permission in OPERATORS_ONLY else admin.http
    for more in ({}, {"headers": {"Content-Type": "application/json"}}, {"json": {}}):
        ok(caller.post(filled(endpoint.path, **known), **more))


@pytest.mark.parametrize("endpoint", [e for e in WRITES if not e.optional_body], ids=name_of)
def test_an_operation_that_needs_fields_needs_a_body(world: World, endpoint: Endpoint) -> None:
    for more in ({}, {"headers": {"Content-Type": "application/json"}}):
        answer = world.operator.request(endpoint.method, filled(endpoint.path), **more)
        body = refused(answer, 400, "invalid_json")
        assert body["error"] == "invalid JSON: a body is required"


@pytest.mark.parametrize("endpoint", FIELDLESS, ids=name_of)
@pytest.mark.parametrize("body", [b" ", b"\n", b"null", b"[]", b'""'])
def test_an_empty_body_is_empty(
    world: World, admin: Person, key: str, endpoint: Endpoint, body: bytes
) -> None:
    path = filled(endpoint.path, key_id=key)
    caller = world.operator if endpoint.permission in OPERATORS_ONLY else admin.http
    answer = caller.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


def test_a_get_does_not_mind_a_body(sqlite_server: Server) -> None:
    with Raw(sqlite_server.url) as connection:
        connection.send(get("/health", "Content-Length: 9") + b"not json!" + get("/health"))
        assert [connection.answer().status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("endpoint", WRITES, ids=name_of)
def test_a_query_beside_a_body_is_refused(world: World, endpoint: Endpoint) -> None:
    body = {"json": {}} if endpoint.optional_body else {"json": endpoint.example}
    answer = world.operator.request(
        endpoint.method, filled(endpoint.path), params={"realm_id": "system"}, **body
    )
    assert refused(answer, 400, "invalid_field")["hint"] == "fields go into the body"


@pytest.mark.parametrize("endpoint", QUERYLESS, ids=name_of)
def test_a_query_that_nobody_reads_is_refused(world: World, endpoint: Endpoint) -> None:
    # A realm named there, and ignored, would be an answer about another realm than the one asked for.
    for query in ({"realm_id": "system"}, {"x": "y"}):
        answer = world.operator.get(filled(endpoint.path), params=query)
        assert refused(answer, 400, "invalid_field")["error"] == "query parameters are not read here"


def test_public_endpoints_do_not_mind_a_query(sqlite_server: Server) -> None:
    # Health checks of others add what they like, to get past caches.
    with Raw(sqlite_server.url) as connection:
        connection.send(get("/health?x=y"))
        assert connection.answer().status == 200


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("limit", "malformed query string"),
        ("limit=1&", "malformed query string"),
        ("cursor=%ff", "malformed query string"),
        ("&".join(f"a{n}=1" for n in range(40)), "malformed query string"),
        ("limit=1&limit=2", "a query parameter stands twice"),
        ("limits=1", "/limits: unknown field; did you mean limit?"),
        ("limit=x", "/limit: expected int | null, got str"),
        ("limit=", "/limit: expected int | null, got str"),
        ("cursor=%00", "/cursor: not a cursor of this list"),
    ],
)
def test_a_bad_query_is_refused(admin: Person, query: str, error: str) -> None:
    assert refused(admin.get(f"/v1/security/keys?{query}"), 400, "invalid_field")["error"] == error


@pytest.mark.parametrize("endpoint", LISTS, ids=name_of)
@pytest.mark.parametrize("text", ["\ud800", "\0"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_cursor_of_what_no_database_takes_is_refused(
    world: World, endpoint: Endpoint, text: str, parts: int
) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps([text] * parts).encode()).decode().rstrip("=")
    refused(world.operator.get(filled(endpoint.path), params={"cursor": cursor}), 400, "invalid_field")


@pytest.mark.parametrize(
    "header", ["Authorization", "Content-Type", "Idempotency-Key", "Origin", "X-Request-Id"]
)
def test_a_header_that_must_be_one_is_refused_twice(
    sqlite_server: Server, admin: Person, header: str
) -> None:
    mine = {"Authorization": admin.http.headers["authorization"], "Content-Type": "application/json"}
    value = mine.get(header, "same")
    lines = [pair for pair in mine.items() if pair[0] != header] + [(header, value), (header.lower(), value)]
    answer = httpx.post(f"{sqlite_server.url}/v1/security/keys", content=b"{}", headers=lines)
    assert refused(answer, 400, "invalid_request")["error"] == f"repeated header: {header.lower()}"


@pytest.mark.parametrize("header", ["Accept", "X-Forwarded-For", "Cookie"])
def test_another_header_may_be_repeated(sqlite_server: Server, admin: Person, header: str) -> None:
    lines = [("Authorization", admin.http.headers["authorization"]), (header, "a"), (header, "b")]
    ok(httpx.get(f"{sqlite_server.url}/v1/security/keys", headers=lines))


# --- headers of every answer ------------------------------------------------------------------


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_has_the_headers_of_every_answer(nobody, name: str) -> None:
    method, path, more = ANSWERS[name]
    answer = nobody.request(method, path, **more)
    cached = name == "the public keys"
    assert answer.headers["cache-control"] == ("public, max-age=300" if cached else "no-store")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", answer.headers["date"])
    assert not {"server", "x-powered-by", "set-cookie", "access-control-allow-origin"} & set(answer.headers)
    names = [name for name, _ in answer.headers.multi_items()]
    assert len(names) == len(set(names))
    if answer.content and name != "the page":
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("sent", ["a", "0", "Order-7_b.c", "x" * 128])
def test_a_well_formed_request_id_is_kept(nobody, name: str, sent: str) -> None:
    method, path, more = ANSWERS[name]
    headers = more.get("headers", {}) | {"X-Request-Id": sent}
    answer = nobody.request(method, path, **(more | {"headers": headers}))
    assert answer.headers["x-request-id"] == sent
    if answer.status_code >= 400:
        assert answer.json()["request_id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", 'a"b', "a,b", "a/b", "ä".encode(), "a\tb", "<a>"])
def test_another_request_id_is_replaced(nobody, sent: str | bytes) -> None:
    answer = nobody.get("/v1/nothing", headers={"X-Request-Id": sent})
    assert re.fullmatch(r"[0-9a-f]{24}", answer.headers["x-request-id"])
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_request_ids_differ(nobody) -> None:
    ids = sorted(nobody.get("/health").headers["x-request-id"] for _ in range(100))
    assert all(one != other for one, other in pairwise(ids))
