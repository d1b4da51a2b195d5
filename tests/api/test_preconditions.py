"""`If-Match` on every operation that changes a part: of two who change the same thing, none loses unseen."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qimem.bootstrap.serving import ENDPOINTS
from tests.support.api import Person, World
from tests.support.changes import changed, seen
from tests.support.server import ok, refused

Thing = tuple[str, Callable[[str], dict[str, Any]]]

THINGS: dict[str, Callable[[World, Person], Thing]] = {
    "realms.update": lambda world, admin: (f"realms/{admin.realm_id}", lambda word: {"name": word}),
    "roles.update": lambda world, admin: (
        f"roles/{world.role(admin.realm_id, [])}",
        lambda word: {"permissions": [f"shop:{word}"]},
    ),
    "clients.update": lambda world, admin: (
        f"clients/{world.client(admin.realm_id)['client_id']}",
        lambda word: {"name": word},
    ),
    "users.update": lambda world, admin: (
        f"users/{world.user(admin.realm_id)['id']}",
        lambda word: {"email": f"{word}@shop.example"},
    ),
}


@pytest.fixture
def admin(each_world: World) -> Person:
    return each_world.person()


@pytest.fixture(params=THINGS)
def thing(request: pytest.FixtureRequest, each_world: World, admin: Person) -> Thing:
    path, change = THINGS[request.param](each_world, admin)
    return f"/v1/auth/{path}", change


def test_every_operation_that_changes_a_part_is_tried_here() -> None:
    assert {endpoint.name for endpoint in ENDPOINTS if endpoint.method == "PATCH"} == THINGS.keys()
    assert all(endpoint.versioned for endpoint in ENDPOINTS if endpoint.merges)


def test_a_change_on_what_was_seen_is_made_and_has_a_tag_of_its_own(admin: Person, thing: Thing) -> None:
    path, change = thing
    before = seen(admin.http, path)
    answer = changed(admin.http, path, change("first"))
    assert ok(answer) == ok(admin.get(path))
    assert answer.headers["etag"] == seen(admin.http, path) != before
    ok(changed(admin.http, path, change("second"), answer.headers["etag"]))


def test_a_change_on_what_is_not_there_any_more_changes_nothing(admin: Person, thing: Thing) -> None:
    path, change = thing
    old = seen(admin.http, path)
    ok(changed(admin.http, path, change("first")))
    now = ok(admin.get(path))
    for tags in (old, f"W/{seen(admin.http, path)}", '"x"', f'{old}, "y"', '""'):
        refused(changed(admin.http, path, change("second"), tags), 412, "precondition_failed")
    assert ok(admin.get(path)) == now


def test_one_of_several_tags_suffices_and_so_does_the_star(admin: Person, thing: Thing) -> None:
    path, change = thing
    ok(changed(admin.http, path, change("first"), f'"x" , {seen(admin.http, path)}'))
    ok(changed(admin.http, path, change("second"), "*"))


def test_without_a_condition_nothing_is_changed(admin: Person, thing: Thing) -> None:
    path, change = thing
    now = ok(admin.get(path))
    body = refused(admin.http.patch(path, json=change("first")), 428, "precondition_required")
    assert "ETag" in body["hint"]
    assert ok(admin.get(path)) == now


@pytest.mark.parametrize(
    "tags", ["x", '"x', 'x"', '"x" "y"', '"x",', ",", "**", '"x", *', '"' + "x" * 2_000 + '"']
)
def test_a_malformed_condition_is_refused(admin: Person, thing: Thing, tags: str) -> None:
    path, change = thing
    answer = admin.http.patch(path, json=change("first"), headers={"If-Match": tags})
    assert answer.status_code in {400, 428}, answer.text


def test_two_conditions_are_one_too_many(admin: Person, thing: Thing) -> None:
    path, change = thing
    headers = [("If-Match", "*"), ("If-Match", '"x"')]
    refused(admin.http.patch(path, json=change("first"), headers=headers), 400, "invalid_request")


def test_an_empty_change_changes_nothing(admin: Person, thing: Thing) -> None:
    path, _ = thing
    before = ok(admin.get(path))
    assert ok(changed(admin.http, path, {})) == before


def test_of_several_at_once_one_wins(admin: Person, thing: Thing) -> None:
    path, change = thing
    tag = seen(admin.http, path)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: changed(admin.http, path, change(f"at{n}"), tag), range(8)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 412}
    (won,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert ok(admin.get(path)) == won


def test_a_merge_patch_may_say_what_it_is(admin: Person, thing: Thing) -> None:
    path, change = thing
    headers = {"If-Match": "*", "Content-Type": "application/merge-patch+json"}
    ok(admin.http.patch(path, json=change("first"), headers=headers))
    headers["Content-Type"] = "application/json-patch+json"
    refused(admin.http.patch(path, json=change("second"), headers=headers), 415, "unsupported_media_type")


def test_elsewhere_a_merge_patch_is_no_body(admin: Person) -> None:
    headers = {"Content-Type": "application/merge-patch+json"}
    answer = admin.http.post("/v1/security/keys", json={}, headers=headers)
    refused(answer, 415, "unsupported_media_type")
