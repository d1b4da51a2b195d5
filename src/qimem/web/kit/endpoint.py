"""One endpoint, declared once: routing, permission, shapes, OpenAPI and tests all read this table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from uuid import UUID

from qimem.audit.schema import AuditSchema
from qimem.authz.permissions import Permission
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.context import RequestContext
from qimem.kernel.ids import parse_uuid
from qimem.kernel.limits import BODY_BYTES_MAX
from qimem.kernel.metering import Meter
from qimem.web.kit.asked import Asked
from qimem.web.kit.preconditions import precondition
from qimem.web.services import Services
from qimem.wire.preconditions import Precondition

B = TypeVar("B")
Q = TypeVar("Q")


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer that is no wire struct.

    Args:
        headers: Further rendered header lines.
    """

    body: bytes
    content_type: str = "application/json"
    status: int = 200
    headers: bytes = b""


class Call(Generic[B, Q]):
    """One request as a handler sees it: decoded, authenticated, authorized in the coarse.

    `context` exists where a bearer was admitted: on endpoints that ask for a permission always. `draft` is the
    audit record; `headers` show the last value of each name; `meter` charges who is found to ask.
    """

    __slots__ = ("body", "context", "draft", "headers", "meter", "path", "query", "services")

    context: RequestContext

    def __init__(
        self,
        services: Services,
        path: Mapping[str, str],
        body: B,
        query: Q,
        draft: AuditDraft,
        asked: Asked,
    ) -> None:
        self.headers = asked.headers
        self.meter: Meter = asked
        self.services = services
        self.draft = draft
        self.path = path
        self.body = body
        self.query = query

    @property
    def precondition(self) -> Precondition:
        """What `If-Match` says.

        Raises:
            TransportError: 428 without one.
            Invalid: malformed.
        """
        return precondition(self.headers.get(b"if-match"))

    def path_uuid(self, name: str) -> UUID | None:
        """A path parameter as UUID, None when it is not one."""
        return parse_uuid(self.path[name])


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Declares one operation.

    Args:
        path: Exact path; `{name}` stands for one segment.
        name: `resource.action`, unique; operationId of the OpenAPI document and event of the audit log.
        audit: What its records hold.
        response: Wire struct of a 200, or a union of them.
        request: Wire struct of the body, None where no body is read.
        query: Wire struct of the query, None where none is read.
        permission: What the caller must hold with any scope; None for public endpoints.
        signed_in: Any good bearer suffices: it concerns the caller alone.
        versioned: Its answers carry an `ETag`; where it changes a part of something, `If-Match` must name one.
        any_caller: Public, but a bearer that is shown must be good, and the handler asks who shows it.
        optional_body: No field is required, so no body is.
        idempotent: Honors Idempotency-Key.
        conflicts: The state of things may forbid it, beside what a repetition can meet.
        only_uses: Recorded, though it changes nothing: it uses a key.
        unmetered: Neither counted nor limited, nor refused when there is too much to do.
        proves_client: Public, and the handler itself charges whom the request proves to come from.
        cacheable: May be stored by caches; everything else may not.
        example: A request that works, shown in the documentation and run in the tests.
    """

    method: str
    path: str
    name: str
    audit: AuditSchema
    handler: Callable[[Call[Any, Any]], Awaitable[object]]
    response: Any
    request: type[Any] | None = None
    query: type[Any] | None = None
    permission: Permission | None = None
    any_caller: bool = False
    signed_in: bool = False
    versioned: bool = False
    optional_body: bool = False
    body_bytes_max: int = BODY_BYTES_MAX
    idempotent: bool = False
    conflicts: bool = False
    only_uses: bool = False
    unmetered: bool = False
    proves_client: bool = False
    cacheable: bool = False
    summary: str = ""
    example: Mapping[str, Any] | None = None
    names_realm: bool = field(init=False, default=False)
    realm_in_path: bool = field(init=False, default=False)
    needs_bearer: bool = field(init=False, default=False)
    merges: bool = field(init=False, default=False)
    batched: bool = field(init=False, default=False)
    may_lag: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """Note whether the request can name a realm, so that dispatch need not look."""
        if self.idempotent and self.permission is None:
            # Answers are kept by caller; without one, a stranger could be given another's.
            message = f"{self.name}: only an endpoint with a permission can be idempotent"
            raise ValueError(message)
        shape = self.request if self.request is not None else self.query
        in_path = "{realm_id}" in self.path
        named = in_path or (shape is not None and "realm_id" in shape.__struct_fields__)
        object.__setattr__(self, "needs_bearer", self.permission is not None or self.signed_in)
        object.__setattr__(self, "may_lag", self.only_uses or not self.audit.recorded)
        object.__setattr__(self, "merges", self.method == "PATCH")
        batched = self.request is not None and "items" in self.request.__struct_fields__
        object.__setattr__(self, "batched", batched)
        object.__setattr__(self, "realm_in_path", in_path)
        object.__setattr__(self, "names_realm", named and self.permission is not None)
