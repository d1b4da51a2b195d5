"""Whatever comes, the guard answers with a value or a refusal, and as an exact reader would."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qimem.errors import Invalid
from qimem.kernel.limits import JSON_DEPTH_MAX
from qimem.web.kit.json_guard import decode
from qimem.wire.common import Request


class Shape(Request, frozen=True, kw_only=True):
    text: str | None = None
    free: Any = None


def outcome(body: bytes) -> str:
    """`read`, or the code of the refusal, which can be written as an answer."""
    try:
        decode(body, Shape)
    except Invalid as refused:
        msgspec.json.encode([refused.message, getattr(refused, "fields", {})])
        return refused.code
    return "read"


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_value_or_a_refusal(body: bytes) -> None:
    assert outcome(body) in {"read", "invalid_json", "invalid_field"}


TOKENS = [b"{", b"}", b"[", b"]", b":", b",", b'"', b'"text"', b'"free"', b'"\\ud800"', b'"\\u0061"', b'"a"', b"\\", b"1",
          b"-", b"1e400", b"null", b"true", b" ", b"\xff", b"`", b" - at `$"]  # fmt: skip


@given(st.lists(st.sampled_from(TOKENS), max_size=60).map(b"".join))
def test_broken_json_is_a_value_or_a_refusal(body: bytes) -> None:
    assert outcome(body) in {"read", "invalid_json", "invalid_field"}


KEYS = st.sampled_from(["a", "b", "\u0061", "é", "", "a:b", '"', "\\", "[", "}}"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "[[", "}", ':"', "\\"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: ("list", values))
        | st.lists(st.tuples(KEYS, inner), max_size=4).map(lambda pairs: ("object", pairs))
    ),
    max_leaves=12,
)


def written(value: Any, *, escaped: bool) -> str:
    """JSON of the value, in which objects are lists of pairs and may name a key twice."""
    if isinstance(value, tuple):
        kind, inner = value
        if kind == "list":
            return f"[{', '.join(written(one, escaped=escaped) for one in inner)}]"
        pairs = [f"{text(key, escaped=escaped)} :{written(one, escaped=escaped)}" for key, one in inner]
        return f"{{{','.join(pairs)}}}"
    return text(value, escaped=escaped) if isinstance(value, str) else json.dumps(value)


def text(value: str, *, escaped: bool) -> str:
    return '"' + "".join(f"\\u{ord(char):04x}" for char in value) + '"' if escaped else json.dumps(value)


def repeats(value: Any) -> bool:
    if not isinstance(value, tuple):
        return False
    kind, inner = value
    if kind == "list":
        return any(map(repeats, inner))
    names = [key for key, _ in inner]
    return len(set(names)) < len(names) or any(repeats(one) for _, one in inner)


def height(value: Any) -> int:
    if not isinstance(value, tuple):
        return 0
    kind, inner = value
    return 1 + max((height(one if kind == "list" else one[1]) for one in inner), default=0)


@given(VALUES, st.integers(0, 40), st.booleans())
def test_duplicates_and_depth_are_judged_as_by_a_slow_exact_reader(
    value: Any, around: int, escaped: bool
) -> None:
    for _ in range(around):
        value = ("list", [value])
    body = f'{{"free":{written(value, escaped=escaped)}}}'
    if repeats(value) or height(value) >= JSON_DEPTH_MAX:
        with pytest.raises(Invalid) as caught:
            decode(body.encode(), Shape)
        assert caught.value.code == "invalid_json"
    else:
        assert decode(body.encode(), Shape).free == json.loads(body)["free"]
