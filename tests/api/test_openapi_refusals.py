"""What the OpenAPI document says an operation can refuse is what it refuses, no more and no less.

Every operation is called wrongly in every way there is, with one more than every documented limit among them.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from qimem.bootstrap.serving import ENDPOINTS
from qimem.web.kit.endpoint import Endpoint
from qimem.web.kit.field_notes import note_on
from tests.api.examples import BY_NAME, JSON, Stage, check, operation, play, resolved, world_of_its_own
from tests.support.api import World
from tests.support.paths import NOBODYS, filled
from tests.support.server import ok

NEVER_PROVOKED = {"429", "500", "503", "default"}
CONFLICTS_OF_THEIR_OWN = {endpoint.name for endpoint in ENDPOINTS if endpoint.conflicts}
"""An exhausted key, permissions that fit into no token, oneself: tried where these operations have their tests."""
ABSENT = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def own_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of_its_own(tmp_path_factory.mktemp("examples")) as world:
        yield world


@pytest.fixture(scope="module")
def document(own_world: World) -> dict[str, Any]:
    return ok(own_world.anonymous().get("/v1/openapi.json"))


@pytest.fixture(scope="module")
def played(own_world: World) -> tuple[Stage, dict[str, httpx.Response]]:
    return play(own_world)


# --- the refusals -----------------------------------------------------------------------------


def _conflict(place: Stage, endpoint: Endpoint) -> httpx.Response:
    if endpoint.name == "keys.rotate":
        return place.call(endpoint, json={"key_id": place.known["key_id"]})
    again = (
        {"headers": {"Idempotency-Key": "again"}}
        if endpoint.name in {"clients.create", "clients.rotate-secret"}
        else {}
    )
    place.call(endpoint, **again)
    return place.call(endpoint, **again)


def _mismatch(place: Stage, endpoint: Endpoint) -> httpx.Response:
    key = {"Idempotency-Key": place.world.fresh("key")}
    bodies = []
    for _ in range(2):
        body = place.fill(dict(endpoint.example or {}))
        for name in body.keys() & {"id", "name", "username"} if endpoint.name != "keys.rotate" else ():
            body[name] = place.world.fresh("other")
        bodies.append(body)
    if endpoint.name == "keys.rotate":
        bodies[1] = {"lineage_id": place.known["key_id"]}
    if endpoint.name == "clients.rotate-secret":
        bodies = [{"overlap_seconds": 1}, {"overlap_seconds": 2}]
    if endpoint.name == "signing-keys.rotate":
        # Not the example: a key that is pending already is another refusal.
        bodies = [{"mode": "now"}, {"mode": "scheduled"}]
    place.call(endpoint, json=bodies[0], headers=key)
    return place.call(endpoint, json=bodies[1], headers=key)


def _elsewhere(place: Stage, endpoint: Endpoint) -> httpx.Response:
    if endpoint.request is None:
        return place.call(endpoint, params={"realm_id": "absent"})
    return place.call(endpoint, json=place.fill(dict(endpoint.example or {})) | {"realm_id": "absent"})


def _wrong_secret(place: Stage, endpoint: Endpoint) -> httpx.Response:
    wrong = {"client_id": place.known["client_id"], "client_secret": "wrong"}
    return place.call(endpoint, json=place.fill(dict(endpoint.example or {})) | wrong)


def _without_permission(place: Stage, endpoint: Endpoint) -> httpx.Response:
    person = place.world.person("shop:visit").http
    if endpoint.any_caller:
        # The example shows a client's credentials, which do not go with a bearer.
        return place.call(endpoint, person, json={"token": place.known["refresh_token"]})
    return place.call(endpoint, person)


def _absent_object(place: Stage, endpoint: Endpoint) -> httpx.Response:
    return place.call(endpoint, path=filled(endpoint.path, realm="absent"))


def _escaped(place: Stage, endpoint: Endpoint) -> httpx.Response:
    # A path without parameters cannot be filled with what needs escapes: that would be an unknown path.
    path = filled(endpoint.path, **dict.fromkeys(NOBODYS, "%C3%A4"))
    return place.call(endpoint, path=path)


def _on_condition(place: Stage, endpoint: Endpoint, tag: str | None) -> httpx.Response:
    if not endpoint.merges:
        return place.call(endpoint, place.nobody)
    make_anew(place, endpoint)
    path, body = place.fill(endpoint.path), place.fill(dict(endpoint.example or {}))
    headers = {} if tag is None else {"If-Match": tag}
    return place.caller(endpoint).patch(path, json=body, headers=headers)


def make_anew(place: Stage, endpoint: Endpoint) -> None:
    """What the path names: another operation may have deleted the one before."""
    world, realm_id = place.world, place.admin.realm_id
    for name, make in (
        ("user_id", lambda: world.user(realm_id)["id"]),
        ("client_id", lambda: world.client(realm_id)["client_id"]),
        ("role", lambda: world.role(realm_id, [])),
        ("realm_id", world.realm),
    ):
        if f"{{{name}}}" in endpoint.path:
            place.known[name] = make()


def _slip(place: Stage, endpoint: Endpoint) -> httpx.Response:
    body = place.fill(dict(endpoint.example or {})) | {"nmae": "orders"}
    return place.call(endpoint, params={"nmae": "orders"}, json=body)


FAULTS: dict[str, Callable[[Stage, Endpoint], httpx.Response]] = {
    "no token": lambda place, endpoint: place.call(endpoint, place.nobody),
    "no permission": _without_permission,
    "a slip in a name": _slip,
    "another media type": lambda place, endpoint: place.call(
        endpoint, content=b"{}", headers={"Content-Type": "text/plain"}
    ),
    "too much": lambda place, endpoint: place.call(
        endpoint, content=b" " * (endpoint.body_bytes_max + 1), headers={"Content-Type": JSON}
    ),
    "an absent object": _absent_object,
    "a parameter that needs escapes": _escaped,
    "an absent realm": _elsewhere,
    "a wrong secret": _wrong_secret,
    "another body under the same key": _mismatch,
    "the same again": _conflict,
    "no condition": lambda place, endpoint: _on_condition(place, endpoint, None),
    "another condition": lambda place, endpoint: _on_condition(place, endpoint, '"x"'),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_what_an_operation_refuses_is_documented_and_nothing_more(
    document: dict[str, Any], played: Any, name: str
) -> None:
    place, _ = played
    endpoint = BY_NAME[name]
    make_anew(place, endpoint)
    answers = {fault: provoke(place, endpoint) for fault, provoke in FAULTS.items()}
    seen = {str(answer.status_code): answer for answer in answers.values() if answer.status_code != 200}
    unseen = NEVER_PROVOKED | ({"409"} if name in CONFLICTS_OF_THEIR_OWN else set())
    responses = operation(document, name)["responses"]
    told = {fault: answer.status_code for fault, answer in answers.items()}
    assert seen.keys() <= responses.keys(), told
    assert seen.keys() - unseen == responses.keys() - unseen - {"200"}, told
    for status, answer in seen.items():
        told = resolved(document, responses[status])
        check(document, told["content"][JSON]["schema"], answer.json())
        missing = {header for header in told["headers"] if header.lower() not in answer.headers}
        assert not missing, status


def _raw(world: World, request: bytes) -> bytes:
    """The answer to these bytes, to its end or the first 64 KiB of it."""
    host, port = world.server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(request)
        return connection.recv(65_536)


def test_a_request_that_cannot_be_read_is_refused_as_documented(
    document: dict[str, Any], own_world: World
) -> None:
    head, _, body = _raw(own_world, b"GET /health HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")
    told = resolved(document, operation(document, "system.health")["responses"]["default"])
    assert head.startswith(b"HTTP/1.1 400")
    check(document, told["content"][JSON]["schema"], json.loads(body))
    assert all(header.lower().encode() + b": " in head.lower() for header in told["headers"])


def test_a_body_that_arrives_together_with_its_head_is_not_taken_for_headers(own_world: World) -> None:
    # One write of head and body, as many clients do it: nothing but a refusal of the operation may come.
    body = b'{"name":"orders","input":"' + b"a" * 200_000 + b'"}'
    head = (
        "POST /v1/security/encrypt HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    assert _raw(own_world, head.encode() + body).startswith(b"HTTP/1.1 401")


def test_conflicts_that_no_field_of_an_endpoint_tells_are_documented(document: dict[str, Any]) -> None:
    assert all("409" in operation(document, name)["responses"] for name in CONFLICTS_OF_THEIR_OWN)
    assert "409" not in operation(document, "keys.decrypt")["responses"]


def test_not_ready_is_documented_with_its_own_shape(document: dict[str, Any]) -> None:
    told = operation(document, "system.ready")["responses"]["503"]
    check(document, told["content"][JSON]["schema"], {"status": "not ready", "checks": {"storage": "gone"}})
    assert "Retry-After" in told["headers"]


def test_what_answers_from_memory_is_never_unavailable(document: dict[str, Any]) -> None:
    served = {name for name in BY_NAME if "503" not in operation(document, name)["responses"]}
    assert served == {"system.root", "system.health", "system.openapi", "system.docs"}


# --- the limits -------------------------------------------------------------------------------

_FEW = {"minLength", "minItems", "minimum"}
_ITEMS: dict[str, Callable[[int], Any]] = {
    "permissions": lambda _: "app:act",
    "roles": lambda number: f"absent-{number}",
    "items": lambda _: {"input": "x", "name": "orders"},
}


def _of_size(name: str, keyword: str, size: int) -> Any:
    if keyword.endswith("imum"):
        return size
    if keyword.endswith("Items"):
        return [_ITEMS.get(name, lambda _: "https://shop.example/")(number) for number in range(size)]
    domain = "@b.example" if name == "email" else ""
    return ("k7zq3mw-" * 200)[: size - len(domain)] + domain


def _limits() -> Iterator[tuple[str, str, str, int]]:

    for endpoint in ENDPOINTS:
        shape = endpoint.request or endpoint.query
        for name in getattr(shape, "__struct_fields__", ()):
            for keyword, size in note_on(shape, name).items():  # type: ignore[arg-type]
                # A cursor is either one that was given out or none; its length is no matter of its own.
                if keyword.startswith(("min", "max")) and name != "cursor":
                    yield endpoint.name, name, keyword, size


@pytest.mark.parametrize(("name", "property_name", "keyword", "size"), [*_limits()])
def test_the_documented_limit_is_the_real_one(
    played: Any, name: str, property_name: str, keyword: str, size: int
) -> None:
    place, _ = played
    endpoint = BY_NAME[name]
    make_anew(place, endpoint)

    def send(number: int) -> httpx.Response:
        value = {property_name: _of_size(property_name, keyword, number)}
        if endpoint.request is None:
            return place.call(endpoint, params=value)
        body = place.fill(dict(endpoint.example or {}))
        for taken in body.keys() & {"id", "name", "username"}:
            body[taken] = place.world.fresh("limit")
        if property_name == "items":
            body = {}
            if name == "keys.decrypt":
                value = {"items": [{"input": place.known["envelope"]}] * number}
        return place.call(endpoint, json=body | value)

    beyond = refused_for(send(size - 1 if keyword in _FEW else size + 1))
    assert beyond.startswith((f"/{property_name}", "weak_password")), beyond
    # So many roles were counted, and only then looked for.
    assert refused_for(send(size)) == ("role_not_found" if property_name == "roles" else "")


def refused_for(answer: httpx.Response) -> str:
    """The pointer or the code of a refusal; empty for a success."""
    if answer.status_code == 200 or answer.json()["code"] == "already_exists":
        return ""
    assert answer.status_code == 400, answer.text
    return next(iter(answer.json().get("fields", {answer.json()["code"]: ""})))
