"""Wire structs as JSON Schema 2020-12: what msgspec derives, made exact for what is sent and taken here.

- A union of several structs, which msgspec writes and does not describe, becomes `anyOf`.
- An answer carries all of its fields, or omits those that have nothing to say and never sends null
  for them; a request takes null for absent.
- Descriptions come from the docstrings of the structs and from `field_notes`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from types import GenericAlias, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec

from qimem.web.kit.field_notes import note_on
from qimem.wire.common import Response

Schema = dict[str, Any]

REFERENCE: Final = "#/components/schemas/{name}"
_SECTION = re.compile(r"\n\n(?:Args|Raises|Returns):\n", re.DOTALL)
_ARGUMENT = re.compile(r"^    (\w+): (.+)$", re.MULTILINE)


def component_schemas(shapes: Iterable[Any]) -> tuple[dict[Any, Schema], dict[str, Schema]]:
    """Every struct in these shapes, as components of an OpenAPI document.

    Args:
        shapes: Structs and unions of structs; what is no struct has no component.

    Returns:
        Struct → reference to its component, and name → component.
    """
    structs = list(dict.fromkeys(found for shape in shapes for found in _structs_in(shape)))
    references, components = msgspec.json.schema_components(
        [_described(struct) for struct in structs], schema_hook=_alternatives, ref_template=REFERENCE
    )
    known = dict(zip(structs, references, strict=True))
    for struct, reference in known.items():
        _complete(components[reference["$ref"].rsplit("/", 1)[1]], _class_of(struct))
    return known, components


def query_parameters(query: type[Any]) -> dict[str, Schema]:
    """Name → schema of every parameter; a query has no null."""
    _, components = component_schemas([query])
    properties: dict[str, Schema] = components[query.__name__]["properties"]
    return {name: _never_null(schema) for name, schema in properties.items()}


def summary_of(documented: object) -> str:
    """The docstring without its sections."""
    return " ".join(_SECTION.split(inspect.getdoc(documented) or "")[0].split())


def _structs_in(annotation: Any) -> Iterator[Any]:
    found = _class_of(annotation)
    if isinstance(found, type) and issubclass(found, msgspec.Struct):
        yield annotation
        for hint in get_type_hints(found).values():
            yield from _structs_in(hint)
    for argument in get_args(annotation):
        yield from _structs_in(argument)


def _class_of(annotation: Any) -> Any:
    origin: Any = get_origin(annotation)
    return annotation if origin is None else origin


def _described(struct: Any) -> Any:
    # msgspec tells structs of a union apart by a tag, and ours have none: they are told by their fields.
    if get_origin(struct) is not None:
        return struct
    hints = get_type_hints(struct, include_extras=True)
    spoken = {name: _spoken(hint) for name, hint in hints.items()}
    if spoken == hints:
        return struct
    return msgspec.defstruct(struct.__name__, list(spoken.items()), namespace={"__doc__": struct.__doc__})


def _spoken(hint: Any) -> Any:
    arguments = get_args(hint)
    if get_origin(hint) is list:
        return GenericAlias(list, (_spoken(arguments[0]),))
    structs = [argument for argument in arguments if any(_structs_in(argument))]
    if get_origin(hint) in (Union, UnionType) and len(structs) > 1:
        return type("Alternatives", (), {"arms": arguments})
    return hint


def _alternatives(stand_in: Any) -> Schema:
    return {"anyOf": [{"$ref": REFERENCE.format(name=arm.__name__)} for arm in stand_in.arms]}


def _complete(schema: Schema, struct: Any) -> None:
    schema["description"] = summary_of(struct)
    told = dict(_ARGUMENT.findall(inspect.getdoc(struct) or ""))
    properties = schema["properties"]
    if issubclass(struct, Response):
        if struct.__struct_config__.omit_defaults:
            for name in properties.keys() - set(schema["required"]):
                properties[name] = _never_null(properties[name])
        else:
            schema["required"] = list(properties)
            for inner in properties.values():
                inner.pop("default", None)
    for name, inner in properties.items():
        if name in told:
            inner["description"] = told[name]
        inner.update(note_on(struct, name))


def _never_null(schema: Schema) -> Schema:
    inner = {keyword: value for keyword, value in schema.items() if keyword != "anyOf"}
    if inner.get("default", "") in (None, ""):
        inner.pop("default", None)
    arms: list[Schema] = [arm for arm in schema.get("anyOf", ()) if arm != {"type": "null"}]
    if len(arms) == 1:
        return arms[0] | inner
    return inner | ({"anyOf": arms} if arms else {})
