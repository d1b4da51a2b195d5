"""TLS in front of HTTP: who is let in, who is cut, and what a connection does that no client library would."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from qimem.crypto.certificates import thumbprint
from qimem.kernel import limits
from qimem.web.kit import tls as tls_module
from qimem.web.kit.tls import Tls
from tests.api.edge import Edge, only
from tests.api.raw import Raw, chunked, get, post
from tests.support.certificates import Authority, authority, serving, trusting

SHORT = 0.3
SLACK_SECONDS = 3.0


def quick(tls: Tls, seconds: float = SHORT) -> Tls:
    tls.handshake_seconds = seconds
    return tls


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    with Edge(only(), tls=serving(authority().issue())) as edge:
        yield edge


def connect(edge: Edge) -> socket.socket:
    place = urlsplit(edge.url)
    return socket.create_connection((place.hostname, place.port), timeout=10)


class ByHand:
    """A client whose every byte on the wire is the test's."""

    def __init__(self, edge: Edge, context: ssl.SSLContext | None = None) -> None:
        self.socket = connect(edge)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = (context or trusting()).wrap_bio(
            self.incoming, self.outgoing, server_hostname="127.0.0.1"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def step(self, what: Callable[[], Any], *, flush: bool = True) -> Any:
        while True:
            try:
                result = what()
            except ssl.SSLWantReadError:
                self.socket.sendall(self.outgoing.read())
                data = self.socket.recv(65536)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
                continue
            if flush:
                self.socket.sendall(self.outgoing.read())
            return result

    def hands_shaken(self) -> Self:
        self.step(self.session.do_handshake)
        return self

    def records(self, data: bytes, size: int = 1) -> bytes:
        """As records of so many bytes each."""
        for start in range(0, len(data), size):
            self.session.write(data[start : start + size])
        return self.outgoing.read()

    def read(self) -> bytes:
        return self.step(lambda: self.session.read(65536))


# --- who is let in ----------------------------------------------------------------------------


def test_an_answer_comes_over_tls_1_3_and_the_connection_goes_on(edge: Edge) -> None:
    with Raw(edge.url) as connection:
        assert connection.socket.version() == "TLSv1.3"
        for _ in range(3):
            connection.send(get())
            assert connection.answer().status == 200


def test_an_older_version_is_refused(edge: Edge) -> None:
    context = authority().trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with connect(edge) as plain, pytest.raises(ssl.SSLError, match="alert protocol version"):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_client_of_http_2_alone_is_spoken_http_1_to(edge: Edge) -> None:
    context = authority().trusting()
    context.set_alpn_protocols(["h2"])
    with connect(edge) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
        assert secured.selected_alpn_protocol() is None
        secured.sendall(get())
        assert secured.recv(4096).startswith(b"HTTP/1.1 200")


def test_no_session_is_resumed(edge: Edge) -> None:
    context = authority().trusting()
    with connect(edge) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
        secured.sendall(get())
        assert secured.recv(4096)
        assert secured.session is None or not secured.session.has_ticket


@pytest.mark.parametrize(
    "first",
    [get(), post("/v1/echo", b'{"text":"a"}')],
    ids=["GET", "POST"],
)
def test_plain_http_is_told_so_in_plain_words_and_served_nothing(edge: Edge, first: bytes) -> None:
    edge.renew()
    with connect(edge) as plain:
        plain.sendall(first)
        answer = plain.recv(4096)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"connection: close\r\n" in answer
        assert plain.recv(1) == b""
    assert edge.served == []


@pytest.mark.parametrize(
    "first",
    [
        b"\x80\x2e\x01\x00\x02" + bytes(60),
        bytes(range(128, 256)) * 4,
        b"\x16\x03\x01\x00\x05hello",
        b"\x17\x03\x03\x00\x20" + bytes(32),
        b"SSH-2.0-x\r\n",
        b"\x16\x03\x01\xff\xff" + bytes(2**16),
    ],
    ids=["SSL 2", "bytes of no meaning", "a broken hello", "data before hello", "SSH", "a record too large"],
)
def test_what_is_no_handshake_ends_it(edge: Edge, first: bytes) -> None:
    with connect(edge) as plain:
        plain.sendall(first)
        with contextlib.suppress(ConnectionResetError):
            while chunk := plain.recv(4096):
                # An alert.
                assert chunk[0] == 21
    with Raw(edge.url) as connection:
        connection.send(get())
        assert connection.answer().status == 200


# --- client certificates ----------------------------------------------------------------------


async def tells_certificate(scope: Any, receive: Any, send: Any) -> None:
    """Answers what the scope says of the client's certificate."""
    seen = scope["extensions"].get("qimem.client_certificate")
    scope["extensions"]["qimem.exchange"].answer(200, b"", json.dumps(seen).encode())


@pytest.fixture(scope="module")
def clients() -> Authority:
    return Authority("Clients")


@pytest.fixture(scope="module", params=["optional", "required"])
def asking(request: pytest.FixtureRequest, clients: Authority) -> Iterator[tuple[str, Edge]]:
    tls = serving(authority().issue(), client_ca=clients.pem, client_certificates=request.param)
    with Edge(only(), app=tells_certificate, tls=tls) as edge:
        yield request.param, edge


def shown(edge: Edge, own: tuple[Path, Path] | None) -> Any:
    """What the application sees, or `SSLError`: in TLS 1.3 a client learns at its first read."""
    with (
        connect(edge) as plain,
        authority().trusting(own).wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(get() + get())
        answer = secured.recv(4096)
        return json.loads(answer.partition(b"\r\n\r\n")[2].split(b"HTTP/1.1")[0])


def test_a_certificate_of_a_trusted_authority_is_known_to_the_application(
    asking: tuple[str, Edge], clients: Authority, tmp_path: Path
) -> None:
    issued = clients.issue("client")
    assert shown(asking[1], issued.write(tmp_path)) == thumbprint(issued.der)


def test_without_a_certificate_a_client_is_served_unless_one_is_required(asking: tuple[str, Edge]) -> None:
    mode, edge = asking
    if mode == "optional":
        assert shown(edge, None) is None
    else:
        with pytest.raises(ssl.SSLError, match="certificate required"):
            shown(edge, None)


@pytest.mark.parametrize(
    "fault", ["another authority", "its own", "ended", "not begun", "the server's authority"]
)
def test_a_certificate_that_is_not_trusted_ends_the_handshake(
    asking: tuple[str, Edge], clients: Authority, tmp_path: Path, fault: str
) -> None:
    match fault:
        case "another authority":
            issued = Authority("Clients").issue("client")
        case "its own":
            stranger = Authority("client")
            issued = stranger.issue("client")
        case "ended":
            issued = clients.issue("client", begins=-3, ends=-1)
        case "not begun":
            issued = clients.issue("client", begins=1)
        case _:
            issued = authority().issue("client")
    with pytest.raises(ssl.SSLError, match="alert"):
        shown(asking[1], issued.write(tmp_path))


def test_where_none_is_asked_for_none_is_believed(clients: Authority, tmp_path: Path) -> None:
    with Edge(only(), app=tells_certificate, tls=serving(authority().issue())) as edge:
        assert shown(edge, clients.issue("client").write(tmp_path)) is None


# --- who is cut -------------------------------------------------------------------------------


def hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    session = trusting().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        (b"", b""),
        (hello()[:100], b""),
        (hello()[:50], hello()[50:90]),
        (hello(), b""),
        (b"GET / HTTP/1.1\r\n\r\n", b"x" * 40),
    ],
    ids=["says nothing", "half a hello", "a hello that drips", "no end", "refused and stays"],
)
def test_a_handshake_that_stalls_is_cut(first: bytes, drip: bytes) -> None:
    with Edge(only(), tls=quick(serving(authority().issue()))) as edge, connect(edge) as plain:
        started = time.monotonic()
        plain.sendall(first)
        for byte in drip:
            time.sleep(0.02)
            with contextlib.suppress(OSError):
                plain.send(bytes([byte]))
        with contextlib.suppress(ConnectionResetError):
            while plain.recv(65536):
                pass
        while edge.call(lambda: len(edge.server.server_state.connections)):
            assert time.monotonic() - started < SHORT + SLACK_SECONDS
            time.sleep(0.01)
        # A long drip goes on sending; what counts is that it was not waited for.
        assert SHORT - 0.1 <= time.monotonic() - started <= SHORT + SLACK_SECONDS


