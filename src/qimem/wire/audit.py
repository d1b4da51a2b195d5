"""The audit log as it is stored, shown and exported."""

from __future__ import annotations

from uuid import UUID

import msgspec

from qimem.wire.common import Response


class KeyUse(Response, frozen=True, kw_only=True):
    """How often a request of several operations used one version."""

    key: UUID
    version: int
    count: int


class AuditRecord(Response, frozen=True, kw_only=True, omit_defaults=True):
    """A record as it stands in the log. Never a secret, a plaintext or a token.

    Args:
        at: RFC 3339 with microseconds; within a stream it never goes back.
        event: `resource.action`.
        outcome: `ok`, `replayed`, or the code of the error that was answered.
        id: Unique; a record that is written again after a crash keeps it.
        token: `jti` of the token that was shown, or that was issued.
        items: Operations that the request asked for; `failed` of them were refused.
        used: The keys of a request of several operations.
        count: How many requests an aggregated record stands for.
        recovered: Written later than its effect: whether it was answered is not known.
    """

    at: str
    event: str
    outcome: str
    id: str
    realm: str = ""
    subject: str = ""
    client: str = ""
    token: str = ""
    key: UUID | None = None
    version: int = 0
    target: str = ""
    items: int = 1
    failed: int = 0
    used: list[KeyUse] = msgspec.field(default_factory=list)
    request_id: str = ""
    address: str = ""
    count: int = 1
    recovered: bool = False


class AuditEventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """GET /v1/audit/events: each field that is given narrows what is found."""

    realm_id: str | None = None
    event: str | None = None
    outcome: str | None = None
    subject: str | None = None
    client_id: str | None = None
    key_id: UUID | None = None
    request_id: str | None = None
    since: str | None = None
    until: str | None = None
    limit: int | None = None
    cursor: str | None = None
