"""The one place where an error becomes an answer."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

import msgspec

from qimem.crypto.randomness import nonce12
from qimem.errors import (
    Conflict,
    Forbidden,
    InvalidFields,
    Kind,
    Limited,
    QimemError,
    Unauthenticated,
    Unavailable,
)
from qimem.kernel.limits import REQUEST_ID_CHARS_MAX
from qimem.wire.common import ErrorBody

SECURITY: Final = b"x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n"
"""Header lines of every answer."""
API: Final = SECURITY + b"content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n"
"""Header lines of every answer that is no page."""
NO_STORE: Final = b"cache-control: no-store\r\n"
RETRY_SOON: Final = b"retry-after: 1\r\n"
JSON: Final = b"content-type: application/json\r\n"
JSON_ANSWER: Final = JSON + NO_STORE + API
"""Header lines of nearly every answer, and of every error."""

_MESSAGE_CHARS_MAX: Final = 256
"""Messages name what was not found as the caller wrote it; a batch would give megabytes back a thousand times."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,%d}" % REQUEST_ID_CHARS_MAX)

STATUS: Final = {
    Kind.INVALID: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.PRECONDITION: 412,
    Kind.MISMATCH: 422,
    Kind.LIMITED: 429,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}
"""Kind of error → HTTP status."""

_SIGN_IN = "POST /v1/auth/token; on a new server `qimem token` signs in as its operator"


class TransportError(Exception):
    """An answer that only HTTP knows: wrong method, media type, length, path."""

    def __init__(
        self, status: int, message: str, code: str, *, hint: str | None = None, headers: bytes = b""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = ErrorBody(error=message, code=code, hint=hint)
        self.headers = headers


def status_of(error: QimemError) -> int:
    """The HTTP status of a domain error."""
    return STATUS[error.kind]


def body_of(error: QimemError, request_id: str) -> ErrorBody:
    """The answer's body for a domain error."""
    hint = error.hint
    if isinstance(error, Unauthenticated) and error.code == "unauthenticated":
        hint = hint or _SIGN_IN
    return ErrorBody(
        error=error.message[:_MESSAGE_CHARS_MAX],
        code=error.code,
        request_id=request_id,
        hint=hint,
        fields=error.fields if isinstance(error, InvalidFields) else None,
        permission=error.permission if isinstance(error, Forbidden) else None,
        resource=error.resource if isinstance(error, Forbidden) else None,
        object_id=error.object_id if isinstance(error, Conflict) else None,
    )


def headers_of(error: QimemError) -> bytes:
    """Header lines that the error brings with it."""
    if isinstance(error, Unauthenticated):
        if error.code == "invalid_token":
            return b'www-authenticate: Bearer error="invalid_token"\r\n'
        return b"www-authenticate: Bearer\r\n"
    if isinstance(error, Limited | Unavailable):
        return b"retry-after: %d\r\n" % error.retry_after_seconds
    return b""


def request_id(given: bytes | None) -> bytes:
    """The id of a request.

    Args:
        given: `X-Request-Id` as the client sent it; kept when it is 1–128 of `[A-Za-z0-9._-]`.
    """
    if given is not None and _REQUEST_ID.fullmatch(given) is not None:
        return given
    return nonce12().hex().encode()


def unreadable(status: int, request_id: bytes) -> tuple[bytes, bytes]:
    """Header lines and body of the answer to what cannot be read as a request.

    Args:
        status: 4xx, 503, or 505.
        request_id: What both of them say.
    """
    told = JSON_ANSWER + b"x-request-id: " + request_id + b"\r\n"
    if status == 503:
        overloaded = Unavailable("too many requests at once", code="overloaded")
        return told + headers_of(overloaded), encode(body_of(overloaded, request_id.decode()))
    body = ErrorBody(
        error=f"invalid HTTP request: {HTTPStatus(status).phrase.lower()}",
        code="payload_too_large" if status == 413 else "invalid_request",
        request_id=request_id.decode(),
    )
    return told, encode(body)


def item_error(error: QimemError) -> ErrorBody:
    """An error as one item of a batch."""
    return body_of(error, "")


def encode(body: msgspec.Struct) -> bytes:
    """A wire struct as JSON."""
    return _ENCODER.encode(body)


_ENCODER = msgspec.json.Encoder()
