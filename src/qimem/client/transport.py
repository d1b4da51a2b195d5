"""HTTP/1.1 with one kept connection for each thread of each process."""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from qimem.client.errors import Unreachable
from qimem.kernel.clock import SystemClock

_IDLE_SECONDS: Final = 3.0
"""The server closes what was idle for 5: a request that is sent at that moment is lost."""
_ANSWER_BYTES_MAX: Final = 64 << 20
_STALE: Final = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
_TRANSPORTS: Final[weakref.WeakSet[Transport]] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What is sent.

    Args:
        repeatable: Sent twice it has the effect of once.
    """

    method: str
    target: str
    # Tokens, passwords and secrets stand in both: a log line or a traceback must not show them.
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    repeatable: bool


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage = field(repr=False)
    body: bytes = field(repr=False)


class _Kept:
    """The connection of one thread, and when it was used last."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection = connection
        self.used = 0.0
        # With its thread it goes, and nobody is left to close what it held.
        weakref.finalize(self, connection.close)


class Transport:
    """Connections to one server.

    Args:
        base_url: `http://host:port` or `https://host`, with or without a path before `/v1`.
        timeout_seconds: For connecting, and for each read.
        tls: How certificates are judged; by default as the system does.

    Raises:
        ValueError: the URL is none of these.
    """

    def __init__(self, base_url: str, timeout_seconds: float, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("not an http or https URL of a server")
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._host, self._port = parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._timeout = timeout_seconds
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        # Weak: of a server with a thread for each request, those of all threads that ever were would stay.
        self._all: weakref.WeakSet[_Kept] = weakref.WeakSet()
        self._clock = SystemClock()
        _TRANSPORTS.add(self)

    def exchange(self, request: HttpRequest) -> HttpAnswer:
        """Send and receive.

        Raises:
            Unreachable: no answer.
        """
        kept = self._mine()
        fresh = kept.connection.sock is None
        try:
            return self._once(kept, request)
        except _STALE as error:
            if fresh or not request.repeatable:
                raise self._unreachable(error) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        try:
            # Closed by the server while it was idle.
            return self._once(self._mine(), request)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def close(self) -> None:
        """Close the connections of all threads. A call that comes later opens one, which the next `close` ends."""
        with self._lock:
            for kept in self._all:
                kept.connection.close()

    def forget_parent(self) -> None:
        """Have a process that was forked begin without connections, its parent's go on undisturbed."""
        # Another thread may have held it at the fork, and does not run here.
        self._lock = threading.Lock()
        self.close()
        self._of_thread, self._all = threading.local(), weakref.WeakSet()

    def _once(self, kept: _Kept, request: HttpRequest) -> HttpAnswer:
        connection = kept.connection
        try:
            connection.request(
                request.method, self._prefix + request.target, request.body, dict(request.headers)
            )
            answer = connection.getresponse()
            body = answer.read(_ANSWER_BYTES_MAX)
        except BaseException:
            # Whatever is still to come on it belongs to nobody; and of a request that ended within its headers,
            # http.client would send what it has before the next one.
            connection.close()
            self._of_thread.kept = None
            raise
        if not answer.isclosed():
            connection.close()
            raise http.client.HTTPException("the answer is too long")
        kept.used = self._clock.monotonic_seconds()
        return HttpAnswer(answer.status, answer.headers, body)

    def _mine(self) -> _Kept:
        kept: _Kept | None = getattr(self._of_thread, "kept", None)
        if kept is None:
            kept = self._of_thread.kept = _Kept(self._new())
            with self._lock:
                self._all.add(kept)
        if self._clock.monotonic_seconds() - kept.used > _IDLE_SECONDS:
            kept.connection.close()
        return kept

    def _new(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=self._tls
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)

    def _unreachable(self, error: Exception) -> Unreachable:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return Unreachable(f"no answer from {self._host}: {reason}")


def _forget_parent() -> None:
    # A fork leaves both processes with one connection: each would read the answers of the other, and what
    # the parent closes would stay open for as long as the child lives.
    for transport in _TRANSPORTS:
        transport.forget_parent()


os.register_at_fork(after_in_child=_forget_parent)
