"""`/v1/authz`: decisions, explained."""

from __future__ import annotations

from qimem.audit.schema import COUNTED
from qimem.authz.permissions import Permission
from qimem.web.kit.endpoint import Call, Endpoint
from qimem.wire.authz import ExplainRequest, Explanation


async def explain(call: Call[ExplainRequest, None]) -> Explanation:
    """Whether somebody may do something now, and which rule says so."""
    return await call.services.explanations.explain(call.context, call.body)


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/authz/explain",
        name="authz.explain",
        audit=COUNTED,
        handler=explain,
        request=ExplainRequest,
        response=Explanation,
        permission=Permission.AUTHZ_EXPLAIN,
        summary="Explain a decision",
        example={"permission": "keys:decrypt", "client_id": "{client_id}"},
    ),
)
"""Every operation of this resource."""
