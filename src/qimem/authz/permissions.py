"""Permissions of the platform, and the grammar that tells them from an application's own.

Grammar: `resource:action` or `resource:action:<lineage uuid>`, resource and action each
`[a-z][a-z0-9-]{0,31}`. A name whose resource is the platform's is a platform permission and must
name a known action; every other name `[!-~]{1,128}` without `*` is the application's own, carried
in tokens and never asked for here. Resources that a later version needs are reserved from the
start: a name that applications could hand out today must not become a power tomorrow.

Three wildcards exist and none can be spelled in a role: `*` (role `operator` of realm `system`:
everything, in every realm), `platform:*` (role `platform-admin` of realm `system`: everything in every realm but
its keys) and `realm:*` (role `realm-admin`: everything inside its realm).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final
from uuid import UUID

from qimem.errors import Invalid
from qimem.kernel.context import PermissionSet
from qimem.kernel.ids import parse_uuid
from qimem.kernel.limits import PERMISSION_CHARS_MAX


class Permission(StrEnum):
    """What the endpoints ask for."""

    AUDIT_READ = "audit:read"
    AUTHZ_EXPLAIN = "authz:explain"
    CLIENTS_CREATE = "clients:create"
    CLIENTS_MANAGE = "clients:manage"
    CLIENTS_READ = "clients:read"
    KEYS_CREATE = "keys:create"
    KEYS_DECRYPT = "keys:decrypt"
    KEYS_ENCRYPT = "keys:encrypt"
    KEYS_MANAGE = "keys:manage"
    KEYS_READ = "keys:read"
    KEYS_ROTATE = "keys:rotate"
    PLUGINS_READ = "plugins:read"
    PLUGINS_WRITE = "plugins:write"
    REALMS_CREATE = "realms:create"
    REALMS_MANAGE = "realms:manage"
    REALMS_READ = "realms:read"
    REALMS_UPDATE = "realms:update"
    ROLES_CREATE = "roles:create"
    ROLES_MANAGE = "roles:manage"
    ROLES_READ = "roles:read"
    SIGNING_KEYS_ROTATE = "signing-keys:rotate"
    TOKENS_INTROSPECT = "tokens:introspect"
    USERS_CREATE = "users:create"
    USERS_MANAGE = "users:manage"
    USERS_READ = "users:read"


EVERYTHING: Final = "*"
PLATFORM: Final = "platform:*"
EVERYTHING_IN_REALM: Final = "realm:*"
CROSSING: Final = frozenset({EVERYTHING, PLATFORM})
"""Those that count in every realm."""
WILDCARDS: Final = frozenset({EVERYTHING, PLATFORM, EVERYTHING_IN_REALM})

BUILT_IN_ROLES: Final = {
    "operator": EVERYTHING,
    "platform-admin": PLATFORM,
    "realm-admin": EVERYTHING_IN_REALM,
}
"""Role name → the wildcard it carries."""
SYSTEM_ROLES: Final = frozenset({"operator", "platform-admin"})
"""Those of them that exist only in realm `system`."""

PLATFORM_RESOURCES: Final = frozenset({
    "audit", "authz", "backups", "clients", "grants", "keys", "limits", "nodes", "operators", "platform",
    "plugins", "realm", "realms", "roles", "sessions", "settings", "signing-keys", "system", "tokens", "users",
})  # fmt: skip

PLATFORM_ONLY: Final = frozenset({Permission.REALMS_CREATE.value, Permission.REALMS_MANAGE.value})
"""What counts in realm `system` alone."""
_ALL: Final = frozenset(permission.value for permission in Permission)
REALM_SCOPED: Final = _ALL - PLATFORM_ONLY
"""What `realm:*` means today; permissions of later versions join by being listed above."""

_WITHOUT_KEYS: Final = frozenset(name for name in _ALL if not name.startswith("keys:"))
"""What `platform:*` means: who runs the platform gets no tenant's data to see, and so cannot give that away either."""

SCOPABLE: Final = frozenset(name for name in _ALL if name.startswith("keys:") and name != "keys:create")
"""Permissions that may be narrowed to one lineage."""

_WORD = re.compile(r"[a-z][a-z0-9-]{0,31}")
_APPLICATION = re.compile(r"[!-~]{1,128}")


def parse(name: str) -> str:
    """The canonical spelling of one permission as a role may list it.

    Raises:
        Invalid: `invalid_field` when it is neither a platform permission nor a possible name of
            the application's own.
    """
    if len(name) > PERMISSION_CHARS_MAX or _APPLICATION.fullmatch(name) is None or "*" in name:
        raise Invalid(f"not a permission: {name[:PERMISSION_CHARS_MAX]}")
    resource, _, rest = name.partition(":")
    # Case and trailing separators must not make a reserved name look like an application's own.
    if resource.lower() not in PLATFORM_RESOURCES:
        return name
    action, _, scope = rest.partition(":")
    base = f"{resource}:{action}"
    if base not in _ALL or _WORD.fullmatch(action) is None:
        raise Invalid(f"unknown permission: {name}")
    if name == base:
        return base
    lineage = parse_uuid(scope) if base in SCOPABLE else None
    if lineage is None:
        raise Invalid(f"unknown permission: {name}")
    return f"{base}:{lineage}"


def split(name: str) -> tuple[str, UUID | None] | None:
    """A canonical platform permission as (base, lineage); None for an application's own name."""
    resource, _, rest = name.partition(":")
    if resource not in PLATFORM_RESOURCES:
        return None
    action, _, scope = rest.partition(":")
    return f"{resource}:{action}", (UUID(scope) if scope else None)


def compile_permissions(names: frozenset[str]) -> PermissionSet:
    """Expand what an actor's roles list into what can be asked in one look-up.

    Args:
        names: Canonical permission names, wildcards included.
    """
    crossing = names & CROSSING
    everywhere: set[str] = set()
    scoped: dict[str, set[UUID]] = {}
    for name in names:
        if name == EVERYTHING:
            everywhere |= _ALL
        elif name == PLATFORM:
            everywhere |= _WITHOUT_KEYS
        elif name == EVERYTHING_IN_REALM:
            everywhere |= REALM_SCOPED
        elif (parts := split(name)) is not None:
            base, lineage = parts
            if lineage is None:
                everywhere.add(base)
            else:
                scoped.setdefault(base, set()).add(lineage)
    return PermissionSet(
        names=names,
        everywhere=frozenset(everywhere),
        scoped={base: frozenset(lineages) for base, lineages in scoped.items()},
        operator=EVERYTHING in names,
        crosses_realms=bool(crossing),
        # A role for the keys of realm `system` must not open those of every tenant.
        abroad=compile_permissions(crossing) if crossing and crossing != names else None,
    )
