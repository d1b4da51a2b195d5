"""Header fields have one reading, or the request is not read."""

from __future__ import annotations

import pytest

from qimem.kernel.limits import HEADER_COUNT_MAX
from qimem.web.kit.framing import Unreadable, judge

HOST = (b"host", b"a.example")


def status(*headers: tuple[bytes, bytes], target: bytes = b"/", version: str = "1.1") -> int:
    with pytest.raises(Unreadable) as caught:
        judge(headers, target, version)
    return caught.value.status


def test_a_request_without_a_body_has_length_zero() -> None:
    framing = judge([HOST, (b"accept", b"a"), (b"accept", b"b")], b"/a?b", "1.1")
    assert framing == ({b"host": b"a.example", b"accept": b"b"}, 0, False)


@pytest.mark.parametrize(
    ("value", "length"), [(b"0", 0), (b"5", 5), (b"0005", 5), (b"99999999999", 99999999999)]
)
def test_a_length_is_read(value: bytes, length: int) -> None:
    assert judge([HOST, (b"content-length", value)], b"/", "1.1").length == length


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b"CHUNKED"])
def test_chunks_are_a_framing(coding: bytes) -> None:
    assert judge([HOST, (b"transfer-encoding", coding)], b"/", "1.1").length == 0


@pytest.mark.parametrize("name", [b"host", b"content-length", b"transfer-encoding", b"expect"])
@pytest.mark.parametrize("apart", [0, 3])
def test_a_field_of_the_framing_stands_once(name: bytes, apart: int) -> None:
    value = {b"host": b"a", b"content-length": b"5", b"transfer-encoding": b"chunked", b"expect": b"x"}[name]
    host = [] if name == b"host" else [HOST]
    between = [(b"accept", b"a")] * apart
    assert status(*host, (name, value), *between, (name, value)) == 400


@pytest.mark.parametrize("length", [b"0", b"5"])
def test_two_framings_are_none(length: bytes) -> None:
    both = [(b"content-length", length), (b"transfer-encoding", b"chunked")]
    assert status(HOST, *both) == status(HOST, *reversed(both)) == 400


@pytest.mark.parametrize(
    "coding",
    [b"", b"identity", b"gzip, chunked", b"chunked, chunked", b"xchunked", b"chunked;a=b", b"\x0bchunked"],
)
def test_another_coding_is_refused(coding: bytes) -> None:
    assert status(HOST, (b"transfer-encoding", coding)) == 400


def test_chunks_are_of_http_1_1() -> None:
    assert status(HOST, (b"transfer-encoding", b"chunked"), version="1.0") == 400


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.0", "9.9"])
def test_another_version_is_not_spoken(version: str) -> None:
    assert status(HOST, version=version) == 505


@pytest.mark.parametrize(
    "host",
    [b"a", b"a.example", b"a.example:80", b"a.example:", b"1.2.3.4:8080", b"[::1]", b"[2001:db8::1]:443", b"a_b.example",
     b"xn--bcher-kva.example", b"a%20b"],
)  # fmt: skip
def test_a_host_is_taken(host: bytes) -> None:
    assert judge([(b"host", host)], b"/", "1.1").fields[b"host"] == host


@pytest.mark.parametrize(
    "host",
    [b"", b" ", b":80", b"a b", b"a/b", b"a?b", b"a#b", b"user@a", b"a:b", b"a:80:80", b"[::1", b"::1", b"[a.example]",
     b"a\\b", b"a\xff", b"a\tb", b"http://a", b"a,b c", b"[]"],
)  # fmt: skip
def test_what_is_no_host_is_refused(host: bytes) -> None:
    assert status((b"host", host)) == 400


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_host_is_required(version: str) -> None:
    assert status((b"accept", b"a"), version=version) == 400


@pytest.mark.parametrize(
    "target", [b"", b"*", b"a", b"http://a/b", b"a.example:443", b"?a", b"/a#b", b"/a?b#c", b"\\a"]
)
def test_a_target_is_a_path(target: bytes) -> None:
    assert status(HOST, target=target) == 400


@pytest.mark.parametrize("value", [b"h2c", b"websocket", b""])
def test_no_upgrade_is_offered(value: bytes) -> None:
    assert status(HOST, (b"upgrade", value)) == 400


def test_headers_are_counted() -> None:
    more = [(b"x-%d" % number, b"") for number in range(HEADER_COUNT_MAX)]
    assert len(judge([HOST, *more[1:]], b"/", "1.1").fields) == HEADER_COUNT_MAX
    assert status(HOST, *more) == 431
    assert status(HOST, *[(b"a", b"")] * HEADER_COUNT_MAX) == 431


@pytest.mark.parametrize(
    ("value", "version", "expects"),
    [(b"100-continue", "1.1", True), (b"100-Continue", "1.1", True), (b"100-continue", "1.0", False), (b"x", "1.1", False)],
)  # fmt: skip
def test_leave_to_send_is_asked_for_in_http_1_1(value: bytes, version: str, expects: bool) -> None:
    assert judge([HOST, (b"expect", value)], b"/", version).expects_continue is expects
