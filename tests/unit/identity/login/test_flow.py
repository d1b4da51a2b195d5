from __future__ import annotations

import itertools
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qimem.identity.login.flow import (
    Authenticated,
    Identified,
    LoginEvent,
    LoginState,
    PasswordJudged,
    Reason,
    Refused,
    Started,
    UserLookedUp,
    advance,
)
from qimem.kernel.ids import RealmId

ACME = RealmId("acme")
ADA, EVE = UUID(int=1), UUID(int=2)
PEOPLE = (ADA, EVE, None)
EVENTS: list[LoginEvent] = [
    *(UserLookedUp(who, enabled) for who in PEOPLE for enabled in (True, False)),
    *(PasswordJudged(who, matched) for who in PEOPLE for matched in (True, False)),
]


def after(*events: LoginEvent) -> LoginState:
    state: LoginState = Started(ACME)
    for event in events:
        state = advance(state, event)
    return state


def refused(reason: Reason) -> Refused:
    return Refused(ACME, reason)


def test_the_right_password_of_an_enabled_user_authenticates() -> None:
    assert after(UserLookedUp(ADA, True)) == Identified(ACME, ADA, True)
    assert after(UserLookedUp(ADA, True), PasswordJudged(ADA, True)) == Authenticated(ACME, ADA)


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ((UserLookedUp(None, False), PasswordJudged(None, False)), Reason.UNKNOWN_USER),
        ((UserLookedUp(None, True), PasswordJudged(None, True)), Reason.UNKNOWN_USER),
        ((UserLookedUp(None, True), PasswordJudged(ADA, True)), Reason.UNKNOWN_USER),
        ((UserLookedUp(ADA, True), PasswordJudged(ADA, False)), Reason.WRONG_PASSWORD),
        ((UserLookedUp(ADA, False), PasswordJudged(ADA, False)), Reason.WRONG_PASSWORD),
        ((UserLookedUp(ADA, False), PasswordJudged(ADA, True)), Reason.USER_DISABLED),
        ((UserLookedUp(ADA, True), PasswordJudged(EVE, True)), Reason.OUT_OF_ORDER),
        ((UserLookedUp(ADA, True), PasswordJudged(None, True)), Reason.OUT_OF_ORDER),
        ((UserLookedUp(ADA, True), UserLookedUp(ADA, True)), Reason.OUT_OF_ORDER),
        ((UserLookedUp(ADA, True), UserLookedUp(EVE, True)), Reason.OUT_OF_ORDER),
        ((PasswordJudged(ADA, True),), Reason.OUT_OF_ORDER),
        ((PasswordJudged(ADA, True), UserLookedUp(ADA, True)), Reason.OUT_OF_ORDER),
        (
            (UserLookedUp(ADA, True), PasswordJudged(ADA, True), PasswordJudged(ADA, True)),
            Reason.OUT_OF_ORDER,
        ),
        ((UserLookedUp(ADA, True), PasswordJudged(ADA, True), UserLookedUp(EVE, True)), Reason.OUT_OF_ORDER),
    ],
)
def test_everything_else_is_refused_with_its_reason(events: tuple[LoginEvent, ...], reason: Reason) -> None:
    assert after(*events) == refused(reason)


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("event", EVENTS, ids=repr)
def test_a_refusal_is_for_good(reason: Reason, event: LoginEvent) -> None:
    assert advance(refused(reason), event) == refused(reason)


def evident(events: tuple[LoginEvent, ...]) -> UUID | None:
    """Who these events prove, written down apart from the machine: exactly two, in order, about one person."""
    match events:
        case (UserLookedUp(UUID() as looked_up, True), PasswordJudged(UUID() as judged, True)) if (
            looked_up == judged
        ):
            return looked_up
        case _:
            return None


@pytest.mark.parametrize("length", range(5))
def test_no_order_of_events_authenticates_without_each_evidence_for_the_same_user(length: int) -> None:
    authenticated = 0
    for events in itertools.product(EVENTS, repeat=length):
        state, proved = after(*events), evident(events)
        if proved is None:
            assert not isinstance(state, Authenticated), events
        else:
            assert state == Authenticated(ACME, proved)
            authenticated += 1
    assert authenticated == (2 if length == 2 else 0)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(EVENTS), max_size=12))
def test_whoever_is_authenticated_was_proved_by_the_last_two_events(events: list[LoginEvent]) -> None:
    state: LoginState = Started(ACME)
    for number, event in enumerate(events, 1):
        state = advance(state, event)
        assert state.realm_id == ACME
        if isinstance(state, Authenticated):
            assert state.user_id == evident(tuple(events[:number]))
