"""Browsers: nothing for anyone unless an origin is on the list, and then never with credentials."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.edge import Edge, only
from tests.api.raw import Answer, Raw, get, post

LISTED = "https://app.example"
OTHERS = ["https://evil.example", "null", "*", "https://app.example:8443", "http://app.example",
          "https://APP.example", "https://app.example/", "https://sub.app.example", "https://app.example.evil.example",
          "https://app.example, https://evil.example", ""]  # fmt: skip
REQUESTS = {
    "success": get(),
    "absent path": get("/nothing"),
    "no token": get("/v1/address"),
    "fault of ours": get("/v1/broken"),
    "bad body": post("/v1/echo", b"{}"),
    "options": get().replace(b"GET", b"OPTIONS"),
}
EXPOSED = {
    "x-request-id", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after",
    "www-authenticate", "etag",
}  # fmt: skip


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    with Edge(only(), origins=[LISTED, "http://localhost:3000"]) as edge:
        yield edge


@pytest.fixture(scope="module")
def closed_edge() -> Iterator[Edge]:
    with Edge(only()) as edge:
        yield edge


def ask(edge: Edge, data: bytes, *lines: str) -> Answer:
    with Raw(edge.url) as connection:
        first, _, rest = data.partition(b"\r\n")
        connection.send(b"\r\n".join([first, *(line.encode() for line in lines), rest]))
        return connection.answer()


def cors(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers if name.startswith("access-control-")}


@pytest.mark.parametrize("name", REQUESTS)
def test_without_a_list_nobody_gets_anything(closed_edge: Edge, name: str) -> None:
    answer = ask(closed_edge, REQUESTS[name], f"Origin: {LISTED}", "Access-Control-Request-Method: GET")
    assert cors(answer) == {}
    assert answer.header("vary") is None


@pytest.mark.parametrize("origin", [LISTED, "http://localhost:3000"])
@pytest.mark.parametrize("name", [name for name in REQUESTS if name != "options"])
def test_a_listed_origin_may_read_every_answer(edge: Edge, name: str, origin: str) -> None:
    answer = ask(edge, REQUESTS[name], f"Origin: {origin}")
    found = cors(answer)
    exposed = {word.strip().lower() for word in found.pop("access-control-expose-headers").split(",")}
    assert found == {"access-control-allow-origin": origin}
    assert exposed == EXPOSED
    assert answer.header("vary") == "Origin"


@pytest.mark.parametrize("origin", OTHERS)
@pytest.mark.parametrize("name", REQUESTS)
def test_a_foreign_origin_is_served_and_may_not_read(edge: Edge, name: str, origin: str) -> None:
    plain = ask(edge, REQUESTS[name])
    answer = ask(edge, REQUESTS[name], f"Origin: {origin}", "Access-Control-Request-Method: GET")
    assert answer.status == plain.status
    assert cors(answer) == {}
    assert answer.header("vary") == "Origin"


def test_an_answer_without_an_origin_says_that_others_differ(edge: Edge) -> None:
    answer = ask(edge, get())
    assert (cors(answer), answer.header("vary")) == ({}, "Origin")


def test_a_preflight_of_a_listed_origin_is_allowed_what_the_api_needs(edge: Edge) -> None:
    answer = ask(
        edge,
        REQUESTS["options"].replace(b"/health", b"/v1/private"),
        f"Origin: {LISTED}",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization, content-type",
    )
    found = cors(answer)
    assert (answer.status, answer.body) == (204, b"")
    assert found["access-control-allow-origin"] == LISTED
    assert found["access-control-allow-methods"] == answer.header("allow") == "OPTIONS, POST"
    allowed = {word.strip().lower() for word in found["access-control-allow-headers"].split(",")}
    assert allowed == {"authorization", "content-type", "idempotency-key", "if-match", "x-request-id"}
    assert int(found["access-control-max-age"]) <= 7200
    assert "access-control-allow-credentials" not in found
    assert answer.header("vary") == "Origin"


def test_a_preflight_of_an_unknown_path_is_404(edge: Edge) -> None:
    data = REQUESTS["options"].replace(b"/health", b"/nothing")
    answer = ask(edge, data, f"Origin: {LISTED}", "Access-Control-Request-Method: GET")
    assert answer.status == 404
    assert "access-control-allow-methods" not in cors(answer)


def test_two_origins_are_no_origin(edge: Edge) -> None:
    answer = ask(edge, get(), f"Origin: {LISTED}", "Origin: https://evil.example")
    assert answer.status == 400
    assert cors(answer) == {}
