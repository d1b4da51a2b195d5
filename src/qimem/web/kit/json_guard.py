"""JSON at the edge: strict, bounded, and every fault a 400 that says where.

msgspec validates in one pass, but keeps the last of duplicate keys (two parsers, two meanings: a
known way around checks) and bounds depth by its stack alone. Both are tested cheaply first and exactly
only on doubt. Every step is linear in the body: what a stranger sends must not cost more than reading it.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin
from uuid import UUID

import msgspec
from msgspec.structs import astuple, fields

from qimem.errors import Invalid, InvalidFields
from qimem.kernel.limits import JSON_DEPTH_MAX

S = TypeVar("S", bound=msgspec.Struct)

# Possessive, and an open string ends with the text: no match is ever tried again from a later quote.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_UP_DOWN = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
_SHALLOW_LEVELS = 3
_PIECE = 64 * 1024
_SHOWN_CHARS = 64
_UNKNOWN = "Object contains unknown field `"
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_SCALARS = frozenset({str, int, bool, UUID, type(None), msgspec.UnsetType})
_INTEGER = re.compile(r"-?[0-9]{1,64}")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


@lru_cache(maxsize=256)
def _decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    # Another default would look like a field that came, and could cover up for a key that came twice.
    for field in fields(shape):
        assert field.default in (None, msgspec.NODEFAULT, msgspec.UNSET), field.name
        assert field.default_factory is msgspec.NODEFAULT, field.name
    return msgspec.json.Decoder(shape)


def decode(body: bytes, shape: type[S]) -> S:
    """The body as a wire struct.

    Raises:
        Invalid: `invalid_json`: not JSON, not UTF-8, too deep, or a duplicate key.
        InvalidFields: a field is unknown, missing or mistyped.
    """
    try:
        value: S = _decoder(shape).decode(body)
    except msgspec.ValidationError as error:
        # Depth and duplicate keys are the graver faults and must not hide behind a mistyped field. But
        # nobody without a token may make us look at every one of megabytes that are refused either way.
        if len(body) <= _PIECE:
            _check_depth(body)
            _check_duplicates(body)
        raise _field_fault(str(error), shape) from None
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid_json() from None
    if body.count(b"[") + body.count(b"{") > JSON_DEPTH_MAX:
        _check_depth(body)
    if body.count(b":") != _set_fields(value):
        _check_duplicates(body)
    return value


def convert_query(values: Mapping[str, str], shape: type[S]) -> S:
    """Query parameters as a wire struct: each field is text or an integer.

    Raises:
        InvalidFields: a parameter is unknown or mistyped.
    """
    typed: dict[str, str | int] = dict(values)
    for field in fields(shape):
        text = values.get(field.encode_name)
        # Lenient conversion would also read 1.0 and 1e2, and the word null as an absent field.
        if field.type == (int | None) and text is not None and _INTEGER.fullmatch(text) is not None:
            typed[field.encode_name] = int(text)
    try:
        return msgspec.convert(typed, shape)
    except msgspec.ValidationError as error:
        raise _field_fault(str(error), shape) from None


def invalid_json(reason: str = "not valid JSON") -> Invalid:
    """The body cannot be read at all."""
    return Invalid(f"invalid JSON: {reason}", code="invalid_json")


def _set_fields(value: msgspec.Struct) -> int:
    # Each key of the text has one colon. As many set fields as colons: no key came twice.
    for name in _nested(type(value)):
        given = getattr(value, name)
        if given is not None and given is not msgspec.UNSET:
            return -1
    fields_of = astuple(value)
    return len(fields_of) - fields_of.count(None) - fields_of.count(msgspec.UNSET)


@lru_cache(maxsize=256)
def _nested(shape: type[msgspec.Struct]) -> tuple[str, ...]:
    # What could hold keys of its own: all that is not known to be text, a number or an id.
    return tuple(field.name for field in fields(shape) if not _SCALARS.issuperset(_members(field.type)))


def _members(kind: Any) -> frozenset[Any]:
    if get_origin(kind) is Literal:
        return frozenset(type(value) for value in get_args(kind))
    if get_origin(kind) in {Union, UnionType}:
        return frozenset().union(*map(_members, get_args(kind)))
    return frozenset({kind})


def _check_depth(body: bytes) -> None:
    # Which kind closes which is the parser's business: here every bracket goes one up or one down.
    steps = _STRING.sub(b"", body).translate(_UP_DOWN, _NOT_BRACKETS)
    for _ in range(_SHALLOW_LEVELS):
        # A round takes the innermost level; a batch of a thousand items is gone after three.
        steps = steps.replace(b"\x01\xff", b"")
    level = _SHALLOW_LEVELS
    for start in range(0, len(steps), _PIECE):
        levels = list(accumulate(memoryview(steps)[start : start + _PIECE].cast("b"), initial=level))
        if max(levels) > JSON_DEPTH_MAX:
            raise _too_deep()
        level = levels[-1]


def _too_deep() -> Invalid:
    return invalid_json(f"deeper than {JSON_DEPTH_MAX} levels")


def _check_duplicates(body: bytes) -> None:
    try:
        json.loads(
            body.decode(),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_nothing,
            parse_float=_nothing,
        )
    except (ValueError, RecursionError):
        raise invalid_json() from None


def _unique(pairs: list[tuple[str, object]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise invalid_json(f"duplicate key {key[:_SHOWN_CHARS]!r}")
        seen.add(key)


def _nothing(_: str) -> None:
    """Only keys count here."""


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


def _field_fault(text: str, shape: type[msgspec.Struct]) -> InvalidFields:
    # Names of megabytes stand in these texts, so none of them is searched from its beginning.
    reason, mark, place = text.rpartition(" - at `$")
    if not mark:
        reason, place = text, ""
    pointer = _pointer(place.removesuffix("`"))
    if reason.startswith(_UNKNOWN):
        name = reason[len(_UNKNOWN) :][:_SHOWN_CHARS].removesuffix("`")
        near = difflib.get_close_matches(name, _field_names(shape, pointer), 1)
        suggestion = f"; did you mean {near[0]}?" if near else ""
        return InvalidFields({f"{pointer}/{_escape(name)}": f"unknown field{suggestion}"})
    missing = _MISSING.fullmatch(reason)
    if missing is not None:
        return InvalidFields({f"{pointer}/{missing['name']}": "required"})
    # After a quote comes the value as it was sent, which may be a secret in the wrong place.
    return InvalidFields({pointer: reason.partition(" '")[0].replace("`", "").lower()})


def _pointer(path: str) -> str:
    return "".join(f"/{_escape(name or index)}" for name, index in _STEP.findall(path))


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _field_names(shape: type[msgspec.Struct], pointer: str) -> tuple[str, ...]:
    # Inside `items` the fields are those of one item, the base of the batch request.
    base: Any = shape.__mro__[1]
    return (pointer and base.__struct_fields__) or shape.__struct_fields__
