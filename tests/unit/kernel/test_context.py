"""What every service call is told: it does not change under the service's hands."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any, cast

import pytest

from qimem.kernel.context import Actor, ActorKind, IdempotencyKey, PermissionSet, RequestContext
from qimem.kernel.epochs import Epoch, RealmCache
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.refusal import Refused
from tests.support.audit import a_draft

NOTHING = PermissionSet(frozenset(), frozenset(), {}, operator=False)
ACTOR = Actor(RealmId("acme"), ActorKind.USER, "ada", ClientId("shop"), "t1", NOTHING, "pro")
OTHER = RealmCache(RealmId("other"), Epoch(b"life", 1), cast("Any", None), cast("Any", None))


def test_a_request_is_about_the_realm_whose_state_it_has() -> None:
    context = RequestContext("r1", ACTOR, OTHER, a_draft())
    assert (context.realm_id, context.actor.realm_id) == ("other", "acme")


def test_a_request_has_no_idempotency_key_unless_told() -> None:
    context = RequestContext("r1", ACTOR, OTHER, a_draft())
    assert context.idempotency is None


@pytest.mark.parametrize("name", ["request_id", "actor", "state", "draft", "realm_id"])
def test_a_request_cannot_be_changed(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(RequestContext("r1", ACTOR, OTHER, a_draft()), name, "x")


@pytest.mark.parametrize("name", ["realm_id", "permissions", "subject", "more"])
def test_an_actor_cannot_be_changed(name: str) -> None:
    with pytest.raises((FrozenInstanceError, TypeError, AttributeError)):
        setattr(ACTOR, name, "x")


def test_permissions_cannot_be_changed() -> None:
    with pytest.raises((FrozenInstanceError, TypeError, AttributeError)):
        setattr(NOTHING, "operator", True)
    assert replace(NOTHING, operator=True) != NOTHING


def test_an_idempotency_key_notes_a_replay_and_nothing_else() -> None:
    key = IdempotencyKey("k", "POST /v1/security/keys", bytes(32))
    assert key.replayed is False
    key.replayed = True
    with pytest.raises(AttributeError):
        setattr(key, "answer", "x")


def test_kinds_of_actors_are_written_as_words() -> None:
    assert [str(kind) for kind in ActorKind] == ["user", "client"]


def test_a_refused_start_says_what_is_wrong_and_what_helps() -> None:
    refused = Refused("no root key", "run: qimem init")
    assert (str(refused), refused.message, refused.hint) == ("no root key", "no root key", "run: qimem init")
    assert Refused("no root key").hint is None
