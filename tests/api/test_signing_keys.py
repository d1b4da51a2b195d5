"""`POST /v1/auth/keys/rotate`: when a new key signs, what old tokens are good for, and what the key set shows."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from qimem.kernel.limits import SIGNING_KEYS_PUBLISHED_MAX
from tests.support.api import Person, World
from tests.support.audit_log import of_request
from tests.support.oauth import PROTECTED, at_once, nobody, protected
from tests.support.server import ok, refused

PATH = "/v1/auth/keys/rotate"


def kid_of(token: str) -> str:
    head = token.split(".", maxsplit=1)[0]
    found: dict[str, str] = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    return found["kid"]


def published(world: World, person: Person) -> list[str]:
    keys: list[dict[str, Any]] = ok(nobody(world).get(f"/realms/{person.realm_id}/jwks"))["keys"]
    return [key["kid"] for key in keys]


def rotated(person: Person, mode: str | None = None) -> str:
    answer = person.post(PATH, {} if mode is None else {"mode": mode})
    kid: str = ok(answer)["kid"]
    return kid


@pytest.fixture
def admin(each_world: World) -> Person:
    return each_world.person()


@pytest.mark.parametrize("mode", [None, "now"])
def test_a_new_key_signs_at_once_and_the_old_one_vouches_for_its_tokens(
    each_world: World, admin: Person, mode: str | None
) -> None:
    before = kid_of(admin.access_token)
    kid = rotated(admin, mode)
    assert kid != before
    assert set(published(each_world, admin)) == {kid, before}
    later = admin.login()
    assert kid_of(later["access_token"]) == kid
    ok(protected(each_world, later["access_token"]))
    ok(admin.get(PROTECTED))
    ok(admin.post("/v1/auth/token/refresh", {"refresh_token": admin.refresh_token}))


def test_a_scheduled_key_is_published_and_does_not_sign(each_world: World, admin: Person) -> None:
    before = kid_of(admin.access_token)
    kid = rotated(admin, "scheduled")
    assert set(published(each_world, admin)) == {kid, before}
    assert kid_of(admin.login()["access_token"]) == before
    refused(admin.post(PATH, {"mode": "scheduled"}), 409, "conflict")


def test_a_pending_key_can_be_had_sign_now(each_world: World, admin: Person) -> None:
    pending = rotated(admin, "scheduled")
    assert rotated(admin, "now") == pending
    assert kid_of(admin.login()["access_token"]) == pending
    assert len(published(each_world, admin)) == 2


def test_after_a_compromise_every_other_key_is_refused_in_the_next_request(
    each_world: World, admin: Person
) -> None:
    old = admin.login()["access_token"]
    rotated(admin, "now")
    newer = admin.login()["access_token"]
    rotated(admin, "scheduled")
    bearer = each_world.bearer(newer)
    kid = ok(bearer.post(PATH, json={"mode": "compromised"}))["kid"]
    assert published(each_world, admin) == [kid]
    for token in (old, newer, admin.access_token):
        refused(protected(each_world, token), 401, "invalid_token")
    # Refresh tokens are not signed by it.
    pair = ok(nobody(each_world).post("/v1/auth/token/refresh", json={"refresh_token": admin.refresh_token}))
    assert kid_of(pair["access_token"]) == kid
    ok(protected(each_world, pair["access_token"]))


def test_other_realms_keep_their_keys(each_world: World, admin: Person) -> None:
    neighbor = each_world.person()
    before = published(each_world, neighbor)
    refused(admin.post(PATH, {"realm_id": neighbor.realm_id}), 404, "realm_not_found")
    rotated(admin, "compromised")
    assert published(each_world, neighbor) == before
    ok(neighbor.get(PROTECTED))


def test_an_operator_names_the_realm(each_world: World, admin: Person) -> None:
    kid = ok(each_world.operator.post(PATH, json={"realm_id": admin.realm_id}))["kid"]
    assert kid in published(each_world, admin)


@pytest.mark.parametrize("mode", ["", "NOW", "later", 1, []])
def test_another_mode_is_refused(admin: Person, mode: Any) -> None:
    refused(admin.post(PATH, {"mode": mode}), 400, "invalid_field")


def test_the_right_to_it_is_needed(each_world: World) -> None:
    weak = each_world.person("keys:rotate", "keys:manage")
    body = refused(weak.post(PATH, {}), 403, "permission_denied")
    assert body["permission"] == "signing-keys:rotate"


def test_there_is_an_end_to_what_is_published_but_for_a_compromise(each_world: World, admin: Person) -> None:
    for _ in range(SIGNING_KEYS_PUBLISHED_MAX - 1):
        rotated(admin)
    refused(admin.post(PATH, {}), 409, "conflict")
    assert len(published(each_world, admin)) == SIGNING_KEYS_PUBLISHED_MAX
    kid = rotated(admin, "compromised")
    assert published(each_world, admin) == [kid]


def test_rotations_at_once_leave_one_key_that_signs(each_world: World, admin: Person) -> None:
    answers = at_once([lambda: admin.post(PATH, {}) for _ in range(8)])
    assert {answer.status_code for answer in answers} <= {200, 409, 503}
    kids = {answer.json()["kid"] for answer in answers if answer.status_code == 200}
    assert kids
    signing = {kid_of(admin.login()["access_token"]) for _ in range(4)}
    assert len(signing) == 1
    assert signing <= kids
    assert kids <= set(published(each_world, admin))


def test_a_repetition_with_the_same_key_rotates_once(each_world: World, admin: Person) -> None:
    once = {"Idempotency-Key": "once"}
    first = admin.post(PATH, {}, headers=once)
    again = admin.post(PATH, {}, headers=once)
    assert ok(again) == ok(first)
    assert again.headers["idempotency-replayed"] == "true"
    assert len(published(each_world, admin)) == 2


def test_its_record_names_the_key(each_world: World, admin: Person) -> None:
    answer = admin.post(PATH, {})
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"]) == ("signing-keys.rotate", ok(answer)["kid"])
    assert record["key"]
    assert record["version"] == 2
