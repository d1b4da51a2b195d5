"""A worker that is late: what it answers, to whom, and what that costs nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qimem.kernel import limits
from qimem.observability.metrics import REFUSED
from qimem.web.kit.admission import Body
from tests.api.edge import Edge
from tests.api.raw import Answer, Raw, get, post

BEARER = "Authorization: Bearer x"
ORIGIN = "https://app.example"


@pytest.fixture
def edge() -> Iterator[Edge]:
    with Edge(origins=[ORIGIN]) as edge:
        edge.app.admission.admits = lambda _now: False
        yield edge


def ask(edge: Edge, data: bytes) -> Answer:
    with Raw(edge.url) as client:
        client.send(data)
        return client.answer()


@pytest.mark.parametrize(
    "data",
    [
        post("/v1/echo", b'{"text":"x"}'),
        post("/v1/private", b'{"text":"x"}', BEARER),
        post("/v1/private", b'{"text":"x"}'),
        post("/v1/echo", b"not even JSON"),
        get("/nothing"),
        get("/v1/echo%20"),
        b"OPTIONS /v1/echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"DELETE /v1/echo HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["public", "bearer", "stranger", "malformed", "path", "escape", "options", "method"],
)
def test_whatever_comes_is_refused_before_anything_is_done(edge: Edge, data: bytes) -> None:
    answer = ask(edge, data)
    assert answer.status == 503
    assert answer.json["code"] == "overloaded"
    assert answer.header("retry-after") == "2"
    assert not answer.closes
    assert edge.served == []
    assert edge.metrics.counts(REFUSED)["turn"] == 1


def test_it_is_an_answer_like_others_but_nobody_is_charged(edge: Edge) -> None:
    charged: list[object] = []
    edge.app._limits.charge_address = lambda *who: charged.append(who)
    answer = ask(edge, post("/v1/echo", b'{"text":"x"}', "X-Request-Id: mine", f"Origin: {ORIGIN}"))
    assert answer.header("x-request-id") == answer.json["request_id"] == "mine"
    assert answer.header("access-control-allow-origin") == ORIGIN
    assert answer.header("cache-control") == "no-store"
    assert answer.header("x-ratelimit-limit") is None
    assert charged == []
    assert edge.recorder.refusals == []


def test_health_is_never_refused(edge: Edge) -> None:
    for line in (get(), get().replace(b"GET", b"HEAD")):
        with Raw(edge.url) as client:
            client.send(line)
            assert client.answer(head=line.startswith(b"HEAD")).status == 200


def test_who_was_refused_is_served_afterwards_on_the_same_connection(edge: Edge) -> None:
    with Raw(edge.url) as client:
        client.send(post("/v1/echo", b'{"text":"x"}'))
        assert client.answer().status == 503
        del edge.app.admission.admits
        client.send(post("/v1/echo", b'{"text":"y"}'))
        assert client.answer().status == 200
    assert edge.served == ["y"]


@pytest.mark.parametrize(
    ("path", "lines", "sender"),
    [("/v1/echo", (), Body.ANONYMOUS), ("/v1/private", (BEARER,), Body.KNOWN)],
    ids=["stranger", "known"],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_room_is_refused_before_it_is_read(
    edge: Edge, path: str, lines: tuple[str, ...], sender: Body, chunked: bool
) -> None:
    del edge.app.admission.admits
    edge.call(lambda: edge.app.admission.keep_body(sender, sender.bytes_max))
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {limits.LARGE_BODY_BYTES + 1}"
    head = [f"POST {path} HTTP/1.1", "Host: a", "Content-Type: application/json", framing, *lines, "", ""]
    with Raw(edge.url) as client:
        client.send("\r\n".join(head).encode())
        answer = client.answer()
        assert (answer.status, answer.json["code"]) == (503, "overloaded")
        assert answer.closes
    # A small one needs no room.
    assert ask(edge, post(path, b'{"text":"x"}', *lines)).status == 200


def test_memory_that_was_promised_is_given_back_however_the_request_ends(edge: Edge) -> None:
    del edge.app.admission.admits
    size = limits.LARGE_BODY_BYTES + 1
    whole = post("/v1/echo", b'{"text":"' + b"x" * size + b'"}')
    with Raw(edge.url) as client:
        for _ in range(2 * limits.BODIES_ANONYMOUS_BYTES_MAX // size):
            client.send(whole[:200])
            client.send(whole[200:])
            assert client.answer().status == 200
    for part in (whole[:200], whole[:-10]):
        with Raw(edge.url) as client:
            client.send(part)
    assert ask(edge, whole).status == 200
    edge.call(lambda: None)
    assert edge.app.admission._bodies[Body.ANONYMOUS] in (0, len(whole))
