"""The realm's public signing keys (RFC 7517)."""

from __future__ import annotations

from qimem.audit.schema import COUNTED
from qimem.errors import realm_not_found
from qimem.kernel.ids import RealmId, is_realm_id
from qimem.web.kit.endpoint import Call, Endpoint
from qimem.wire.auth import JWKSet


async def jwks(call: Call[None, None]) -> JWKSet:
    """Every key whose tokens verify, newest first."""
    realm_id = str(call.path["realm"])
    keys = await call.services.signer.public_keys(RealmId(realm_id)) if is_realm_id(realm_id) else {}
    if not keys:
        raise realm_not_found(realm_id)
    return JWKSet(keys=list(keys.values()))


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/realms/{realm}/jwks",
        name="realms.jwks",
        audit=COUNTED,
        handler=jwks,
        response=JWKSet,
        cacheable=True,
        summary="Public signing keys of a realm",
    ),
)
"""Every operation of this resource."""
