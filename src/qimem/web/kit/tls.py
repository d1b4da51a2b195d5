"""TLS between a socket and the protocol that speaks HTTP on it.

The event loops' own TLS counts nobody before the handshake is over, cannot half-close, and hides what the socket has not
taken yet. Here whoever has not finished a handshake holds a place among the connections and has a deadline like them, and
flow control is the socket's own.

    accepted ── handshake ──▶ HTTP ── close_notify ──▶ closed
        └── HANDSHAKE_SECONDS, a fault, or too many others ──▶ cut
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any

from uvicorn.server import ServerState

from qimem.crypto.certificates import thumbprint
from qimem.kernel import limits
from qimem.web.kit import errors
from qimem.web.kit.admission import Admission, admission_of
from qimem.web.kit.crowd import has_room
from qimem.web.kit.exchange import STATUS_LINES, default_lines
from qimem.web.kit.protocol import GuardedProtocol
from qimem.web.kit.sweep import Sweep

_READ_BYTES = 64 * 1024
_UNASKED_BYTES_MAX = 64 * 1024
"""Of a connection, what its handling of TLS made us send: two thousand changes of keys."""
_UNHEARD_BYTES_MAX = 64 * 1024
"""Of a connection, what was received beyond three times what it brought for HTTP. A change of keys that asks for no answer
takes 27 bytes and 10 µs: one connection that sent nothing else kept a worker from everybody."""
_PLAIN_HTTP = "HTTP_REQUEST"
"""OpenSSL's name for a first record that is the head of a request."""


class Tls:
    """What the listeners of a process serve TLS with.

    Args:
        context: For the next handshakes; whoever replaces it changes nothing for connections that stand.
    """

    handshake_seconds = limits.HANDSHAKE_SECONDS

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self._unfinished: dict[TlsConnection, None] = {}

    def over(self, protocol: type[GuardedProtocol]) -> Callable[..., TlsConnection]:
        """What uvicorn is given as the class of its protocols.

        Args:
            protocol: Of the connections that TLS secures.
        """

        def accepted(**given: Any) -> TlsConnection:
            connection = TlsConnection(self, given["server_state"], lambda: protocol(**given))
            connection.sweep_seconds = protocol.sweep_seconds
            connection.admission = admission_of(given["config"].app)
            return connection

        return accepted

    def begun(self, connection: TlsConnection) -> None:
        """A handshake is awaited; the oldest one makes room when there are too many."""
        self._unfinished[connection] = None
        if len(self._unfinished) > limits.HANDSHAKES_MAX:
            next(iter(self._unfinished)).cut()

    def ended(self, connection: TlsConnection) -> None:
        """It is finished, or never will be."""
        self._unfinished.pop(connection, None)


