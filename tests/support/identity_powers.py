"""What permissions and wildcards mean, as the contract says it; the part of the platform's that programs use."""

from __future__ import annotations

from collections.abc import Iterable

SYSTEM = 0
LINEAGE = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
SCOPED = f"keys:decrypt:{LINEAGE}"
APPLICATION = "orders:approve"
NO_PERMISSIONS = ("*", "realm:*", "Platform:*", "users:all")
"""What no role may list."""

KEYS = frozenset({"keys:decrypt", SCOPED})
PLATFORM_ONLY = frozenset({"realms:create", "realms:manage"})
IN_REALM = KEYS | {
    "audit:read", "clients:create", "clients:manage", "clients:read", "realms:update", "roles:create", "roles:manage",
    "users:create", "users:manage", "users:read",
}  # fmt: skip
ASKED = IN_REALM | PLATFORM_ONLY
BUILT_IN = {"operator": "*", "platform-admin": "platform:*", "realm-admin": "realm:*"}
CROSSING = frozenset({"*", "platform:*"})

Names = frozenset[str]


def powers(names: Iterable[str]) -> Names:
    """What is held of the platform: every permission, and every wildcard as a thing of its own."""
    given = frozenset(names)
    found = set(given) - {APPLICATION}
    if "*" in given:
        found |= ASKED | set(BUILT_IN.values())
    if "platform:*" in given:
        found |= ASKED - KEYS
    if "realm:*" in given:
        found |= IN_REALM
    if "keys:decrypt" in found:
        found.add(SCOPED)
    return frozenset(found)
