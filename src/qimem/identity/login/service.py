"""Feeds the login state machine with evidence and returns who it is."""

from __future__ import annotations

from qimem.errors import Invalid
from qimem.identity.login.flow import (
    Authenticated,
    LoginState,
    PasswordJudged,
    Started,
    UserLookedUp,
    advance,
)
from qimem.identity.passwords import PasswordLane
from qimem.identity.ports import UserStore
from qimem.identity.usernames import find_canonical_username
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.ids import RealmId
from qimem.kernel.secret import SecretText
from qimem.kernel.transaction import Database


class LoginService:
    """Password login."""

    def __init__(self, database: Database, users: UserStore, lane: PasswordLane) -> None:
        self._database = database
        self._users = users
        self._lane = lane

    async def with_password(
        self, realm_id: RealmId, username: str, password: SecretText, draft: AuditDraft
    ) -> Authenticated:
        """Who this is, if name and password belong to an enabled user of the realm.

        Raises:
            Invalid: `invalid_grant`, one answer for every reason.
            Unavailable: `overloaded`.
        """
        username_key = find_canonical_username(username)
        found = None
        if username_key is not None:
            found = await self._database.read(
                lambda tx: self._users.find_by_username(tx, realm_id, username_key)
            )
        user, phc = found or (None, None)
        user_id = user.user_id if user is not None else None
        state: LoginState = Started(realm_id)
        state = advance(state, UserLookedUp(user_id, user is not None and user.enabled))
        matched = await self._lane.verify(realm_id, password, phc)
        state = advance(state, PasswordJudged(user_id, matched))
        if not isinstance(state, Authenticated):
            # Somebody tried at a user who exists: that is the user's record, not one of strangers.
            draft.subject = "" if user_id is None else str(user_id)
            raise Invalid("invalid credentials", code="invalid_grant")
        return state
