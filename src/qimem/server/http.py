"""Runs the application on uvicorn inside this process, until it is told to stop.

Everything uvicorn would decide by itself (signals, logs, proxies, loop) is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import uvicorn
import uvloop

from qimem.config.schema import Settings
from qimem.kernel.limits import ACCEPTED_PER_TURN, DRAIN_SECONDS
from qimem.kernel.secret import SecretBytes
from qimem.kernel.shared_memory import SharedMemory
from qimem.observability.logging import logger

if TYPE_CHECKING:
    from qimem.web.kit.tls import Tls

_CLOSE_SECONDS = 2.0
"""Share of the drain that is left for giving back leases and closing the database."""
_ADMIN_CLOSE_SECONDS = 1.0


class Running(Protocol):
    """A started application."""

    @property
    def app(self) -> Callable[..., Awaitable[None]]:
        """The ASGI 3 application."""
        ...

    @property
    def admin_app(self) -> Callable[..., Awaitable[None]]:
        """The ASGI 3 application of the admin listener."""
        ...

    def drain(self) -> None:
        """The server ends: say so to whoever asks whether to send requests."""
        ...

    async def close(self) -> None:
        """Give back what it holds."""
        ...


class Start(Protocol):
    """Starts the application for the address that clients use."""

    def __call__(
        self, settings: Settings, root_key: SecretBytes, address: str, *, shared: SharedMemory | None
    ) -> Awaitable[Running]:
        """Open storage, check the root key, build the services."""
        ...


class _Server(uvicorn.Server):
    """uvicorn's server with our signals, and a word when it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._listening = listening

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        await self._listening()


class Stop:
    """The wish to stop, from a signal; remembered when it comes before there is anything to stop."""

    def __init__(self) -> None:
        self._servers: list[_Server] = []
        self._told: list[Callable[[], None]] = []
        self._asked = False

    def listen(self, loop: asyncio.AbstractEventLoop, *signals: signal.Signals) -> None:
        """Take these signals over."""
        for number in signals:
            loop.add_signal_handler(number, self._signaled)

    def attach(self, server: _Server) -> None:
        """A server that is to stop."""
        self._servers.append(server)
        server.should_exit = self._asked

    def tell(self, told: Callable[[], None]) -> None:
        """Have it called when the drain begins."""
        self._told.append(told)
        if self._asked:
            told()

    def ask(self) -> None:
        """Begin to drain; asked again, do not wait for connections any longer."""
        for told in self._told:
            told()
        for server in self._servers:
            server.force_exit = server.force_exit or self._asked
            server.should_exit = True
        self._asked = True

    def _signaled(self) -> None:
        if not self._asked:
            # A thread, not a loop timer: it has to work when the loop is what hangs.
            limit = threading.Timer(DRAIN_SECONDS - 0.5, os._exit, (0,))
            limit.daemon = True
            limit.start()
        self.ask()


class Listeners(NamedTuple):
    """Bound sockets, taken over by whoever serves on them.

    Args:
        main: For the application.
        tls: What secures it; None speaks plain HTTP.
        admin: For the admin application.
        admin_tls: What secures that.
    """

    main: socket.socket
    tls: Tls | None = None
    admin: socket.socket | None = None
    admin_tls: Tls | None = None


async def serve(
    running: Running,
    listeners: Listeners,
    *,
    stop: Stop,
    listening: Callable[[], Awaitable[None]],
) -> None:
    """Serve until stopped, then drain and close the application.

    Args:
        running: The started application; closed at the end, whatever happens.
        listeners: Where.
        stop: Where the wish to stop arrives.
        listening: Awaited once connections are accepted.
    """
    server = _Server(_uvicorn_config(running.app, listeners.tls), listening)
    stop.attach(server)
    stop.tell(running.drain)
    _settle()
    try:
        async with _beside(running, listeners, stop):
            # libuv accepts one connection of a listening descriptor in each turn of the loop (since 1.45): under load
            # that was forty a second, and newcomers, health checks among them, waited for minutes.
            more = [listeners.main.dup() for _ in range(ACCEPTED_PER_TURN - 1)]
            await server.serve(sockets=[listeners.main, *more])
    finally:
        try:
            await asyncio.wait_for(running.close(), _CLOSE_SECONDS)
        except TimeoutError:
            logger().warning("close took too long", duration_seconds=_CLOSE_SECONDS)


@contextlib.asynccontextmanager
async def _beside(running: Running, listeners: Listeners, stop: Stop) -> AsyncIterator[None]:
    """The admin application, listening before anybody is told so; when it ends by itself, so does the server.

    It ends last: whoever watches sees the drain.
    """
    admin = listeners.admin
    if admin is None:
        yield
        return
    # Tried here: the server below keeps a failure to itself.
    admin.listen()
    listens = asyncio.Event()

    async def listening() -> None:
        listens.set()

    config = _uvicorn_config(running.admin_app, listeners.admin_tls)
    config.timeout_graceful_shutdown = int(_ADMIN_CLOSE_SECONDS)
    server = _Server(config, listening)
    serving = asyncio.create_task(server.serve(sockets=[admin]))
    waiting = asyncio.create_task(listens.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    serving.add_done_callback(lambda _: stop.ask() if not server.should_exit else None)
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)


def runner() -> asyncio.Runner:
    """The event loop of a serving process."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def _settle() -> None:
    # What is alive now lives as long as the process; collections need not walk it again and again.
    gc.collect()
    gc.freeze()
    # The first installation's migration and password hash leave 20 MB of freed heap behind.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _uvicorn_config(app: Callable[..., Awaitable[None]], tls: Tls | None) -> uvicorn.Config:
    from qimem.web.kit.protocol import GuardedProtocol  # noqa: PLC0415

    protocol: Any = GuardedProtocol if tls is None else tls.over(GuardedProtocol)
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        loop="uvloop",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        # Whose word on addresses counts is judged by the application, see `web.kit.forwarded`.
        proxy_headers=False,
        workers=1,
        timeout_graceful_shutdown=int(DRAIN_SECONDS - _CLOSE_SECONDS - _ADMIN_CLOSE_SECONDS - 1),
    )
