"""A cursor is checked like any other input when it comes back."""

from __future__ import annotations

import base64
import json
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qimem.errors import InvalidFields
from qimem.kernel.limits import CURSOR_CHARS_MAX, PAGE_DEFAULT, PAGE_MAX
from qimem.web.kit.pages import next_cursor, page_limit, position

TYPES = (int, UUID)
SOME = UUID("3f2504e0-4f89-41d3-9a0c-0305e82c3301")


def cursor_of(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def refused(cursor: str, types: tuple[type, ...] = TYPES) -> None:
    with pytest.raises(InvalidFields) as caught:
        position(cursor, types)
    assert caught.value.fields == {"/cursor": "not a cursor of this list"}


@pytest.mark.parametrize(("limit", "expected"), [(None, PAGE_DEFAULT), (1, 1), (PAGE_MAX, PAGE_MAX)])
def test_a_limit_within_the_range_is_taken(limit: int | None, expected: int) -> None:
    assert page_limit(limit) == expected


@pytest.mark.parametrize("limit", [0, -1, PAGE_MAX + 1, 2**63])
def test_a_limit_outside_the_range_is_refused(limit: int) -> None:
    with pytest.raises(InvalidFields) as caught:
        page_limit(limit)
    assert caught.value.fields == {"/limit": f"1 to {PAGE_MAX}"}


def test_the_last_page_has_no_cursor() -> None:
    assert next_cursor(None) is None
    assert position(None, TYPES) is None


@given(st.integers(0, 2**63 - 1), st.uuids())
def test_a_position_comes_back_as_it_went(number: int, uuid: UUID) -> None:
    cursor = next_cursor((number, uuid))
    assert cursor is not None
    assert cursor.replace("-", "").replace("_", "").isalnum()
    assert position(cursor, TYPES) == (number, uuid)


@pytest.mark.parametrize(
    "value",
    [[], [1], [1, str(SOME), 2], {"a": 1}, "a", 1, None, [None, str(SOME)], [-1, str(SOME)], [2**63, str(SOME)],
     [1.0, str(SOME)], [True, str(SOME)], ["1", str(SOME)], [1, 1], [1, None], [1, "x"], [1, f"{{{SOME}}}"],
     [1, f"urn:uuid:{SOME}"], [[1], str(SOME)], [1, [str(SOME)]]],
)  # fmt: skip
def test_a_cursor_of_another_shape_is_refused(value: object) -> None:
    refused(cursor_of(value))


def test_a_cursor_of_another_list_is_refused() -> None:
    cursor = next_cursor((1, uuid4()))
    assert cursor is not None
    refused(cursor, (UUID, int))
    refused(cursor, (int,))


@pytest.mark.parametrize(
    "cursor",
    ["", "=", "a", "!!!!", "a b", "AAAA", "\u00e9", "%", "bnVsbA", "W05hTiwx", "/w==", "x" * (CURSOR_CHARS_MAX + 1),
     cursor_of([1, str(SOME)]) + "A" * CURSOR_CHARS_MAX, cursor_of([1, str(SOME)])[:-3], "W" * 500],
)  # fmt: skip
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    refused(cursor)


@given(
    st.text(max_size=60) | st.binary(max_size=60).map(lambda data: base64.urlsafe_b64encode(data).decode())
)
def test_any_text_is_a_position_or_a_refusal(cursor: str) -> None:
    try:
        found = position(cursor, (int,))
    except InvalidFields:
        return
    assert len(found) == 1
    assert type(found[0]) is int


def test_a_cursor_longer_than_any_of_ours_is_refused() -> None:
    text = f'[1,{" " * CURSOR_CHARS_MAX}"{SOME}"]'
    refused(base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode())


def test_brackets_without_end_are_refused() -> None:
    refused(base64.urlsafe_b64encode(b"[" * 380).decode().rstrip("="))


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\0", "a\0b"])
def test_a_text_that_no_database_takes_is_refused(text: str) -> None:
    refused(cursor_of([text]), (str,))
    raw = base64.urlsafe_b64encode(json.dumps([text], ensure_ascii=False).encode("utf-8", "surrogatepass"))
    refused(raw.rstrip(b"=").decode(), (str,))
    assert position(cursor_of(["\U0001f511 \u00e9"]), (str,)) == ("\U0001f511 \u00e9",)
