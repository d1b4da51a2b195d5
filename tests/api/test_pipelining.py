"""Several requests on one connection: each is answered once, in order, and none is taken for another's body."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from tests.api.edge import Edge, only
from tests.api.raw import Raw, chunked, get, post

ECHO = "/v1/echo"
CLOSE = "Connection: close"


def text(word: str) -> bytes:
    return b'{"text":"%s"}' % word.encode()


def echo(word: str, *lines: str) -> bytes:
    return post(ECHO, text(word), *lines)


BAD = b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"
BROKEN_BODY = chunked(ECHO, text("broken")).replace(b"\r\n0\r\n", b"\r\nzz\r\n")
INSIDE = text("inside a body") + b" " * 20 + get("/v1/big")


@pytest.fixture(scope="module")
def running() -> Iterator[Edge]:
    with Edge(only()) as edge:
        yield edge


@pytest.fixture
def edge(running: Edge) -> Edge:
    running.renew()
    return running


@pytest.fixture
def connection(edge: Edge) -> Iterator[Raw]:
    with Raw(edge.url) as connection:
        yield connection


def wait_for(edge: Edge, word: str) -> None:
    until = time.monotonic() + 10
    while word not in edge.served:
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_connection_serves_many_requests(connection: Raw) -> None:
    for number in range(50):
        connection.send(echo(str(number)))
        answer = connection.answer()
        assert (answer.json, answer.header("connection")) == ({"status": str(number)}, None)


def test_requests_of_one_segment_are_answered_in_order(edge: Edge, connection: Raw) -> None:
    words = [str(number) for number in range(100)]
    connection.send(b"".join(map(echo, words)))
    assert [connection.answer().json["status"] for _ in words] == words
    assert edge.served == words


def test_a_quick_second_request_waits_for_the_first(edge: Edge, connection: Raw) -> None:
    connection.send(get("/v1/slow") + echo("second"))
    wait_for(edge, "slow")
    edge.release()
    assert [connection.answer().json["status"] for _ in range(2)] == ["slow", "second"]


def test_requests_cut_anywhere_are_put_together(connection: Raw) -> None:
    data = echo("one") + chunked(ECHO, b'{"text":', b'"two"}') + get()
    for place in range(0, len(data), 7):
        connection.send(data[place : place + 7])
    assert [connection.answer().json["status"] for _ in range(3)] == ["one", "two", "ok"]


@pytest.mark.parametrize("bad", [BAD, BROKEN_BODY, b"\x16\x03\x01\r\n\r\n"], ids=["head", "body", "garbage"])
def test_a_bad_second_request_does_not_disturb_the_first(edge: Edge, connection: Raw, bad: bytes) -> None:
    connection.send(get("/v1/slow") + bad + echo("never"))
    wait_for(edge, "slow")
    edge.release()
    first, second = connection.answer(), connection.answer()
    assert (first.status, first.json) == (200, {"status": "slow"})
    assert (second.status, second.json["code"], second.closes) == (400, "invalid_request", True)
    assert connection.rest() == b""
    assert edge.served == ["slow"]


@pytest.mark.parametrize("bad", [BAD, BROKEN_BODY], ids=["head", "body"])
def test_a_bad_third_request_lets_two_be_answered(edge: Edge, connection: Raw, bad: bytes) -> None:
    connection.send(get("/v1/slow") + echo("second") + bad)
    wait_for(edge, "slow")
    edge.release()
    assert [connection.answer().status for _ in range(3)] == [200, 200, 400]
    assert connection.rest() == b""
    assert edge.served == ["slow", "second"]


def test_a_bad_second_request_that_comes_while_the_first_is_served(edge: Edge, connection: Raw) -> None:
    connection.send(get("/v1/slow"))
    wait_for(edge, "slow")
    connection.send(BAD)
    time.sleep(0.05)
    edge.release()
    assert [connection.answer().status for _ in range(2)] == [200, 400]
    assert connection.rest() == b""


def test_a_request_whose_body_breaks_is_not_served(edge: Edge, connection: Raw) -> None:
    connection.send(BROKEN_BODY[:-10])
    time.sleep(0.05)
    connection.send(b"\r\n\r\n\r\n")
    answer = connection.answer()
    assert (answer.status, answer.closes) == (400, True)
    assert connection.rest() == b""
    assert edge.served == []


def test_the_refusal_of_a_body_that_breaks_and_goes_on_arrives(connection: Raw) -> None:
    connection.send(BROKEN_BODY[:-10])
    time.sleep(0.02)
    connection.send(b"\r\n\r\n\r\n")
    for _ in range(20):
        time.sleep(0.001)
        connection.send(b"x" * 65_536)
    assert connection.answer().status == 400
    assert connection.rest() == b""


def test_a_body_that_breaks_after_its_answer_gets_no_second_answer(connection: Raw) -> None:
    broken = chunked("/v1/private", text("a")).replace(b"\r\n0\r\n", b"\r\nzz\r\n")
    connection.send(broken[:-10])
    assert connection.answer().status == 401
    connection.send(b"\r\n\r\n\r\n")
    assert connection.rest() == b""


@pytest.mark.parametrize("how", [post, chunked], ids=["length", "chunks"])
def test_a_body_that_comes_after_its_answer_is_no_request(edge: Edge, connection: Raw, how) -> None:
    data = how("/v1/private", INSIDE)
    at = data.index(b"inside")
    connection.send(data[:at])
    assert connection.answer().status == 401
    connection.send(data[at:] + echo("next"))
    assert connection.answer().json == {"status": "next"}
    assert edge.served == ["next"]


def test_a_body_behind_its_refusal_in_one_segment_is_no_request(edge: Edge, connection: Raw) -> None:
    connection.send(post("/nowhere", INSIDE) + post("/v1/private", INSIDE) + echo("next"))
    assert [connection.answer().status for _ in range(3)] == [404, 401, 200]
    assert edge.served == ["next"]


def test_a_body_over_the_limit_leaves_the_connection_usable(edge: Edge, connection: Raw) -> None:
    connection.send(post(ECHO, INSIDE + b" " * (5 * 2**20)) + echo("next"))
    refused = connection.answer()
    assert (refused.status, refused.json["code"], refused.closes) == (413, "payload_too_large", False)
    assert connection.answer().json == {"status": "next"}
    assert edge.served == ["next"]


def test_a_body_far_over_the_limit_is_not_read_to_keep_the_connection(edge: Edge, connection: Raw) -> None:
    connection.send(post(ECHO, INSIDE).replace(b"Content-Length: ", b"Content-Length: 99999999"))
    refused = connection.answer()
    assert (refused.status, refused.closes) == (413, True)
    connection.send(echo("next"))
    assert connection.rest() == b""
    assert edge.served == []


def test_the_answer_to_a_body_that_nobody_reads_arrives(connection: Raw) -> None:
    # Closing with unread input would reset the connection, and a reset destroys what was sent.
    head = post(ECHO, b"").replace(b"Content-Length: 0", b"Content-Length: 99999999")
    connection.send(head + b"x" * 3 * 2**20)
    assert connection.answer().status == 413
    assert connection.rest() == b""


def test_a_client_that_waits_for_leave_gets_it(connection: Raw) -> None:
    data = echo("a", "Expect: 100-continue")
    connection.send(data[: -len(text("a"))])
    assert connection.answer().status == 100
    connection.send(text("a"))
    assert connection.answer().json == {"status": "a"}


def test_a_client_that_waits_for_leave_behind_another_request_gets_it_in_turn(
    edge: Edge, connection: Raw
) -> None:
    connection.send(get("/v1/slow") + echo("a", "Expect: 100-continue")[: -len(text("a"))])
    wait_for(edge, "slow")
    edge.release()
    assert [connection.answer().status for _ in range(2)] == [200, 100]
    connection.send(text("a"))
    assert connection.answer().json == {"status": "a"}


def test_a_client_that_is_refused_leave_cannot_send_another_request_in_its_body(
    edge: Edge, connection: Raw
) -> None:
    connection.send(post("/v1/private", INSIDE, "Expect: 100-continue")[: -len(INSIDE)])
    refused = connection.answer()
    assert (refused.status, refused.closes) == (401, True)
    connection.send(echo("next"))
    assert connection.rest() == b""
    assert edge.served == []


def test_http_1_0_knows_no_leave(connection: Raw) -> None:
    data = echo("a", "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    connection.send(data[: -len(text("a"))])
    time.sleep(0.05)
    connection.send(text("a"))
    answer = connection.answer()
    assert (answer.status, answer.closes) == (200, True)
    assert connection.rest() == b""


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/v1/private", "/v1/broken", "/%00"])
def test_an_answer_to_head_has_no_body(connection: Raw, path: str) -> None:
    connection.send(get(path).replace(b"GET", b"HEAD") + echo("next"))
    answer = connection.answer(head=True)
    assert int(answer.header("content-length")) > 0
    assert connection.answer().json == {"status": "next"}


def test_a_client_that_closes_gets_its_answer_and_nothing_more(edge: Edge, connection: Raw) -> None:
    connection.send(echo("last", CLOSE) + echo("never"))
    answer = connection.answer()
    assert (answer.json, answer.closes) == ({"status": "last"}, True)
    assert connection.rest() == b""
    assert edge.served == ["last"]


def test_http_1_0_is_closed_after_its_answer(connection: Raw) -> None:
    connection.send(get("/health", "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"))
    answer = connection.answer()
    assert (answer.status, answer.closes) == (200, True)
    assert connection.rest() == b""


def test_waiting_requests_are_limited(edge: Edge, connection: Raw) -> None:
    words = [str(number) for number in range(2_000)]
    connection.send(get("/v1/slow") + b"".join(map(echo, words)))
    wait_for(edge, "slow")
    edge.release()
    statuses = [connection.answer().status for _ in range(130)]
    assert statuses == [200] * 129 + [400]
    assert connection.rest() == b""
    assert edge.served == ["slow", *words[:128]]


def test_half_a_body_is_not_served(edge: Edge) -> None:
    with Raw(edge.url) as connection:
        connection.send(chunked(ECHO, text("half"))[: -len(b"0\r\n\r\n")])
        time.sleep(0.05)
    with Raw(edge.url) as another:
        another.send(echo("whole"))
        assert another.answer().status == 200
    assert edge.served == ["whole"]


def test_a_client_that_leaves_while_it_is_served_harms_nobody(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    with Raw(edge.url) as connection:
        connection.send(get("/v1/slow") + echo("waiting"))
        wait_for(edge, "slow")
    with Raw(edge.url) as another:
        another.send(get())
        assert another.answer().status == 200
        edge.release()
        another.send(get())
        assert another.answer().status == 200
    # What it had asked for before it left may still be done; nobody else's request is touched.
    assert edge.served in (["slow"], ["slow", "waiting"])
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_fault_of_ours_is_told_without_its_text(edge: Edge, connection: Raw) -> None:
    connection.send(get("/v1/broken", "X-Request-Id: mine") + echo("next"))
    answer = connection.answer()
    assert (answer.status, answer.closes) == (500, False)
    assert answer.json == {"error": "internal error", "code": "internal", "request_id": "mine"}
    assert connection.answer().json == {"status": "next"}


def test_work_cut_off_by_the_end_of_the_drain_is_of_unknown_outcome(edge: Edge, connection: Raw) -> None:
    connection.send(get("/v1/slow", "X-Request-Id: mine"))
    wait_for(edge, "slow")
    edge.call(lambda: [task.cancel() for task in edge.server.server_state.tasks])
    answer = connection.answer()
    assert (answer.status, answer.json["code"], answer.json["request_id"]) == (503, "outcome_unknown", "mine")
    assert answer.header("x-request-id") == "mine"
    assert connection.rest() == b""


def test_the_drain_answers_what_has_begun() -> None:
    with Edge(only()) as edge, Raw(edge.url) as connection:
        with Raw(edge.url) as idle:
            idle.send(get())
            assert idle.answer().status == 200
            connection.send(get("/v1/slow"))
            wait_for(edge, "slow")
            edge.server.should_exit = True
            assert idle.closed()
        edge.release()
        answer = connection.answer()
        assert (answer.status, answer.closes) == (200, True)
        assert connection.rest() == b""


def test_the_drain_does_not_wait_for_a_client_that_was_refused() -> None:
    with Edge(only()) as edge, Raw(edge.url) as connection:
        connection.send(BAD)
        assert connection.answer().status == 400
        edge.server.should_exit = True
        started = time.monotonic()
        while edge.alive:
            assert time.monotonic() - started < 5
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        ([], ["6.6.6.6"], "127.0.0.1"),
        (["10.0.0.0/8"], ["6.6.6.6"], "127.0.0.1"),
        (["127.0.0.1/32"], [], "127.0.0.1"),
        (["127.0.0.1/32"], ["6.6.6.6"], "6.6.6.6"),
        (["127.0.0.1/32"], ["1.1.1.1, 6.6.6.6"], "6.6.6.6"),
        (["127.0.0.1/32"], ["1.1.1.1", "6.6.6.6"], "6.6.6.6"),
        (["127.0.0.1/32", "10.0.0.0/8"], ["1.1.1.1, 6.6.6.6, 10.1.2.3"], "6.6.6.6"),
        (["127.0.0.1/32"], ["[2001:db8::1]:443"], "2001:db8::1"),
    ],
)
def test_a_client_address_is_taken_from_trusted_proxies_alone(proxies, forwarded, address) -> None:
    lines = [f"X-Forwarded-For: {value}" for value in forwarded]
    with Edge(only(), proxies=proxies) as edge, Raw(edge.url) as connection:
        connection.send(get("/v1/address", "Authorization: Bearer x", *lines))
        assert connection.answer().json == {"status": address}


def test_a_client_address_does_not_come_from_a_trailer() -> None:
    with Edge(only(), proxies=["127.0.0.1/32"]) as edge, Raw(edge.url) as connection:
        data = chunked("/v1/address", b"x", trailers=("X-Forwarded-For: 6.6.6.6", "X-A: b"))
        connection.send(data.replace(b"POST", b"GET").replace(b"Host", b"Authorization: Bearer x\r\nHost", 1))
        assert connection.answer().json == {"status": "127.0.0.1"}
