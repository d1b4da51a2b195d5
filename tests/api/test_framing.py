"""Requests that could be read in two ways, or never end: refused, closed, and nothing of them is served."""

from __future__ import annotations

import contextlib
import re
import ssl

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from qimem.kernel import limits
from tests.api.edge import Edge
from tests.api.raw import Answer, Raw, chunked, get, post
from tests.support.server import Server

HEAD = b"POST /v1/auth/token/revoke HTTP/1.1\r\nHost: a.example\r\nContent-Type: application/json\r\n"
BODY = b'{"token":"x"}'
LENGTH = b"Content-Length: 13\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
IN_CHUNKS = b"d\r\n" + BODY + b"\r\n0\r\n\r\n"
GONE = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
SECOND = b"GET /health HTTP/1.1\r\nHost: a.example\r\n\r\n"


def with_body(lines: bytes, body: bytes) -> bytes:
    return HEAD + lines + b"\r\n" + body


def line(text: bytes) -> bytes:
    """A good GET but for one more header line."""
    return b"GET /health HTTP/1.1\r\nHost: a.example\r\n" + text + b"\r\n\r\n"


def target(text: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET " + text + b" " + version + b"\r\nHost: a.example\r\n\r\n"


LENGTHS = {
    "both framings": with_body(LENGTH + CHUNKED, IN_CHUNKS),
    "both framings, coding first, a request inside": with_body(
        CHUNKED + b"Content-Length: 5\r\n", b"0\r\n\r\n" + SECOND
    ),
    "both framings, length first, a request inside": with_body(
        b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n" + SECOND
    ),
    "length zero and a coding": with_body(b"Content-Length: 0\r\n" + CHUNKED, IN_CHUNKS),
    "a list of equal lengths": with_body(b"Content-Length: 13, 13\r\n", BODY),
    "two equal lengths": with_body(LENGTH + LENGTH, BODY),
    "two different lengths": with_body(LENGTH + b"Content-Length: 3\r\n", BODY),
    "a length of 20 digits": with_body(b"Content-Length: 99999999999999999999\r\n", BODY),
    "a negative length": with_body(b"Content-Length: -13\r\n", BODY),
    "a length with a plus": with_body(b"Content-Length: +13\r\n", BODY),
    "a length in hex": with_body(b"Content-Length: 0xd\r\n", BODY),
    "a length with a space inside": with_body(b"Content-Length: 1 3\r\n", BODY),
    "a length with an underscore": with_body(b"Content-Length: 1_3\r\n", BODY),
    "an empty length": with_body(b"Content-Length: \r\n", BODY),
    "a length in words": with_body(b"Content-Length: ten\r\n", BODY),
}
CODINGS = {
    "identity, chunked": with_body(b"Transfer-Encoding: identity, chunked\r\n", IN_CHUNKS),
    "chunked, identity": with_body(b"Transfer-Encoding: chunked, identity\r\n", IN_CHUNKS),
    "gzip, chunked": with_body(b"Transfer-Encoding: gzip, chunked\r\n", IN_CHUNKS),
    "chunked twice in one line": with_body(b"Transfer-Encoding: chunked, chunked\r\n", IN_CHUNKS),
    "two codings": with_body(CHUNKED + CHUNKED, IN_CHUNKS),
    "identity and chunked": with_body(b"Transfer-Encoding: identity\r\n" + CHUNKED, IN_CHUNKS),
    "a coding nobody knows": with_body(b"Transfer-Encoding: xchunked\r\n", IN_CHUNKS),
    "identity alone": with_body(b"Transfer-Encoding: identity\r\n", BODY),
    "an empty coding": with_body(b"Transfer-Encoding: \r\n", BODY),
    "a vertical tab before the coding": with_body(b"Transfer-Encoding: \x0bchunked\r\n", IN_CHUNKS),
    "a parameter on the coding": with_body(b"Transfer-Encoding: chunked;q=1\r\n", IN_CHUNKS),
    "chunks in HTTP/1.0": with_body(CHUNKED, IN_CHUNKS).replace(b"HTTP/1.1", b"HTTP/1.0"),
}
CHUNKS = {
    "a size that is no number": with_body(CHUNKED, b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a size with 0x": with_body(CHUNKED, b"0xd\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a negative size": with_body(CHUNKED, b"-d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a size with a space": with_body(CHUNKED, b"d \r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a size of 17 digits": with_body(CHUNKED, b"fffffffffffffffff\r\n" + BODY),
    "no size": with_body(CHUNKED, b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a bare LF after the size": with_body(CHUNKED, b"d\n" + BODY + b"\r\n0\r\n\r\n"),
    "no CRLF after the data": with_body(CHUNKED, b"d\r\n" + BODY + b"0\r\n\r\n"),
    "more data than the size": with_body(CHUNKED, b"3\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a bare LF after the data": with_body(CHUNKED, b"d\r\n" + BODY + b"\n0\r\n\r\n"),
    "an extension of a megabyte": with_body(CHUNKED, b"d;" + b"x" * 2**20 + b"\r\n" + BODY),
    "a broken extension": with_body(CHUNKED, b"d;\x00\r\n" + BODY + b"\r\n0\r\n\r\n"),
}
LINES = {
    "bare LF line ends": SECOND.replace(b"\r\n", b"\n"),
    "one bare LF": line(b"X-A: b").replace(b"b\r\n", b"b\n"),
    "a bare CR in a value": line(b"X-A: b\rc"),
    "a folded line": line(b"X-A: b\r\n c"),
    "a folded first line": b"GET /health HTTP/1.1\r\n Host: a.example\r\n\r\n",
    "a space before the colon": line(b"X-A : b"),
    "a tab before the colon": line(b"Content-Length\t: 3"),
    "a space in a name": line(b"X A: b"),
    "a NUL in a name": line(b"X\x00A: b"),
    "a control character in a name": line(b"X\x01A: b"),
    "a high byte in a name": line(b"X\xffA: b"),
    "no name": line(b": b"),
    "no colon": line(b"X-A"),
    "a NUL in a value": line(b"X-A: b\x00c"),
    "a control character in a value": line(b"X-A: b\x01c"),
    "a DEL in a value": line(b"X-A: b\x7fc"),
}
HOSTS = {
    "no host": b"GET /health HTTP/1.1\r\nX-A: b\r\n\r\n",
    "no host in HTTP/1.0": b"GET /health HTTP/1.0\r\n\r\n",
    "two hosts": line(b"Host: b.example"),
    "two equal hosts": line(b"Host: a.example"),
    "an empty host": b"GET /health HTTP/1.1\r\nHost:\r\n\r\n",
    "a host with a path": b"GET /health HTTP/1.1\r\nHost: a.example/b\r\n\r\n",
    "a list of hosts": b"GET /health HTTP/1.1\r\nHost: a.example b.example\r\n\r\n",
    "a host with a user": b"GET /health HTTP/1.1\r\nHost: user@a.example\r\n\r\n",
}
TARGETS = {
    "absolute form": target(b"http://a.example/health"),
    "absolute form of another host": target(b"http://b.example/health"),
    "absolute form with a port": target(b"http://a.example:8080/health"),
    "absolute form over TLS": target(b"https://a.example/health"),
    "absolute form of a foreign scheme": target(b"ftp://a.example/health"),
    "absolute form in capitals": target(b"HTTP://A.EXAMPLE/health"),
    "absolute form with a user": target(b"http://user@a.example/health"),
    "absolute form without a path": target(b"http://a.example"),
    "a scheme without an authority": target(b"http:/health"),
    "an authority alone": target(b"a.example:80"),
    "a tunnel": b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "a tunnel with a path": b"CONNECT /health HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "the asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "no slash": target(b"health"),
    "a fragment": target(b"/health#a"),
    "a NUL": target(b"/he\x00alth"),
    "a tab": target(b"/he\talth"),
    "a high byte": target(b"/he\xffalth"),
    "an upgrade to h2c": line(
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"
    ),
    "an upgrade to WebSocket": line(
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YQ=="
    ),
    "an upgrade without a word in Connection": line(b"Upgrade: h2c"),
    "a method in lower case": SECOND.replace(b"GET", b"get"),
    "a method nobody knows": SECOND.replace(b"GET", b"FETCH"),
    "HTTP/9.9": target(b"/health", b"HTTP/9.9"),
    "a version in lower case": target(b"/health", b"http/1.1"),
    "words after the version": target(b"/health", b"HTTP/1.1 x"),
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "the HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "a TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(64) + b"\r\n\r\n",
    "bytes of no meaning": bytes(range(128, 256)) * 4,
}
AMBIGUOUS = {
    **{f"length: {name}": data for name, data in LENGTHS.items()},
    **{f"coding: {name}": data for name, data in CODINGS.items()},
    **{f"chunks: {name}": data for name, data in CHUNKS.items()},
    **{f"lines: {name}": data for name, data in LINES.items()},
    **{f"host: {name}": data for name, data in HOSTS.items()},
    **{f"target: {name}": data for name, data in TARGETS.items()},
}
TOO_LARGE = {
    "a header of 70 KB": (line(b"X-A: " + b"b" * 70_000), 431),
    "a header of 1 MB": (line(b"X-A: " + b"b" * 2**20), 431),
    "a header of 1 MB that does not end": (line(b"X-A: " + b"b" * 2**20)[:-4], 431),
    "a header name of 1 MB that does not end": (line(b"x" * 2**20)[:-4], 431),
    "2,000 headers": (line(b"\r\n".join(b"X-%d: b" % n for n in range(2000))), 431),
    "one header more than allowed": (line(b"\r\n".join(b"X-%d: b" % n for n in range(100))), 431),
    "headers of 33 KB together": (line(b"\r\n".join(b"X-%d: " % n + b"b" * 700 for n in range(47))), 431),
    "a target of 9 KB": (target(b"/" + b"a" * 9_000), 414),
    "a query of 9 KB": (target(b"/health?" + b"a" * 9_000), 414),
    "a target of 1 MB that does not end": (b"GET /" + b"a" * 2**20, 414),
    "line ends without end": (b"\r\n" * 2**20, 431),
    "trailers of 70 KB": (chunked("/v1/auth/token/revoke", BODY, trailers=("X-A: " + "b" * 70_000,)), 431),
    "HTTP/2.0 in the request line": (target(b"/health", b"HTTP/2.0"), 505),
}


@pytest.fixture(params=["sqlite_server", "tls_server"], ids=["plain", "tls"])
def server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)


def refused(url: str, data: bytes) -> Answer:
    """Send it; the one answer, after which the connection ends."""
    with Raw(url) as connection:
        connection.send(data)
        answer = connection.answer()
        assert connection.rest() == b""
    assert answer.closes
    return answer


def check_shape(answer: Answer, code: str = "invalid_request") -> None:
    body = answer.json
    assert set(body) == {"error", "code", "request_id"}
    assert body["code"] == code
    assert body["request_id"] == answer.header("x-request-id")
    assert re.fullmatch(r"[0-9a-f]{24}", body["request_id"])
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "no-store"
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("date")
    assert answer.header("server") is None


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_request_is_refused_and_nothing_after_it_served(server: Server, name: str) -> None:
    answer = refused(server.url, AMBIGUOUS[name])
    assert answer.status == 400
    check_shape(answer)
    with Raw(server.url) as another:
        another.send(get("/health"))
        assert another.answer().status == 200


def test_the_parser_as_it_is_shipped_reads_what_is_refused_here() -> None:
    read = set()
    with Edge(HttpToolsProtocol) as edge:
        for name, data in {**AMBIGUOUS, **{name: data for name, (data, _) in TOO_LARGE.items()}}.items():
            with (
                contextlib.suppress(EOFError, TimeoutError, OSError),
                Raw(edge.url, seconds=0.3) as connection,
            ):
                connection.send(data)
                if connection.answer().status != 400:
                    read.add(name)
    # The rows of the framing matrix in which uvicorn with httptools hands the request on.
    assert read >= {
        "coding: identity, chunked", "host: no host", "host: two hosts", "a header of 70 KB", "a header of 1 MB",
        "2,000 headers",
    }  # fmt: skip


@pytest.mark.parametrize("name", TOO_LARGE)
def test_an_oversize_request_is_refused(server: Server, name: str) -> None:
    data, status = TOO_LARGE[name]
    answer = refused(server.url, data)
    assert answer.status == status
    check_shape(answer)


@pytest.mark.parametrize(
    "data",
    [
        line(b"\r\n".join(b"X-%d: b" % n for n in range(limits.HEADER_COUNT_MAX - 1))),
        line(b"X-A: " + b"b" * (limits.HEADER_BYTES_MAX - 100)),
        target(b"/health?" + b"a" * (limits.URL_BYTES_MAX - 8)),
        b"\r\n\r\n" + SECOND,
        line(b"X-A: \tb\t "),
        SECOND.replace(b"a.example", b"[::1]:8080"),
        SECOND.replace(b"a.example", b"under_score.example:8080"),
        SECOND.replace(b"HTTP/1.1", b"HTTP/1.0"),
        line(b"Content-Length: 0"),
        line(b"Content-Length: 0003") + b"abc",
    ],
    ids=["headers", "header bytes", "target", "empty lines first", "tabs", "IPv6 host", "host with underscore",
         "HTTP/1.0", "length zero", "length with zeros"],
)  # fmt: skip
def test_what_is_within_the_limits_is_served(server: Server, data: bytes) -> None:
    with Raw(server.url) as connection:
        connection.send(data)
        assert connection.answer().status == 200


@pytest.mark.parametrize(
    "path",
    ["/health%00", "/health%ff", "/%68ealth", "//health", "/v1//security/keys", "/v1/security/../auth/token",
     "/./health", "/health/.", "/v1\\security\\keys", "/realms/../jwks", "/realms/a\\b/jwks",
     "/v1/security/keys/..", "/v1/security/keys/%2e%2e/disable", "/v1/..%2fhealth", "/..%2F..%2Fhealth",
     "/%2e%2e/health", "/v1%2fsecurity%2fkeys", "/realms/..%2fsystem/jwks", "/realms/a%00b/jwks",
     "/health%20", "/%c0%afhealth", "/health%", "/health%zz", "/%25health", "//a.example/health", "/health//",
     "/v1/security/keys/%ff", "/v1/security/..;/keys/.."],
)  # fmt: skip
def test_a_path_in_another_spelling_is_refused_by_the_router(server: Server, path: str) -> None:
    with Raw(server.url) as connection:
        connection.send(get(path))
        answer = connection.answer()
        assert (answer.status, answer.json["code"]) == (400, "invalid_request")
        # It could be read, so the connection goes on.
        connection.send(get("/health"))
        assert connection.answer().status == 200


@pytest.mark.parametrize(
    "trailer",
    ["Authorization: Bearer x", "Content-Encoding: gzip", "Content-Type: text/plain", "Host: b.example",
     "X-Request-Id: forged", "Upgrade: h2c"],
)  # fmt: skip
def test_trailers_are_dropped(server: Server, trailer: str) -> None:
    data = chunked("/v1/security/keys", b"{}", trailers=(trailer, "X-Last: 1"))
    with Raw(server.url) as connection:
        connection.send(data + get("/v1/security/keys"))
        for _ in range(2):
            answer = connection.answer()
            assert (answer.status, answer.json["code"]) == (401, "unauthenticated")
            assert answer.header("x-request-id") != "forged"


@pytest.mark.parametrize(
    "trailer", ["Content-Length: 3", "Transfer-Encoding: chunked", "X-A: b\r\n c", "X A: b"]
)
def test_trailers_that_speak_of_framing_or_break_it_are_refused(server: Server, trailer: str) -> None:
    data = chunked("/v1/auth/token/revoke", BODY, trailers=(trailer, "X-Last: 1"))
    assert refused(server.url, data).status == 400


def test_chunks_of_any_size_are_served(server: Server) -> None:
    pieces = [BODY[n : n + 1] for n in range(len(BODY))]
    with Raw(server.url) as connection:
        connection.send(chunked("/v1/auth/token/revoke", *pieces))
        assert connection.answer().json == {"revoked": True}


def test_a_body_in_one_segment_with_its_headers_is_no_header(server: Server) -> None:
    body = b'{"token":"' + b"x" * 200_000 + b'"}'
    with Raw(server.url) as connection:
        connection.send(post("/v1/auth/token/revoke", body))
        assert connection.answer().status == 200


def test_many_requests_in_one_segment_are_no_header(server: Server) -> None:
    with Raw(server.url) as connection:
        connection.send(get("/health", "X-A: " + "b" * 2_000) * 100)
        assert [connection.answer().status for _ in range(100)] == [200] * 100


def test_a_request_id_that_came_is_kept_by_a_refusal(server: Server) -> None:
    data = with_body(b"X-Request-Id: order-7\r\n" + LENGTH + CHUNKED, IN_CHUNKS)
    answer = refused(server.url, data)
    assert (answer.header("x-request-id"), answer.json["request_id"]) == ("order-7", "order-7")


def test_a_request_id_that_is_not_well_formed_is_not_kept_by_a_refusal(server: Server) -> None:
    check_shape(refused(server.url, with_body(b'X-Request-Id: a"b\r\n' + LENGTH + CHUNKED, IN_CHUNKS)))


def test_the_request_id_of_an_earlier_request_is_not_kept_by_a_refusal(server: Server) -> None:
    with Raw(server.url) as connection:
        connection.send(get("/health", "X-Request-Id: first") + b"\x80\x81\r\n\r\n")
        assert connection.answer().header("x-request-id") == "first"
        check_shape(connection.answer())


def test_a_body_without_end_is_refused_while_it_comes(server: Server) -> None:
    with Raw(server.url) as connection:
        connection.send(with_body(CHUNKED, b""))
        chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        for _ in range(80):
            connection.send(chunk)
        assert connection.answer().status == 413
        # Answered is answered: what still comes is thrown away up to a limit, then the connection ends.
        with pytest.raises(GONE):  # noqa: PT012 - which one sees it is chance
            for _ in range(1000):
                connection.send(chunk)
        with pytest.raises(GONE):
            connection.send(chunk)
