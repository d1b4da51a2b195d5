"""`/v1/audit`: the HTTP face of the audit log."""

from __future__ import annotations

from qimem.audit.events import Wanted
from qimem.audit.schema import COUNTED
from qimem.authz.decisions import require_everywhere
from qimem.authz.permissions import Permission
from qimem.errors import InvalidFields
from qimem.kernel.clock import parse_rfc3339, rfc3339
from qimem.web.kit.endpoint import Call, Endpoint
from qimem.web.kit.pages import next_cursor, page_limit, position
from qimem.wire.audit import AuditEventsQuery, AuditRecord
from qimem.wire.common import Page


async def list_events(call: Call[None, AuditEventsQuery]) -> Page[AuditRecord]:
    """The realm's records, newest first."""
    require_everywhere(call.context, Permission.AUDIT_READ)
    query = call.query
    wanted = Wanted(
        realm=call.context.realm_id,
        event=query.event,
        outcome=query.outcome,
        subject=query.subject,
        client=query.client_id,
        key=query.key_id,
        request_id=query.request_id,
        since=_time("since", query.since),
        until=_time("until", query.until),
    )
    before = position(query.cursor, (str, str))
    items, last = await call.services.events.search(wanted, before, page_limit(query.limit))
    return Page(items=items, next_cursor=next_cursor(last))


def _time(name: str, given: str | None) -> str | None:
    if given is None:
        return None
    try:
        return rfc3339(parse_rfc3339(given))
    except (ValueError, OverflowError):
        raise InvalidFields({f"/{name}": "an RFC 3339 time such as 2026-01-31T12:00:00Z"}) from None


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/audit/events",
        name="audit.list",
        audit=COUNTED,
        handler=list_events,
        query=AuditEventsQuery,
        response=Page[AuditRecord],
        permission=Permission.AUDIT_READ,
        summary="List audit records, newest first",
    ),
)
"""Every operation of this resource."""
