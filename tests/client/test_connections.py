"""A connection ends with its thread, its process or its client; nothing that is printed shows what went over it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPMessage

import pytest

from qimem.client import Client, Wire
from qimem.client.transport import HttpAnswer, HttpRequest
from tests.client.scripted import OK, scripted

# The scripted server takes one connection after the other: the next only once the one before is closed.
HELD = [OK, OK]
BRIEF = Wire(timeout_seconds=3)


def test_a_thread_that_ended_leaves_no_connection() -> None:
    with scripted(HELD, HELD, HELD) as server, Client(server.url, wire=BRIEF) as client:
        for _ in range(3):
            with ThreadPoolExecutor(1) as thread:
                assert thread.submit(client.ready).result().status == "ready"
        assert server.connections == 3


def test_a_connection_of_a_call_after_close_is_closed_by_the_next_one() -> None:
    with scripted(HELD, HELD, HELD) as server, Client(server.url, wire=BRIEF) as client:
        for _ in range(3):
            assert client.ready().status == "ready"
            client.close()
        assert server.connections == 3


def test_a_child_does_not_hold_what_its_parent_closes() -> None:
    reading, writing = os.pipe()
    with scripted(HELD, HELD) as server, Client(server.url, wire=BRIEF) as client:
        client.ready()
        child = os.fork()
        if not child:
            # Never calls, and lives until the test has ended.
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        try:
            client.close()
            assert client.ready().status == "ready"
            assert server.connections == 2
        finally:
            os.close(writing)
            os.close(reading)
            os.waitpid(child, 0)


def test_the_lock_of_a_thread_that_a_child_does_not_have_is_open() -> None:
    with scripted(HELD) as server, Client(server.url, wire=BRIEF) as client:
        client.ready()
        with client._transport._lock:
            child = os.fork()
            if not child:
                os._exit(0 if client._transport._lock.acquire(timeout=1) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_is_sent_and_what_comes_back_is_not_printed() -> None:
    headers = HTTPMessage()
    headers["ETag"] = "topsecret"
    request = HttpRequest("POST", "/v1/auth/token", {"Authorization": "topsecret"}, b"topsecret", True)
    answer = HttpAnswer(200, headers, b"topsecret")
    assert "topsecret" not in repr(request) + repr(answer)
    assert repr(request).startswith("HttpRequest(method='POST', target='/v1/auth/token'")
    assert repr(answer) == "HttpAnswer(status=200)"


@pytest.mark.parametrize("token", ["topsecret\n", "topsecret\r\nX-More: 1", "top\u2028secret"])
def test_a_token_that_no_header_holds_is_not_repeated(token: str) -> None:
    with pytest.raises(ValueError, match="line break") as caught:
        Client("http://127.0.0.1:1", token)
    assert "secret" not in str(caught.value)
