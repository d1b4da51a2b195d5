"""The HTTP edge alone, in this process: the product's protocol and dispatcher with tiny endpoints behind them.

    with Edge(only(headers_seconds=0.3)) as edge, Raw(edge.url) as client: ...

Runs on a loop and thread of its own, configured as the server configures it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from qimem.audit.schema import COUNTED, recorded
from qimem.authz.permissions import Permission, compile_permissions
from qimem.errors import Conflict, Unauthenticated, storage_unavailable
from qimem.kernel.audit_draft import Intent
from qimem.kernel.clock import SystemClock
from qimem.kernel.context import Actor, ActorKind
from qimem.kernel.ids import ClientId, RealmId
from qimem.observability.metrics import STRAYS, Metrics
from qimem.server import http
from qimem.web import system
from qimem.web.app import Around, create_app
from qimem.web.kit.endpoint import Call, Endpoint, RawAnswer
from qimem.web.kit.forwarded import Peers
from qimem.web.kit.protocol import GuardedProtocol
from qimem.web.kit.tls import Tls
from qimem.wire.common import Request, Status
from tests.support.audit import FakeRecorder
from tests.support.metering import FakeLimits

BIG = 24 * 1024 * 1024
"""More than the buffers of both ends of a connection take."""


def only(**seconds: float) -> type[GuardedProtocol]:
    """The protocol with these deadlines, and the others too far away for a test to meet."""
    names = ("first_byte", "headers", "body", "write_stall", "keep_alive")
    far = {f"{name}_seconds": 60.0 for name in names}
    return type("Only", (GuardedProtocol,), far | {"sweep_seconds": 0.02} | seconds)


class EchoRequest(Request, frozen=True, kw_only=True):
    text: str


class OpenGate:
    """Lets everyone in who says something."""

    async def authenticate(self, authorization: bytes | None) -> tuple[Actor, Any]:
        if authorization is None:
            raise Unauthenticated("authentication required", code="unauthenticated")
        everything = compile_permissions(frozenset({"*"}))
        actor = Actor(RealmId("r"), ActorKind.USER, "s", ClientId("c"), "t", everything, "pro")
        return actor, SimpleNamespace(realm_id=RealmId("r"))

    def permits(self, actor: Actor, permission: Permission) -> bool:
        return True


class Edge:
    """A running edge.

    Attributes:
        served: What handlers were called with, in order.
        faults: What nobody handled on the loop; a test that expects none needs to do nothing.
    """

    def __init__(
        self,
        protocol: type[GuardedProtocol] = GuardedProtocol,
        *,
        app: Any = None,
        proxies: Sequence[str] = (),
        origins: Sequence[str] = (),
        tls: Tls | None = None,
    ) -> None:
        self.served: list[str] = []
        self.recorder = FakeRecorder()
        self.faults: list[Any] = []
        endpoints = (*system.ENDPOINTS, *self._endpoints())
        self.metrics = Metrics([endpoint.name for endpoint in endpoints])
        peers = Peers(proxies, partial(self.metrics.count, STRAYS), SystemClock().monotonic_seconds)
        around = Around(OpenGate(), self.recorder, FakeLimits(), self.metrics, peers)
        self.app = app or create_app(endpoints, SimpleNamespace(), around, cors_origins=origins)
        self._config = http._uvicorn_config(self.app, tls)
        self._config.http = protocol if tls is None else tls.over(protocol)
        self._scheme = "http" if tls is None else "https"
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind(("127.0.0.1", 0))
        self.url = f"{self._scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self.server.should_exit = True
        self._thread.join(10)
        assert not self.alive
        assert not self.faults

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def release(self) -> None:
        """Let the slow endpoint answer."""
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self.loop.call_soon_threadsafe(self._released.set)

    def renew(self) -> None:
        """As if it had been started now, without waiting for a start."""

        def renew() -> None:
            self._released.set()
            self._released = asyncio.Event()
            self.served.clear()

        assert not self.faults
        self.call(renew)

    def call(self, function: Any) -> Any:
        """Run something on the loop of the edge."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def _run(self) -> None:
        async def listening() -> None:
            self.loop = asyncio.get_running_loop()
            self._released = asyncio.Event()
            self.loop.set_exception_handler(lambda _, context: self.faults.append(context))
            self._ready.set()

        async def serve() -> None:
            self.server = http._Server(self._config, listening)
            await self.server.serve(sockets=[self._listener])

        with http.runner() as runner:
            runner.run(serve())

    def _endpoints(self) -> tuple[Endpoint, ...]:
        async def echo(call: Call[EchoRequest, None]) -> Status:
            self.served.append(call.body.text)
            return Status(status=call.body.text)

        async def big(call: Call[None, None]) -> RawAnswer:
            self.served.append("big")
            return RawAnswer(b"x" * BIG, content_type="application/octet-stream")

        async def slow(call: Call[None, None]) -> Status:
            self.served.append("slow")
            await self._released.wait()
            return Status(status="slow")

        async def address(call: Call[None, None]) -> Status:
            return Status(status=call.draft.address)

        async def done(call: Call[EchoRequest, None]) -> Status:
            # The effect is committed, and what the answer needs besides cannot be had.
            call.draft.intent = Intent("1", b"")
            raise storage_unavailable() if call.body.text == "unavailable" else Conflict("no")

        async def broken(call: Call[None, None]) -> Status:
            raise RuntimeError("SELECT secret FROM /etc/passwd")

        def endpoint(method: str, name: str, handler: Any, **more: Any) -> Endpoint:
            return Endpoint(method, f"/v1/{name}", f"edge.{name}", COUNTED, handler, Status, **more)

        return (
            endpoint("POST", "echo", echo, request=EchoRequest),
            endpoint("POST", "private", echo, request=EchoRequest, permission=Permission.KEYS_READ),
            replace(
                endpoint("POST", "recorded", echo, request=EchoRequest, permission=Permission.KEYS_READ),
                audit=recorded(),
            ),
            replace(
                endpoint("POST", "done", done, request=EchoRequest, permission=Permission.KEYS_READ),
                audit=recorded(),
            ),
            endpoint("GET", "big", big),
            endpoint("GET", "slow", slow),
            endpoint("GET", "address", address, permission=Permission.KEYS_READ),
            endpoint("GET", "broken", broken),
        )
