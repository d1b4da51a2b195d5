"""Identifiers: what they look like and how they are read. Minting needs randomness, see `crypto.randomness`.

A realm id is a slug chosen by people, a `lineage_id` names a key through all its versions, a
`key_id` names one version. Key ids and subjects are random UUIDv4: a time-ordered id would put its
creation time into every envelope.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NewType
from uuid import UUID

from qimem.kernel.limits import CLIENT_ID_CHARS_MAX, DISPLAY_NAME_CHARS_MAX

RealmId = NewType("RealmId", str)
ClientId = NewType("ClientId", str)

SYSTEM_REALM = RealmId("system")

_REALM = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}")


def is_realm_id(text: str) -> bool:
    """Whether text is a well-formed realm id: `[a-z0-9][a-z0-9-]{0,62}`."""
    return _REALM.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether text is a well-formed name of a key or role: `[a-z0-9][a-z0-9._-]{0,62}`, not in UUID form."""
    return _NAME.fullmatch(text) is not None and _UUID.fullmatch(text) is None


def is_client_id(text: str) -> bool:
    """Whether text can be a client's id: 1 to 128 printable characters."""
    return 0 < len(text) <= CLIENT_ID_CHARS_MAX and text.isprintable()


_UNSHOWN = frozenset({"Cc", "Zl", "Zp"})
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def display_name_fault(text: str) -> str | None:
    """Why text cannot name a thing for people, or None: 1 to 256 characters."""
    if not 0 < len(text) <= DISPLAY_NAME_CHARS_MAX:
        return f"must have 1 to {DISPLAY_NAME_CHARS_MAX} characters"
    # Beside the controls, what makes a name look like another: line breaks and directions of writing.
    if any(unicodedata.category(char) in _UNSHOWN or char in _DIRECTIONS for char in text):
        return "must not have control characters"
    return None


def parse_uuid(text: str) -> UUID | None:
    """Read a UUID in any case, with all hyphens or with none; None when it is not one.

    `uuid.UUID` itself also takes braces, `urn:uuid:` and misplaced hyphens: spellings that would
    let one object answer to names that a policy has never seen.
    """
    if len(text) not in (32, 36) or _UUID.fullmatch(text) is None:
        return None
    if len(text) == 36 and text.count("-") != 4:
        return None
    return UUID(text)
