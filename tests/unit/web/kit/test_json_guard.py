"""What comes in as JSON is exactly one reading of it, or a 400 that says where."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest

from qimem.errors import Invalid, InvalidFields
from qimem.kernel.limits import JSON_DEPTH_MAX
from qimem.web.kit import json_guard
from qimem.wire.common import Request
from qimem.wire.security import EncryptRequest


class Shape(Request, frozen=True, kw_only=True):
    text: str | None = None
    count: int | None = None
    key_id: UUID | None = None
    encoding: Literal["text", "base64"] | None = None
    flags: list[bool] | None = None
    free: Any = None


class Needing(Request, frozen=True, kw_only=True):
    client_id: str
    secret: str


class Query(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    limit: int | None = None
    cursor: str | None = None


def decode(body: bytes | str, shape: type[Any] = Shape) -> Any:
    return json_guard.decode(body.encode() if isinstance(body, str) else body, shape)


def fault(body: bytes | str, shape: type[Any] = Shape) -> Invalid:
    with pytest.raises(Invalid) as caught:
        decode(body, shape)
    return caught.value


def fields(body: bytes | str, shape: type[Any] = Shape) -> dict[str, str]:
    found = fault(body, shape)
    assert isinstance(found, InvalidFields), found
    return found.fields


def nested(levels: int, *, opening: str = "[", inside: str = "1") -> str:
    """A value of so many levels, of one kind of bracket or alternating."""
    for level in range(levels):
        kind = opening if opening != "[{" else opening[level % 2]
        inside = f"[{inside}]" if kind == "[" else f'{{"a":{inside}}}'
    return inside


# --- what cannot be read ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"\n", b"{", b"}", b"nul", b"'a'", b"text=1", b"{'text':1}", b'{"text"}', b'{"text":}', b'{"text":"a"',
        b'{"text":"a",}', b'{,"text":"a"}', b'{"text":"a"} x', b'{"text":"a"}{}', b'{"text":"a"}\x00', b"{}//", b"{}/**/",
        b'{"text":"a\nb"}', b'{"text":"\x00"}', b'{"text":"\x1f"}', b'{"text":"\\x41"}', b'{"text":"\\u12"}',
        b'{"text":"\\"}', b'{"count":01}', b'{"count":+1}', b'{"count":.5}', b'{"count":1.}', b'{"count":0x1}',
        b'{"count":1_0}', b'{"free":NaN}', b'{"free":nan}', b'{"free":Infinity}', b'{"free":-Infinity}',
        b'{"free":True}', b'{"free":undefined}', b'{"free":[1,]}', b'{"free":[1 2]}',
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(body: bytes) -> None:
    assert fault(body).code == "invalid_json"


@pytest.mark.parametrize(
    "body",
    [
        b'{"text":"\xff"}', b'{"text":"\x80"}', b'{"text":"\xc0\xaf"}', b'{"text":"\xe2\x82"}',
        b'{"text":"\xf4\x90\x80\x80"}', b'{"text":"\xed\xa0\x80"}', b'{"text":"\xed\xa0\x80\xed\xb0\x80"}',
        b'{"\xff":1}', b"\xff\xfe", b"\xfe\xff\x00{",
        *('{"text":"a"}'.encode(name) for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le")),
        b'\xef\xbb\xbf{"text":"a"}',
    ],
)  # fmt: skip
def test_what_is_not_utf8_is_refused(body: bytes) -> None:
    assert fault(body).code == "invalid_json"


@pytest.mark.parametrize(
    "escape", ["\\ud800", "\\udc00", "\\udfff", "\\ud800\\ud800", "\\udc00\\ud800", "\\ud800x"]
)
@pytest.mark.parametrize("frame", ['{{"text":"{}"}}', '{{"free":["{}"]}}', '{{"free":{{"{}":1}}}}'])
def test_a_lone_surrogate_is_refused(frame: str, escape: str) -> None:
    assert fault(frame.format(escape)).code == "invalid_json"


def test_a_surrogate_pair_is_one_character() -> None:
    assert decode('{"text":"\\ud83d\\ude00"}').text == "\N{GRINNING FACE}"


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e99999999999999999999"])
def test_a_number_beyond_every_range_is_refused(number: str) -> None:
    fault(f'{{"free":{number}}}')
    fault(f'{{"count":{number}}}')


@pytest.mark.parametrize("number", ["1.5", "1e400", "-1.25e3", "9" * 5_000])
def test_an_integer_field_takes_integers(number: str) -> None:
    fault(f'{{"count":{number}}}')


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, -(2**63)])
def test_a_large_integer_is_exact(number: int) -> None:
    assert decode(f'{{"count":{number}}}').count == number


# --- depth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("opening", ["[", "{", "[{"])
def test_32_levels_are_read_and_33_are_not(opening: str) -> None:
    deepest = nested(JSON_DEPTH_MAX - 1, opening=opening)
    assert decode(f'{{"free":{deepest}}}').free == json.loads(deepest)
    for levels in (JSON_DEPTH_MAX, 63, 64, 65, 100, 5_000):
        found = fault(f'{{"free":{nested(levels, opening=opening)}}}')
        assert (found.code, found.message) == ("invalid_json", "invalid JSON: deeper than 32 levels")


def test_depth_counts_from_the_outside_wherever_it_is() -> None:
    wide = ",".join(["[[]]", "{}"] * 500)
    assert decode(f'{{"free":[{wide}]}}').free[0] == [[]]
    fault(f'{{"free":[{wide},{nested(JSON_DEPTH_MAX - 1)},{wide}]}}')
    # Far enough in for the count to go on from an earlier piece of the text.
    many = ",".join(["[[[[[]]]]]"] * 30_000)
    assert len(decode(f'{{"free":[{many}]}}').free) == 30_000
    fault(f'{{"free":[{many},{nested(JSON_DEPTH_MAX - 1)}]}}')


@pytest.mark.parametrize(
    "text", ["[" * 100, "{" * 100, "]" * 100, "\\\\" + "[" * 100, '\\"' + "[" * 100, "[]{}" * 50]
)
def test_brackets_inside_text_are_no_levels(text: str) -> None:
    assert decode(f'{{"text":"{text}"}}').text == json.loads(f'"{text}"')


def test_a_field_fault_does_not_hide_depth() -> None:
    assert fault(f'{{"count":"x","free":{nested(40)}}}').code == "invalid_json"


# --- duplicate keys ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        '{"text":"a","text":"b"}', '{"text":"a","text":"a"}', '{"text":null,"text":"a"}', '{"text":"a","text":null}',
        '{"text":"a","\\u0074ext":"b"}', '{"\\u0074\\u0065xt":"a","te\\u0078t":"b"}', '{"text":"a","count":1,"text":"b"}',
        '{"text":"a" , "text" : "b"}', '{"free":{"a":1,"a":2}}', '{"free":[{"b":{"a":1,"\\u0061":2}}]}',
        '{"free":{"":1,"":2}}', '{"free":{"\\u00e9":1,"é":2}}', '{"free":{"\\/":1,"/":2}}', '{"text":":","text":"b"}',
        '{"text":"a","text":1}', '{"text":"a","nonsense":1,"nonsense":2}', '{"free":{"a:":1,"a:":2},"text":"::"}',
    ],
)  # fmt: skip
def test_a_key_that_stands_twice_is_refused(body: str) -> None:
    found = fault(body)
    assert found.code == "invalid_json"
    assert found.message.startswith("invalid JSON: duplicate key ")


@pytest.mark.parametrize(
    "body",
    [
        '{"text":"\\"text\\":1,\\"text\\":2"}', '{"text":"a:a:a"}', '{"free":[{"a":1},{"a":2}]}',
        '{"free":{"a":{"a":{"a":1}}}}', '{"free":{"a":1,"A":2}}', '{"free":{"e\\u0301":1,"é":2}}', '{"free":{"a":1,"a ":2}}',
        '{"text":null}', '{"text":null,"free":null}',
    ],
)  # fmt: skip
def test_what_only_looks_like_a_duplicate_is_read(body: str) -> None:
    value = decode(body)
    for name, given_value in json.loads(body).items():
        assert getattr(value, name) == given_value


@pytest.mark.parametrize("place", ["items", "outside"])
def test_duplicates_in_a_batch_are_refused(place: str) -> None:
    item = '{"input":"a","input":"b"}' if place == "items" else '{"input":"a"}'
    outside = ',"name":"x"' if place == "outside" else ""
    assert fault(f'{{"items":[{item}],"name":"x"{outside}}}', EncryptRequest).code == "invalid_json"


def test_a_long_duplicate_is_named_by_its_beginning() -> None:
    name = "k" * 10_000
    assert (
        fault(f'{{"free":{{"{name}":1,"{name}":2}}}}').message == f"invalid JSON: duplicate key {'k' * 64!r}"
    )


class Defaulted(Request, frozen=True, kw_only=True):
    count: int = 3


class Listing(Request, frozen=True, kw_only=True):
    names: list[str] = msgspec.field(default_factory=list)


@pytest.mark.parametrize("shape", [Defaulted, Listing])
def test_a_shape_whose_defaults_could_cover_for_a_duplicate_is_not_taken(shape: type[Any]) -> None:
    with pytest.raises(AssertionError):
        decode("{}", shape)


# --- fields -----------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["[]", '"text"', "1", "1.5", "true", "null", '[{"text":"a"}]'])
def test_what_is_no_object_is_refused_as_a_whole(body: str) -> None:
    (pointer,) = fields(body)
    assert pointer == ""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"tex":"a"}', {"/tex": "unknown field; did you mean text?"}),
        ('{"keyid":"a"}', {"/keyid": "unknown field; did you mean key_id?"}),
        ('{"zzz":"a"}', {"/zzz": "unknown field"}),
        ('{"":"a"}', {"/": "unknown field"}),
        ('{"a/b~c":1}', {"/a~1b~0c": "unknown field"}),
        ('{"a`b":1}', {"/a`b": "unknown field"}),
        ('{"zz\\u0000\\n":1}', {"/zz\x00\n": "unknown field"}),
        ('{"x - at `$.y`":1}', None),
        ('{"text":1}', {"/text": "expected str | null, got int"}),
        ('{"count":"1"}', {"/count": "expected int | null, got str"}),
        ('{"count":true}', {"/count": "expected int | null, got bool"}),
        ('{"flags":[true,1]}', {"/flags/1": "expected bool, got int"}),
        ('{"flags":{}}', {"/flags": "expected array | null, got object"}),
        ('{"key_id":"x"}', {"/key_id": "invalid uuid"}),
        ('{"encoding":"hex"}', {"/encoding": "invalid enum value"}),
    ],
)
def test_a_fault_of_a_field_names_it(body: str, expected: dict[str, str] | None) -> None:
    assert expected is None or fields(body) == expected
    assert fault(body).code == "invalid_field"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{}", {"/client_id": "required"}),
        ('{"client_id":"a"}', {"/secret": "required"}),
        ('{"client_id":null,"secret":"b"}', {"/client_id": "expected str, got null"}),
    ],
)
def test_a_missing_field_is_named(body: str, expected: dict[str, str]) -> None:
    assert fields(body, Needing) == expected


def test_a_fault_inside_a_batch_names_the_item() -> None:
    assert fields('{"items":[{},{"inputt":"a"}]}', EncryptRequest) == {
        "/items/1/inputt": "unknown field; did you mean input?"
    }
    assert fields('{"items":[{"input":1}]}', EncryptRequest) == {
        "/items/0/input": "expected str | null, got int"
    }


def test_a_field_of_the_whole_is_not_suggested_inside_an_item() -> None:
    assert fields('{"items":[{"realm_idd":"a"}]}', EncryptRequest) == {"/items/0/realm_idd": "unknown field"}


@pytest.mark.parametrize("value", ['"canary"', '["canary"]', '{"canary":"canary"}'])
@pytest.mark.parametrize("name", ["count", "key_id", "encoding", "flags"])
def test_a_fault_does_not_give_the_value_back(name: str, value: str) -> None:
    assert "canary" not in str(fields(f'{{"{name}":{value}}}'))


def test_null_is_absent() -> None:
    assert decode('{"text":null,"count":null}') == Shape()


# --- effort -----------------------------------------------------------------------------------

MEGABYTES = 2**22
COSTLY = {
    "a name of megabytes": b'{"' + b"a" * MEGABYTES + b'":1}',
    "a duplicate at the end": b'{"free":{%s,"a99999":1}}' % b",".join(b'"a%d":1' % n for n in range(100_000)),
    "an unknown duplicate at the end": b'{%s,"a0":1}' % b",".join(b'"a%d":1' % n for n in range(4_000)),
    "brackets without end": b"[" * MEGABYTES,
    "escaped quotes without end": b"[" * 33 + b'"' + b'\\"' * (MEGABYTES // 2),
    "escaped quotes in a text": b'{"text":"' + b"[" * 33 + b'\\"' * (MEGABYTES // 2) + b'"}',
    "a wrong word of megabytes": b'{"encoding":"' + b"x" * MEGABYTES + b'"}',
    "a number of megabytes": b'{"count":' + b"9" * MEGABYTES + b"}",
    "groups that take many rounds": b'{"free":[%s]}' % b",".join([b"[" * 28 + b"]" * 28] * 2_000),
}


@pytest.mark.parametrize("name", COSTLY)
def test_no_body_costs_more_than_reading_it(name: str) -> None:
    started = time.process_time()
    with contextlib.suppress(Invalid):
        decode(COSTLY[name])
    # The least of these took seconds to hours when it was not linear.
    assert time.process_time() - started < 1.5


# --- queries ----------------------------------------------------------------------------------


def test_a_query_is_text_and_integers() -> None:
    assert json_guard.convert_query({"limit": "5", "cursor": "10"}, Query) == Query(limit=5, cursor="10")
    assert json_guard.convert_query({}, Query) == Query()
    assert json_guard.convert_query({"cursor": "null"}, Query) == Query(cursor="null")


@pytest.mark.parametrize(
    "text", ["", " 5", "5 ", "1.0", "1e2", "0x5", "null", "true", "\u0665", "5_0", "--5"]
)
def test_an_integer_in_a_query_has_one_spelling(text: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        json_guard.convert_query({"limit": text}, Query)
    assert list(caught.value.fields) == ["/limit"]


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(InvalidFields) as caught:
        json_guard.convert_query({"limits": "1"}, Query)
    assert caught.value.fields == {"/limits": "unknown field; did you mean limit?"}
