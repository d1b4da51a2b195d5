"""Lists, page after page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from qimem.client.session import Operation, Session
from qimem.wire.common import Page

T = TypeVar("T")


class Part:
    """Some operations of the API."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._call = session.call


def every(
    session: Session, operation: Operation[Page[T]], query: msgspec.Struct, *parts: object
) -> Iterator[T]:
    """Every item, asking for a page when the one before is used up.

    Raises:
        ApiError: the server refused, or did not answer.
    """
    # The queries have no common base: each forbids what it does not know.
    asked: Any = query
    while True:
        page = session.call(operation, *parts, query=asked)
        yield from page.items
        if page.next_cursor is None:
            return
        asked = msgspec.structs.replace(asked, cursor=page.next_cursor)
