"""Feeds the login state machine with evidence and returns who it is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from uuid import UUID

from qimem.errors import Invalid, Unavailable
from qimem.identity.login.attempts import Attempt, LoginAttempts
from qimem.identity.login.flow import (
    Authenticated,
    LoginState,
    PasswordJudged,
    PasswordProven,
    SecondFactorJudged,
    Started,
    UserLookedUp,
    advance,
)
from qimem.identity.models import UserRecord
from qimem.identity.passwords import PasswordLane, normalize_password
from qimem.identity.ports import FactorStore, UserStore
from qimem.identity.second_factor import SecondFactor, SecondFactors, invalid_code, mfa_required
from qimem.identity.usernames import find_canonical_username
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import LOGINS_AT_ONE_NAME_MAX, MFA_CODE_CHARS_MAX, PASSWORD_LANE_WIDTH
from qimem.kernel.secret import SecretText
from qimem.kernel.transaction import Database, Tx

_Name = tuple[RealmId, str]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What somebody shows.

    Args:
        code: Of the user's app, or a recovery code; ignored for users without a second factor.
    """

    username: str
    password: SecretText
    code: SecretText | None = None


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who it is, and what was judged for it.

    Args:
        phc: The stored hash of the password that matched.
        sealed: The second factor that was asked for, None for users without one.
    """

    realm_id: RealmId
    user_id: UUID
    phc: str = field(repr=False)
    sealed: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Found:
    user: UserRecord
    phc: str = field(repr=False)
    factor: SecondFactor | None = field(repr=False)


class LoginService:
    """Password login. Every way to try a password leads here."""

    def __init__(
        self,
        database: Database,
        users: UserStore,
        lane: PasswordLane,
        attempts: LoginAttempts,
        factors: SecondFactors,
        factor_store: FactorStore,
    ) -> None:
        self._database = database
        self._users = users
        self._lane = lane
        self._attempts = attempts
        self._factors = factors
        self._factor_store = factor_store
        self._turns: dict[_Name, asyncio.Semaphore] = {}
        self._waiting: Counter[_Name] = Counter()

    async def with_password(self, realm_id: RealmId, shown: Credentials, draft: AuditDraft) -> SignedIn:
        """Who this is, if name and password belong to an enabled user of the realm, and the code to their factor.

        Raises:
            Invalid: `invalid_grant`, one answer for every reason; once the password is right, `mfa_required` without
                a code and `invalid_mfa_code` for one that is wrong or was used before.
            Limited: `too_many_attempts`.
            Unavailable: `overloaded`, or it cannot be counted.
        """
        username_key = find_canonical_username(shown.username)
        if username_key is None:
            # Nobody can have this name; the answer takes as long as for one that somebody has.
            await self._lane.verify(realm_id, shown.password, None)
            raise _invalid_credentials()
        # The place comes before the count: a flood of others would make good logins count as guesses.
        with self._lane.place():
            async with self._turn((realm_id, username_key)):
                return await self._counted(realm_id, username_key, shown, draft)

    async def _counted(
        self, realm_id: RealmId, username_key: str, shown: Credentials, draft: AuditDraft
    ) -> SignedIn:
        attempt = await self._attempts.begin(realm_id, username_key, draft.address)
        found = await self._database.read(lambda tx: self._look_up(tx, realm_id, username_key))
        known = await self._judge(attempt, found, shown, draft)
        await self._attempts.succeeded(attempt)
        return known

    @asynccontextmanager
    async def counting_by_oneself(self, realm_id: RealmId, user_id: UUID) -> AsyncIterator[None]:
        """Count what is tried inside, and forget the count when nothing is raised.

        Raises:
            Limited: `too_many_attempts`.
            Unavailable: it cannot be counted.
        """
        subject = str(user_id)
        with self._lane.place():
            async with self._turn((realm_id, subject)):
                await self._attempts.begin_by_oneself(realm_id, subject)
                yield
                await self._attempts.succeeded_by_oneself(realm_id, subject)

    async def prove(self, user: UserRecord, shown: Credentials, draft: AuditDraft) -> SignedIn:
        """Who is signed in shows anew that it is they: the same judgement, with a count of its own.

        Raises:
            Invalid: see `with_password`.
            Limited: `too_many_attempts`.
            Unavailable: `overloaded`, or it cannot be counted.
        """
        realm_id = user.realm_id
        async with self.counting_by_oneself(realm_id, user.user_id):
            found = await self._database.read(lambda tx: self._look_up(tx, realm_id, user.username_key))
            known = await self._judge(
                Attempt(realm_id, user.username_key, "", locked=False), found, shown, draft
            )
            if known.user_id != user.user_id:
                raise _invalid_credentials()
            return known

    def unlock(self, tx: Tx, user: UserRecord) -> None:
        """An administrator has looked after the account: what was guessed at it before counts no more."""
        self._attempts.forget_name(tx, user.realm_id, user.username_key)

    def still_holds(self, tx: Tx, known: SignedIn) -> bool:
        """Whether what was judged is what stands there now.

        Asked inside the transaction of the effect: a hash takes long, and a password that was changed meanwhile
        must not begin what its change has just ended.
        """
        phc = self._users.password(tx, known.realm_id, known.user_id)
        factor = self._factor_store.find(tx, known.realm_id, known.user_id)
        return phc == known.phc and (None if factor is None else factor.sealed) == known.sealed

    async def _judge(
        self, attempt: Attempt, found: _Found | None, shown: Credentials, draft: AuditDraft
    ) -> SignedIn:
        realm_id = attempt.realm_id
        user_id = found.user.user_id if found is not None else None
        state: LoginState = Started(realm_id)
        enabled = found is not None and found.user.enabled
        state = advance(state, UserLookedUp(user_id, enabled, attempt.locked))
        # Of a locked account the result counts for nothing; not to ask would show in the time where the hash is dear.
        phc = None if found is None else found.phc
        matched = await self._lane.verify(realm_id, shown.password, phc) and not attempt.locked
        factor = found.factor if found is not None else None
        state = advance(state, PasswordJudged(user_id, matched, second_factor=factor is not None))
        if not isinstance(state, Authenticated):
            # Somebody tried at a user who exists: that is the user's record, not one of strangers.
            draft.subject = "" if user_id is None else str(user_id)
        if found is not None and isinstance(state, Authenticated | PasswordProven):
            found = await self._renewed(found, shown.password)
        if isinstance(state, PasswordProven) and factor is not None:
            state = await self._with_code(state, factor, shown.code)
        if not isinstance(state, Authenticated) or found is None:
            raise _invalid_credentials()
        return SignedIn(realm_id, state.user_id, found.phc, None if factor is None else factor.sealed)

    async def _renewed(self, found: _Found, password: SecretText) -> _Found:
        """With a hash of our own in place of one that was imported or is outdated.

        Before the code of a second factor is used up: what is refused here can be tried again.

        Raises:
            Invalid: `invalid_grant`: the password was changed meanwhile.
            Unavailable: `overloaded`.
        """
        normalized = normalize_password(password)
        if normalized is None or not self._lane.is_outdated(found.phc, normalized):
            return found
        user = found.user
        phc = await self._lane.hash(user.realm_id, normalized)

        def put(tx: Tx) -> str | None:
            self._users.renew_password(tx, user.realm_id, user.user_id, found.phc, phc)
            return self._users.password(tx, user.realm_id, user.user_id)

        stored = await self._database.write(put)
        # Two first logins at once: the other one's is as good, if it is of this password.
        if stored is None or not (stored == phc or await self._lane.verify(user.realm_id, password, stored)):
            raise _invalid_credentials()
        return replace(found, phc=stored)

    async def _with_code(
        self, state: PasswordProven, factor: SecondFactor, code: SecretText | None
    ) -> LoginState:
        if code is None:
            raise mfa_required()
        if len(code) > MFA_CODE_CHARS_MAX:
            raise invalid_code()
        await self._factors.redeem(state.realm_id, state.user_id, factor, code.reveal())
        return advance(state, SecondFactorJudged(state.user_id, matched=True))

    def _look_up(self, tx: Tx, realm_id: RealmId, username_key: str) -> _Found | None:
        found = self._users.find_by_username(tx, realm_id, username_key)
        if found is None:
            return None
        user, phc = found
        return _Found(user, phc, self._factor_store.find(tx, realm_id, user.user_id))

    @asynccontextmanager
    async def _turn(self, name: _Name) -> AsyncIterator[None]:
        """As many attempts at one name at once as passwords are judged at once.

        Each counts before it is judged: if many good logins at once all counted first, some would be refused.
        """
        if self._waiting[name] >= LOGINS_AT_ONE_NAME_MAX:
            raise Unavailable("too many logins at once", code="overloaded")
        turns = self._turns.setdefault(name, asyncio.Semaphore(PASSWORD_LANE_WIDTH))
        self._waiting[name] += 1
        try:
            async with turns:
                yield
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name], self._turns[name]


def _invalid_credentials() -> Invalid:
    return Invalid("invalid credentials", code="invalid_grant")
