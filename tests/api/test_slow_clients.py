"""Whoever does not send, does not finish or does not read is cut; whoever is slow and honest is not.

Every deadline is tested with shortened seconds under the edge in this process, and with the real
ones against a real server in `make acceptance`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from qimem.kernel import limits
from qimem.observability.metrics import CLOSED
from qimem.web.kit.protocol import GuardedProtocol
from tests.api.edge import BIG, Edge, only
from tests.api.raw import Raw, chunked, get, post
from tests.support.certificates import authority, serving
from tests.support.server import Server
from tests.support.volume import VARIABLE

SHORT = 0.3
SLACK_SECONDS = 3.0
"""A busy machine wakes late; every deadline but the one under test is far beyond this."""

ECHO = b"POST /v1/echo HTTP/1.1\r\nHost: a.example\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


over_both = pytest.mark.parametrize("transport", ["plain", "tls"])


def edge_over(transport: str, protocol: type[GuardedProtocol]) -> Edge:
    return Edge(protocol, tls=None if transport == "plain" else serving(authority().issue()))


@contextlib.contextmanager
def connected(
    transport: str = "plain", *, receive_buffer: int | None = None, **short: float
) -> Iterator[tuple[Edge, Raw]]:
    with (
        edge_over(transport, only(**short)) as edge,
        Raw(edge.url, receive_buffer=receive_buffer) as connection,
    ):
        yield edge, connection


def seconds_until_cut(connection: Raw, *, drip: bytes = b"", every: float = 0.02) -> float:
    """Wait for the end, sending a byte of `drip` now and then; no byte may come back."""
    started = time.monotonic()
    stop = threading.Event()

    def send() -> None:
        for byte in drip:
            if stop.wait(every):
                return
            with contextlib.suppress(OSError):
                connection.send(bytes([byte]))

    sender = threading.Thread(target=send)
    sender.start()
    assert connection.closed()
    stop.set()
    sender.join()
    return time.monotonic() - started


def check_cut(connection: Raw, *, drip: bytes = b"") -> None:
    taken = seconds_until_cut(connection, drip=drip)
    assert SHORT - 0.05 <= taken <= SHORT + SLACK_SECONDS


def wait_until_served(edge: Edge) -> None:
    while not edge.served:
        time.sleep(0.01)


def seconds_until_gone(edge: Edge) -> float:
    """Wait until the server has no connection any more, for clients that do not read."""
    started = time.monotonic()
    while edge.call(lambda: len(edge.server.server_state.connections)):
        assert time.monotonic() - started < 10
        time.sleep(0.02)
    return time.monotonic() - started


@over_both
@pytest.mark.parametrize("drip", [b"", b"\r\n" * 500], ids=["nothing", "empty lines"])
def test_a_connection_that_begins_no_request_is_cut(transport: str, drip: bytes) -> None:
    with connected(transport, first_byte_seconds=SHORT) as (_, connection):
        check_cut(connection, drip=drip)


@pytest.mark.parametrize(
    ("begin", "drip"),
    [
        (b"GET /health HT", b""),
        (b"GET /health HTTP/1.1\r\nX-A: ", b"x" * 500),
        (b"GET /health HTTP/1.1\r\n", b"A: b\r\n" * 100),
        (b"GET /", b"a" * 500),
    ],
    ids=["stops", "one line drips", "lines drip", "target drips"],
)
@over_both
def test_headers_that_do_not_end_are_cut(transport: str, begin: bytes, drip: bytes) -> None:
    with connected(transport, headers_seconds=SHORT) as (_, connection):
        connection.send(begin)
        check_cut(connection, drip=drip)


@pytest.mark.parametrize(
    ("begin", "drip"),
    [
        (ECHO + b"{", b""),
        (ECHO, b"{" * 99),
        (chunked("/v1/echo", b"{")[: -len(b"0\r\n\r\n")], b"1\r\n \r\n" * 100),
        (chunked("/v1/echo", b"{")[: -len(b"\r\n")], b"A: b\r\n" * 100),
    ],
    ids=["stops", "drips", "chunks drip", "trailers drip"],
)
@over_both
def test_a_body_that_does_not_end_is_cut(transport: str, begin: bytes, drip: bytes) -> None:
    with connected(transport, body_seconds=SHORT) as (_, connection):
        connection.send(begin)
        check_cut(connection, drip=drip)


@over_both
def test_an_idle_connection_is_cut_after_its_answer(transport: str) -> None:
    with connected(transport, keep_alive_seconds=SHORT) as (_, connection):
        connection.send(get())
        assert connection.answer().status == 200
        check_cut(connection)


def test_the_second_request_has_the_deadline_of_a_first() -> None:
    with connected(headers_seconds=SHORT) as (_, connection):
        connection.send(get())
        assert connection.answer().status == 200
        connection.send(b"GET /health HT")
        check_cut(connection)


def test_a_connection_whose_body_came_after_its_answer_is_idle_like_any_other() -> None:
    data = post("/v1/private", b"{}" + b" " * 98)
    with connected(keep_alive_seconds=SHORT) as (_, connection):
        connection.send(data[:-50])
        assert connection.answer().status == 401
        connection.send(data[-50:])
        check_cut(connection)


def test_a_body_that_never_ends_after_its_answer_is_cut() -> None:
    with connected(body_seconds=SHORT) as (_, connection):
        connection.send(post("/v1/private", b"{}" + b" " * 98)[:-50])
        assert connection.answer().status == 401
        check_cut(connection, drip=b" " * 40)


@over_both
def test_a_refused_client_that_does_not_go_is_cut(transport: str) -> None:
    with connected(transport, first_byte_seconds=SHORT) as (edge, connection):
        connection.send(b"NONSENSE\r\n\r\n")
        assert connection.answer().status == 400
        assert connection.socket.recv(1) == b""
        connection.send(b"x")
        assert SHORT - 0.1 <= seconds_until_gone(edge) <= SHORT + SLACK_SECONDS


@over_both
def test_a_slow_handler_is_not_the_clients_fault(transport: str) -> None:
    names = ("first_byte", "headers", "body", "write_stall", "keep_alive")
    with connected(transport, **{f"{name}_seconds": 0.1 for name in names}) as (edge, connection):
        connection.send(get("/v1/slow"))
        time.sleep(0.4)
        edge.release()
        assert connection.answer().status == 200


@over_both
def test_a_late_second_request_does_not_spoil_the_answer_to_the_first(transport: str) -> None:
    with connected(transport, headers_seconds=SHORT) as (edge, connection):
        connection.send(get("/v1/slow") + b"GET /health HT")
        time.sleep(SHORT + 0.2)
        edge.release()
        assert connection.answer().status == 200
        late = connection.answer()
        assert (late.status, late.closes) == (408, True)
        assert connection.rest() == b""


def test_a_body_is_given_its_time_again_after_the_requests_before_it() -> None:
    with connected(body_seconds=0.6) as (edge, connection):
        connection.send(get("/v1/slow") + post("/v1/echo", b'{"text":"a"}')[:-1])
        time.sleep(0.4)
        edge.release()
        assert connection.answer().status == 200
        time.sleep(0.4)
        connection.send(b"}")
        assert connection.answer().json == {"status": "a"}


@over_both
def test_a_reader_that_stops_is_cut(transport: str) -> None:
    with connected(transport, write_stall_seconds=SHORT, receive_buffer=4096) as (edge, connection):
        connection.send(get("/v1/big"))
        wait_until_served(edge)
        assert SHORT - 0.1 <= seconds_until_gone(edge) <= SHORT + SLACK_SECONDS
        # What the kernel took is still there, the rest is not.
        assert len(connection.rest_or_reset()) < BIG


@over_both
def test_a_reader_that_drips_is_cut(transport: str) -> None:
    with connected(transport, write_stall_seconds=SHORT, receive_buffer=4096) as (edge, connection):
        connection.send(get("/v1/big"))
        wait_until_served(edge)
        started = time.monotonic()
        while edge.call(lambda: len(edge.server.server_state.connections)):
            assert time.monotonic() - started < SHORT + SLACK_SECONDS
            connection.socket.recv(256)
            time.sleep(0.01)


@over_both
def test_a_reader_that_goes_on_gets_everything(transport: str) -> None:
    with connected(transport, write_stall_seconds=SHORT, keep_alive_seconds=SHORT, receive_buffer=65536) as (
        _,
        connection,
    ):
        connection.send(get("/v1/big"))
        started, read = time.monotonic(), 0
        while read < BIG:
            chunk = connection.socket.recv(65536)
            assert chunk, read
            read += len(chunk)
            if time.monotonic() - started < 3 * SHORT:
                # A read of TLS brings a record, a quarter of this at most.
                time.sleep(0.005 * len(chunk) / 65536)
        assert time.monotonic() - started > SHORT


@over_both
def test_a_client_that_asks_and_does_not_read_gets_no_more_answers(transport: str) -> None:
    with connected(transport, write_stall_seconds=SHORT, receive_buffer=4096) as (edge, connection):
        connection.send(get("/v1/big") * 100)
        wait_until_served(edge)
        seconds_until_gone(edge)
        assert edge.served == ["big"]


@over_both
def test_asking_again_does_not_keep_a_stalled_connection(transport: str) -> None:
    stop = threading.Event()
    with connected(transport, write_stall_seconds=SHORT, receive_buffer=4096) as (edge, connection):

        def ask() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.02):
                    connection.send(get("/v1/big"))

        connection.send(get("/v1/big"))
        asking = threading.Thread(target=ask)
        asking.start()
        wait_until_served(edge)
        gone = seconds_until_gone(edge)
        stop.set()
        asking.join()
    assert gone < SHORT + SLACK_SECONDS


def test_beyond_the_connection_limit_a_newcomer_is_closed_at_once_while_all_others_are_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 2)
    with Edge(only()) as edge, Raw(edge.url) as first, Raw(edge.url) as second:
        for connection in (first, second):
            connection.send(get("/v1/slow"))
        while len(edge.served) < 2:
            time.sleep(0.01)
        with Raw(edge.url) as third:
            started = time.monotonic()
            assert third.closed()
            assert time.monotonic() - started < SLACK_SECONDS
        edge.release()
        for connection in (first, second):
            assert connection.answer().status == 200


def test_beyond_the_connection_limit_idle_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 2)
    with Edge(only()) as edge, Raw(edge.url) as first, Raw(edge.url) as second:
        for connection in (first, second):
            connection.send(get())
            assert connection.answer().status == 200
        with Raw(edge.url) as third:
            third.send(get())
            assert third.answer().status == 200
        assert first.rest_or_reset() == b""
        assert edge.metrics.counts(CLOSED)["idle"] == 2


def test_a_fault_of_one_connection_does_not_end_the_watch_over_the_others() -> None:
    class Faulty(only(first_byte_seconds=SHORT)):
        faulty = True

        def sweep(self, now: float) -> None:
            if self.faulty:
                self.faulty = False
                raise RuntimeError
            super().sweep(now)

    with Edge(Faulty) as edge:
        with Raw(edge.url) as one, Raw(edge.url) as other:
            assert one.closed()
            assert other.closed()
        assert len(edge.faults) == 2
        edge.faults.clear()


def test_two_servers_of_one_process_watch_over_their_own_connections() -> None:
    quick = only(first_byte_seconds=SHORT)
    with Edge(quick) as one, Edge(quick) as other, Raw(one.url) as first, Raw(other.url) as second:
        assert first.closed()
        assert second.closed()


REAL: dict[str, tuple[Callable[[Raw], None], bytes, float]] = {
    "idle": (lambda c: None, b"", limits.FIRST_BYTE_SECONDS),
    "partial header": (lambda c: c.send(b"GET /health HT"), b"", limits.HEADERS_SECONDS),
    "dripped header": (lambda c: c.send(b"GET /health HTTP/1.1\r\nX-A: "), b"x", limits.HEADERS_SECONDS),
    "stopped body": (lambda c: c.send(ECHO.replace(b"echo", b"auth/token")), b"", limits.BODY_SECONDS),
    "dripped body": (lambda c: c.send(ECHO.replace(b"echo", b"auth/token")), b"{", limits.BODY_SECONDS),
}


@pytest.mark.acceptance
def test_slow_clients_are_cut_at_the_limits_of_a_real_server(sqlite_server: Server) -> None:
    """All at the same time; the daily run sees that none is cut early."""
    full = os.environ.get(VARIABLE) == "full"

    def watch(name: str) -> None:
        begin, drip, limit = REAL[name]
        with Raw(sqlite_server.url, seconds=limit + 15 if full else 0.5) as connection:
            begin(connection)
            if not full:
                with pytest.raises(TimeoutError):
                    connection.rest()
                return
            taken = seconds_until_cut(connection, drip=drip * 60, every=1.0)
            assert limit <= taken + 0.1 <= limit + 3, (name, taken)

    def read_nothing() -> None:
        page = get("/v1/openapi.json")
        with Raw(sqlite_server.url, receive_buffer=4096) as connection:
            connection.send(page * 100)
            if full:
                time.sleep(limits.WRITE_STALL_SECONDS + limits.SWEEP_SECONDS * 3)
                answers = connection.rest_or_reset().count(b"HTTP/1.1 200")
                assert 0 < answers < 100

    with ThreadPoolExecutor(len(REAL) + 1) as threads:
        found = [threads.submit(watch, name) for name in REAL]
        found.append(threads.submit(read_nothing))
        for one in found:
            one.result()