def test_unfinished_handshakes_count_as_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 2)
    with Edge(only(), tls=serving(authority().issue())) as edge, connect(edge), connect(edge):
        while edge.call(lambda: len(edge.server.server_state.connections)) < 2:
            time.sleep(0.01)
        started = time.monotonic()
        with connect(edge) as third, contextlib.suppress(ConnectionResetError):
            assert third.recv(1) == b""
        assert time.monotonic() - started < SLACK_SECONDS


def test_of_too_many_unfinished_handshakes_the_oldest_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKES_MAX", 2)
    with (
        Edge(only(), tls=serving(authority().issue())) as edge,
        connect(edge) as oldest,
        connect(edge) as second,
    ):
        while edge.call(lambda: len(edge.server.server_state.connections)) < 2:
            time.sleep(0.01)
        with Raw(edge.url) as honest:
            honest.send(get())
            assert honest.answer().status == 200
            with contextlib.suppress(ConnectionResetError):
                assert oldest.recv(1) == b""
            # Those that are finished take no place.
            with Raw(edge.url) as another:
                another.send(get())
                assert another.answer().status == 200
            second.settimeout(0.05)
            with pytest.raises(TimeoutError):
                second.recv(1)


def test_the_end_of_the_server_does_not_wait_for_handshakes() -> None:
    with Edge(only(), tls=serving(authority().issue())) as edge, connect(edge) as plain:
        plain.sendall(hello()[:50])
        while not edge.call(lambda: len(edge.server.server_state.connections)):
            time.sleep(0.01)
        started = time.monotonic()
        edge.server.should_exit = True
        while edge.alive:
            time.sleep(0.01)
        assert time.monotonic() - started < SLACK_SECONDS


