"""Keyset pages: a cursor is the position of the last item, typed and checked again when it comes back."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from qimem.errors import InvalidFields
from qimem.kernel.ids import parse_uuid
from qimem.kernel.limits import CURSOR_CHARS_MAX, PAGE_DEFAULT, PAGE_MAX

_INTEGER_MAX = 2**63 - 1


def page_limit(limit: int | None) -> int:
    """How many items to return.

    Raises:
        InvalidFields: outside 1–200.
    """
    if limit is None:
        return PAGE_DEFAULT
    if not 1 <= limit <= PAGE_MAX:
        raise InvalidFields({"/limit": f"1 to {PAGE_MAX}"})
    return limit


def next_cursor(position: Sequence[object] | None) -> str | None:
    """The cursor for a position; None when there is nothing after it."""
    if position is None:
        return None
    values = [str(value) if isinstance(value, UUID) else value for value in position]
    return base64.urlsafe_b64encode(json.dumps(values, separators=(",", ":")).encode()).rstrip(b"=").decode()


def position(cursor: str | None, types: tuple[type, ...]) -> Any:
    """The position a cursor stands for; None without a cursor.

    Args:
        cursor: As the client sent it.
        types: What each part must be: int (0 to 2^63 - 1), UUID or str.

    Raises:
        InvalidFields: not a cursor of this list.
    """
    if cursor is None:
        return None
    try:
        return tuple(_typed(value, kind) for value, kind in zip(_values(cursor), types, strict=True))
    except (ValueError, RecursionError):
        raise InvalidFields({"/cursor": "not a cursor of this list"}) from None


def _values(cursor: str) -> list[object]:
    if len(cursor) > CURSOR_CHARS_MAX:
        raise ValueError
    values = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    if not isinstance(values, list):
        raise ValueError  # noqa: TRY004 - what was sent is wrong, not its caller
    return values


def _typed(value: object, kind: type) -> object:
    if kind is UUID:
        parsed = parse_uuid(value) if isinstance(value, str) else None
        if parsed is None:
            raise ValueError
        return parsed
    if kind is str:
        # JSON can say half of a surrogate pair and the character 0, which no position holds: the first has no UTF-8,
        # the second no place in PostgreSQL's texts.
        if not isinstance(value, str) or "\0" in value:
            raise ValueError
        value.encode()
        return value
    if type(value) is not int or not 0 <= value <= _INTEGER_MAX:
        raise ValueError
    return value
