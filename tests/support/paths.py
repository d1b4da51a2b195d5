"""Paths of endpoints with something in the place of their parameters."""

from __future__ import annotations

from qimem.authz.permissions import Permission

ABSENT = "00000000-0000-4000-8000-000000000000"
NOBODYS = {
    "key_id": ABSENT,
    "user_id": ABSENT,
    "client_id": ABSENT,
    "role": "absent",
    "realm_id": "absent",
    "realm": "system",
}
"""Parameter → a value that could be one, of nothing that is there; of the public `realm` one that is."""


OPERATORS_ONLY = frozenset({Permission.REALMS_CREATE, Permission.REALMS_MANAGE})
"""What counts in realm `system` alone."""


def filled(path: str, **known: str) -> str:
    """The path with these values in place of its parameters, and where none is given with one of nothing."""
    for name, value in (NOBODYS | known).items():
        path = path.replace(f"{{{name}}}", value)
    return path
