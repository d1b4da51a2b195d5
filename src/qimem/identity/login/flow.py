"""Login as a pure state machine: state × event → state. No I/O, no clock.

    Started ──user looked up──▶ Identified ──password judged──▶ Authenticated
       │                            │     │                  └▶ Refused
       │                            │     └─▶ PasswordProven ──second factor judged──▶ Authenticated
       └────────────────────────────┴────────────┴── anything else: Refused for good

A step completes only through its own evidence about the same user; an event out of order refuses,
it never skips (Keycloak CVE-2026-18963 was a step that completed on another step's note).
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
    LOCKED = "locked"
    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - a reason, not a secret
    WRONG_CODE = "wrong_code"
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
    locked: bool = False


@dataclass(frozen=True, slots=True)
class PasswordProven:
    """The password was right, and this user has a second factor."""

    realm_id: RealmId
    user_id: UUID


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


LoginState = Started | Identified | PasswordProven | Authenticated | Refused


@dataclass(frozen=True, slots=True)
class UserLookedUp:
    """Evidence: the user of that name, or that there is none; and whether too many have tried to be them."""

    user_id: UUID | None
    enabled: bool
    locked: bool = False


@dataclass(frozen=True, slots=True)
class PasswordJudged:
    """Evidence: the password was compared with this user's.

    Args:
        second_factor: Whether this user has one.
    """

    user_id: UUID | None
    matched: bool
    second_factor: bool = False


@dataclass(frozen=True, slots=True)
class SecondFactorJudged:
    """Evidence: a code of this user's was used up, or there was none."""

    user_id: UUID
    matched: bool


LoginEvent = UserLookedUp | PasswordJudged | SecondFactorJudged


def advance(state: LoginState, event: LoginEvent) -> LoginState:
    """The next state.

    The password is judged for unknown, disabled and locked users too, so that every refusal takes the same
    time; its result then changes nothing.
    """
    match state, event:
        case Started(realm_id), UserLookedUp(user_id, enabled, locked):
            return Identified(realm_id, user_id, enabled, locked)
        case Identified(), PasswordJudged():
            return _after_password(state, event)
        case PasswordProven(realm_id, user_id), SecondFactorJudged(judged_id, matched):
            if judged_id != user_id:
                return Refused(realm_id, Reason.OUT_OF_ORDER)
            return Authenticated(realm_id, user_id) if matched else Refused(realm_id, Reason.WRONG_CODE)
        case Refused(), _:
            return state
        case _:
            return Refused(state.realm_id, Reason.OUT_OF_ORDER)


def _after_password(state: Identified, event: PasswordJudged) -> LoginState:
    if state.user_id is None:
        return Refused(state.realm_id, Reason.UNKNOWN_USER)
    if event.user_id != state.user_id:
        return Refused(state.realm_id, Reason.OUT_OF_ORDER)
    if state.locked:
        return Refused(state.realm_id, Reason.LOCKED)
    if not event.matched:
        return Refused(state.realm_id, Reason.WRONG_PASSWORD)
    if not state.enabled:
        return Refused(state.realm_id, Reason.USER_DISABLED)
    if event.second_factor:
        return PasswordProven(state.realm_id, state.user_id)
    return Authenticated(state.realm_id, state.user_id)
