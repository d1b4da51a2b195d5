"""Paths are exact: what is not spelled as declared is not found, or refused."""

from __future__ import annotations

import pytest

from qimem.audit.schema import COUNTED
from qimem.web.kit.endpoint import Call, Endpoint
from qimem.web.kit.errors import TransportError
from qimem.web.kit.router import Router, allow_header
from qimem.wire.common import Status


async def nothing(call: Call) -> Status:
    return Status(status="ok")


def endpoint(method: str, path: str) -> Endpoint:
    return Endpoint(method, path, f"{method} {path}", COUNTED, nothing, Status)


ROUTER = Router(
    [
        endpoint("GET", "/"),
        endpoint("GET", "/health"),
        endpoint("GET", "/v1/keys"),
        endpoint("POST", "/v1/keys"),
        endpoint("POST", "/v1/keys/import"),
        endpoint("GET", "/v1/keys/{key_id}"),
        endpoint("DELETE", "/v1/keys/{key_id}"),
        endpoint("POST", "/v1/keys/{key_id}/disable"),
        endpoint("GET", "/realms/{realm}/users/{user}"),
        endpoint("GET", "/realms/{realm}/.well-known/x"),
    ]
)


def refusal(method: str, path: str) -> TransportError:
    with pytest.raises(TransportError) as caught:
        ROUTER.find(method, path)
    return caught.value


@pytest.mark.parametrize(
    ("method", "path", "name", "parameters"),
    [
        ("GET", "/", "GET /", {}),
        ("GET", "/health", "GET /health", {}),
        ("HEAD", "/health", "GET /health", {}),
        ("POST", "/v1/keys", "POST /v1/keys", {}),
        ("GET", "/v1/keys/7", "GET /v1/keys/{key_id}", {"key_id": "7"}),
        ("HEAD", "/v1/keys/7", "GET /v1/keys/{key_id}", {"key_id": "7"}),
        ("DELETE", "/v1/keys/7", "DELETE /v1/keys/{key_id}", {"key_id": "7"}),
        ("GET", "/v1/keys/import", "GET /v1/keys/{key_id}", {"key_id": "import"}),
        ("GET", "/v1/keys/...", "GET /v1/keys/{key_id}", {"key_id": "..."}),
        ("GET", "/v1/keys/.a", "GET /v1/keys/{key_id}", {"key_id": ".a"}),
        ("POST", "/v1/keys/import", "POST /v1/keys/import", {}),
        ("POST", "/v1/keys/7/disable", "POST /v1/keys/{key_id}/disable", {"key_id": "7"}),
        ("GET", "/realms/a/users/b", "GET /realms/{realm}/users/{user}", {"realm": "a", "user": "b"}),
        ("GET", "/realms/a/.well-known/x", "GET /realms/{realm}/.well-known/x", {"realm": "a"}),
    ],
)
def test_a_declared_path_is_found(method: str, path: str, name: str, parameters: dict[str, str]) -> None:
    found, given = ROUTER.find(method, path)
    assert (found.name, dict(given)) == (name, parameters)


@pytest.mark.parametrize(
    "path",
    ["", "health", "/Health", "/HEALTH", "/health ", " /health", "/healthz", "/healt", "/v1", "/v1/key", "/v1/keys/7/enable",
     "/v1/keys/7/disable/x", "/realms/a", "/realms/a/users", "/.well-known/x", "/realms/a/.well-known/y", "/...", "/.a", "*",
     "/health?x", "/health;x", "/health\n", "/h\u00e9alth"],
)  # fmt: skip
def test_another_path_is_not_found(path: str) -> None:
    found = refusal("GET", path)
    assert (found.status, found.body.code, found.headers) == (404, "not_found", b"")


@pytest.mark.parametrize(
    "path",
    ["//", "//health", "/health//", "/v1//keys", "/v1/keys//disable", "/./health", "/health/.", "/health/..", "/..",
     "/v1/../health", "/v1/keys/.", "/v1/keys/..", "/v1/keys/../disable", "/realms/./users/b", "/realms/a/users/..",
     "\\health", "/v1\\keys", "/v1/keys/a\\b", "/realms/a\\b/users/c"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_a_path_that_is_not_canonical_is_refused(method: str, path: str) -> None:
    found = refusal(method, path)
    assert (found.status, found.body.code, found.body.hint) == (400, "invalid_request", None)
    assert ROUTER.allowed(path) == []


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/health/", "the path is /health"),
        ("/v1/keys/", "the path is /v1/keys"),
        ("/v1/keys/7/", "the path is /v1/keys/7"),
        ("/v2", "this server speaks v1"),
        ("/v2/", "this server speaks v1"),
        ("/v2/keys", "this server speaks v1"),
        ("/v123/keys/7", "this server speaks v1"),
        ("/v1/", None),
        ("/v1/nothing/", None),
        ("/v/keys", None),
        ("/v2keys", None),
        ("/V2/keys", None),
        ("/a/v2/keys", None),
    ],
)
def test_a_near_path_gets_a_hint(path: str, hint: str | None) -> None:
    found = refusal("GET", path)
    assert (found.status, found.body.hint) == (404, hint)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/", "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/keys", "GET, HEAD, OPTIONS, POST"),
        ("PUT", "/v1/keys/7", "DELETE, GET, HEAD, OPTIONS"),
        ("GET", "/v1/keys/7/disable", "OPTIONS, POST"),
        ("HEAD", "/v1/keys/7/disable", "OPTIONS, POST"),
        ("PUT", "/v1/keys/import", "DELETE, GET, HEAD, OPTIONS, POST"),
        ("get", "/health", "GET, HEAD, OPTIONS"),
        ("OPTIONS", "/health", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allowed: str) -> None:
    found = refusal(method, path)
    assert (found.status, found.body.code) == (405, "method_not_allowed")
    assert found.headers == f"allow: {allowed}\r\n".encode()


def test_an_unknown_path_allows_nothing() -> None:
    assert ROUTER.allowed("/nothing") == []


def test_the_allow_line_lists_methods_in_their_order() -> None:
    assert allow_header(["GET", "POST"]) == b"allow: GET, POST\r\n"


def test_an_endpoint_that_anyone_may_call_cannot_be_idempotent() -> None:
    with pytest.raises(ValueError, match=r"things\.make: only an endpoint with a permission"):
        Endpoint("POST", "/v1/things", "things.make", COUNTED, nothing, Status, idempotent=True)
