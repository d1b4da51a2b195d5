"""The grants of a user: where they are signed in, and ending it."""

from __future__ import annotations

from uuid import UUID

from qimem.authz.decisions import require_everywhere
from qimem.authz.permissions import Permission
from qimem.errors import NotFound
from qimem.identity.users import UserService, user_not_found
from qimem.kernel.clock import Clock, rfc3339
from qimem.kernel.context import RequestContext
from qimem.kernel.epochs import EpochSource
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.oauth.models import GrantRecord
from qimem.oauth.ports import GrantStore
from qimem.wire.users import Grant, RevokedGrants


class GrantsOfUsers:
    """Shows and ends the grants of one user."""

    def __init__(
        self, work: UnitOfWork, epochs: EpochSource, grants: GrantStore, users: UserService, clock: Clock
    ) -> None:
        self._work = work
        self._epochs = epochs
        self._grants = grants
        self._users = users
        self._clock = clock

    async def list(
        self, ctx: RequestContext, user_id: UUID, after: UUID | None, limit: int
    ) -> tuple[list[Grant], UUID | None]:
        """The living grants of a user, in no order that means anything.

        Args:
            ctx: The caller and the realm.
            user_id: Whose.
            after: Id returned with the page before, or None for the first page.
            limit: 1–200 items.

        Returns:
            The items, and the id to go on from or None on the last page.

        Raises:
            Forbidden: without `users:read`.
            NotFound: `not_found`.
        """
        require_everywhere(ctx, Permission.USERS_READ)
        now_us = self._clock.now_us()

        def read(tx: Tx) -> list[GrantRecord]:
            if not self._users.exists(tx, ctx.realm_id, user_id):
                raise user_not_found(user_id)
            return list(
                self._grants.of_user(tx, ctx.realm_id, user_id, now_us=now_us, after=after, limit=limit + 1)
            )

        rows = await self._work.read(read)
        page = rows[:limit]
        return [_shown(row) for row in page], page[-1].grant_id if len(rows) > limit else None

    async def revoke(self, ctx: RequestContext, user_id: UUID, grant_id: UUID | None) -> RevokedGrants:
        """End one grant of a user, or all: their refresh and access tokens are dead in the next request.

        Raises:
            Forbidden: without `users:manage`, or where the user may more than the caller.
            NotFound: `not_found`: no such user, or no such living grant of theirs.
        """
        require_everywhere(ctx, Permission.USERS_MANAGE)

        def change(tx: Tx) -> RevokedGrants:
            self._users.manageable(tx, ctx, user_id)
            count = self._grants.revoke_of_user(
                tx, ctx.realm_id, user_id, grant_id=grant_id, now_us=self._clock.now_us()
            )
            if grant_id is not None and count == 0:
                raise grant_not_found(grant_id)
            self._epochs.bump(tx, ctx.realm_id)
            ctx.draft.target = str(user_id if grant_id is None else grant_id)
            return RevokedGrants(revoked=count)

        return await self._work.apply(ctx.draft, change)


def grant_not_found(grant_id: object) -> NotFound:
    """One answer for absent grants, ended ones and those of another user."""
    return NotFound(f"grant not found: {grant_id}", code="not_found")


def _shown(grant: GrantRecord) -> Grant:
    return Grant(
        grant_id=grant.grant_id,
        client_id=grant.client_id,
        scope=grant.scope,
        created_at=rfc3339(grant.created_us),
        refreshed_at=None if grant.rotated_us is None else rfc3339(grant.rotated_us),
        expires_at=rfc3339(grant.expires_us),
    )
