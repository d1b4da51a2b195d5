"""The load: what it sends, what it reads, what it refuses."""

from __future__ import annotations

import json
import re
from typing import Any, Self

import pytest

from bench import callers, load
from bench.figures import Run, RunRefused
from tests.bench.recorder import Recorder

GOOD = {
    "requests": 3000, "duration_us": 1_500_000, "p50_us": 800, "p99_us": 4000,
    "connect": 0, "read": 0, "write": 0, "timeout": 0, "status": 0,
}  # fmt: skip


def printed(**changed: int) -> str:
    return f"Running 1s test\n  1 threads\nbench: {json.dumps(GOOD | changed)}\n"


# The result of a load.


def test_a_result_becomes_a_run() -> None:
    run = load.parse(printed(), 0.3)
    assert run == Run(requests=3000, seconds=1.5, cpu_seconds=0.3, p50_us=800, p99_us=4000)
    assert run.rate == 2000
    assert run.cpu_us == pytest.approx(100)


@pytest.mark.parametrize("kind", ["connect", "read", "write", "timeout", "status"])
def test_a_result_with_an_error_is_refused(kind: str) -> None:
    with pytest.raises(RunRefused, match=f"{kind} 1"):
        load.parse(printed(**{kind: 1}), 0.3)


def test_a_result_without_requests_is_refused() -> None:
    with pytest.raises(RunRefused, match="nothing was answered"):
        load.parse(printed(requests=0), 0.3)


@pytest.mark.parametrize("output", ["", "unable to connect to 127.0.0.1:1", "Requests/sec: 9.00"])
def test_output_without_a_result_is_refused(output: str) -> None:
    with pytest.raises(RunRefused, match="no result"):
        load.parse(output, 0.3)


class Stub(load.Load):
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def finish(self) -> str:
        return printed()


def test_cpu_time_is_that_of_the_run_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "Load", Stub)
    server: Any = Recorder(lambda _: (200, b""))
    server.processes = [{1: 5.0, 2: 1.0}, {1: 5.5, 2: 1.25}]
    assert load.measure(server, "", 1).cpu_seconds == pytest.approx(0.75)
    server._server.server_close()


def test_a_run_in_which_a_process_was_replaced_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "Load", Stub)
    server: Any = Recorder(lambda _: (200, b""))
    server.processes = [{1: 5.0, 2: 1.0}, {1: 5.5, 3: 0.1}]
    with pytest.raises(RunRefused, match="replaced"):
        load.measure(server, "", 1)
    server._server.server_close()


# The load itself, with wrk.


def test_lua_reads_back_any_bytes() -> None:
    every = bytes(range(256))
    literal = load.lua_text(every)
    assert literal.isascii()
    assert literal.isprintable()
    inside = literal[1:-1]
    assert '"' not in inside
    assert bytes(
        int(code) if code else ord(plain) for code, plain in re.findall(r"\\(\d{3})|([^\\])", inside)
    ) == every  # fmt: skip


def test_a_load_sends_exactly_the_bytes_it_was_given() -> None:
    request = load.post("/a/path", {"input": 'quo"te\\ \u20ac \r\n'}, "token")
    with Recorder(lambda _: (200, b"{}")) as server:
        run = load.measure(server, load.cycle([request]), 1, 2)
    assert set(server.received) == {request.raw()}
    # Two requests may be under way when the time is over.
    assert 0 <= len(server.received) - run.requests <= 2
    assert run.cpu_seconds == 0.5


def test_a_request_without_a_body_is_a_get() -> None:
    request = load.get("/a/path?limit=10", "token")
    assert request.raw() == (
        b"GET /a/path?limit=10 HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer token\r\n\r\n"
    )


def test_a_load_of_several_requests_sends_them_in_turn() -> None:
    requests = [load.post("/a/path", {"number": number}, "token") for number in range(3)]
    with Recorder(lambda _: (200, b"{}")) as server:
        load.measure(server, load.cycle(requests), 1, 1)
    raw = [request.raw() for request in requests]
    begin = raw.index(server.received[0])
    assert server.received == [raw[(begin + number) % 3] for number in range(len(server.received))]


def test_a_load_with_refusals_is_refused() -> None:
    answers = iter([(200, b"{}"), (400, b"{}")])
    with Recorder(lambda _: next(answers, (200, b"{}"))) as server:
        script = load.cycle([load.post("/a/path", {})])
        with pytest.raises(RunRefused, match="status 1"):
            load.measure(server, script, 1, 1)


def test_a_refresh_chain_spends_every_token_once() -> None:
    live, spent = {f"first-{number}" for number in range(4)}, set()

    def rotate(body: bytes) -> tuple[int, bytes]:
        token = json.loads(body)["refresh_token"]
        if token not in live:
            return 400, b"{}"
        live.remove(token)
        spent.add(token)
        successor = f"next-{len(spent)}"
        live.add(successor)
        return 200, json.dumps({"refresh_token": successor}, separators=(",", ":")).encode()

    with Recorder(rotate) as server:
        run = load.measure(server, load.refresh_chain("/r", sorted(live)), 1, 4)
    assert len(spent) == len(server.received) >= run.requests > 4


def test_a_refresh_chain_that_breaks_is_refused() -> None:
    def forgetful(body: bytes) -> tuple[int, bytes]:
        known = json.loads(body)["refresh_token"] == "first"
        return (200, b"{}") if known else (400, b"{}")

    with Recorder(forgetful) as server, pytest.raises(RunRefused, match="status"):
        load.measure(server, load.refresh_chain("/r", ["first"]), 1, 1)


def test_the_request_that_is_checked_is_the_one_that_is_loaded() -> None:
    with Recorder(lambda _: (200, b"fine")) as server:
        request = load.post("/a/path", {"a": 1}, "token")
        assert load.ask(server, request) == b"fine"
    assert server.received == [request.raw()]


def test_a_check_that_is_refused_says_what_the_server_said() -> None:
    with (
        Recorder(lambda _: (500, b"no")) as server,
        pytest.raises(RunRefused, match=r"500 b'no': its last words"),
    ):
        load.ask(server, load.post("/a/path", {}))


def test_the_chain_sends_what_a_refresh_request_is() -> None:
    with Recorder(lambda _: (200, b'{"refresh_token":"t"}')) as server:
        load.measure(server, load.refresh_chain(callers.REFRESH_PATH, ["t"]), 1, 1)
    assert set(server.received) == {callers.refresh("t").raw()}
