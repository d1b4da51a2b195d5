"""The life of users."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from qimem.authz.decisions import require_everywhere
from qimem.authz.permissions import Permission
from qimem.crypto.randomness import new_uuid
from qimem.errors import Conflict, InvalidFields, NotFound, realm_not_found
from qimem.identity.models import UserRecord
from qimem.identity.new_user import CredentialMakers, NewUser
from qimem.identity.ports import UserStore
from qimem.identity.roles import RoleAssignment
from qimem.identity.second_factor import from_base32
from qimem.identity.usernames import canonical_username
from qimem.kernel.clock import Clock, rfc3339
from qimem.kernel.context import Actor, ActorKind, RequestContext
from qimem.kernel.epochs import EpochSource
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import EMAIL_CHARS_MAX
from qimem.kernel.transaction import Tx, UniqueViolation
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.wire.common import Deleted
from qimem.wire.preconditions import Precondition
from qimem.wire.users import User


@dataclass(frozen=True, slots=True)
class UserChanges:
    """What shall be different.

    Args:
        username: The new name; None leaves the old one.
        email: The new address; None takes it away.
        sets_email: Whether the address changes at all.
    """

    username: str | None
    email: str | None
    sets_email: bool


class UserService:
    """Users of a realm."""

    def __init__(
        self,
        work: UnitOfWork,
        epochs: EpochSource,
        store: UserStore,
        roles: RoleAssignment,
        makers: CredentialMakers,
        clock: Clock,
    ) -> None:
        self._work = work
        self._epochs = epochs
        self._store = store
        self._roles = roles
        self._makers = makers
        self._clock = clock

    async def create(
        self,
        ctx: RequestContext,
        new: NewUser,
    ) -> User:
        """Add a user; an existing one is never overwritten.

        Raises:
            Forbidden: without `users:create`, or giving a role beyond what the caller holds.
            Invalid: `weak_password`, `role_not_found`, `invalid_field`.
            NotFound: `realm_not_found`.
            Conflict: `already_exists`: the name is taken, in any spelling.
        """
        require_everywhere(ctx, Permission.USERS_CREATE)
        if ctx.idempotency is None:
            # Before the hash: what is refused must not cost one. A repetition gets the answer that it got.
            await self._work.read(lambda tx: self._check_new(tx, ctx.actor, ctx.realm_id, new))
        insert = await self.creation(ctx.actor, ctx.realm_id, new)
        return await self._work.run(ctx, insert, User, object_id=lambda user: str(user.id))

    async def get(self, ctx: RequestContext, user_id: UUID) -> User:
        """One user.

        Raises:
            Forbidden: without `users:read`.
            NotFound: `not_found`.
        """
        require_everywhere(ctx, Permission.USERS_READ)
        found = await self._work.read(lambda tx: self._store.find(tx, ctx.realm_id, user_id))
        if found is None:
            raise user_not_found(user_id)
        return shown(found)

    async def list(self, ctx: RequestContext, after: str | None, limit: int) -> tuple[list[User], str | None]:
        """The realm's users in order of their names as compared.

        Args:
            ctx: The caller and the realm.
            after: Canonical name returned with the page before, or None for the first page.
            limit: 1–200 items.

        Returns:
            The items, and the name to go on from or None on the last page.

        Raises:
            Forbidden: without `users:read`.
        """
        require_everywhere(ctx, Permission.USERS_READ)
        rows = await self._work.read(
            lambda tx: self._store.page(tx, ctx.realm_id, after=after, limit=limit + 1)
        )
        page = rows[:limit]
        return [shown(row) for row in page], page[-1].username_key if len(rows) > limit else None

    async def set_enabled(self, ctx: RequestContext, user_id: UUID, *, enabled: bool) -> User:
        """Let a user in or not: from the next request on no token of a disabled one opens anything, anywhere.

        Raises:
            Forbidden: without `users:manage`, or where the user may more than the caller.
            NotFound: `not_found`.
            Conflict: `conflict`: nobody disables themselves.
        """
        require_everywhere(ctx, Permission.USERS_MANAGE)

        def change(tx: Tx) -> User:
            found = self.manageable(tx, ctx, user_id)
            if not enabled:
                check_other(ctx, user_id, "disables")
            self._store.set_enabled(tx, ctx.realm_id, user_id, enabled=enabled)
            self._epochs.bump(tx, ctx.realm_id)
            ctx.draft.target = str(user_id)
            return shown(replace(found, enabled=enabled))

        return await self._work.apply(ctx.draft, change)

    async def update(
        self, ctx: RequestContext, user_id: UUID, changes: UserChanges, precondition: Precondition
    ) -> User:
        """Give a user another name or e-mail address; `sub` stays what it is.

        Raises:
            Forbidden: without `users:manage`, or where the user may more than the caller.
            InvalidFields: see `create`.
            NotFound: `not_found`.
            Conflict: `already_exists`: the name is taken, in any spelling.
            PreconditionFailed: it was changed meanwhile.
        """
        require_everywhere(ctx, Permission.USERS_MANAGE)
        key = None if changes.username is None else canonical_username(changes.username)
        if changes.sets_email:
            _check_email(changes.email)

        def change(tx: Tx) -> User:
            found = self.manageable(tx, ctx, user_id)
            precondition.check(shown(found))
            wanted = found
            if changes.username is not None and key is not None:
                wanted = replace(wanted, username=changes.username, username_key=key)
            if changes.sets_email:
                wanted = replace(wanted, email=changes.email)
            try:
                free = self._store.update(tx, wanted)
            except UniqueViolation:
                free = False
            if not free:
                raise _taken(wanted.username)
            self._epochs.bump(tx, ctx.realm_id)
            ctx.draft.target = str(user_id)
            return shown(wanted)

        return await self._work.apply(ctx.draft, change)

    async def assign_roles(self, ctx: RequestContext, user_id: UUID, names: Sequence[str]) -> User:
        """Give a user roles beside those they have.

        Raises:
            Forbidden: without `users:manage`, or for a role, new or old, that carries what the caller lacks.
            Invalid: `role_not_found`, or more than 64 roles.
            NotFound: `not_found`.
        """
        return await self._change_roles(ctx, user_id, names, lambda held: [*held, *names])

    async def remove_roles(self, ctx: RequestContext, user_id: UUID, names: Sequence[str]) -> User:
        """Take roles from a user; those that the user does not have are none to take.

        Raises:
            Forbidden: without `users:manage`, or where the user may more than the caller.
            Invalid: `role_not_found`.
            NotFound: `not_found`.
        """
        return await self._change_roles(
            ctx, user_id, names, lambda held: [name for name in held if name not in names]
        )

    async def _change_roles(
        self,
        ctx: RequestContext,
        user_id: UUID,
        names: Sequence[str],
        outcome: Callable[[Sequence[str]], Sequence[str]],
    ) -> User:
        require_everywhere(ctx, Permission.USERS_MANAGE)

        def change(tx: Tx) -> User:
            found = self.manageable(tx, ctx, user_id)
            self._roles.check(tx, ctx.actor, ctx.realm_id, names)
            wanted = replace(
                found, roles=self._roles.check(tx, ctx.actor, ctx.realm_id, outcome(found.roles))
            )
            self._store.set_roles(tx, ctx.realm_id, user_id, wanted.roles)
            self._epochs.bump(tx, ctx.realm_id)
            ctx.draft.target = str(user_id)
            return shown(wanted)

        return await self._work.apply(ctx.draft, change)

    async def delete(self, ctx: RequestContext, user_id: UUID) -> Deleted:
        """Remove a user for good, with credentials, roles and grants.

        Raises:
            Forbidden: without `users:manage`, or where the user may more than the caller.
            NotFound: `not_found`.
            Conflict: `conflict`: nobody deletes themselves.
        """
        require_everywhere(ctx, Permission.USERS_MANAGE)

        def change(tx: Tx) -> Deleted:
            self.manageable(tx, ctx, user_id)
            check_other(ctx, user_id, "deletes")
            self._store.delete(tx, ctx.realm_id, user_id)
            self._epochs.bump(tx, ctx.realm_id)
            ctx.draft.target = str(user_id)
            return Deleted(deleted=True)

        return await self._work.apply(ctx.draft, change)

    def exists(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> bool:
        """Whether there is such a user, enabled or not."""
        return self._store.find(tx, realm_id, user_id) is not None

    def with_password(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> tuple[UserRecord, str]:
        """A user and the stored hash of their password.

        Raises:
            NotFound: `not_found`.
        """
        found, phc = self._store.find(tx, realm_id, user_id), self._store.password(tx, realm_id, user_id)
        if found is None or phc is None:
            raise user_not_found(user_id)
        return found, phc

    def changed(self, tx: Tx, realm_id: RealmId) -> None:
        """Something about how a user signs in is different: every worker looks again."""
        self._epochs.bump(tx, realm_id)

    def put_password(self, tx: Tx, realm_id: RealmId, user_id: UUID, phc: str) -> None:
        """Replace the stored hash of a user's password."""
        self._store.set_password(tx, realm_id, user_id, phc, self._clock.now_us())
        self._epochs.bump(tx, realm_id)

    def manageable(self, tx: Tx, ctx: RequestContext, user_id: UUID) -> UserRecord:
        """The user, if the caller may do all that the user may: otherwise a clerk could end an administrator.

        Raises:
            Forbidden: a role of the user carries a platform permission that the caller lacks.
            NotFound: `not_found`.
        """
        found = self._store.find(tx, ctx.realm_id, user_id)
        if found is None:
            raise user_not_found(user_id)
        self._roles.check(tx, ctx.actor, ctx.realm_id, found.roles)
        return found

    async def creation(
        self,
        actor: Actor,
        realm_id: RealmId,
        new: NewUser,
    ) -> Callable[[Tx], User]:
        """The change itself, with its password hashed; for a transaction to run."""
        username_key = canonical_username(new.username)
        _check_email(new.email)
        secret = None if new.totp_secret is None else from_base32(new.totp_secret, "/totp_secret")
        user_id = new_uuid()
        phc = await self._makers.phc(realm_id, new)
        sealed = None if secret is None else await self._makers.factors.sealed(realm_id, user_id, secret)

        def insert(tx: Tx) -> User:
            roles = self._check_new(tx, actor, realm_id, new)
            record = UserRecord(
                realm_id=realm_id,
                user_id=user_id,
                username=new.username,
                username_key=username_key,
                email=new.email,
                enabled=True,
                roles=roles,
                created_us=self._clock.now_us(),
            )
            if not self._store.insert(tx, record, phc):
                raise _taken(new.username)
            if sealed is not None:
                self._makers.factors.begin(tx, realm_id, user_id, sealed)
            return shown(record)

        return insert

    def _check_new(self, tx: Tx, actor: Actor, realm_id: RealmId, new: NewUser) -> tuple[str, ...]:
        """The roles, if realm and roles are there, may be given, and nobody has the name."""
        if self._epochs.at(tx, realm_id) is None:
            raise realm_not_found(realm_id)
        roles = self._roles.check(tx, actor, realm_id, new.roles)
        if self._store.find_by_username(tx, realm_id, canonical_username(new.username)) is not None:
            raise _taken(new.username)
        return roles


