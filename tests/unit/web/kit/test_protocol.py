"""One connection, step by step: phases, deadlines, back-pressure and the one write of an answer."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from uvicorn.server import ServerState

from qimem.kernel import limits
from qimem.web.kit import admission, crowd
from tests.unit.web.kit.fakes import HIGH_WATER, Connection, settle

pytestmark = pytest.mark.anyio

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
ALMOST = 0.01


def check_deadline(connection: Connection, seconds: float) -> None:
    connection.sweep_after(seconds - ALMOST)
    assert not connection.transport.closed
    connection.sweep_after(2 * ALMOST)
    assert connection.transport.aborted


async def test_a_silent_connection_has_the_deadline_of_a_first_byte() -> None:
    check_deadline(Connection(), limits.FIRST_BYTE_SECONDS)


@pytest.mark.parametrize("begin", [b"GET /", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_headers_have_a_deadline_from_their_first_byte(begin: bytes) -> None:
    connection = Connection()
    connection.sweep_after(limits.FIRST_BYTE_SECONDS - 1)
    await connection.receive(begin)
    connection.sweep_after(limits.HEADERS_SECONDS - 1)
    await connection.receive(b"X")
    check_deadline(connection, 1)


async def test_a_body_has_a_deadline_from_its_headers_on() -> None:
    connection = Connection()
    connection.hold = asyncio.Event()
    await connection.receive(POST)
    connection.sweep_after(limits.BODY_SECONDS - 1)
    await connection.receive(b"x" * 9)
    check_deadline(connection, 1)
    connection.hold.set()
    await settle()
    assert connection.transport.taken() == b""


async def test_a_handler_has_no_deadline_here() -> None:
    connection = Connection()
    connection.hold = asyncio.Event()
    await connection.receive(GET % b"")
    connection.sweep_after(10_000)
    assert not connection.transport.closed
    connection.hold.set()
    await settle()
    assert connection.transport.taken().startswith(b"HTTP/1.1 200 OK\r\n")


async def test_an_idle_connection_has_the_deadline_of_keep_alive() -> None:
    connection = Connection()
    await connection.receive(GET % b"")
    check_deadline(connection, limits.KEEP_ALIVE_SECONDS)


async def test_a_connection_is_idle_when_the_body_has_come_after_its_answer() -> None:
    connection = Connection()
    await connection.receive(POST)
    await connection.receive(b"x" * 10)
    check_deadline(connection, limits.KEEP_ALIVE_SECONDS)


@pytest.mark.parametrize(
    ("left", "cut"), [(500_000, True), (499_000, True), (430_000, False), (0, False), (600_000, False)]
)
async def test_a_reader_takes_enough_or_is_cut(left: int, cut: bool) -> None:
    connection = Connection()
    connection.hold = asyncio.Event()
    await connection.receive(GET % b"")
    connection.transport.unsent = 500_000
    connection.sweep_after(1)
    connection.transport.unsent = left
    connection.sweep_after(limits.WRITE_STALL_SECONDS + 1)
    assert connection.transport.aborted is cut


async def test_an_answer_that_is_not_taken_holds_the_next_request() -> None:
    connection = Connection()
    connection.transport.unsent = HIGH_WATER + 1
    await connection.receive(GET % b"1" + GET % b"2")
    assert connection.served == ["/1"]
    assert connection.transport.reading_paused
    connection.sweep_after(limits.WRITE_STALL_SECONDS - 1)
    assert not connection.transport.closed
    connection.transport.unsent = 0
    connection.protocol.resume_writing()
    await settle()
    assert connection.served == ["/1", "/2"]
    assert not connection.transport.reading_paused


async def test_nothing_is_read_while_a_request_waits_for_another() -> None:
    connection = Connection()
    connection.hold = asyncio.Event()
    await connection.receive(GET % b"1" + POST + b"x" * 10)
    assert connection.transport.reading_paused
    connection.protocol.flow.resume_reading()
    assert connection.transport.reading_paused
    connection.hold.set()
    await settle()
    assert connection.served == ["/1", "/p"]
    assert not connection.transport.reading_paused


async def test_an_answer_is_one_write_of_everything() -> None:
    connection = Connection()
    connection.protocol.server_state.default_headers = [(b"date", b"now")]
    connection.headers, connection.body = b"x-a: b\r\n", b"hello"
    written = await connection.receive(GET % b"")
    assert written == b"HTTP/1.1 200 OK\r\ndate: now\r\nx-a: b\r\ncontent-length: 5\r\n\r\nhello"


async def test_an_answer_has_a_date_before_the_server_has_one() -> None:
    written = await Connection().receive(GET % b"")
    assert written.startswith(b"HTTP/1.1 200 OK\r\ndate: ")


async def test_the_date_of_an_answer_is_of_its_time() -> None:
    connection = Connection()
    for date in (b"one", b"two"):
        connection.protocol.server_state.default_headers = [(b"date", date)]
        assert b"date: %b\r\n" % date in await connection.receive(GET % b"")


async def test_the_answer_to_head_tells_the_length_of_what_it_leaves_out() -> None:
    written = await Connection().receive((GET % b"").replace(b"GET", b"HEAD"))
    assert written.endswith(b"content-length: 2\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "closes"),
    [
        (GET % b"", False),
        ((GET % b"").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), True),
        ((GET % b"").replace(b"HTTP/1.1", b"HTTP/1.0"), True),
        (POST + b"x" * 10, False),
    ],
)
async def test_a_connection_is_closed_when_its_client_wants_that(data: bytes, closes: bool) -> None:
    connection = Connection()
    written = await connection.receive(data)
    assert (b"\r\nconnection: close\r\n" in written) is closes
    assert connection.transport.closed is closes


async def test_an_early_last_answer_is_not_reset() -> None:
    connection = Connection()
    await connection.receive(POST.replace(b"Host", b"Connection: close\r\nHost"))
    assert (connection.transport.ended, connection.transport.closed) == (True, False)
    await connection.receive(b"x" * 10 + GET % b"never")
    assert connection.served == ["/p"]
    check_deadline(connection, limits.FIRST_BYTE_SECONDS)


async def test_what_follows_a_last_answer_is_thrown_away_up_to_a_limit() -> None:
    connection = Connection()
    await connection.receive(b"nonsense\r\n\r\n")
    piece = b"x" * 2**20
    for _ in range(10):
        connection.protocol.data_received(piece)
    assert not connection.transport.closed
    connection.protocol.data_received(piece)
    assert connection.transport.aborted


@pytest.mark.parametrize("gone", ["closed", "disconnected"])
async def test_nothing_is_written_to_a_client_that_is_gone(gone: str) -> None:
    connection = Connection()
    connection.hold = asyncio.Event()
    await connection.receive(GET % b"1" + GET % b"2")
    if gone == "closed":
        connection.transport.closed = True
    else:
        connection.protocol.connection_lost(None)
    connection.hold.set()
    await settle()
    assert connection.transport.taken() == b""


async def test_an_exchange_is_gone_when_it_is_over() -> None:
    connection = Connection()
    await connection.receive(GET % b"")
    over = weakref.ref(connection.protocol.cycle)
    gc.disable()
    try:
        await connection.receive(GET % b"")
        assert over() is None
    finally:
        gc.enable()


async def test_a_newcomer_beyond_the_limit_is_not_listened_to_while_all_are_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 1)
    state = ServerState()
    first = Connection(state)
    await first.receive(b"GET / HTTP/1.1")
    second = Connection(state)
    assert (first.transport.aborted, second.transport.aborted) == (False, True)


async def test_a_newcomer_takes_the_place_of_those_who_have_been_idle_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 4)
    monkeypatch.setattr(crowd, "CONNECTIONS_ROOM", 2)
    state = ServerState()
    answering, reading, *idle = (Connection(state) for _ in range(4))
    answering.hold = asyncio.Event()
    await answering.receive(GET % b"")
    await reading.receive(POST)
    for seconds, connection in enumerate(reversed(idle)):
        connection.loop.now += seconds
        await connection.receive(GET % b"")
    others = [Connection(state) for _ in range(1)]
    assert [one.transport.aborted for one in (answering, reading, *idle)] == [False, False, True, True]
    assert not others[0].transport.closed
    answering.hold.set()
    await settle()


async def test_one_timer_watches_over_all_connections_while_there_are_any() -> None:
    state = ServerState()
    first, second = Connection(state), Connection(state)
    ((delay, turn, arguments),) = first.loop.later
    assert (delay, second.loop.later) == (limits.SWEEP_SECONDS, [])
    first.loop.now += limits.FIRST_BYTE_SECONDS + 1
    turn(*arguments)
    assert (first.transport.aborted, second.transport.aborted) == (True, True)
    assert len(first.loop.later) == 2
    for connection in (first, second):
        connection.protocol.connection_lost(None)
    turn(*arguments)
    assert len(first.loop.later) == 2
    assert len(Connection(state).loop.later) == 1


async def test_an_unfinished_line_is_refused_at_twice_the_limit_of_headers() -> None:
    connection = Connection()
    await connection.receive(b"GET / HTTP/1.1\r\nX: ")
    assert await connection.receive(b"x" * 2 * limits.HEADER_BYTES_MAX) == b""
    assert (await connection.receive(b"x")).startswith(b"HTTP/1.1 431 ")


async def test_a_body_that_nobody_reads_and_nobody_answered_is_refused_in_the_end() -> None:
    connection = Connection()
    connection.hold = asyncio.Event()
    await connection.receive(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
    for _ in range(10):
        assert await connection.receive(piece) == b""
    written = await connection.receive(piece)
    assert written.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"payload_too_large"' in written
    assert (connection.transport.ended, connection.transport.closed) == (True, False)


async def test_a_chunk_extension_is_refused_when_it_outweighs_the_body() -> None:
    connection = Connection()
    connection.hold = asyncio.Event()
    await connection.receive(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;")
    assert await connection.receive(b"x" * 2 * limits.HEADER_BYTES_MAX) == b""
    assert (await connection.receive(b"x")).startswith(b"HTTP/1.1 400 ")


async def test_a_stop_lets_a_request_end_and_an_idle_connection_go() -> None:
    idle, busy = Connection(), Connection()
    await idle.receive(GET % b"")
    busy.hold = asyncio.Event()
    await busy.receive(GET % b"")
    for connection in (idle, busy):
        connection.protocol.shutdown()
    assert (idle.transport.closed, busy.transport.closed) == (True, False)
    busy.hold.set()
    await settle()
    assert b"\r\nconnection: close\r\n" in busy.transport.taken()
    assert busy.transport.closed


async def test_a_connection_that_was_turned_away_is_not_read_for_a_while() -> None:
    connection = Connection()
    connection.sheds = True
    assert b"\r\nconnection: close" not in await connection.receive(GET % b"1")
    assert connection.transport.reading_paused
    ((delay, end_of_rest, arguments),) = connection.loop.later[1:]
    assert limits.REST_SECONDS / 2 <= delay <= limits.REST_SECONDS
    connection.protocol.flow.resume_reading()
    assert connection.transport.reading_paused
    end_of_rest(*arguments)
    assert not connection.transport.reading_paused


async def test_a_rest_ends_only_when_those_behind_are_answered() -> None:
    connection = Connection()
    connection.sheds = True
    await connection.receive(GET % b"1" + GET % b"2" + GET % b"3")
    assert connection.served == ["/1", "/2", "/3"]
    assert connection.transport.reading_paused
    connection.hold = asyncio.Event()
    rests = [call for _, call, _ in connection.loop.later[1:]]
    for end_of_rest in rests:
        end_of_rest()
    assert not connection.transport.reading_paused


async def test_a_rest_ends_without_harm_where_the_connection_has() -> None:
    connection = Connection()
    connection.sheds = True
    await connection.receive(GET % b"1")
    connection.transport.close()
    connection.loop.later[1][1]()
    assert connection.transport.reading_paused


async def test_of_a_small_body_that_is_turned_away_the_rest_is_thrown_away() -> None:
    connection = Connection()
    connection.sheds = True
    assert b"\r\nconnection: close" not in await connection.receive(POST)
    assert await connection.receive(b"x" * 10) == b""
    connection.sheds = False
    assert (await connection.receive(GET % b"1")).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
async def test_of_a_large_body_that_is_turned_away_nothing_is_read(framing: bytes) -> None:
    connection = Connection()
    connection.sheds = True
    written = await connection.receive(b"POST /p HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
    assert b"\r\nconnection: close\r\n" in written
    assert (connection.transport.ended, connection.transport.reading_paused) == (True, True)
    connection.sweep_after(limits.REST_SECONDS - ALMOST)
    assert not connection.transport.closed
    connection.sweep_after(2 * ALMOST)
    assert connection.transport.aborted


async def test_a_body_is_not_kept_with_the_connection() -> None:
    connection = Connection()
    await connection.receive(b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50_000)
    assert len(connection.protocol.cycle.body) == 0


async def test_requests_behind_others_are_refused_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "PIPELINED_MAX", 2)
    connection = Connection()
    connection.hold = asyncio.Event()
    await connection.receive((GET % b"1") * 4)
    assert connection.protocol.admission._pipelined == 2
    connection.hold.set()
    await settle()
    written = connection.transport.taken()
    assert written.count(b"HTTP/1.1 200 OK") == 3
    assert b"HTTP/1.1 503 " in written
    assert written.index(b"HTTP/1.1 503 ") > written.rindex(b"HTTP/1.1 200 ")
    assert b'"code":"overloaded"' in written
    assert b"\r\nretry-after: 1\r\n" in written
    assert connection.protocol.admission._pipelined == 0


async def test_requests_of_a_lost_connection_wait_no_longer() -> None:
    connection = Connection()
    connection.hold = asyncio.Event()
    await connection.receive((GET % b"1") * 4)
    assert connection.protocol.admission._pipelined == 3
    connection.protocol.connection_lost(None)
    assert connection.protocol.admission._pipelined == 0
    connection.hold.set()
    await settle()
    assert connection.served == ["/1"]


async def test_what_a_client_does_not_read_is_counted_until_it_is_read_or_lost() -> None:
    connection = Connection()
    unread = connection.protocol.admission._unread
    for end in (connection.protocol.resume_writing, lambda: connection.protocol.connection_lost(None)):
        connection.transport.unsent = HIGH_WATER + 1
        await connection.receive(GET % b"1")
        assert unread == {connection.protocol: HIGH_WATER + 1}
        connection.transport.unsent = 0
        end()
        assert unread == {}
