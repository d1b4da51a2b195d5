"""Passwords that are set anew: by an administrator, or by their owner who knows the old one.

Either way all that was signed in with the old one ends: who knew it may be the reason for the change.
"""

from __future__ import annotations

from uuid import UUID

from qimem.authz.decisions import require_everywhere
from qimem.authz.permissions import Permission
from qimem.errors import Conflict
from qimem.identity.login.service import Credentials, LoginService
from qimem.identity.password_rules import NewPasswords
from qimem.identity.ports import SignIns
from qimem.identity.users import UserService, check_other
from qimem.kernel.clock import Clock
from qimem.kernel.context import ActorKind, RequestContext
from qimem.kernel.secret import SecretText
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.wire.users import PasswordSet


class UserPasswords:
    """Replaces passwords."""

    def __init__(
        self,
        work: UnitOfWork,
        users: UserService,
        login: LoginService,
        passwords: NewPasswords,
        sign_ins: SignIns,
        clock: Clock,
    ) -> None:
        self._work = work
        self._users = users
        self._login = login
        self._passwords = passwords
        self._sign_ins = sign_ins
        self._clock = clock

    async def set(self, ctx: RequestContext, user_id: UUID, password: SecretText) -> PasswordSet:
        """Replace the password of a user.

        Raises:
            Forbidden: without `users:manage`, or where the user may more than the caller.
            Invalid: `weak_password`.
            NotFound: `not_found`.
            Conflict: `conflict`: nobody sets their own like this.
            Unavailable: `overloaded`.
        """
        require_everywhere(ctx, Permission.USERS_MANAGE)
        # Whoever stole a token of an administrator must not get from it what only a password gives.
        check_other(ctx, user_id, "sets a password without the old one for", "POST /v1/auth/me/password")
        # Before the hash: what is refused must not cost one.
        found = await self._work.read(lambda tx: self._users.manageable(tx, ctx, user_id))
        wanted = await self._passwords.check(ctx.realm_id, password, found.username, found.email)
        phc = await self._passwords.hash(ctx.realm_id, wanted)

        def change(tx: Tx) -> PasswordSet:
            user = self._users.manageable(tx, ctx, user_id)
            self._login.unlock(tx, user)
            return self._replace(tx, ctx, user_id, phc)

        return await self._work.apply(ctx.draft, change)

    async def change(
        self, ctx: RequestContext, current: SecretText, password: SecretText, code: SecretText | None
    ) -> PasswordSet:
        """Replace the caller's own password.

        Raises:
            Conflict: `conflict`: the caller is a client.
            Invalid: `weak_password`; `invalid_grant`: the current one is another; `mfa_required`, `invalid_mfa_code`.
            Unavailable: `overloaded`.
        """
        actor = ctx.actor
        if actor.kind is not ActorKind.USER:
            raise Conflict("a client has no password", hint="rotate its secret")
        user_id = UUID(actor.subject)
        user = await self._work.read(lambda tx: self._users.with_password(tx, actor.realm_id, user_id)[0])
        wanted = await self._passwords.check(actor.realm_id, password, user.username, user.email)
        shown = Credentials(user.username, current, code)
        known = await self._login.prove(user, shown, ctx.draft)
        phc = await self._passwords.hash(actor.realm_id, wanted)

        def replace(tx: Tx) -> PasswordSet:
            # What was judged is what is replaced: another change may have come between.
            if not self._login.still_holds(tx, known):
                raise Conflict("the password was changed meanwhile", hint="sign in again")
            return self._replace(tx, ctx, user_id, phc)

        return await self._work.apply(ctx.draft, replace)

    def _replace(self, tx: Tx, ctx: RequestContext, user_id: UUID, phc: str) -> PasswordSet:
        now_us = self._clock.now_us()
        self._users.put_password(tx, ctx.realm_id, user_id, phc)
        ended = self._sign_ins.revoke_of_user(tx, ctx.realm_id, user_id, grant_id=None, now_us=now_us)
        ctx.draft.target = str(user_id)
        return PasswordSet(revoked=ended)
