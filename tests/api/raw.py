"""HTTP as bytes on a socket: what no client library would send, and exactly what came back."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.certificates import trusting

SECONDS = 15.0


@dataclass(frozen=True)
class Answer:
    """One answer; header names in lower case, in their order."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The value of a header that stands at most once."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, (name, values)
        return values[0] if values else None

    @property
    def closes(self) -> bool:
        return self.header("connection") == "close"


class Raw:
    """One connection to a server, closed at the end of the block."""

    def __init__(self, url: str, *, receive_buffer: int | None = None, seconds: float = SECONDS) -> None:
        place = urlsplit(url)
        self.host = place.netloc
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(seconds)
        self.socket.connect((place.hostname, place.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if place.scheme == "https":
            self.socket = trusting().wrap_socket(self.socket, server_hostname=place.hostname)
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, *, head: bool = False) -> Answer:
        """The next answer; `head` when it belongs to a HEAD request."""
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        pairs = tuple((n.lower(), v) for n, _, v in (line.partition(": ") for line in lines[1:] if line))
        status = int(lines[0].split(" ")[1])
        answer = Answer(status, pairs, b"")
        length = int(answer.header("content-length") or 0)
        bodiless = head or status < 200 or status in (204, 304)
        return Answer(status, pairs, b"" if bodiless else self._take(length))

    def rest(self) -> bytes:
        """Everything until the server closes. A reset is an error: it can take an answer with it."""
        while chunk := self.socket.recv(65536):
            self._read += chunk
        rest, self._read = self._read, b""
        return rest

    def rest_or_reset(self) -> bytes:
        """Everything until the end, however it comes."""
        try:
            return self.rest()
        except ConnectionResetError:
            rest, self._read = self._read, b""
            return rest

    def closed(self) -> bool:
        """Wait for the end; whether it came without another byte."""
        return self.rest_or_reset() == b""

    def _until(self, end: bytes) -> bytes:
        while end not in self._read:
            self._more()
        found, _, self._read = self._read.partition(end)
        return found + end

    def _take(self, count: int) -> bytes:
        while len(self._read) < count:
            self._more()
        taken, self._read = self._read[:count], self._read[count:]
        return taken

    def _more(self) -> None:
        chunk = self.socket.recv(65536)
        if not chunk:
            raise EOFError(f"the server closed; unread: {self._read[:200]!r}")
        self._read += chunk


def get(path: str = "/health", *lines: str) -> bytes:
    """A GET with further header lines."""
    return "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", "Host: a.example", *lines, "")).encode()


def post(path: str, body: bytes, *lines: str) -> bytes:
    """A POST of JSON with its length."""
    head = (f"POST {path} HTTP/1.1", "Host: a.example", "Content-Type: application/json", *lines)
    return "".join(f"{line}\r\n" for line in (*head, f"Content-Length: {len(body)}", "")).encode() + body


def chunked(path: str, *chunks: bytes, lines: tuple[str, ...] = (), trailers: tuple[str, ...] = ()) -> bytes:
    """A POST of JSON in chunks, complete."""
    head = (f"POST {path} HTTP/1.1", "Host: a.example", "Content-Type: application/json", *lines)
    text = "".join(f"{line}\r\n" for line in (*head, "Transfer-Encoding: chunked", "")).encode()
    text += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n"
    return text + "".join(f"{line}\r\n" for line in (*trailers, "")).encode()
