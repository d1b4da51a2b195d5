"""`Idempotency-Key` where keys are made and rotated."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.api import Person, World
from tests.support.kms import KEYS, ROTATE, at_once, new_key
from tests.support.server import ok, refused


@pytest.fixture(scope="module")
def each_admin(each_world: World) -> Person:
    return each_world.person()


def send(person: Person, path: str, body: Any, key: str) -> httpx.Response:
    return person.post(path, body, headers={"Idempotency-Key": key})


def replayed(answer: httpx.Response) -> bool:
    mark = answer.headers.get("idempotency-replayed")
    assert mark in (None, "true")
    return mark is not None


def count(person: Person) -> int:
    return len(ok(person.get(f"{KEYS}?limit=200"))["items"])


def test_a_repeated_creation_makes_one_key_and_says_so(each_world: World) -> None:
    person = each_world.person()
    first = send(person, KEYS, {"name": "orders"}, "k")
    again = send(person, KEYS, {"name": "orders"}, "k")
    assert ok(again) == ok(first)
    assert (replayed(first), replayed(again)) == (False, True)
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert count(person) == 1


def test_a_repeated_rotation_rotates_once(each_admin: Person) -> None:
    key = new_key(each_admin)
    body = {"key_id": key["key_id"]}
    first, again = send(each_admin, ROTATE, body, "r"), send(each_admin, ROTATE, body, "r")
    assert (ok(first)["version"], ok(again)) == (2, ok(first))
    assert (replayed(first), replayed(again)) == (False, True)
    assert len(ok(each_admin.get(f"{KEYS}/{key['key_id']}"))["versions"]) == 2


def test_a_replay_shows_the_answer_of_then_not_the_state_of_now(each_admin: Person) -> None:
    first = send(each_admin, KEYS, {}, "then")
    ok(each_admin.post(ROTATE, {"key_id": ok(first)["key_id"]}))
    assert ok(send(each_admin, KEYS, {}, "then")) == ok(first)


def test_without_the_header_every_request_counts(each_admin: Person) -> None:
    assert new_key(each_admin)["key_id"] != new_key(each_admin)["key_id"]


@pytest.mark.parametrize(("path", "other"), [(KEYS, {"name": "another"}), (ROTATE, {"name": "mismatched"})])
def test_the_same_key_with_another_body_is_refused(
    each_world: World, path: str, other: dict[str, str]
) -> None:
    person = each_world.person()
    key = new_key(person, name="mismatched")
    body = {} if path == KEYS else {"key_id": key["key_id"]}
    ok(send(person, path, body, "m"))
    known = count(person)
    answer = send(person, path, other, "m")
    refused(answer, 422, "idempotency_mismatch")
    assert not replayed(answer)
    assert count(person) == known
    assert replayed(send(person, path, body, "m"))


def test_the_same_key_on_another_route_is_another_request(each_admin: Person) -> None:
    made = ok(send(each_admin, KEYS, {"name": "routes"}, "route"))
    rotated = send(each_admin, ROTATE, {"name": "routes"}, "route")
    assert not replayed(rotated)
    assert (ok(rotated)["version"], ok(rotated)["lineage_id"]) == (2, made["key_id"])


def test_the_same_key_of_another_caller_is_another_request(each_world: World, each_admin: Person) -> None:
    colleague = each_world.person(realm_id=each_admin.realm_id)
    mine = send(each_admin, KEYS, {}, "shared")
    theirs = send(colleague, KEYS, {}, "shared")
    assert not replayed(theirs)
    assert ok(theirs)["key_id"] != ok(mine)["key_id"]


def test_the_same_key_in_another_realm_is_another_request(each_world: World, each_admin: Person) -> None:
    mine = send(each_admin, KEYS, {}, "realms")
    theirs = send(each_world.person(), KEYS, {}, "realms")
    assert not replayed(theirs)
    assert ok(theirs)["key_id"] != ok(mine)["key_id"]


def test_an_operator_cannot_repeat_a_request_in_another_realm(each_world: World) -> None:
    header = {"Idempotency-Key": each_world.fresh("operator")}
    first, second = each_world.realm(), each_world.realm()
    made = ok(each_world.operator.post(KEYS, json={"realm_id": first}, headers=header))
    refused(
        each_world.operator.post(KEYS, json={"realm_id": second}, headers=header), 422, "idempotency_mismatch"
    )
    again = each_world.operator.post(KEYS, json={"realm_id": first}, headers=header)
    assert (ok(again), replayed(again)) == (made, True)


def test_a_refused_request_can_be_repeated_when_it_is_mended(each_admin: Person) -> None:
    new_key(each_admin, name="in-the-way")
    refused(send(each_admin, KEYS, {"name": "in-the-way"}, "mended"), 409, "already_exists")
    refused(send(each_admin, KEYS, {"name": "Not A Name"}, "mended"), 400, "invalid_field")
    answer = send(each_admin, KEYS, {"name": "out-of-the-way"}, "mended")
    assert (ok(answer)["name"], replayed(answer)) == ("out-of-the-way", False)


def test_a_replay_is_not_given_without_a_token(world: World, admin: Person) -> None:
    ok(send(admin, KEYS, {}, "unsigned"))
    answer = world.anonymous().post(KEYS, json={}, headers={"Idempotency-Key": "unsigned"})
    refused(answer, 401, "unauthenticated")


@pytest.mark.parametrize("header", ["", "a b", "x" * 256, "caf\xe9", "a\tb"])
def test_a_header_that_is_no_idempotency_key_is_refused(admin: Person, header: str) -> None:
    answer = admin.post(KEYS, {}, headers=[(b"Idempotency-Key", header.encode("latin-1"))])
    refused(answer, 400, "invalid_field")


def test_every_visible_character_and_255_of_them_make_a_key(admin: Person) -> None:
    for header in ("".join(map(chr, range(33, 127))), "x" * 255):
        first = send(admin, KEYS, {}, header)
        assert ok(send(admin, KEYS, {}, header)) == ok(first)


def test_two_headers_are_refused(admin: Person) -> None:
    answer = admin.http.post(KEYS, json={}, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    refused(answer, 400, "invalid_request")


@pytest.mark.parametrize("path", [KEYS, ROTATE])
def test_of_the_same_request_many_times_at_once_one_has_an_effect(each_world: World, path: str) -> None:
    person = each_world.person()
    key = new_key(person)
    body = {} if path == KEYS else {"lineage_id": key["lineage_id"]}
    answers = at_once([lambda: send(person, path, body, "race")] * 8)
    done = [answer for answer in answers if answer.status_code == 200]
    assert len([answer for answer in done if not replayed(answer)]) == 1
    assert len({answer.json()["key_id"] for answer in done}) == 1
    for answer in answers:
        if answer not in done:
            refused(answer, 409, "in_progress")
    versions = ok(person.get(f"{KEYS}/{key['key_id']}"))["versions"]
    assert (count(person), len(versions)) == ((2, 1) if path == KEYS else (1, 2))


def test_disabling_takes_no_notice_of_the_header(admin: Person) -> None:
    path = f"{KEYS}/{new_key(admin)['key_id']}"
    for verb, enabled in (("disable", False), ("enable", True), ("disable", False)):
        answer = send(admin, f"{path}/{verb}", {}, "state")
        assert (ok(answer)["enabled"], replayed(answer)) == (enabled, False)
