"""What the admin listener serves: metrics, health and every check of readiness, and nothing of the API.

It asks nobody who they are. By default it listens nowhere, and on other addresses than this machine's own only where plain
HTTP was allowed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from qimem.observability.metrics import CONTENT_TYPE
from qimem.web.kit import errors
from qimem.web.kit.admission import Admission, Uncounted
from qimem.web.kit.asked import Receive, Scope, Send, exchange_of
from qimem.web.readiness import Readiness
from qimem.wire.common import CheckedReadiness, ErrorBody, Status

_TEXT = b"content-type: " + CONTENT_TYPE.encode() + b"\r\n" + errors.NO_STORE + errors.API
_PATHS = frozenset({"/metrics", "/health", "/ready"})


class AdminApp:
    """ASGI 3 application under this product's own protocol.

    Args:
        metrics: Renders all metrics; takes milliseconds.
        readiness: Of the worker that answers.
    """

    def __init__(self, metrics: Callable[[], bytes], readiness: Readiness) -> None:
        # Its own, and one for all its connections: what is kept for clients who do not read has one bound.
        self.admission = Admission(Uncounted())
        self._metrics = metrics
        self._readiness = readiness
        self._rendering: asyncio.Future[bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - no body is read
        """Serve one request."""
        exchange_of(scope).answer(*await self._answer(scope["method"], scope["path"]))

    async def _answer(self, method: str, path: str) -> tuple[int, bytes, bytes]:
        if path not in _PATHS:
            return 404, errors.JSON_ANSWER, errors.encode(ErrorBody(error="not found", code="not_found"))
        if method not in ("GET", "HEAD"):
            refusal = ErrorBody(error=f"method not allowed: {method}", code="method_not_allowed")
            return 405, errors.JSON_ANSWER + b"allow: GET, HEAD\r\n", errors.encode(refusal)
        if path == "/health":
            return 200, errors.JSON_ANSWER, errors.encode(Status(status="ok"))
        if path == "/ready":
            return await self._ready()
        if self._rendering is None or self._rendering.done():
            # One for all who ask meanwhile: the threads are wanted for other work, too.
            self._rendering = asyncio.get_running_loop().run_in_executor(None, self._metrics)
        return 200, _TEXT, await asyncio.shield(self._rendering)

    async def _ready(self) -> tuple[int, bytes, bytes]:
        checks = await self._readiness.checks()
        if all(check.state == "ok" for check in checks.values()):
            return 200, errors.JSON_ANSWER, errors.encode(CheckedReadiness(status="ready", checks=checks))
        body = errors.encode(CheckedReadiness(status="not ready", checks=checks))
        return 503, errors.JSON_ANSWER + errors.RETRY_SOON, body
