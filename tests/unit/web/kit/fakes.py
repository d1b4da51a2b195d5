"""A connection without a network: what was written, and what was done to it."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from qimem.web.kit.protocol import GuardedProtocol

HIGH_WATER = 64 * 1024


class FakeTransport(asyncio.Transport):
    """Keeps what is written; `unsent` is what the client has not taken."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unsent = 0
        self.protocol: GuardedProtocol
        self.ended = self.closed = self.aborted = self.reading_paused = False

    def write(self, data: bytes) -> None:
        assert not self.ended
        assert not self.closed
        self.written += data
        if self.unsent > HIGH_WATER:
            self.protocol.pause_writing()

    def taken(self) -> bytes:
        """What was written since the last look."""
        written, self.written = self.written, b""
        return written

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)}.get(name, default)

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False


class FakeLoop:
    """Time that the test sets; tasks run on the real loop."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.later: list[tuple[float, Any, tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Any, *arguments: Any) -> None:
        self.later.append((delay, call, arguments))

    def create_task(self, work: Any, context: Any = None) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work, context=context)


class Connection:
    """A protocol on a fake transport, with an application that answers when it is told to."""

    def __init__(self, state: ServerState | None = None) -> None:
        self.served: list[str] = []
        self.hold: asyncio.Event | None = None
        self.sheds = False
        self.headers = b""
        self.body = b"ok"
        config = uvicorn.Config(self._app, http=GuardedProtocol, ws="none", lifespan="off", interface="asgi3",
                                log_config=None, access_log=False, server_header=False, proxy_headers=False)  # fmt: skip
        config.load()
        self.loop = FakeLoop()
        self.transport = FakeTransport()
        self.protocol = GuardedProtocol(
            config=config, server_state=state or ServerState(), app_state={}, _loop=self.loop
        )  # type: ignore[arg-type]
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)

    async def receive(self, data: bytes) -> bytes:
        """Let it arrive and the application work; what was written meanwhile."""
        self.protocol.data_received(data)
        await settle()
        return self.transport.taken()

    def sweep_after(self, seconds: float) -> None:
        self.loop.now += seconds
        self.protocol.sweep(self.loop.now)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.served.append(scope["path"])
        if self.hold is not None:
            await self.hold.wait()
        if self.sheds:
            scope["extensions"]["qimem.exchange"].turn_away()
        scope["extensions"]["qimem.exchange"].answer(200, self.headers, self.body)


async def settle() -> None:
    """Run what is ready to run."""
    for _ in range(10):
        await asyncio.sleep(0)
