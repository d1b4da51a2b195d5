"""Login as a pure state machine: state × event → state. No I/O, no clock.

    Started ──user looked up──▶ Identified ──password judged──▶ Authenticated
       │                            │                        └▶ Refused
       └────────────────────────────┴── anything else: Refused for good

A step completes only through its own evidence about the same user; an event out of order refuses,
it never skips (Keycloak CVE-2026-18963 was a step that completed on another step's note). Further
factors become further states between Identified and Authenticated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from qimem.kernel.ids import RealmId


class Reason(StrEnum):
    """Why a login was refused; for the record, never for the answer."""

    UNKNOWN_USER = "unknown_user"
    USER_DISABLED = "user_disabled"
    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - a reason, not a secret
    OUT_OF_ORDER = "out_of_order"


@dataclass(frozen=True, slots=True)
class Started:
    """Someone claims to be a user of this realm."""

    realm_id: RealmId


@dataclass(frozen=True, slots=True)
class Identified:
    """The claimed user was looked up; `user_id` is None when there is none."""

    realm_id: RealmId
    user_id: UUID | None
    enabled: bool


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Every required step has its evidence."""

    realm_id: RealmId
    user_id: UUID


@dataclass(frozen=True, slots=True)
class Refused:
    """The login is over."""

    realm_id: RealmId
    reason: Reason


LoginState = Started | Identified | Authenticated | Refused


@dataclass(frozen=True, slots=True)
class UserLookedUp:
    """Evidence: the user of that name, or that there is none."""

    user_id: UUID | None
    enabled: bool


@dataclass(frozen=True, slots=True)
class PasswordJudged:
    """Evidence: the password was compared with this user's."""

    user_id: UUID | None
    matched: bool


LoginEvent = UserLookedUp | PasswordJudged


def advance(state: LoginState, event: LoginEvent) -> LoginState:
    """The next state.

    The password is judged for unknown and disabled users too, so that every refusal takes the same
    time; its result then changes nothing.
    """
    match state, event:
        case Started(realm_id), UserLookedUp(user_id, enabled):
            return Identified(realm_id, user_id, enabled)
        case Identified(realm_id, user_id, enabled), PasswordJudged(judged_id, matched):
            return _after_password(
                realm_id, user_id, enabled=enabled, matched=matched, same=judged_id == user_id
            )
        case Refused(), _:
            return state
        case _:
            return Refused(state.realm_id, Reason.OUT_OF_ORDER)


def _after_password(
    realm_id: RealmId, user_id: UUID | None, *, enabled: bool, matched: bool, same: bool
) -> LoginState:
    if user_id is None:
        return Refused(realm_id, Reason.UNKNOWN_USER)
    if not same:
        return Refused(realm_id, Reason.OUT_OF_ORDER)
    if not matched:
        return Refused(realm_id, Reason.WRONG_PASSWORD)
    if not enabled:
        return Refused(realm_id, Reason.USER_DISABLED)
    return Authenticated(realm_id, user_id)
