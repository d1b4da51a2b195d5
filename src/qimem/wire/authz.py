"""`/v1/authz/explain`: why somebody may do something, or may not."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from qimem.wire.common import Request, Response

Rule = Literal["held", "held_for_this_key", "held_for_other_keys", "not_held", "platform_only", "no_standing"]


class ExplainRequest(Request, frozen=True, kw_only=True):
    """POST /v1/authz/explain: about a user, or about a client that acts for itself."""

    permission: str
    user_id: UUID | None = None
    client_id: str | None = None
    lineage_id: UUID | None = None
    realm_id: str | None = None


class Explanation(Response, frozen=True, kw_only=True):
    """The decision as it would be now, and the rule that makes it."""

    allowed: bool
    rule: Rule
    permission: str
    resource: str | None
    role: str | None
    grant: str | None
    hint: str | None
