"""HTML in which text cannot become markup: whatever was not built here is escaped when it is put in."""

from __future__ import annotations

import re
from html import escape

_CODE = re.compile(r"`([^`]*)`")


class Markup(str):
    """Text that is HTML already. Only this module and constants of the program make it."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str) -> Markup:
    """An element with its children.

    Args:
        name: Its tag, with an end tag always.
        children: Markup as it is, and any other text escaped.
        attributes: Values are escaped. A trailing underscore is dropped, others become hyphens:
            `class_`, `aria_label`.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: str) -> Markup:
    """Children one after the other, escaped where they are no markup."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def prose(text: str) -> Markup:
    """A sentence in which `backticks` mark code."""
    parts = _CODE.split(text)
    # Odd parts are what stood between backticks.
    return joined(*(element("code", part) if index % 2 else part for index, part in enumerate(parts)))