def _taken(username: str) -> Conflict:
    return Conflict(f"user already exists: {username}", code="already_exists")


def check_other(
    ctx: RequestContext, user_id: UUID, verb: str, instead: str = "ask another administrator"
) -> None:
    """Refuse what nobody may do to themselves.

    Raises:
        Conflict: `conflict`.
    """
    if ctx.actor.kind is ActorKind.USER and ctx.actor.subject == str(user_id):
        raise Conflict(f"nobody {verb} themselves", hint=instead)


def user_not_found(user_id: object) -> NotFound:
    """One answer for absent users and those of another realm."""
    return NotFound(f"user not found: {user_id}", code="not_found")


def shown(record: UserRecord) -> User:
    """The user as the API shows it."""
    return User(
        id=record.user_id,
        username=record.username,
        realm_id=record.realm_id,
        roles=list(record.roles),
        enabled=record.enabled,
        created_at=rfc3339(record.created_us),
        email=record.email,
    )


# One address of RFC 5321 without quoting: a dot-atom, and a domain of at least two labels. ASCII only: a
# compatibility character that normalizes to another address is a known takeover (Auth.js CVE-2026-73420).
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_EMAIL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})+")


def _check_email(email: str | None) -> None:
    if email is not None and (len(email) > EMAIL_CHARS_MAX or _EMAIL.fullmatch(email) is None):
        raise InvalidFields({"/email": "not an e-mail address"})
