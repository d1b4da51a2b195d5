"""What a call raises, by the status of the answer.

ApiError                 status, code, message, hint, request_id, fields, permission, idempotency_key
├── BadRequest           400, 413, 415, 422: the call cannot be served as it is
├── Unauthorized         401: nobody, or nobody valid, is calling
├── Forbidden            403: a permission is missing
├── NotFound             404
├── Conflict             409
├── PreconditionFailed   412, 428: it is not what was seen any more
├── Limited              429; `retry_after` seconds
└── Unavailable          503; `retry_after` seconds
└── Unreachable      nobody answered, or not this API, so what came of the call is not known
ItemsRefused (ApiError)  some items of a batch were refused
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from qimem.wire.common import ErrorBody


class ApiError(Exception):
    """The server refused, or did not answer.

    Args:
        status: HTTP status; 0 where there was no answer.
        body: The error of the API.
        retry_after: Seconds after which the server will look at it again, where it said so.

    Attributes:
        idempotency_key: Of the call, whether it was given or made up; None where it has none. The same call with
            the same key has its effect once, for as long as the server keeps keys.
    """

    idempotency_key: str | None = None

    def __init__(self, status: int, body: ErrorBody, retry_after: int | None = None) -> None:
        super().__init__(f"{body.error} ({body.code})" + (f": {body.hint}" if body.hint else ""))
        self.status = status
        self.body = body
        self.message = body.error
        self.code = body.code
        self.hint = body.hint
        self.request_id = body.request_id
        self.fields: Mapping[str, str] = body.fields or {}
        self.permission = body.permission
        self.object_id = body.object_id
        self.retry_after = retry_after


class BadRequest(ApiError):
    """The call cannot be served as it is."""


class Unauthorized(ApiError):
    """Nobody, or nobody valid, is calling."""


class Forbidden(ApiError):
    """A permission is missing."""


class NotFound(ApiError):
    """No such object that the caller may know of."""


class Conflict(ApiError):
    """It exists already, or its state forbids the call."""


class PreconditionFailed(ApiError):
    """It is not what was seen any more."""


class Limited(ApiError):
    """Too many, too fast."""


class Unavailable(ApiError):
    """The server cannot serve now."""


class Unreachable(Unavailable):
    """Nobody answered, or not this API. A call that changes something may have had its effect."""

    def __init__(self, reason: str) -> None:
        super().__init__(0, ErrorBody(error=reason, code="unreachable"))


class ItemsRefused(ApiError):
    """Some items of a batch were refused.

    Args:
        results: Of every item in order: what was answered, or the error.
    """

    def __init__(self, results: Sequence[object]) -> None:
        errors = {at: result for at, result in enumerate(results) if isinstance(result, ErrorBody)}
        super().__init__(200, next(iter(errors.values())))
        self.results = tuple(results)
        self.errors: Mapping[int, ErrorBody] = errors


_BY_STATUS: Final[Mapping[int, type[ApiError]]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: PreconditionFailed,
    413: BadRequest,
    415: BadRequest,
    422: BadRequest,
    428: PreconditionFailed,
    429: Limited,
    503: Unavailable,
}


def error_of(status: int, body: ErrorBody, retry_after: int | None) -> ApiError:
    """The exception for an answer that is not 200."""
    return _BY_STATUS.get(status, ApiError)(status, body, retry_after)