# --- records ----------------------------------------------------------------------------------


def test_requests_in_records_of_one_byte_are_served(edge: Edge) -> None:
    edge.renew()
    data = post("/v1/echo", b'{"text":"a"}') + chunked("/v1/echo", b'{"te', b'xt":"b"}')
    with ByHand(edge).hands_shaken() as client:
        client.socket.sendall(client.records(data))
        read = b""
        while read.count(b"HTTP/1.1 200") < 2:
            read += client.read()
    assert edge.served == ["a", "b"]


def test_many_requests_in_records_of_their_own_keep_nobody_waiting(edge: Edge) -> None:
    """In one segment: as many as one read of plain bytes may hold, and then the connection ends."""
    edge.renew()
    with ByHand(edge).hands_shaken() as client:
        data = b"".join(client.records(get("/v1/slow"), 65536) for _ in range(1000))
        client.socket.sendall(data)
        edge.release()
        read = b""
        with contextlib.suppress(ssl.SSLEOFError, ConnectionResetError, BrokenPipeError):
            while piece := client.read():
                read += piece
    assert len(edge.served) <= 130
    assert b"HTTP/1.1 400" in read


def test_a_goodbye_after_a_refusal_comes_with_the_answer(edge: Edge) -> None:
    """close_notify, not the end of the socket alone: the answer is known to be whole (RFC 8446 §6.1)."""
    with ByHand(edge).hands_shaken() as client:
        client.socket.sendall(client.records(b"NONSENSE\r\n\r\n", 100))
        assert client.read().startswith(b"HTTP/1.1 400")
        # An end without a goodbye raises.
        assert client.read() == b""


