"""Reads answers. What cannot be read was said by something in between, or cut off: nobody answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import msgspec

from qimem.client.errors import ApiError, Unreachable, error_of
from qimem.client.transport import HttpAnswer
from qimem.wire.common import ErrorBody

T = TypeVar("T")

NOT_OURS: Final = "unknown"
"""Code of a refusal that did not come from the API."""
# msgspec lets the last two through: text that is no UTF-8, and nesting without end.
_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
_WAIT_DIGITS_MAX: Final = 9


@contextmanager
def reading() -> Iterator[None]:
    """Reads an answer of 200 in its block.

    Raises:
        Unreachable: it is not what this API says.
    """
    try:
        yield
    except _UNREADABLE as error:
        raise Unreachable("what answered does not speak this API") from error


def decoded(answer: HttpAnswer, kind: type[T]) -> T:
    """What an answer of 200 carries.

    Raises:
        Unreachable: it is not that.
    """
    with reading():
        return msgspec.json.decode(answer.body, type=kind)


def refusal(answer: HttpAnswer) -> ApiError:
    """The exception for an answer that is not 200."""
    try:
        body = msgspec.json.decode(answer.body, type=ErrorBody)
    except _UNREADABLE:
        # Something between here and the server answered.
        body = ErrorBody(error=f"HTTP status {answer.status}", code=NOT_OURS)
    wait = answer.headers.get("Retry-After", "")
    told = wait.isdecimal() and len(wait) <= _WAIT_DIGITS_MAX
    return error_of(answer.status, body, int(wait) if told else None)