class TlsConnection(asyncio.Protocol, asyncio.Transport):
    """One connection: to its socket the protocol, to the protocol of HTTP the transport."""

    sweep_seconds: float
    admission: Admission
    idle_until: float | None = None
    """It never makes room as an idle one: a handshake has a deadline and a bound of its own."""

    def __init__(self, tls: Tls, server_state: ServerState, make: Callable[[], GuardedProtocol]) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.server_state = server_state
        self.connections: set[Any] = server_state.connections
        self._tls = tls
        self._make = make
        self._http: GuardedProtocol | None = None
        self._raw: asyncio.Transport
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._session: ssl.SSLObject | None = None
        self._deadline = 0.0
        self._paused = False
        self._unasked = self._unheard = 0
        self._refused = False
        self._said_goodbye = False
        self._closing = False

    # What the socket tells.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as asyncio's own
        """Wait for a handshake; beyond the connection limit nothing is done for a newcomer."""
        self._raw = transport
        self.connections.add(self)
        if len(self.connections) > limits.CONNECTIONS_MAX and not has_room(self):
            self.cut()
            return
        self._deadline = self.loop.time() + self._tls.handshake_seconds
        self._tls.begun(self)
        Sweep.ensure(self)

    def data_received(self, data: bytes) -> None:
        """Go on with the handshake, or hand over what was sent."""
        if self._closing or self._refused:
            return
        if self._said_goodbye:
            # Nobody reads any more; how much comes is still counted.
            assert self._http is not None
            self._http.data_received(data)
            return
        self._received.write(data)
        if self._http is None:
            self._shake_hands()
        else:
            self._unheard += len(data)
            self._deliver()

    def eof_received(self) -> None:
        """The end, with or without a goodbye: a request tells by itself whether it is whole."""
        if self._http is not None:
            self._http.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._closing = True
        self._forget()
        if self._http is not None:
            self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        """The socket takes no more."""
        if self._http is not None:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        if self._http is not None:
            self._http.resume_writing()

    # What the server asks of each connection, before there is a protocol of HTTP.

    def sweep(self, now: float) -> None:
        """Cut it when it has not finished its handshake in time."""
        if now > self._deadline:
            self.cut()

    def shutdown(self) -> None:
        """The server stops."""
        self.cut()

    def cut(self) -> None:
        """End it without a word."""
        self._forget()
        self.abort()

    # What the protocol of HTTP asks of its transport.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send, in one write to the socket."""
        if self._closing or self._said_goodbye or self._session is None:
            return
        left = memoryview(data)
        try:
            # A call takes a record's worth.
            while left:
                left = left[self._session.write(left) :]
        except ssl.SSLError:
            self.abort()
            return
        self._flush()

    def write_eof(self) -> None:
        """Say that nothing more will come; what still arrives is only counted."""
        self._say_goodbye()
        self._raw.write_eof()

    def can_write_eof(self) -> bool:
        """Yes: RFC 8446 §6.1 closes each direction by itself."""
        return True

    def close(self) -> None:
        """Close once all is sent."""
        if not self._closing:
            self._say_goodbye()
            self._closing = True
            self._raw.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._raw.abort()

    def is_closing(self) -> bool:
        """Whether it is being closed, or was."""
        return self._closing or self._raw.is_closing()

    def pause_reading(self) -> None:
        """Hand over nothing more, and take nothing more."""
        self._paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Go on, with what has arrived already first."""
        self._paused = False
        self._raw.resume_reading()
        if self._received.pending or (self._session is not None and self._session.pending()):
            self.loop.call_soon(self._deliver)

    def get_write_buffer_size(self) -> int:
        """Bytes that the socket has not taken."""
        return self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`sslcontext`, and whatever the socket knows."""
        return self._tls.context if name == "sslcontext" else self._raw.get_extra_info(name, default)

    def _shake_hands(self) -> None:
        if self._session is None:
            # Made only now: a socket that says nothing costs nothing but its place.
            self._session = self._tls.context.wrap_bio(self._received, self._to_send, server_side=True)
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._refuse(error)
            return
        self._flush()
        self._forget()
        self._http = self._make()
        if self._session.context.verify_mode != ssl.CERT_NONE:
            shown = self._session.getpeercert(binary_form=True)
            self._http.client_certificate = None if shown is None else thumbprint(shown)
        self._http.connection_made(self)
        self._deliver()

    def _refuse(self, error: ssl.SSLError) -> None:
        """Say why, and go when the other side does: closing with input unread would take the word along."""
        self._refused = True
        if error.reason == _PLAIN_HTTP:
            lines, body = errors.unreadable(400, errors.request_id(None))
            head = (STATUS_LINES[400], default_lines(self.server_state.default_headers), lines)
            length = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self._raw.write(b"".join((*head, length, body)))
        else:
            self._flush()
        self._raw.write_eof()

    def _deliver(self) -> None:
        """Hand over all that has arrived at once: as many records as a read of the socket brought are one read."""
        if self._paused or self.is_closing() or self._said_goodbye:
            return
        assert self._session is not None
        assert self._http is not None
        pieces: list[bytes] = []
        ended = broken = False
        try:
            while piece := self._session.read(_READ_BYTES):
                pieces.append(piece)
                if not self._received.pending and not self._session.pending():
                    # Most reads bring one record; to be told so by an exception cost a tenth of TLS.
                    break
            ended = not piece
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            broken = True
        # Whoever asks for new keys is answered. One who only asks, and reads nothing, would fill the memory.
        self._unasked += self._to_send.pending
        self._unheard = max(0, self._unheard - 3 * sum(map(len, pieces)))
        self._flush()
        if broken or self._unasked > _UNASKED_BYTES_MAX or self._unheard > _UNHEARD_BYTES_MAX:
            self.abort()
            return
        if pieces:
            self._http.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if ended and not self._closing:
            # As when a plain socket ends: nobody is left who would wait for an answer.
            self._http.eof_received()
            self.close()

    def _say_goodbye(self) -> None:
        if self._said_goodbye or self._session is None or self._raw.is_closing():
            return
        self._said_goodbye = True
        # It also waits for the other side's word, which need not come.
        with contextlib.suppress(ssl.SSLError):
            self._session.unwrap()
        self._flush()

    def _flush(self) -> None:
        if self._to_send.pending and not self._raw.is_closing():
            self._raw.write(self._to_send.read())

    def _forget(self) -> None:
        self._tls.ended(self)
        self.connections.discard(self)
