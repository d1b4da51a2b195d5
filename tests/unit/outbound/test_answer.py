from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qimem.kernel.limits import OUTBOUND_ANSWER_BYTES_MAX
from qimem.outbound.answer import Answer, AnswerReader, OutboundFailed

HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = [
    (HEAD + b"Content-Length: 2\r\n\r\nok", Answer(200, b"ok")),
    (HEAD + b"Content-Length: 0\r\n\r\n", Answer(200, b"")),
    (HEAD + b"content-length: 2\r\nContent-Length: 2\r\n\r\nokmore", Answer(200, b"ok")),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\no\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n", Answer(200, b"o0123456789")),
    (HEAD + b"Transfer-Encoding: Chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n", Answer(200, b"0\r\n\r\n")),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + HEAD + b"Content-Length: 1\r\n\r\nx", Answer(200, b"x")),
    (b"HTTP/1.0 503 \r\nContent-Length: 0\r\n\r\n", Answer(503, b"")),
    (b"HTTP/1.1 204 No Content\r\n\r\n", Answer(204, b"")),
    (b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", Answer(404, b"")),
]  # fmt: skip


def fed(data: bytes, size: int) -> Answer | None:
    reader = AnswerReader()
    for at in range(0, len(data), size):
        answer = reader.feed(data[at : at + size])
        if answer is not None:
            return answer
    return reader.feed(b"")


@pytest.mark.parametrize("size", [1, 3, 65_536])
@pytest.mark.parametrize(("data", "answer"), WHOLE)
def test_an_answer_is_read_however_it_is_cut(data: bytes, answer: Answer, size: int) -> None:
    assert fed(data, size) == answer


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    reader = AnswerReader()
    assert reader.feed(HEAD + b"\r\nsome") is None
    assert reader.feed(b"thing") is None
    assert reader.feed(b"") == Answer(200, b"something")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"HTTP/1.1", HEAD, HEAD + b"Content-Length: 3\r\n\r\nok", b"HTTP/2 200\r\n\r\n", b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 99 x\r\n\r\n", b"HTTP/1.1 600 x\r\n\r\n", b"HTTP/1.1 2000 x\r\n\r\n", HEAD + b"no field\r\n\r\n",
        HEAD + b" folded: x\r\n\r\n", HEAD + b"a b: x\r\n\r\n", HEAD + b"X: \x00\r\n\r\n", HEAD + b"X: a\nb: c\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n", HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        HEAD + b"Content-Length: 1, 1\r\n\r\nx", HEAD + b"Content-Length: 99999999999\r\n\r\nx",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n0\r\n\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxxx0\r\n\r\n",
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", HEAD + b"Content-Encoding: br\r\n\r\n",
        HEAD + b"X: " + b"x" * OUTBOUND_ANSWER_BYTES_MAX, HEAD + b"\r\n" + b"x" * OUTBOUND_ANSWER_BYTES_MAX,
        HEAD + b"Content-Length: %d\r\n\r\n" % (OUTBOUND_ANSWER_BYTES_MAX + 1),
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4_000,
    ],
)  # fmt: skip
def test_what_is_no_answer_or_too_large_is_refused(data: bytes) -> None:
    with pytest.raises(OutboundFailed):
        fed(data, 65_536)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_garbage_is_refused_or_waited_for_and_never_crashes(tail: bytes, size: int) -> None:
    for head in (b"", HEAD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n"):
        try:
            fed(head + tail, size)
        except OutboundFailed as failed:
            assert str(failed)  # noqa: PT017 - it may also be an answer


def test_chunks_that_look_like_the_last_one_are_each_read_once() -> None:
    # All of them were read again for each packet that ended in these bytes: 15 s of the event loop for 60 KB.
    reader = AnswerReader()
    reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    began = time.process_time()
    for _ in range(5_000):
        assert reader.feed(b"5\r\n0\r\n\r\n") is None
        assert reader.feed(b"\r\n") is None
    assert reader.feed(b"0\r\n\r\n") == Answer(200, b"0\r\n\r\n" * 5_000)
    assert time.process_time() - began < 2
