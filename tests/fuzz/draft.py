"""A request that can be spoiled: its parts are apart until it is written as bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any


class Literal(bytes):
    """JSON text that stands in a tree as it is, right or wrong."""


class Pairs(list[tuple[Any, Any]]):
    """An object of JSON: a list, so that a key can come twice."""


def tree(value: Any) -> Any:
    """The value with objects as `Pairs`."""
    if isinstance(value, dict):
        return Pairs((name, tree(inner)) for name, inner in value.items())
    return [tree(inner) for inner in value] if isinstance(value, list) else value


def text_of(value: Any) -> bytes:
    """The tree as JSON, as far as it is JSON."""
    if isinstance(value, Literal):
        return bytes(value)
    if isinstance(value, Pairs):
        return b"{" + b",".join(text_of(name) + b":" + text_of(inner) for name, inner in value) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(text_of, value)) + b"]"
    if isinstance(value, str):
        return encode_basestring(value).encode("utf-8", "surrogatepass")
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@dataclass
class Draft:
    """One request.

    Attributes:
        body: A tree; None for a request without a body.
        encoded: The body as bytes; takes the place of the tree.
        chunks: Sizes of chunks to send the body in; empty: with a length.
        unframed: Two parties may disagree on where it ends; any answer or none is right, and the connection
            is over.
        closes: It is answered, and the connection may be over.
        queue_seconds: How long it may wait beside the loop.
    """

    operation: str
    method: bytes
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: Any = None
    encoded: bytes | None = None
    chunks: list[int] = field(default_factory=list)
    version: bytes = b"HTTP/1.1"
    unframed: bool = False
    closes: bool = False
    queue_seconds: float = 0.0
    history: list[str] = field(default_factory=list)

    def bytes_of_body(self) -> bytes:
        """What is sent after the headers, before any framing."""
        if self.encoded is not None:
            return self.encoded
        return b"" if self.body is None else text_of(self.body)

    def settle(self) -> None:
        """Write the tree down: what spoils bytes comes after what spoils structure."""
        self.encoded = self.bytes_of_body()

    def render(self) -> bytes:
        """The request on the wire."""
        body = self.bytes_of_body()
        target = self.path + (b"?" + self.query if self.query else b"")
        lines = [self.method + b" " + target + b" " + self.version]
        lines += [name + b": " + value for name, value in self.headers]
        if self.chunks:
            lines.append(b"Transfer-Encoding: chunked")
            body = self._in_chunks(body)
        elif body or self.method == b"POST":
            lines.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    def _in_chunks(self, body: bytes) -> bytes:
        pieces, start = [], 0
        for size in self.chunks:
            piece = body[start : start + size]
            if piece:
                pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece))
            start += size
        rest = body[start:]
        if rest:
            pieces.append(b"%x\r\n%b\r\n" % (len(rest), rest))
        return b"".join(pieces) + b"0\r\n\r\n"
