"""HTTP/1.1 on the wire: uvicorn's httptools protocol with a framing guard and deadlines.

No Python server is safe as shipped: two requests in one (smuggling), a header that never ends, a
body that drips, a reader that never reads. Here every request has one unambiguous framing, every
phase has a deadline, kept by one sweep per worker, and whoever does not take an answer gets no
further one. An answer leaves in one write.

    IDLE ── first byte ──→ HEADERS ── empty line ──→ BODY ── last byte ──→ IDLE

Anything ambiguous: the requests before it are answered, then comes a 4xx and the end.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from qimem.kernel import limits
from qimem.web.kit import errors
from qimem.web.kit.admission import admission_of
from qimem.web.kit.crowd import has_room
from qimem.web.kit.exchange import STATUS_LINES, Exchange, Flow, default_lines
from qimem.web.kit.framing import Unreadable, judge
from qimem.web.kit.sweep import Sweep

_DISCARD_BYTES_MAX = limits.DECRYPT_BODY_BYTES_MAX + limits.BODY_BYTES_MAX
_PIPELINE_MAX = 128
"""Requests that wait for the answer to an earlier one: each costs a hundred times its length here."""
_DRAINED_BYTES_MIN = 64 * 1024
"""A reader takes so much in `write_stall_seconds`, or all there is."""

_IDLE, _HEADERS, _BODY = range(3)


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    first_byte_seconds = limits.FIRST_BYTE_SECONDS
    headers_seconds = limits.HEADERS_SECONDS
    body_seconds = limits.BODY_SECONDS
    write_stall_seconds = limits.WRITE_STALL_SECONDS
    keep_alive_seconds = limits.KEEP_ALIVE_SECONDS
    sweep_seconds = limits.SWEEP_SECONDS

    flow: Flow
    client_certificate: str | None = None
    """Thumbprint of the one that the client has proved to hold, from an authority that is trusted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.admission = admission_of(self.config.app)
        self._deadline = math.inf
        self._phase = _IDLE
        self._steps = self._unsent = 0
        self._phase_bytes = self._header_bytes = self._body_bytes = 0
        self._unsent_since = 0.0
        self._waiting = False
        self._resting = False
        self._deaf = False
        self._refusal: bytes | None = None
        self._fresh: Exchange | None = None
        self._reading = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Begin; beyond the connection limit nothing is done for a newcomer."""
        super().connection_made(transport)
        self.flow = Flow(transport)
        if len(self.connections) > limits.CONNECTIONS_MAX and not has_room(self):
            transport.abort()
            return
        self._deadline = self.loop.time() + self.first_byte_seconds
        Sweep.ensure(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; what has not begun never will."""
        super().connection_lost(exc)
        self.admission.taken(self)
        self.admission.unpipeline(len(self.pipeline))
        self.pipeline.clear()

    @property
    def idle_until(self) -> float | None:
        """When it will be closed because nothing is asked; None while something is, or is answered."""
        return None if self._phase != _IDLE or self._deaf or self._owed() else self._deadline

    def sweep(self, now: float) -> None:
        """Cut the connection if it is past a deadline, or does not take what was written."""
        if now > self._deadline:
            if self._owed() and not self._deaf:
                self._refuse(408)
            else:
                self.cut()
            return
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent > self._unsent or self._unsent - unsent >= _DRAINED_BYTES_MIN:
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since > self.write_stall_seconds:
            self.cut()

    def data_received(self, data: bytes) -> None:
        """Parse; anything ambiguous ends the connection."""
        if self._deaf:
            self._discard(len(data))
            return
        steps = self._steps
        self._reading = True
        try:
            self.parser.feed_data(data)
            self._begin()
            if self._steps == steps:
                self._count_unseen(len(data))
        except (Unreadable, httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # What a callback raises, the parser passes on as the context of an error of its own.
            refused = error if isinstance(error, Unreadable) else error.__context__
            self._fresh = None
            if not self.transport.is_closing():
                self._refuse(refused.status if isinstance(refused, Unreadable) else 400)

    # The callbacks below do what uvicorn's do, and are written out: with a super() call for every header
    # and its options that are never set, one request cost a tenth more.

    def on_message_begin(self) -> None:
        """First byte of a request."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._step(_HEADERS)
        self._header_bytes = self._body_bytes = 0
        self._deadline = self.loop.time() + self.headers_seconds

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self.url += url
        if len(self.url) > limits.URL_BYTES_MAX:
            raise Unreadable(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field, or one trailer."""
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > limits.HEADER_BYTES_MAX:
            raise Unreadable(431)
        # A trailer must not speak as a header: nothing on the way, and no check here, has seen it as one.
        if self._phase == _HEADERS:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """All header fields: judge the framing before anything is done with the request."""
        version = self.parser.get_http_version()
        framing = judge(self.headers, self.url, version)
        method = self.parser.get_method().decode("ascii")
        if method == "CONNECT":
            raise Unreadable
        earlier = self.cycle
        # It is going to be refused, and so much is not read only to keep a connection.
        short = framing.length <= _DISCARD_BYTES_MAX
        keep_alive = short and version == "1.1" and self.parser.should_keep_alive()
        cycle = self.cycle = Exchange(self, self._scope(method, version), framing, keep_alive=keep_alive)
        self._step(_BODY)
        self._deadline = self.loop.time() + self.body_seconds
        if (earlier is None or earlier.response_complete) and not self._waiting:
            # It begins once its body is here, or nothing more of it: then most need not wait for anything.
            self._fresh = cycle
            return
        self.pipeline.appendleft((cycle, self.app))
        self.flow.hold()
        if not self.admission.pipeline():
            raise Unreadable(503)
        if len(self.pipeline) > _PIPELINE_MAX:
            raise Unreadable

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > _DISCARD_BYTES_MAX:
            # Nobody reads this much; an endless body after an early refusal is only a drain.
            raise Unreadable(413)
        exchange = self.cycle
        if not exchange.response_complete:
            exchange.body += body
            if len(exchange.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            exchange.message_event.set()

    def on_message_complete(self) -> None:
        """Last byte of a request; its handling has its own limits."""
        self._step(_IDLE)
        exchange = self.cycle
        if exchange.response_complete:
            self._deadline = self.loop.time() + self.keep_alive_seconds
            return
        self._deadline = math.inf
        exchange.more_body = False
        exchange.message_event.set()
        self._begin()

    def _begin(self) -> None:
        exchange, self._fresh = self._fresh, None
        if exchange is None or self.transport.is_closing():
            return
        if self._reading:
            # One for each read: whoever sends many at once must not keep the others waiting for all of them.
            self._reading = False
            exchange.begin(self.app)
        else:
            self._start_asgi_task(exchange, self.app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        assert isinstance(cycle, Exchange)
        cycle.task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(cycle.task)

    def fresh_event(self) -> asyncio.Event:
        """An event for a new exchange; the one before it, when it is over, waits for nothing any more."""
        earlier = self.cycle
        if earlier is None or not earlier.response_complete:
            return asyncio.Event()
        earlier.message_event.clear()
        return earlier.message_event

    def answered(self, exchange: Exchange) -> None:
        """An exchange wrote its answer; go on with the connection, or end it."""
        if exchange.keep_alive:
            if exchange.shed:
                self._rest()
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        if exchange.more_body:
            self.hang_up()
            if exchange.shed:
                self.flow.hold()
                self._deadline = self.loop.time() + limits.REST_SECONDS
        else:
            self.transport.close()

    def hang_up(self) -> None:
        """End after an answer: read what still comes, keep nothing of it, and close soon."""
        # RFC 9112 §9.6: closing with input unread resets the connection, and the answer is lost with it.
        self._deaf = True
        self._deadline = self.loop.time() + self.first_byte_seconds
        self._body_bytes = 0
        self.flow.held = False
        self.flow.resume_reading()
        self.transport.write_eof()

    def on_response_complete(self) -> None:
        """An answer was written; go on once the client has taken enough of it."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.write_paused:
            # Whoever asks and does not read would fill the memory with answers.
            self._waiting = True
            self.flow.hold()
            if self._phase == _IDLE:
                self._deadline = math.inf
            return
        self._go_on()

    def _rest(self) -> None:
        # It was told to come back later. If each who does not wait were answered again at once, saying no would take
        # the time that the work of the others needs.
        self._resting = True
        self.flow.hold()
        self.loop.call_later(self.admission.rest_seconds(), self._rested)

    def _rested(self) -> None:
        self._resting = False
        if not (self.pipeline or self._waiting or self.transport.is_closing()):
            self.flow.held = False
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        """The client does not read what was written."""
        super().pause_writing()
        self.admission.unread(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client took what was written."""
        super().resume_writing()
        self.admission.taken(self)
        if self._waiting:
            self._waiting = False
            self._go_on()

    def shutdown(self) -> None:
        """The server stops: finish what has begun."""
        if self._deaf and self._refusal is None:
            self.transport.close()
        else:
            super().shutdown()

    def _scope(self, method: str, version: str) -> Any:
        path, _, query = self.url.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": self.headers,
            "state": {},
            "method": method,
            "path": unquote(path.decode("ascii")) if b"%" in path else path.decode("ascii"),
            "raw_path": path,
            "query_string": query,
        }

    def _step(self, phase: int) -> None:
        self._phase = phase
        self._steps += 1
        self._phase_bytes = 0

    def _go_on(self) -> None:
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self.admission.unpipeline()
            self.flow.held = self._resting or bool(self.pipeline)
            if self._phase == _BODY and cycle is self.cycle:
                # Its body was not read for as long as others were served.
                self._deadline = self.loop.time() + self.body_seconds
            self._start_asgi_task(cycle, app)
            return
        self.flow.held = self._resting
        if self._refusal is not None:
            self.transport.write(self._refusal)
            self._refusal = None
            self.hang_up()
            return
        self.flow.resume_reading()
        if self._phase == _IDLE:
            self._deadline = self.loop.time() + self.keep_alive_seconds

    def _count_unseen(self, size: int) -> None:
        # The parser collects an unfinished line, and skips chunk extensions, without a word to us.
        self._phase_bytes += size
        if self._phase != _BODY:
            if self._phase_bytes > 2 * limits.HEADER_BYTES_MAX:
                raise Unreadable(431)
        elif self._phase_bytes > 2 * limits.HEADER_BYTES_MAX + 8 * self._body_bytes:
            raise Unreadable

    def _refuse(self, status: int) -> None:
        """Answer with an error, after whatever came earlier, and read no more."""
        self._deaf = True
        refusal = self._rendered_refusal(status)
        cycle = self.cycle
        if self._phase == _BODY:
            if cycle.response_complete:
                # Answered before its end; a second answer would be taken for that of a next request.
                self.hang_up()
                return
            if self._owed():
                self.pipeline.popleft()
                self.admission.unpipeline()
                self._postpone(refusal)
                return
            cycle.disconnected = True
            cycle.message_event.set()
        elif self._owed():
            self._postpone(refusal)
            return
        self.transport.write(refusal)
        self.hang_up()

    def _postpone(self, refusal: bytes) -> None:
        self._refusal = refusal
        self._deadline = math.inf
        self.flow.hold()

    def _rendered_refusal(self, status: int) -> bytes:
        given = dict(self.headers).get(b"x-request-id") if self._phase != _IDLE else None
        lines, body = errors.unreadable(status, errors.request_id(given))
        head = (STATUS_LINES[status], default_lines(self.server_state.default_headers), lines)
        return b"".join((*head, b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body), body))

    def _discard(self, size: int) -> None:
        self._body_bytes += size
        if self._body_bytes > _DISCARD_BYTES_MAX:
            self.cut()

    def _owed(self) -> bool:
        """Whether a request before the one that is being read waits for its answer."""
        if self._phase == _BODY:
            return bool(self.pipeline)
        return self.cycle is not None and not self.cycle.response_complete

    def cut(self) -> None:
        """End it at once."""
        self._deadline = math.inf
        self.transport.abort()
