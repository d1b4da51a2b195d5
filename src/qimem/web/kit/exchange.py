"""One request and its answer on a connection."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from qimem.kernel import patience
from qimem.kernel.limits import LARGE_BODY_BYTES
from qimem.web.kit.framing import Framing

if TYPE_CHECKING:
    from qimem.web.kit.protocol import GuardedProtocol

STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}

_NOTHING = bytearray()
"""In place of a body that was dealt with; nothing is ever added to it."""
_rendered_defaults: tuple[object, bytes] = (None, b"")


def default_lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The header lines that stand in every answer, rendered once for as long as the server keeps this list."""
    # The server replaces the list once a second, when the Date changes.
    global _rendered_defaults  # noqa: PLW0603 - one entry of memory for the whole process
    if _rendered_defaults[0] is not headers:
        # Its first list, while the server starts, is empty; RFC 9110 §6.6.1 wants a date all the same.
        shown = headers or [(b"date", formatdate(usegmt=True).encode())]
        _rendered_defaults = (headers, b"".join(b"%s: %s\r\n" % header for header in shown))
    return _rendered_defaults[1]


class Flow(FlowControl):
    """Reading stays paused while `held`, however often a request asks for more."""

    held = False

    def resume_reading(self) -> None:
        """Read on, unless held."""
        if not self.held:
            super().resume_reading()

    def hold(self) -> None:
        """Pause until released by whoever set `held`."""
        self.held = True
        self.pause_reading()


class Exchange(RequestResponseCycle):
    """A request being answered, with a short way past the messages of ASGI for this product's application.

    The application finds it as `scope["extensions"]["qimem.exchange"]`. One write of rendered headers and
    body replaces two messages, each a dict that is checked and taken apart again. Beside it, when the connection's client
    has shown a certificate that was verified, stands `qimem.client_certificate`: its thumbprint `x5t#S256` (RFC 8705 §3.1).
    """

    # Every attribute of the base class is set here or below: its own constructor, called with eleven names,
    # and an event that nobody waits for in most requests cost 1 µs of each.
    access_log = False
    chunked_encoding = None
    disconnected = False
    expected_content_length = 0
    more_body = True
    owed = False
    """Its answer will be given by somebody else."""
    response_complete = False
    response_started = False
    shed = False
    """It is refused because there is too much to do."""
    task: asyncio.Task[None] | None = None

    def __init__(self, protocol: GuardedProtocol, scope: Any, framing: Framing, *, keep_alive: bool) -> None:
        self.scope = scope
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.logger = protocol.logger
        self.access_logger = protocol.access_logger
        self.default_headers = protocol.server_state.default_headers
        self.message_event = protocol.fresh_event()
        self.on_response = protocol.on_response_complete
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = framing.expects_continue
        self.body = bytearray()
        self.framing = framing
        self._protocol = protocol
        scope["extensions"] = {"qimem.exchange": self}
        if protocol.client_certificate is not None:
            scope["extensions"]["qimem.client_certificate"] = protocol.client_certificate

    def begin(self, app: Any) -> None:
        """Serve the request up to where it first has to wait; a task of its own goes on from there.

        Most requests never wait. A task for each, and a turn of the loop until it runs, cost 4 µs of 37.
        Before Python 3.12 there is no current task until then: `asyncio.timeout` and groups of tasks raise.
        """
        if sys.version_info >= (3, 12):
            task = asyncio.Task(self.run_asgi(app), loop=asyncio.get_running_loop(), eager_start=True)
            if task.done():
                return
        else:
            steps = self.run_asgi(app)
            context = copy_context()
            try:
                awaited = context.run(steps.send, None)
            except StopIteration:
                return
            task = self._protocol.loop.create_task(_Rest(steps, awaited), context=context)
        self.task = task
        self._protocol.tasks.add(task)

    async def run_asgi(self, app: Any) -> None:
        """Serve the request; whatever happens, the connection is either answered or closed."""
        patience.begin()
        try:
            # What uvicorn wraps around this, and a callback of the loop for each ended task, cost 2 µs.
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            # The server ends and waits for its connections; this one has no next request.
            self.transport.close()
            raise
        except Exception:
            self.logger.exception("the application failed outside of its own error handling")
        finally:
            # Disconnected: its client is gone, or has a refusal to read that closing now would destroy.
            if not self.response_complete and not self.disconnected and not self.owed:
                self.transport.close()
            if self.task is not None:
                self._protocol.tasks.discard(self.task)
                self.task = None

    def turn_away(self) -> None:
        """It is going to be refused because there is too much to do: its connection rests, or ends."""
        self.shed = True
        if self.more_body and not 0 < self.framing.length <= LARGE_BODY_BYTES:
            # To read what is still to come would take the time that others need.
            self.keep_alive = False

    def whole_body(self) -> bytes | None:
        """The body if all of it has arrived; None while some is on its way, or when nobody will send it."""
        if self.more_body or self.disconnected:
            return None
        # It came without being asked for: there is nothing left to invite.
        self.waiting_for_100_continue = False
        return bytes(self.body)

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """Write the whole answer at once.

        Args:
            status: A known HTTP status.
            headers: Rendered lines without Content-Length, Date and Connection.
            body: Left out for HEAD; its length is told all the same.
        """
        if self.disconnected or self.response_complete or self.transport.is_closing():
            return
        self.response_started = True
        if self.waiting_for_100_continue:
            # Whether the body comes all the same is the client's choice: what follows cannot be told apart.
            self.waiting_for_100_continue = self.keep_alive = False
        parts = [STATUS_LINES[status], default_lines(self.default_headers), headers]
        if status != 204:
            parts.append(b"content-length: %d\r\n" % len(body))
        parts.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        if self.scope["method"] != "HEAD":
            parts.append(body)
        self.transport.write(b"".join(parts))
        self.response_complete = True
        # Whoever keeps the connection must not keep a quarter of a megabyte with it.
        self.body = _NOTHING
        self.message_event.set()
        # It holds this exchange, which holds it: without this, every request would wait for the collector.
        del self.scope["extensions"]
        self._protocol.answered(self)


class _Rest(Coroutine[Any, Any, None]):
    """What is left of a coroutine that was run up to its first wait, for a task to go on with.

    A cancellation that comes before the task's first step reaches the coroutine where it waits; a task would
    throw it into a wrapper that has not begun, and what was started would never hear of it.
    """

    def __init__(self, steps: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._steps = steps
        self._awaited = awaited
        self._begun = False
        # A future has this set from when a coroutine yields it until its task takes it. Left set until the
        # task begins, it would make whoever else awaits the same future fail.
        if awaited is not None:
            awaited._asyncio_future_blocking = False  # noqa: SLF001 - the protocol between future and task

    def send(self, value: None) -> Any:
        """Hand over what the coroutine waits for; from the second call on, what it waits for next."""
        if self._begun:
            return self._steps.send(value)
        self._begun = True
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            awaited._asyncio_future_blocking = True  # noqa: SLF001
        return awaited

    def throw(self, *error: Any) -> Any:
        """Raise it where the coroutine waits."""
        if not self._begun:
            self._begun = True
            awaited, self._awaited = self._awaited, None
            # As a task does with what it waits for when it is cancelled.
            if awaited is not None and isinstance(error[0], asyncio.CancelledError):
                awaited.cancel()
        return self._steps.throw(*error)

    def close(self) -> None:
        """End the coroutine where it waits."""
        self._awaited = None
        self._steps.close()

    def __await__(self) -> Generator[Any, Any, None]:
        """Refused: it belongs to one task and to nobody who awaits it."""
        message = "what is left of a request is run by a task"
        raise TypeError(message)
