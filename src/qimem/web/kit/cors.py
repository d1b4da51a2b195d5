"""CORS: nothing by default; exact origins when configured, and never with credentials.

A foreign origin gets no CORS headers and is not refused: callers hold a bearer token, no cookie
works here, so there is nothing a browser could lend to a stranger.
"""

from __future__ import annotations

from collections.abc import Collection

_EXPOSED = (
    b"access-control-expose-headers: X-Request-Id, X-RateLimit-Limit, X-RateLimit-Remaining, "
    b"X-RateLimit-Reset, Retry-After, WWW-Authenticate, ETag\r\n"
)
_PREFLIGHT = (
    b"access-control-allow-headers: Authorization, Content-Type, Idempotency-Key, If-Match, X-Request-Id\r\n"
    b"access-control-max-age: 600\r\n"
)


class Cors:
    """Header lines for origins on the list.

    Args:
        origins: Exact origins such as `https://app.example`.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def headers(self, origin: bytes | None) -> bytes:
        """Lines for an answer to a request of this origin."""
        if not self._origins:
            return b""
        if origin not in self._origins:
            # Answers differ by origin, so shared caches must know that they do.
            return b"vary: Origin\r\n"
        assert origin is not None
        return b"access-control-allow-origin: " + origin + b"\r\nvary: Origin\r\n" + _EXPOSED

    def preflight(self, origin: bytes | None, methods: bytes) -> bytes:
        """Further lines for the answer to a preflight."""
        if origin not in self._origins:
            return b""
        return b"access-control-allow-methods: " + methods + b"\r\n" + _PREFLIGHT
