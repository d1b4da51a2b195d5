"""`GET /v1/audit/events`: the realm's records and no others, newest first, narrowed and paged."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.support.api import Person, World
from tests.support.server import ok, refused

EVENTS = "/v1/audit/events"


@pytest.fixture
def busy(each_world: World) -> Person:
    """An administrator of a new realm who made a key and used it."""
    person = each_world.person()
    key = ok(person.post("/v1/security/keys", {}))["key_id"]
    for number in range(7):
        ok(person.post("/v1/security/encrypt", {"key_id": key, "input": str(number)}))
    return person


def listed(person: Person, **query: Any) -> list[dict[str, Any]]:
    return ok(person.get(EVENTS, params=query))["items"]


def test_the_newest_stands_first(busy: Person) -> None:
    times = [record["at"] for record in listed(busy)]
    assert times == sorted(times, reverse=True)
    assert len(times) == len({record["id"] for record in listed(busy)}) >= 9


def test_nothing_of_another_realm_is_shown(busy: Person, each_world: World) -> None:
    assert {record["realm"] for record in listed(busy)} == {busy.realm_id}
    other = each_world.person()
    assert busy.realm_id not in {record["realm"] for record in listed(other)}


def test_an_operator_names_a_realm_and_others_cannot(busy: Person, each_world: World) -> None:
    shown = ok(each_world.operator.get(EVENTS, params={"realm_id": busy.realm_id}))["items"]
    assert shown == listed(busy)
    other = each_world.person()
    refused(other.get(EVENTS, params={"realm_id": busy.realm_id}), 404, "realm_not_found")


def test_the_right_to_read_is_needed(each_world: World, busy: Person) -> None:
    refused(each_world.person("keys:read", realm_id=busy.realm_id).get(EVENTS), 403, "permission_denied")
    reader = each_world.person("audit:read", realm_id=busy.realm_id)
    assert [record["event"] for record in listed(reader, event="keys.create")] == ["keys.create"]


def test_each_filter_narrows(busy: Person) -> None:
    everything = listed(busy)
    one = next(record for record in everything if record["event"] == "keys.encrypt")
    for name, field in (
        ("event", "event"), ("subject", "subject"), ("client_id", "client"), ("key_id", "key"),
        ("request_id", "request_id"), ("outcome", "outcome"),
    ):  # fmt: skip
        expected = [record for record in everything if record.get(field) == one[field]]
        assert listed(busy, **{name: one[field]}) == expected
    for name in ("event", "subject", "client_id", "request_id", "outcome"):
        assert listed(busy, **{name: "no-such"}) == []
    assert listed(busy, since=one["at"], until=one["at"]) == []
    middle = everything[4]["at"]
    assert listed(busy, since=middle) + listed(busy, until=middle) == everything


def test_pages_together_are_the_whole_list(busy: Person) -> None:
    cursor, pages = None, []
    while True:
        page = ok(busy.get(EVENTS, params={"limit": 2} | ({"cursor": cursor} if cursor else {})))
        assert len(page["items"]) <= 2
        pages += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert pages == listed(busy)


@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize(
    "text", ["yesterday", "2026-11-26", "2026-11-26T12:00:00", "-1", "", "99999-01-01T00:00:00Z"]
)
def test_other_times_are_refused(busy: Person, name: str, text: str) -> None:
    answer = refused(busy.get(EVENTS, params={name: text}), 400, "invalid_field")
    assert f"/{name}" in answer["fields"]


@pytest.mark.parametrize("values", [[1, "x"], ["x"], ["a", "b", "c"], {}, "x", [None, None]])
def test_another_cursor_is_refused(busy: Person, values: Any) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")
    refused(busy.get(EVENTS, params={"cursor": cursor}), 400, "invalid_field")


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 201}, {"key_id": "x"}, {"user": "x"}])
def test_what_is_no_query_is_refused(busy: Person, query: dict[str, Any]) -> None:
    refused(busy.get(EVENTS, params=query), 400, "invalid_field")
