"""Roles: named sets of permissions, and the rule that nobody gives what they lack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qimem.authz.decisions import require_everywhere, require_grantable
from qimem.authz.permissions import BUILT_IN_ROLES, SYSTEM_ROLES, Permission, parse
from qimem.errors import Conflict, Invalid, InvalidFields, NotFound, realm_not_found
from qimem.identity.models import RoleRecord
from qimem.identity.ports import RoleStore
from qimem.kernel.clock import Clock
from qimem.kernel.context import Actor, RequestContext
from qimem.kernel.epochs import EpochSource
from qimem.kernel.ids import SYSTEM_REALM, RealmId, is_name
from qimem.kernel.limits import PERMISSIONS_PER_ROLE_MAX, ROLES_PER_SUBJECT_MAX
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.wire.common import Deleted
from qimem.wire.preconditions import Precondition
from qimem.wire.realms import Role


class RoleService:
    """Roles of a realm."""

    def __init__(self, work: UnitOfWork, epochs: EpochSource, store: RoleStore, clock: Clock) -> None:
        self._work = work
        self._epochs = epochs
        self._store = store
        self._clock = clock

    async def create(self, ctx: RequestContext, name: str, permissions: Sequence[str]) -> Role:
        """Make a role; an existing one is never overwritten.

        Raises:
            Forbidden: without `roles:create`, or granting a platform permission that the caller lacks.
            InvalidFields: a malformed name, or a name in `permissions` that cannot be a permission.
            Conflict: `already_exists`, also for the names of built-in roles.
        """
        require_everywhere(ctx, Permission.ROLES_CREATE)
        if not is_name(name):
            raise InvalidFields({"/name": "must match [a-z0-9][a-z0-9._-]{0,62} and not be a UUID"})
        canonical = _canonical(permissions)
        require_grantable(ctx.actor, canonical)
        if name in BUILT_IN_ROLES:
            raise Conflict(f"role already exists: {name}", code="already_exists")
        record = RoleRecord(ctx.realm_id, name, canonical, built_in=False, created_us=self._clock.now_us())

        def insert(tx: Tx) -> Role:
            if self._epochs.at(tx, ctx.realm_id) is None:
                raise realm_not_found(ctx.realm_id)
            if not self._store.insert(tx, record):
                raise Conflict(f"role already exists: {name}", code="already_exists")
            return _shown(record)

        return await self._work.run(ctx, insert, Role, object_id=lambda role: role.name)

    async def get(self, ctx: RequestContext, name: str) -> Role:
        """One role.

        Raises:
            Forbidden: without `roles:read`.
            NotFound: `not_found`.
        """
        require_everywhere(ctx, Permission.ROLES_READ)
        return _shown(await self._work.read(lambda tx: self._found(tx, ctx, name)))

    async def list(self, ctx: RequestContext, after: str | None, limit: int) -> tuple[list[Role], str | None]:
        """The realm's roles by name.

        Args:
            ctx: The caller and the realm.
            after: Name returned with the page before, or None for the first page.
            limit: 1–200 items.

        Returns:
            The items, and the name to go on from or None on the last page.

        Raises:
            Forbidden: without `roles:read`.
        """
        require_everywhere(ctx, Permission.ROLES_READ)
        rows = await self._work.read(
            lambda tx: self._store.page(tx, ctx.realm_id, after=after, limit=limit + 1)
        )
        page = rows[:limit]
        return [_shown(row) for row in page], page[-1].name if len(rows) > limit else None

    async def update(
        self, ctx: RequestContext, name: str, permissions: Sequence[str] | None, precondition: Precondition
    ) -> Role:
        """Have a role carry other permissions; None leaves them. Who has it may do that from the next request on.

        Raises:
            Forbidden: without `roles:manage`, or where the role carries or shall carry what the caller lacks.
            InvalidFields: see `create`.
            NotFound: `not_found`.
            Conflict: `conflict`: it is built in.
            PreconditionFailed: it was changed meanwhile.
        """
        require_everywhere(ctx, Permission.ROLES_MANAGE)
        canonical = None if permissions is None else _canonical(permissions)

        def change(tx: Tx) -> Role:
            found = self._changeable(tx, ctx, name)
            precondition.check(_shown(found))
            wanted = found if canonical is None else replace(found, permissions=canonical)
            require_grantable(ctx.actor, wanted.permissions)
            self._store.set_permissions(tx, wanted)
            self._epochs.bump(tx, ctx.realm_id)
            ctx.draft.target = name
            return _shown(wanted)

        return await self._work.apply(ctx.draft, change)

    async def delete(self, ctx: RequestContext, name: str) -> Deleted:
        """Remove a role, also from who has it.

        Raises:
            Forbidden: without `roles:manage`, or where the role carries what the caller lacks.
            NotFound: `not_found`.
            Conflict: `conflict`: it is built in.
        """
        require_everywhere(ctx, Permission.ROLES_MANAGE)

        def change(tx: Tx) -> Deleted:
            self._changeable(tx, ctx, name)
            self._store.delete(tx, ctx.realm_id, name)
            self._epochs.bump(tx, ctx.realm_id)
            ctx.draft.target = name
            return Deleted(deleted=True)

        return await self._work.apply(ctx.draft, change)

    def _found(self, tx: Tx, ctx: RequestContext, name: str) -> RoleRecord:
        found = self._store.find_many(tx, ctx.realm_id, [name] if is_name(name) else [])
        if not found:
            raise NotFound(f"role not found: {name}")
        return found[0]

    def _changeable(self, tx: Tx, ctx: RequestContext, name: str) -> RoleRecord:
        found = self._found(tx, ctx, name)
        if found.built_in:
            raise Conflict(f"role is built in: {name}", hint="make a role of your own")
        # Otherwise a clerk could take from a role what only its holders may do.
        require_grantable(ctx.actor, found.permissions)
        return found


class RoleAssignment:
    """Checks roles that are about to be given to a user or client; every path that assigns calls it."""

    def __init__(self, store: RoleStore) -> None:
        self._store = store

    def check(self, tx: Tx, actor: Actor, realm_id: RealmId, names: Sequence[str]) -> tuple[str, ...]:
        """The role names, each once, after checking that they exist and may be given by the actor.

        Raises:
            Invalid: `role_not_found`, or more than 64 roles.
            Forbidden: a role carries a platform permission that the actor lacks.
        """
        # Names may come twice; but a million of them are not gone through while everybody waits for this transaction.
        wanted = tuple(dict.fromkeys(names)) if len(names) <= 4 * ROLES_PER_SUBJECT_MAX else ()
        if len(wanted) > ROLES_PER_SUBJECT_MAX or len(names) > 4 * ROLES_PER_SUBJECT_MAX:
            raise InvalidFields({"/roles": f"at most {ROLES_PER_SUBJECT_MAX} roles"})
        # Only what can be a name is looked up: not every database can be asked for every text.
        possible = [name for name in wanted if is_name(name)]
        found = {role.name: role for role in self._store.find_many(tx, realm_id, possible)}
        for name in wanted:
            role = found.get(name)
            if role is None:
                raise Invalid(f"role not found: {name}", code="role_not_found")
            require_grantable(actor, role.permissions)
        return wanted


class BuiltInRoles:
    """Gives a new realm its built-in roles."""

    def __init__(self, store: RoleStore) -> None:
        self._store = store

    def prepare(self, realm_id: RealmId, now_us: int) -> None:
        """Nothing to make beforehand."""

    def forget(self, realm_id: RealmId) -> None:
        """Nothing is kept of them."""

    def provision(self, tx: Tx, realm_id: RealmId, prepared: object, now_us: int) -> None:  # noqa: ARG002 - the port's signature
        """Write `realm-admin`, and in realm `system` alone the others."""
        for name, wildcard in BUILT_IN_ROLES.items():
            if name in SYSTEM_ROLES and realm_id != SYSTEM_REALM:
                continue
            self._store.insert(tx, RoleRecord(realm_id, name, (wildcard,), built_in=True, created_us=now_us))


def _canonical(permissions: Sequence[str]) -> tuple[str, ...]:
    if len(permissions) > PERMISSIONS_PER_ROLE_MAX:
        raise InvalidFields({"/permissions": f"at most {PERMISSIONS_PER_ROLE_MAX} permissions"})
    canonical = []
    for index, name in enumerate(permissions):
        try:
            canonical.append(parse(name))
        except Invalid as error:
            raise InvalidFields({f"/permissions/{index}": error.message}) from error
    return tuple(dict.fromkeys(canonical))


def _shown(role: RoleRecord) -> Role:
    return Role(
        name=role.name, permissions=list(role.permissions), realm_id=role.realm_id, built_in=role.built_in
    )
