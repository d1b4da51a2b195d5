"""One spelling, one object: ids that could be read as another id are not ids."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qimem.kernel.ids import SYSTEM_REALM, display_name_fault, is_name, is_realm_id, parse_uuid

SOME = UUID("3f2504e0-4f89-41d3-9a0c-0305e82c3301")


@pytest.mark.parametrize(
    "text", ["a", "0", "acme", "acme-2", "a--b", "a-", "a" * 63, SYSTEM_REALM, str(SOME)]
)
def test_a_realm_id_is_taken(text: str) -> None:
    assert is_realm_id(text)


@pytest.mark.parametrize(
    "text",
    ["", "-", "-a", "A", "Acme", "a_b", "a.b", "a b", " a", "a ", "a\n", "a\x00", "a/b", "..", "a" * 64, "\u00e9", "\u0430cme",
     "\uff41", "a\u200b", "%61", "*"],
)  # fmt: skip
def test_what_is_no_realm_id_is_refused(text: str) -> None:
    assert not is_realm_id(text)


@pytest.mark.parametrize("text", ["a", "0", "orders", "orders.v2", "a_b", "a-b", "a" * 63, "deadbeef"])
def test_a_name_is_taken(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", ".a", "-a", "_a", "A", "a b", "a\n", "a/b", "a:b", "a*", "a" * 64, "\u00e9", str(SOME), SOME.hex,
     "3f2504e04f8941d39a0c-0305e82c3301"],
)  # fmt: skip
def test_what_is_no_name_or_could_be_an_id_is_refused(text: str) -> None:
    assert not is_name(text)


@pytest.mark.parametrize("text", ["x", "Acme Corporation", "\u00dcbung", "\N{GRINNING FACE}", "x" * 256, " ",
                                  "\U0001f468\u200d\U0001f469", "\u0646\u0627\u0645\u200c\u0647"])  # fmt: skip
def test_a_name_for_people_is_taken(text: str) -> None:
    assert display_name_fault(text) is None


@pytest.mark.parametrize("text", ["", "x" * 257, "a\nb", "a\x00", "\x1b[31m", "a\x7f", "a\x85b",
                                  "a\u2028b", "a\u2029b", "a\u202egpj", "\u2066a", "a\u200fb", "\u061ca"])  # fmt: skip
def test_what_is_no_name_for_people_has_a_fault(text: str) -> None:
    assert display_name_fault(text)


@given(st.uuids(), st.booleans(), st.booleans())
def test_a_uuid_is_read_in_any_case_with_or_without_hyphens(uuid: UUID, upper: bool, hyphens: bool) -> None:
    text = str(uuid) if hyphens else uuid.hex
    assert parse_uuid(text.upper() if upper else text) == uuid


@pytest.mark.parametrize(
    "text",
    ["", "x", f"{{{SOME}}}", f"urn:uuid:{SOME}", f" {SOME}", f"{SOME} ", f"{SOME}\n", str(SOME)[:-1], f"{SOME}0", SOME.hex[:-1],
     f"{SOME.hex}0", "3f2504e04f8941d39a0c-0305e82c3301", "3f25-04e04f89-41d3-9a0c-0305e82c3301",
     "3f2504e0-4f89-41d3-9a0c0305e82c3301", "3f2504e0-4f8941d3-9a0c-0305e82c33010", "3f2504e0_4f89_41d3_9a0c_0305e82c3301",
     "g" * 32, "-" * 36, "\uff13" + SOME.hex[1:], "\u0663" + SOME.hex[1:], "0x" + SOME.hex[2:]],
)  # fmt: skip
def test_another_spelling_is_no_uuid(text: str) -> None:
    assert parse_uuid(text) is None


@given(st.text("0123456789abcdefABCDEF-{}", min_size=30, max_size=38))
def test_what_is_read_as_a_uuid_is_one_of_two_spellings(text: str) -> None:
    found = parse_uuid(text)
    assert found is None or text.lower() in (str(found), found.hex)
