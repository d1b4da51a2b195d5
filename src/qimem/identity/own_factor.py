"""What users do about their own second factor: each change shows the password, and what exists of the factor."""

from __future__ import annotations

from urllib.parse import quote
from uuid import UUID

from qimem.authz.decisions import require_everywhere
from qimem.authz.permissions import Permission
from qimem.crypto.totp import DIGITS, STEP_SECONDS
from qimem.errors import Conflict
from qimem.identity.login.service import Credentials, LoginService, SignedIn
from qimem.identity.ports import FactorStore
from qimem.identity.second_factor import (
    SecondFactors,
    digests,
    in_base32,
    invalid_code,
    new_recovery_codes,
    new_secret,
)
from qimem.identity.users import UserService, check_other
from qimem.kernel.clock import MICROSECONDS
from qimem.kernel.context import ActorKind, RequestContext
from qimem.kernel.limits import TOTP_PENDING_SECONDS
from qimem.kernel.secret import SecretText
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.wire.factors import RecoveryCodes, SecondFactorState, TotpEnrolment


class OwnFactor:
    """Enrols, confirms, and takes away."""

    def __init__(
        self,
        work: UnitOfWork,
        users: UserService,
        login: LoginService,
        factors: SecondFactors,
        store: FactorStore,
        issuer: str,
    ) -> None:
        self._work = work
        self._users = users
        self._login = login
        self._factors = factors
        self._store = store
        self._issuer = issuer

    async def enrol(self, ctx: RequestContext, password: SecretText) -> TotpEnrolment:
        """Make a shared secret; a second call replaces one that was not confirmed.

        Raises:
            Conflict: `conflict`: the caller is a client, or has a second factor already.
            Invalid: `invalid_grant`: another password.
        """
        proven, username = await self._prove(ctx, password, None)
        user_id = proven.user_id
        secret = new_secret()
        sealed = await self._factors.sealed(ctx.actor.realm_id, user_id, secret)

        def begin(tx: Tx) -> None:
            if self._store.find(tx, ctx.actor.realm_id, user_id) is not None:
                raise Conflict("there is a second factor already", hint="disable it first")
            self._require_still(tx, proven)
            self._store.put_pending(tx, ctx.actor.realm_id, user_id, sealed, self._factors.now_us())
            ctx.draft.target = str(user_id)

        await self._work.apply(ctx.draft, begin)
        import segno  # noqa: PLC0415 - few ever enrol, and every start would pay

        text = in_base32(secret)
        secret.wipe()
        uri = _otpauth(self._issuer, ctx.actor.realm_id, username, text)
        return TotpEnrolment(secret=text, otpauth_uri=uri, qr_svg=segno.make(uri).svg_inline(scale=4))

    async def confirm(self, ctx: RequestContext, code: SecretText) -> RecoveryCodes:
        """Have the app's secret count, once the app has shown that it has it.

        Raises:
            Conflict: `conflict`: nothing waits to be confirmed, or for too long.
            Invalid: `invalid_mfa_code`.
            Limited: `too_many_attempts`.
        """
        realm_id, user_id = ctx.actor.realm_id, _user_of(ctx)
        since_us = self._factors.now_us() - TOTP_PENDING_SECONDS * MICROSECONDS
        sealed = await self._work.read(lambda tx: self._store.find_pending(tx, realm_id, user_id, since_us))
        if sealed is None:
            raise _nothing_waits()
        async with self._login.counting_by_oneself(realm_id, user_id):
            step = await self._factors.step_of(realm_id, user_id, sealed, code.reveal())
            if step is None:
                raise invalid_code()
        codes = new_recovery_codes()

        def begin(tx: Tx) -> RecoveryCodes:
            if not self._store.confirm(tx, realm_id, user_id, sealed, digests(codes), self._factors.now_us()):
                raise _nothing_waits()
            # Or the same code would open the first login.
            if not self._factors.claim_step(tx, realm_id, user_id, step):
                raise invalid_code()
            self._users.changed(tx, realm_id)
            ctx.draft.target = str(user_id)
            return RecoveryCodes(recovery_codes=codes)

        return await self._work.apply(ctx.draft, begin)

    async def renew_recovery_codes(
        self, ctx: RequestContext, password: SecretText, code: SecretText
    ) -> RecoveryCodes:
        """Void the recovery codes and make others.

        Raises:
            Conflict: `conflict`: the caller is a client, or has no second factor.
            Invalid: `invalid_grant`: another password; `invalid_mfa_code`.
        """
        proven, _ = await self._prove(ctx, password, code)
        codes = new_recovery_codes()

        def renew(tx: Tx) -> RecoveryCodes:
            self._require_still(tx, proven)
            if not self._store.put_recovery_codes(
                tx, proven.realm_id, proven.user_id, digests(codes), self._factors.now_us()
            ):
                raise _no_factor()
            ctx.draft.target = str(proven.user_id)
            return RecoveryCodes(recovery_codes=codes)

        return await self._work.apply(ctx.draft, renew)

    async def disable(self, ctx: RequestContext, password: SecretText, code: SecretText) -> SecondFactorState:
        """Do without.

        Raises:
            Conflict: `conflict`: the caller is a client, or has no second factor.
            Invalid: `invalid_grant`: another password; `invalid_mfa_code`.
        """
        proven, _ = await self._prove(ctx, password, code)

        def end(tx: Tx) -> SecondFactorState:
            self._require_still(tx, proven)
            if not self._store.delete(tx, proven.realm_id, proven.user_id):
                raise _no_factor()
            self._users.changed(tx, proven.realm_id)
            ctx.draft.target = str(proven.user_id)
            return SecondFactorState(enabled=False)

        return await self._work.apply(ctx.draft, end)

    async def disable_of(self, ctx: RequestContext, user_id: UUID) -> SecondFactorState:
        """Take the second factor from a user who has lost it.

        Raises:
            Forbidden: without `users:manage`, or where the user may more than the caller.
            NotFound: `not_found`.
            Conflict: `conflict`: nobody takes their own like this.
        """
        require_everywhere(ctx, Permission.USERS_MANAGE)
        check_other(
            ctx, user_id, "takes a second factor without a code from", "POST /v1/auth/me/totp/disable"
        )

        def end(tx: Tx) -> SecondFactorState:
            self._users.manageable(tx, ctx, user_id)
            self._store.delete(tx, ctx.realm_id, user_id)
            self._users.changed(tx, ctx.realm_id)
            ctx.draft.target = str(user_id)
            return SecondFactorState(enabled=False)

        return await self._work.apply(ctx.draft, end)

    async def _prove(
        self, ctx: RequestContext, password: SecretText, code: SecretText | None
    ) -> tuple[SignedIn, str]:
        """Who calls, proven anew in the way of a login, with the code where one is demanded."""
        realm_id, user_id = ctx.actor.realm_id, _user_of(ctx)
        user, _ = await self._work.read(lambda tx: self._users.with_password(tx, realm_id, user_id))
        factor = await self._work.read(lambda tx: self._store.find(tx, realm_id, user_id))
        if code is not None and factor is None:
            raise _no_factor()
        if code is None and factor is not None:
            raise Conflict("there is a second factor already", hint="disable it first")
        proven = await self._login.prove(user, Credentials(user.username, password, code), ctx.draft)
        return proven, user.username

    def _require_still(self, tx: Tx, proven: SignedIn) -> None:
        # An administrator may have given another password since it was judged, against whoever knows the old one.
        if not self._login.still_holds(tx, proven):
            raise Conflict("password or second factor was changed meanwhile", hint="sign in again")


def _user_of(ctx: RequestContext) -> UUID:
    if ctx.actor.kind is not ActorKind.USER:
        raise Conflict("a client has no second factor", hint="rotate its secret")
    return UUID(ctx.actor.subject)


def _nothing_waits() -> Conflict:
    return Conflict("nothing waits to be confirmed", hint="POST /v1/auth/me/totp")


def _no_factor() -> Conflict:
    return Conflict("there is no second factor", hint="POST /v1/auth/me/totp")


def _otpauth(issuer: str, realm_id: str, username: str, secret: str) -> str:
    """The URI that apps read (Key URI format of Google Authenticator)."""
    label = quote(f"{issuer}:{realm_id}/{username}", safe="")
    return f"otpauth://totp/{label}?secret={secret}&issuer={quote(issuer, safe='')}&algorithm=SHA1&digits={DIGITS}&period={STEP_SECONDS}"
