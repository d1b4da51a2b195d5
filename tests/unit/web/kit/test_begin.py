"""A request runs at once up to its first wait; what is left of it runs like any other task."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from qimem.web.kit.exchange import _Rest
from tests.unit.web.kit.fakes import Connection, settle

pytestmark = pytest.mark.anyio

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
MARK: ContextVar[str] = ContextVar("MARK", default="unset")
CLOSE = b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def test_a_request_that_does_not_wait_is_answered_within_its_read() -> None:
    connection = Connection()
    connection.protocol.data_received(GET % b"1")
    assert connection.transport.taken().startswith(b"HTTP/1.1 200 OK\r\n")
    assert not connection.protocol.tasks


async def test_of_several_in_one_read_only_the_first_runs_before_other_connections() -> None:
    connection = Connection()
    connection.protocol.data_received(GET % b"1" + GET % b"2" + GET % b"3")
    assert connection.served == ["/1"]
    await settle()
    assert connection.served == ["/1", "/2", "/3"]
    assert connection.transport.taken().count(b"HTTP/1.1 200 OK\r\n") == 3


async def test_a_request_that_waits_is_a_task_until_it_is_answered() -> None:
    connection = Connection()
    connection.hold = asyncio.Event()
    connection.protocol.data_received(GET % b"1")
    assert connection.transport.taken() == b""
    (task,) = connection.protocol.tasks
    connection.hold.set()
    await task
    assert connection.transport.taken().startswith(b"HTTP/1.1 200 OK\r\n")
    assert not connection.protocol.tasks


async def test_a_request_that_waits_can_be_cancelled() -> None:
    connection = Connection()
    connection.hold = asyncio.Event()
    connection.protocol.data_received(GET % b"1")
    (task,) = connection.protocol.tasks
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert connection.transport.closed
    assert not connection.protocol.tasks


async def test_a_request_that_is_cancelled_before_its_task_begins_hears_of_it() -> None:
    connection = Connection()
    connection.protocol.app = write_and_tell
    connection.protocol.data_received(GET % b"1")
    (task,) = connection.protocol.tasks
    task.cancel()
    await asyncio.wait([task])
    assert connection.transport.taken().startswith(b"HTTP/1.1 503 ")
    assert not connection.protocol.tasks


async def test_what_a_cancelled_request_waits_for_is_cancelled() -> None:
    connection = Connection()
    awaited = asyncio.get_running_loop().create_future()
    connection.protocol.app = waiting_for(awaited)
    connection.protocol.data_received(GET % b"1")
    (task,) = connection.protocol.tasks
    task.cancel()
    await asyncio.wait([task])
    assert awaited.cancelled()


async def test_several_requests_may_wait_for_the_same_future() -> None:
    awaited = asyncio.get_running_loop().create_future()
    connections = [Connection() for _ in range(3)]
    for connection in connections:
        connection.protocol.app = waiting_for(awaited)
        connection.protocol.data_received(GET % b"1")
    awaited.set_result(None)
    await settle()
    for connection in connections:
        assert connection.transport.taken().startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_request_may_wait_for_a_turn_of_the_loop() -> None:
    connection = Connection()

    async def serve(scope: Any, _receive: Any, _send: Any) -> None:
        await asyncio.sleep(0)
        scope["extensions"]["qimem.exchange"].answer(200, b"", b"")

    connection.protocol.app = serve
    assert (await connection.receive(GET % b"1")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_what_a_request_sets_in_its_context_stays_its_own() -> None:
    connection = Connection()
    seen = []

    async def serve(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(MARK.get())
        MARK.set(scope["path"])
        if scope["path"] == "/waits":
            await asyncio.sleep(0)
        seen.append(MARK.get())
        scope["extensions"]["qimem.exchange"].answer(200, b"", b"")

    connection.protocol.app = serve
    await connection.receive(GET % b"at-once")
    await connection.receive(GET % b"waits")
    assert seen == ["unset", "/at-once", "unset", "/waits"]
    assert MARK.get() == "unset"


async def test_what_follows_the_last_request_of_a_connection_is_not_served() -> None:
    connection = Connection()
    connection.protocol.data_received(CLOSE % b"1" + GET % b"2")
    await settle()
    assert connection.served == ["/1"]
    assert connection.transport.taken().count(b"HTTP/1.1") == 1
    assert connection.transport.closed


async def test_a_body_that_cannot_be_read_is_refused_before_anything_runs() -> None:
    connection = Connection()
    head = b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.protocol.data_received(head + b"nonsense\r\n")
    await settle()
    assert connection.served == []
    assert connection.transport.taken().startswith(b"HTTP/1.1 400 ")


async def write_and_tell(scope: Any, _receive: Any, _send: Any) -> None:
    """What the product does with a write under way when the server ends."""
    try:
        await asyncio.shield(asyncio.get_running_loop().create_future())
    except asyncio.CancelledError:
        scope["extensions"]["qimem.exchange"].answer(503, b"", b"outcome_unknown")
        raise


def waiting_for(awaited: asyncio.Future[None]) -> Any:
    async def serve(scope: Any, _receive: Any, _send: Any) -> None:
        await awaited
        scope["extensions"]["qimem.exchange"].answer(200, b"", b"")

    return serve


@pytest.mark.parametrize("first", ["what it ran", "the task"])
async def test_a_request_that_is_thrown_away_ends_quietly_in_any_order(first: str) -> None:
    ended = []

    async def serve() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    steps = serve()
    rest = _Rest(steps, steps.send(None))
    rest.send(None)
    for coroutine in (steps, rest) if first == "what it ran" else (rest, steps):
        coroutine.close()
    assert ended == [True]
