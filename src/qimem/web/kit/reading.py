"""What a request says beside who sends it: head, query, body and idempotency key, taken or refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from qimem.crypto.mac import digest
from qimem.errors import Invalid
from qimem.kernel.context import IdempotencyKey
from qimem.kernel.limits import IDEMPOTENCY_KEY_CHARS_MAX
from qimem.web.kit import json_guard
from qimem.web.kit.asked import Asked, Receive
from qimem.web.kit.endpoint import Endpoint
from qimem.web.kit.errors import TransportError
from qimem.web.kit.media_types import check_media_type

_IDEMPOTENCY_KEY = re.compile(rb"[!-~]{1,%d}" % IDEMPOTENCY_KEY_CHARS_MAX)
_SINGLE = frozenset(
    {b"authorization", b"content-type", b"idempotency-key", b"if-match", b"origin", b"x-request-id"}
)


def check_head(asked: Asked, endpoint: Endpoint) -> None:
    """Refuse by the head alone.

    Raises:
        TransportError: a header stands twice that must not, or the body will be too large.
    """
    if len(asked.headers) != len(asked.scope["headers"]):
        _refuse_repeated(asked.scope["headers"])
    if endpoint.request is not None and declared(asked) > endpoint.body_bytes_max:
        raise _too_large(endpoint)


def declared(asked: Asked) -> int:
    """The length of its body as told beforehand, 0 without one."""
    if asked.exchange is not None:
        told: int = asked.exchange.framing.length
        return told
    length = asked.headers.get(b"content-length")
    return int(length) if length is not None and length.isdigit() else 0


def _too_large(endpoint: Endpoint) -> TransportError:
    return TransportError(
        413, f"body larger than {endpoint.body_bytes_max} bytes", "payload_too_large", headers=b""
    )


def _refuse_repeated(headers: Sequence[tuple[bytes, bytes]]) -> None:
    seen: set[bytes] = set()
    for name, _ in headers:
        # Two values for one of these are two requests in one; which one counts must not be guessed.
        if name in seen and name in _SINGLE:
            raise TransportError(400, f"repeated header: {name.decode('latin-1')}", "invalid_request")
        seen.add(name)


async def read_body(endpoint: Endpoint, receive: Receive) -> bytes:
    """The body, when all of it is there.

    Raises:
        TransportError: it is too large, or ended early.
    """
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        parts = [body]
        size = len(body)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > endpoint.body_bytes_max:
                raise _too_large(endpoint)
        body = b"".join(parts)
    if message["type"] == "http.disconnect":
        # Half a request must not be taken for a whole one.
        raise TransportError(400, "the request ended early", "invalid_request")
    return body


def checked_body(endpoint: Endpoint, headers: Mapping[bytes, bytes], body: bytes) -> bytes:
    """The body, or that of a request which need not have one.

    Raises:
        TransportError: it is too large, missing or of no type.
    """
    if len(body) > endpoint.body_bytes_max:
        raise _too_large(endpoint)
    if not body:
        if endpoint.optional_body:
            return b"{}"
        raise json_guard.invalid_json("a body is required")
    if b"content-type" not in headers:
        check_media_type(b"", endpoint)
    return body


def query_of(endpoint: Endpoint, asked: Asked) -> Any:
    """The query as the endpoint's shape; None where none is read.

    Raises:
        Invalid: malformed, or there where nobody reads it.
    """
    text = asked.scope["query_string"]
    if endpoint.method == "DELETE" and declared(asked):
        # As below.
        raise Invalid("a body is not read here", hint="fields go into the query")
    if endpoint.query is not None:
        return json_guard.convert_query(_query(text), endpoint.query)
    if text and (endpoint.request is not None or endpoint.needs_bearer):
        # A realm named here by mistake, and ignored, would be work done in another realm.
        hint = None if endpoint.request is None else "fields go into the body"
        raise Invalid("query parameters are not read here", hint=hint)
    return None


def _query(text: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            text.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(text),
            max_num_fields=32,
            errors="strict",
        )
    except ValueError:
        raise Invalid("malformed query string") from None
    values = dict(pairs)
    if len(values) != len(pairs):
        raise Invalid("a query parameter stands twice")
    return values


def idempotency_key(
    endpoint: Endpoint, headers: Mapping[bytes, bytes], body: bytes, path: Mapping[str, str]
) -> IdempotencyKey | None:
    """The `Idempotency-Key` with what it stands for; None without one.

    Raises:
        Invalid: malformed.
    """
    key = headers.get(b"idempotency-key")
    if key is None:
        return None
    if _IDEMPOTENCY_KEY.fullmatch(key) is None:
        raise Invalid(f"Idempotency-Key: 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible characters")
    # The object in the path is part of what is asked for: the same for another one is another request.
    asked = b"\0".join([body, *(value.encode() for value in path.values())])
    return IdempotencyKey(key.decode(), f"{endpoint.method} {endpoint.path}", digest(asked))
