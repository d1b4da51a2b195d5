"""`If-Match` (RFC 9110 §13.1.1): a change of a part says which state it is meant for."""

from __future__ import annotations

import re
from typing import Final

from qimem.errors import Invalid
from qimem.web.kit.errors import TransportError
from qimem.wire.preconditions import Precondition

_HEADER_CHARS_MAX: Final = 1_024
_TAG = re.compile(r'(W/)?"[!#-~]*"')


def precondition(header: bytes | None) -> Precondition:
    """The condition that an `If-Match` header stands for.

    Raises:
        TransportError: 428 without one: of two who change the same thing, one would undo the other's work unseen.
        Invalid: malformed.
    """
    if header is None:
        raise TransportError(
            428,
            "If-Match is required",
            "precondition_required",
            hint="send the ETag of what you got, or * to change whatever is there",
        )
    text = header.decode("latin-1").strip()
    if text == "*":
        return Precondition()
    tags = [tag.strip() for tag in text.split(",")] if len(text) <= _HEADER_CHARS_MAX else [""]
    if not all(_TAG.fullmatch(tag) for tag in tags):
        raise Invalid("If-Match: entity tags in quotes, or *")
    # Weak tags are never equal here (§8.8.3.2); they match nothing.
    return Precondition(frozenset(tag for tag in tags if not tag.startswith("W/")))
