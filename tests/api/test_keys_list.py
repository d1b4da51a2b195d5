"""The list of keys over HTTP: its pages, its cursors, and what it shows to whom."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.support.api import Person, World
from tests.support.kms import ABSENT, KEYS, new_key, rotate
from tests.support.server import ok, refused


@pytest.fixture(scope="module")
def each_admin(each_world: World) -> Person:
    return each_world.person()


@pytest.fixture(scope="module")
def five(each_world: World) -> tuple[Person, list[dict[str, Any]]]:
    """Someone in a realm with five keys, and the keys in the order in which they were made."""
    person = each_world.person()
    return person, [new_key(person, name=f"key-{number}") for number in range(5)]


def page(person: Person, **query: Any) -> dict[str, Any]:
    return ok(person.get(KEYS, params=query))


def pages(person: Person, limit: int) -> list[list[dict[str, Any]]]:
    """The whole list, page by page."""
    found, cursor = [], None
    while True:
        answer = page(person, limit=limit, **({"cursor": cursor} if cursor else {}))
        found.append(answer["items"])
        cursor = answer["next_cursor"]
        if cursor is None:
            return found
        assert len(found) < 100


def cursor_of(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_a_realm_without_keys_has_an_empty_list(each_world: World) -> None:
    # The realm's own keys exist from its first moment on, and are not shown.
    assert page(each_world.person()) == {"items": [], "next_cursor": None}


def test_keys_are_listed_in_the_order_in_which_they_were_made(five: tuple[Person, list[Any]]) -> None:
    person, keys = five
    assert page(person) == {"items": keys, "next_cursor": None}


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 200])
def test_pages_together_are_the_whole_list(five: tuple[Person, list[Any]], limit: int) -> None:
    person, keys = five
    assert pages(person, limit) == [keys[start : start + limit] for start in range(0, 5, limit)]


def test_a_page_holds_fifty_keys_by_default(world: World) -> None:
    person = world.person()
    keys = [new_key(person) for _ in range(51)]
    first = page(person)
    assert first["items"] == keys[:50]
    assert page(person, cursor=first["next_cursor"]) == {"items": keys[50:], "next_cursor": None}


@pytest.mark.parametrize("limit", ["0", "-1", "201", "99999999999999999999"])
def test_a_limit_out_of_bounds_is_refused(admin: Person, limit: str) -> None:
    body = refused(admin.get(f"{KEYS}?limit={limit}"), 400, "invalid_field")
    assert body["fields"] == {"/limit": "1 to 200"}


@pytest.mark.parametrize(
    "limit", ["", "ten", "1_0", "%205", "5%0A", "%2B5", "0x10", "true", "null", "1.0", "1e2", "%D9%A5"]
)
def test_a_limit_that_is_no_integer_is_refused(admin: Person, limit: str) -> None:
    body = refused(admin.get(f"{KEYS}?limit={limit}"), 400, "invalid_field")
    assert list(body["fields"]) == ["/limit"]


GARBAGE = {
    "empty": "",
    "word": "null",
    "no base64": "!!!!",
    "wrong alphabet": cursor_of([1, ABSENT]) + "+",
    "bytes": base64.urlsafe_b64encode(b"\xff\xfe\x00").decode(),
    "NUL": "\0",
    "no json": base64.urlsafe_b64encode(b"[1,").decode(),
    "long": cursor_of(["x" * 1000, ABSENT]),
    "deep": base64.urlsafe_b64encode(b"[" * 300).decode(),
    "number": cursor_of(5),
    "object": cursor_of({"after": 1}),
    "one part": cursor_of([1]),
    "three parts": cursor_of([1, ABSENT, 1]),
    "text for time": cursor_of(["1", ABSENT]),
    "true for time": cursor_of([True, ABSENT]),
    "real for time": cursor_of([1.5, ABSENT]),
    "NaN for time": cursor_of([float("nan"), ABSENT]),
    "negative time": cursor_of([-1, ABSENT]),
    "huge time": cursor_of([2**63, ABSENT]),
    "thousand digits": base64.urlsafe_b64encode(b"[" + b"9" * 300 + b"]").decode(),
    "number for id": cursor_of([1, 1]),
    "null for id": cursor_of([1, None]),
    "word for id": cursor_of([1, "orders"]),
    "braces for id": cursor_of([1, f"{{{ABSENT}}}"]),
}


@pytest.mark.parametrize("cursor", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_cursor_of_this_list_is_refused(admin: Person, cursor: str) -> None:
    body = refused(admin.get(KEYS, params={"cursor": cursor}), 400, "invalid_field")
    assert body["fields"] == {"/cursor": "not a cursor of this list"}


def test_a_cursor_beyond_the_last_key_is_an_empty_page(admin: Person) -> None:
    assert page(admin, cursor=cursor_of([2**63 - 1, ABSENT])) == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("end", [1, 5, 20])
def test_a_truncated_cursor_is_refused(five: tuple[Person, list[Any]], end: int) -> None:
    person, _ = five
    cursor = page(person, limit=2)["next_cursor"]
    refused(person.get(KEYS, params={"cursor": cursor[:-end]}), 400, "invalid_field")


def test_a_cursor_of_another_realm_shows_only_ones_own_keys(
    each_world: World, five: tuple[Person, list[Any]]
) -> None:
    theirs = page(five[0], limit=2)["next_cursor"]
    person = each_world.person()
    mine = new_key(person)
    assert page(person, cursor=theirs)["items"] == [mine]


def test_the_list_shows_the_active_version_of_each_key(each_world: World) -> None:
    person = each_world.person()
    new_key(person, name="a")
    second = new_key(person, name="b")
    newest = rotate(person, name="a")
    assert page(person)["items"] == [newest, second]


def test_a_rotation_between_two_pages_moves_no_key(each_world: World) -> None:
    person = each_world.person()
    keys = [new_key(person) for _ in range(5)]
    first = page(person, limit=2)
    for seen_or_not in (0, 1, 2, 4):
        rotate(person, lineage_id=keys[seen_or_not]["lineage_id"])
    rest = page(person, cursor=first["next_cursor"])["items"]
    listed = [key["lineage_id"] for key in first["items"] + rest]
    assert listed == [key["lineage_id"] for key in keys]
    assert [key["version"] for key in rest] == [2, 1, 2]


def test_a_cursor_of_a_rotated_key_goes_on_after_it(each_world: World) -> None:
    person = each_world.person()
    keys = [new_key(person) for _ in range(3)]
    rotate(person, lineage_id=keys[0]["lineage_id"])
    rotate(person, lineage_id=keys[1]["lineage_id"])
    assert [key["lineage_id"] for (key,) in pages(person, 1)] == [key["lineage_id"] for key in keys]


def test_a_key_made_after_the_first_page_comes_last(each_world: World) -> None:
    person = each_world.person()
    keys = [new_key(person) for _ in range(3)]
    cursor = page(person, limit=2)["next_cursor"]
    late = new_key(person)
    assert page(person, cursor=cursor)["items"] == [keys[2], late]


def test_a_disabled_key_is_listed_as_such(each_admin: Person) -> None:
    key = new_key(each_admin)
    ok(each_admin.post(f"{KEYS}/{key['key_id']}/disable"))
    listed = {item["key_id"]: item for page_ in pages(each_admin, 200) for item in page_}
    assert listed[key["key_id"]] == {**key, "enabled": False}


@pytest.mark.parametrize("limit", [1, 2, 200])
def test_who_may_read_two_keys_sees_two_keys(
    five: tuple[Person, list[Any]], each_world: World, limit: int
) -> None:
    owner, keys = five
    scopes = [f"keys:read:{keys[number]['lineage_id']}" for number in (3, 1)]
    person = each_world.person(*scopes, f"keys:read:{ABSENT}", realm_id=owner.realm_id)
    assert [key for found in pages(person, limit) for key in found] == [keys[1], keys[3]]


def test_who_may_only_use_keys_sees_no_list(world: World) -> None:
    person = world.person("keys:create", "keys:encrypt", "keys:decrypt", "keys:rotate", "keys:manage")
    for query in ("", "?limit=0", "?cursor=x", "?realm_id=nowhere", "?x=1"):
        body = refused(person.get(KEYS + query), 403, "permission_denied")
        assert body["permission"] == "keys:read"


def test_an_operator_lists_the_keys_of_another_realm(world: World) -> None:
    person = world.person()
    key = new_key(person)
    assert ok(world.operator.get(f"{KEYS}?realm_id={person.realm_id}"))["items"] == [key]
    assert key not in ok(world.operator.get(KEYS))["items"]


@pytest.mark.parametrize(
    ("query", "pointer", "reason"),
    [
        ("limt=1", "/limt", "unknown field; did you mean limit?"),
        ("after=x", "/after", "unknown field"),
    ],
)
def test_an_unknown_query_parameter_is_refused(admin: Person, query: str, pointer: str, reason: str) -> None:
    body = refused(admin.get(f"{KEYS}?{query}"), 400, "invalid_field")
    assert body["fields"] == {pointer: reason}


@pytest.mark.parametrize(
    "query", ["limit=1&limit=1", "limit=1&limit=2", "limit", "&", "limit=1&&", "=1", "%", "limit=%FF"]
)
def test_a_query_that_cannot_be_read_in_one_way_is_refused(admin: Person, query: str) -> None:
    refused(admin.get(f"{KEYS}?{query}"), 400, "invalid_field")
