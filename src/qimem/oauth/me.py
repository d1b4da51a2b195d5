"""Who the caller is, and what they may do, as of this request."""

from __future__ import annotations

from uuid import UUID

from qimem.identity.second_factor import SecondFactors
from qimem.kernel.context import ActorKind, RequestContext
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.oauth.access_token import invalid_token
from qimem.oauth.standing import Standing, StandingCheck
from qimem.wire.users import Me


class MeService:
    """Tells callers about themselves."""

    def __init__(self, work: UnitOfWork, standing: StandingCheck, factors: SecondFactors) -> None:
        self._work = work
        self._factors = factors
        self._standing = standing

    async def get(self, ctx: RequestContext) -> Me:
        """The caller; needs no permission, for nobody learns of others.

        Raises:
            Unauthenticated: `invalid_token`: gone or disabled in this moment.
        """
        actor = ctx.actor
        user_id = UUID(actor.subject) if actor.kind is ActorKind.USER else None

        def read(tx: Tx) -> tuple[Standing | None, bool]:
            factor = user_id is not None and self._factors.exists(tx, actor.realm_id, user_id)
            return self._standing.load(tx, actor.realm_id, actor.client_id, user_id), factor

        standing, factor = await self._work.read(read)
        if standing is None:
            raise invalid_token()
        user = standing.user
        return Me(
            realm_id=actor.realm_id,
            sub=standing.subject,
            kind="client" if user is None else "user",
            client_id=actor.client_id,
            username=None if user is None else user.username,
            email=None if user is None else user.email,
            roles=list(standing.roles),
            permissions=sorted(standing.permissions.names),
            second_factor=factor,
        )
