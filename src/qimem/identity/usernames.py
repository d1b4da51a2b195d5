"""One canonical form per username (RFC 8265 UsernameCaseMapped), so that no spelling is a second account.

Lock-out and look-up bypasses by case, width or trailing space are a known class (OpenBao
CVE-2025-54998); the name is mapped once at the edge, refused if a second pass would change it, and
the unique index stands on the mapped form.
"""

from __future__ import annotations

import precis_i18n

from qimem.errors import InvalidFields
from qimem.kernel.limits import USERNAME_CHARS_MAX


def canonical_username(username: str) -> str:
    """The form names are compared in.

    Raises:
        InvalidFields: empty, longer than 128 characters, or not a username of RFC 8265 §3.3.
    """
    key = find_canonical_username(username)
    if key is None:
        raise InvalidFields({"/username": "not a username of RFC 8265: no spaces, controls or symbols"})
    return key


def find_canonical_username(username: str) -> str | None:
    """The form names are compared in, or None when no user can have this name."""
    if not 0 < len(username) <= USERNAME_CHARS_MAX:
        return None
    if username.isascii():
        # The profile's answer for ASCII, without its cost: visible characters, lower case.
        return username.lower() if all("!" <= char <= "~" for char in username) else None
    try:
        profile = precis_i18n.get_profile("UsernameCaseMapped")
        key: str = profile.enforce(username)
        return key if profile.enforce(key) == key else None
    except UnicodeEncodeError:
        return None
