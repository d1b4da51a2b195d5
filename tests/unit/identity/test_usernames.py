from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qimem.errors import InvalidFields
from qimem.identity.usernames import canonical_username, find_canonical_username


@pytest.mark.parametrize(
    ("spelled", "key"),
    [
        ("ada", "ada"), ("ADA", "ada"), ("Ａｄａ", "ada"), ("a\u0301da", "áda"), ("ÁDA", "áda"), ("ẞ", "ß"), ("ΣΑΣ", "σας"),
        ("ｶﾞ", "ガ"), ("\u1100\u1161", "가"), ("\u212a", "k"), ("Å", "å"), ("İ", "i\u0307"), ("Ω", "ω"), ("ada＠x", "ada@x"),
        ("!~", "!~"), ("O'Hara", "o'hara"), ("l·l", "l·l"), ("ア・ア", "ア・ア"), ("א", "א"), ("0", "0"), ("a" * 128, "a" * 128),
    ],
    ids=ascii,
)  # fmt: skip
def test_a_name_is_compared_in_one_form(spelled: str, key: str) -> None:
    assert canonical_username(spelled) == key
    assert find_canonical_username(key) == key


@pytest.mark.parametrize(
    "spelled",
    [
        "", " ", "a b", " a", "a ", "a\t", "a\n", "\x00", "a\x00", "\x7f", "\x80", "a\u00a0", "a\u3000", "\u200b", "a\u200d", "\u00ad",
        "\ufeff", "\u202ea", "\u2066a", "ﬁ", "²", "½", "ª", "ſ", "ℌ", "😀", "١", "אa", "aא", "・", "·", "\ud800", "\ufffe",
        "\ue000", "\U000e0061", "\U0010ffff", "ǅ", "a" * 129, "é" * 129, "x" * 10_000_000,
    ],
    ids=lambda spelled: ascii(spelled[:8]),
)  # fmt: skip
def test_what_nobody_can_be_called_is_refused(spelled: str) -> None:
    assert find_canonical_username(spelled) is None
    with pytest.raises(InvalidFields) as caught:
        canonical_username(spelled)
    assert caught.value.fields == {"/username": "not a username of RFC 8265: no spaces, controls or symbols"}


def test_letters_of_another_script_are_another_name() -> None:
    keys = {find_canonical_username(name) for name in ("ada", "аda", "adа", "αda", "ада")}
    assert None not in keys
    assert len(keys) == 5


@settings(deadline=None, max_examples=500)
@given(
    st.text(max_size=20)
    | st.text(st.characters(categories=("L", "M", "Nd")))
    | st.text(st.characters(max_codepoint=127))
)
def test_a_second_pass_changes_nothing(text: str) -> None:
    key = find_canonical_username(text)
    if key is not None:
        assert find_canonical_username(key) == key
        assert unicodedata.is_normalized("NFC", key)
        assert not any(
            char.isspace() or unicodedata.category(char) in ("Cc", "Cf", "Cs")
            for char in key
            if char not in "\u200c\u200d"
        )


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20))
def test_width_and_case_of_an_ascii_name_do_not_matter(name: str) -> None:
    wide = "".join(chr(ord(char) + 0xFEE0) for char in name)
    assert (
        find_canonical_username(name)
        == find_canonical_username(name.upper())
        == find_canonical_username(wide)
        == name.lower()
    )


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(categories=("Ll", "Lu", "Lo", "Mn", "Mc")), min_size=1, max_size=10))
def test_composed_and_decomposed_are_one_name(name: str) -> None:
    keys = {find_canonical_username(unicodedata.normalize(form, name)) for form in ("NFC", "NFD")}
    assert len(keys) == 1
