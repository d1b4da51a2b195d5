"""Introspection over fakes, and its answers as they go over the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest

from qimem.errors import Unauthenticated
from qimem.identity.models import RoleRecord, UserRecord
from qimem.kernel.context import Actor
from qimem.kernel.ids import ClientId, RealmId
from qimem.oauth.bearer import BearerAuthenticator
from qimem.oauth.client_auth import ClientAuthenticator
from qimem.oauth.introspection import IntrospectionService
from qimem.oauth.models import AuthMethod
from qimem.oauth.refresh_token import RefreshTokens, make_refresh_token
from qimem.wire.auth import Introspection, IntrospectRequest
from tests.support.metering import FakeMeter
from tests.unit.oauth.fakes import ACME, ADA, APP, OTHER, SECRET, Setting, a_client, a_grant, an_actor

GRANT = UUID(int=5)
FAR = ClientId("far")
INACTIVE = {"active": False}
SECONDS = 1_800_000_000
"""What the clock says."""


class Desk(Setting):
    """Introspection in realm acme; realm other has a user and a grant of the same ids, and the client far."""

    def __init__(self) -> None:
        super().__init__()
        self.bearer = BearerAuthenticator(
            self.caches, self.access_tokens, self.keys, self.standing, self.grants, self.clock
        )
        self.service = IntrospectionService(
            self.database,
            self.bearer,
            RefreshTokens(self.database, self.grants, self.keys),
            ClientAuthenticator(self.database, self.caches, self.clients, self.standing, self.clock),
            self.standing,
            self.clock,
        )
        self.grants.rows[ACME, GRANT] = a_grant(grant_id=GRANT)
        self.grants.rows[OTHER, GRANT] = a_grant(grant_id=GRANT, realm_id=OTHER, client_id=FAR)
        eve = UserRecord(OTHER, ADA, "Eve", "eve", None, enabled=True, roles=("clerk",), created_us=0)
        self.users.rows[OTHER, ADA] = (eve, "hash")
        self.meter = FakeMeter()
        self.clients.rows[OTHER, FAR] = a_client(FAR, OTHER)
        self.clients.rows[ACME, "spa"] = a_client("spa", secret_digest=None, auth_method=AuthMethod.NONE)
        self.roles.rows[OTHER, "clerk"] = RoleRecord(
            OTHER, "clerk", ("users:read",), built_in=False, created_us=0
        )

    async def token(self, kind: str, realm_id: RealmId = ACME, generation: int = 1) -> str:
        client_id = APP if realm_id == ACME else FAR
        if kind == "access":
            return await self.access_token(
                grant_id=GRANT, realm_id=realm_id, client_id=client_id, scope="read"
            )
        return await make_refresh_token(self.keys, realm_id, GRANT, generation, client_id)

    async def by_bearer(self, token: str, *permissions: str, **more: Any) -> dict[str, Any]:
        actor = an_actor(*permissions or ("tokens:introspect",))
        return await self.told_to(actor, b"Bearer own", token, **more)

    async def told_to(self, actor: Actor, header: bytes, token: str, **more: Any) -> dict[str, Any]:
        return told(await self.service.by_bearer(actor, header, IntrospectRequest(token=token, **more)))

    async def by_client(self, token: str, client_id: str = APP, secret: str = SECRET) -> dict[str, Any]:
        request = IntrospectRequest(token=token, client_id=client_id, client_secret=secret)
        return told(await self.service.by_client(None, request, self.meter))

    async def by(self, who: str, token: str) -> dict[str, Any]:
        return await (self.by_bearer(token) if who == "bearer" else self.by_client(token))

    async def both(self, token: str) -> dict[str, Any]:
        one, two = await self.by_bearer(token), await self.by_client(token)
        assert one == two
        return one

    async def refuse_client(self, header: bytes | None = None, **asked: Any) -> None:
        request = IntrospectRequest(token=await self.token("refresh"), **asked)
        with pytest.raises(Unauthenticated) as caught:
            await self.service.by_client(header, request, self.meter)
        assert (caught.value.code, caught.value.message) == ("invalid_client", "invalid client credentials")


def told(found: Introspection) -> dict[str, Any]:
    """As it goes over the wire."""
    answer: dict[str, Any] = msgspec.to_builtins(found)
    return answer
