"""The framing of a request: one reading of where it ends, or none at all.

Requests that two parties read differently are how one request is smuggled inside another; every doubt
ends the connection. Pure: it judges what the parser found.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from qimem.kernel.limits import HEADER_COUNT_MAX

_SINGLE = frozenset({b"host", b"transfer-encoding", b"content-length", b"upgrade", b"expect"})
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")


class Unreadable(Exception):
    """The request cannot be read without ambiguity.

    Args:
        status: What to answer: 4xx, or 505; 503 for one that there is no room for.
    """

    def __init__(self, status: int = 400) -> None:
        super().__init__()
        self.status = status


class Framing(NamedTuple):
    """What the header fields say.

    Args:
        fields: Name → value; of a name that stands twice, the last value.
        length: Declared length, 0 without one.
        expects_continue: Whether the client waits for `100 Continue` before it sends the body.
    """

    fields: dict[bytes, bytes]
    length: int
    expects_continue: bool


def judge(headers: Sequence[tuple[bytes, bytes]], target: bytes, version: str) -> Framing:
    """The framing of a request whose header fields are all there.

    Args:
        headers: Names in lower case, and values.
        target: The request target as sent.
        version: `1.1` and the like.

    Raises:
        Unreadable: two readings are possible, or the request asks for what is not offered.
    """
    if len(headers) > HEADER_COUNT_MAX:
        raise Unreadable(431)
    found = dict(headers)
    if len(found) != len(headers):
        names = [name for name, _ in headers if name in _SINGLE]
        if len(set(names)) != len(names):
            raise Unreadable
    # Upgrades are not offered; a parser that switches would take the body for the new protocol.
    if b"upgrade" in found or not _is_host(found.get(b"host", b"")):
        raise Unreadable
    if target[:1] != b"/" or b"#" in target:
        raise Unreadable
    if version not in {"1.1", "1.0"}:
        raise Unreadable(505)
    length, encoding = found.get(b"content-length"), found.get(b"transfer-encoding")
    # RFC 9112 §6.1: both framings at once, or any coding but chunked, is how requests are smuggled.
    if encoding is not None and (length or encoding.lower() != b"chunked" or version != "1.1"):
        raise Unreadable
    # RFC 9110 §10.1.1: HTTP/1.0 knows no interim answers.
    expects = version == "1.1" and b"expect" in found and found[b"expect"].lower() == b"100-continue"
    return Framing(found, int(length or 0), expects)


@lru_cache(maxsize=256)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None