def test_a_refusal_reaches_a_client_that_goes_on_sending(edge: Edge) -> None:
    with ByHand(edge).hands_shaken() as client:
        client.socket.sendall(client.records(b"NONSENSE\r\n\r\n" + b"x" * 2**20, 16384))
        assert client.read().startswith(b"HTTP/1.1 400")
        client.socket.sendall(client.records(b"x" * 2**20, 16384))
        assert client.read() == b""


def wait_until_gone(edge: Edge) -> None:
    started = time.monotonic()
    while edge.call(lambda: len(edge.server.server_state.connections)):
        assert time.monotonic() - started < SLACK_SECONDS
        time.sleep(0.01)


@pytest.mark.parametrize("goodbye", [True, False])
def test_whoever_goes_is_gone(edge: Edge, goodbye: bool) -> None:
    with ByHand(edge).hands_shaken() as client:
        client.socket.sendall(client.records(get(), 100))
        assert client.read().startswith(b"HTTP/1.1 200")
        if goodbye:
            assert client.step(client.session.unwrap) is None
    wait_until_gone(edge)


def test_a_forged_record_ends_the_connection_and_is_not_served(edge: Edge) -> None:
    edge.renew()
    with ByHand(edge).hands_shaken() as client:
        data = bytearray(client.records(post("/v1/echo", b'{"text":"a"}'), 65536))
        data[-1] ^= 1
        client.socket.sendall(data)
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            client.read()
        wait_until_gone(edge)
    assert edge.served == []


def test_a_request_cut_short_by_a_goodbye_is_not_served(edge: Edge) -> None:
    edge.renew()
    with ByHand(edge).hands_shaken() as client:
        client.socket.sendall(client.records(post("/v1/echo", b'{"text":"a"}')[:-1], 100))
        with contextlib.suppress(ssl.SSLError):
            client.session.unwrap()
        client.socket.sendall(client.outgoing.read())
        with pytest.raises(ssl.SSLZeroReturnError):
            client.read()
    assert edge.served == []


@contextlib.contextmanager
def s_client(edge: Edge) -> Iterator[subprocess.Popen[bytes]]:
    """No module of Python asks for new keys; this program does at `K`."""
    command = ["openssl", "s_client", "-connect", urlsplit(edge.url).netloc, "-tls1_3"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        yield process
        process.kill()


def until(process: subprocess.Popen[bytes], end: bytes) -> bytes:
    read = b""
    while end not in read:
        piece = os.read(process.stdout.fileno(), 4096)
        if not piece:
            return read
        read += piece
    return read


def ask_for_keys(process: subprocess.Popen[bytes]) -> bytes:
    process.stdin.write(b"K\n")
    process.stdin.flush()
    return until(process, b"KEYUPDATE")


def test_keys_are_renewed_when_a_client_asks(edge: Edge) -> None:
    """RFC 8446 §4.6.3."""
    with s_client(edge) as process:
        until(process, b"---\n")
        for _ in range(3):
            ask_for_keys(process)
            process.stdin.write(get())
            process.stdin.flush()
            assert b"HTTP/1.1 200" in until(process, b'"ok"}')


def test_whoever_only_asks_for_keys_is_cut(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "_UNASKED_BYTES_MAX", 60)
    with s_client(edge) as process:
        until(process, b"---\n")
        for _ in range(4):
            with contextlib.suppress(BrokenPipeError):
                ask_for_keys(process)
        assert process.wait(10) is not None


def test_whoever_only_changes_keys_is_cut(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "_UNHEARD_BYTES_MAX", 200)
    with s_client(edge) as process:
        until(process, b"---\n")
        for _ in range(9):
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(b"k\n")
                process.stdin.flush()
                until(process, b"KEYUPDATE")
        assert process.wait(10) is not None


def test_whoever_changes_keys_between_requests_is_served(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "_UNHEARD_BYTES_MAX", 200)
    with s_client(edge) as process:
        until(process, b"---\n")
        for _ in range(9):
            process.stdin.write(b"k\n")
            process.stdin.flush()
            until(process, b"KEYUPDATE")
            process.stdin.write(get())
            process.stdin.flush()
            assert b"HTTP/1.1 200" in until(process, b'"ok"}')
