"""What is said of one field or parameter in the OpenAPI document."""

from __future__ import annotations

from typing import Any

Note = dict[str, Any]
"""Keywords of JSON Schema, the description among them."""


def note(text: str, **keywords: object) -> Note:
    """A description, and what JSON Schema can say beside it."""
    return {"description": text, **keywords}


def one_of(names: object) -> str:
    """The members of an enum, or names, as a text."""
    return ", ".join(f"`{name}`" for name in names)  # type: ignore[attr-defined]  # enum classes and tuples


def alike(field: str, said: Note, *structs: str) -> dict[str, Note]:
    """The same of one field in several structs."""
    return {f"{struct}.{field}": said for struct in structs}
