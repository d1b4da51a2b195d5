"""Endpoints about the server itself: health, readiness, what it speaks, and its documentation."""

from __future__ import annotations

from qimem import __version__
from qimem.audit.schema import COUNTED
from qimem.errors import QimemError, Unavailable
from qimem.web.kit import errors
from qimem.web.kit.endpoint import Call, Endpoint, RawAnswer
from qimem.wire.common import NotReady, ServerInfo, Status


async def health(call: Call[None, None]) -> Status:  # noqa: ARG001 - answers while the process does
    """The process answers."""
    return Status(status="ok")


async def ready(call: Call[None, None]) -> Status | RawAnswer:
    """Whether this process can serve: storage, schema, root key and audit log, and that it is not ending."""
    failing = await call.services.readiness.failing()
    if failing:
        body = errors.encode(NotReady(status="not ready", checks=failing))
        return RawAnswer(body, status=503, headers=errors.RETRY_SOON)
    return Status(status="ready")


async def self_check(call: Call[None, None]) -> Status:
    """A real encrypt and decrypt."""
    try:
        await call.services.self_check()
    except QimemError as error:
        raise Unavailable("the self-check failed", code=error.code) from error
    return Status(status="ok")


async def root(call: Call[None, None]) -> ServerInfo:  # noqa: ARG001 - the same for everyone
    """What this server is."""
    return ServerInfo(name="qimem", versions=["v1"], openapi="/v1/openapi.json")


def documented(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """The endpoints with the two that describe them all.

    The document is rendered at the first question, not at start: most processes are never asked.
    """
    rendered: dict[str, bytes] = {}

    async def openapi(call: Call[None, None]) -> RawAnswer:  # noqa: ARG001 - the same for everyone
        """The OpenAPI 3.1 document."""
        if "json" not in rendered:
            from qimem.web.kit.openapi import render  # noqa: PLC0415 - see above

            rendered["json"] = render(everything, __version__)
        return RawAnswer(rendered["json"])

    async def docs(call: Call[None, None]) -> RawAnswer:  # noqa: ARG001 - the same for everyone
        """The documentation page."""
        if "html" not in rendered:
            from qimem.web.docs_page import CONTENT_SECURITY_POLICY, render_page  # noqa: PLC0415 - see above

            rendered["html"] = render_page(everything, __version__)
            rendered["policy"] = b"content-security-policy: " + CONTENT_SECURITY_POLICY.encode() + b"\r\n"
        return RawAnswer(
            rendered["html"], content_type="text/html; charset=utf-8", headers=rendered["policy"]
        )

    everything = (
        *endpoints,
        Endpoint(
            method="GET",
            path="/v1/openapi.json",
            name="system.openapi",
            audit=COUNTED,
            handler=openapi,
            response=dict,
            summary="This API as an OpenAPI 3.1 document",
        ),
        Endpoint(
            method="GET",
            path="/docs",
            name="system.docs",
            audit=COUNTED,
            handler=docs,
            response=str,
            summary="This API as a page to read",
        ),
    )
    return everything


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/",
        name="system.root",
        audit=COUNTED,
        handler=root,
        response=ServerInfo,
        summary="What this server is and speaks",
    ),
    Endpoint(
        method="GET",
        path="/health",
        name="system.health",
        audit=COUNTED,
        unmetered=True,
        handler=health,
        response=Status,
        summary="Whether the process answers",
    ),
    Endpoint(
        method="GET",
        path="/ready",
        name="system.ready",
        audit=COUNTED,
        unmetered=True,
        handler=ready,
        response=Status,
        summary="Whether the process can serve",
    ),
    Endpoint(
        method="GET",
        path="/v1/security/health",
        name="security.health",
        audit=COUNTED,
        unmetered=True,
        handler=self_check,
        response=Status,
        summary="A real encrypt-and-decrypt self-check",
    ),
)
"""Every operation of this resource."""
