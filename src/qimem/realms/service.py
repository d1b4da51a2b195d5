"""The life of realms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from qimem.authz.decisions import require_everywhere
from qimem.authz.permissions import Permission
from qimem.errors import Conflict, Forbidden, InvalidFields, realm_not_found
from qimem.kernel.clock import Clock, rfc3339
from qimem.kernel.context import RequestContext
from qimem.kernel.epochs import EpochSource
from qimem.kernel.ids import SYSTEM_REALM, RealmId, display_name_fault, is_realm_id
from qimem.kernel.limits import PASSWORD_CHARS_MIN, PASSWORD_MIN_LENGTH_MAX, REFRESH_GRACE_SECONDS
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.realms.models import RealmRecord, RealmSettings, check_refresh_grace
from qimem.realms.ports import RealmProvisioning, RealmStore
from qimem.wire.common import Deleted
from qimem.wire.preconditions import Precondition
from qimem.wire.realms import Realm

_DEFAULTS: Final = RealmSettings()


@dataclass(frozen=True, slots=True)
class RealmTerms:
    """What holds for all realms of an installation.

    Args:
        issuer_of: Realm id → issuer URL.
        password_min_length: The least that a realm may ask of new passwords, and what it asks at first.
    """

    issuer_of: Callable[[RealmId], str]
    password_min_length: int = PASSWORD_CHARS_MIN


class RealmService:
    """Creates realms, each with everything it needs to serve, in one transaction; and ends them.

    Args:
        provisioning: Parts that a new realm must have, in order.
        terms: What holds for all realms.
    """

    def __init__(
        self,
        work: UnitOfWork,
        epochs: EpochSource,
        store: RealmStore,
        provisioning: Sequence[RealmProvisioning],
        terms: RealmTerms,
        clock: Clock,
    ) -> None:
        self._work = work
        self._epochs = epochs
        self._store = store
        self._provisioning = provisioning
        self._terms = terms
        self._clock = clock

    async def create(
        self, ctx: RequestContext, realm_id: str, name: str, settings: RealmSettings = _DEFAULTS
    ) -> Realm:
        """Make a realm; an existing one is never overwritten.

        Args:
            ctx: The caller.
            realm_id: Never given before.
            name: For people.
            settings: Passwords of 8 to 64 characters, a grace of 0 to 60 s.

        Raises:
            Forbidden: without `realms:create` in realm `system`.
            InvalidFields: id not `[a-z0-9][a-z0-9-]{0,62}`, name empty or longer than 256, no such length or
                grace; or it would shut the operators out.
            Conflict: `already_exists`, also for the id of a deleted realm.
        """
        _require_platform(ctx, Permission.REALMS_CREATE)
        insert = self.creation(realm_id, name, settings)
        return await self._work.run(ctx, insert, Realm, object_id=lambda realm: realm.id)

    def creation(
        self, realm_id: str, name: str, settings: RealmSettings = _DEFAULTS
    ) -> Callable[[Tx], Realm]:
        """The change itself, validated and with its keys made; for a transaction to run."""
        if not is_realm_id(realm_id):
            raise InvalidFields({"/id": "must match [a-z0-9][a-z0-9-]{0,62}"})
        _check_name(name)
        now_us = self._clock.now_us()
        plain = RealmRecord(RealmId(realm_id), name, True, now_us, self._terms.password_min_length)
        record = self._with(plain, settings)
        prepared = [part.prepare(record.realm_id, now_us) for part in self._provisioning]

        def insert(tx: Tx) -> Realm:
            if not self._store.insert(tx, record):
                raise Conflict(f"realm already exists: {realm_id}", code="already_exists")
            for part, material in zip(self._provisioning, prepared, strict=True):
                part.provision(tx, record.realm_id, material, now_us)
            return self._shown(record)

        return insert

    async def get(self, ctx: RequestContext) -> Realm:
        """The realm that the request is about.

        Raises:
            Forbidden: without `realms:read`.
            NotFound: `realm_not_found`.
        """
        require_everywhere(ctx, Permission.REALMS_READ)
        return self._shown(await self._work.read(lambda tx: self._found(tx, ctx.realm_id)))

    async def list(
        self, ctx: RequestContext, after: str | None, limit: int
    ) -> tuple[list[Realm], str | None]:
        """The realms that the caller may know of, by id: for who runs the platform all, else their own.

        Args:
            ctx: The caller.
            after: Id returned with the page before, or None for the first page.
            limit: 1–200 items.

        Returns:
            The items, and the id to go on from or None on the last page.

        Raises:
            Forbidden: without `realms:read`.
        """
        require_everywhere(ctx, Permission.REALMS_READ)
        if not ctx.actor.permissions.crosses_realms:
            own = await self._work.read(lambda tx: self._found(tx, ctx.actor.realm_id))
            return ([self._shown(own)] if own.realm_id > (after or "") else []), None
        rows = await self._work.read(lambda tx: self._store.page(tx, after=after, limit=limit + 1))
        page = rows[:limit]
        return [self._shown(row) for row in page], page[-1].realm_id if len(rows) > limit else None

    async def update(
        self,
        ctx: RequestContext,
        name: str | None,
        changes: Mapping[str, Any],
        precondition: Precondition,
    ) -> Realm:
        """Give the realm another name or other rules; its id and issuer stay.

        Args:
            ctx: The caller and the realm.
            name: None leaves it.
            changes: Fields of `RealmSettings` and their new values; None is the default again.
            precondition: What must be there now.

        Raises:
            Forbidden: without `realms:update`.
            InvalidFields: see `create`.
            NotFound: `realm_not_found`.
            PreconditionFailed: it was changed meanwhile.
        """
        require_everywhere(ctx, Permission.REALMS_UPDATE)
        if name is not None:
            _check_name(name)
        defaults = RealmSettings(self._terms.password_min_length, True, REFRESH_GRACE_SECONDS)
        settings = RealmSettings(
            **{field: getattr(defaults, field) if new is None else new for field, new in changes.items()}
        )
        self._check(ctx.realm_id, settings)

        def change(found: RealmRecord) -> RealmRecord:
            precondition.check(self._shown(found))
            return self._with(found if name is None else replace(found, name=name), settings)

        return await self._change(ctx, change)

    async def set_enabled(self, ctx: RequestContext, *, enabled: bool) -> Realm:
        """Let a realm work or not: from the next request on no token of a disabled one opens anything.

        Raises:
            Forbidden: without `realms:manage` in realm `system`.
            NotFound: `realm_not_found`.
            Conflict: `conflict`: realm `system` has to stay.
        """
        _require_platform(ctx, Permission.REALMS_MANAGE)
        if not enabled:
            _check_tenant(ctx.realm_id)
        return await self._change(ctx, lambda found: replace(found, enabled=enabled))

    async def delete(self, ctx: RequestContext, confirm: str | None) -> Deleted:
        """Destroy a realm: its key-encryption key is overwritten, and nothing it ever protected can be read again.

        That takes one short transaction, whatever is in the realm. Its rows, of no use any more, are removed in the
        background; its id is never given again.

        Args:
            ctx: The caller and the realm.
            confirm: The id of the realm once more.

        Raises:
            Forbidden: without `realms:manage` in realm `system`.
            InvalidFields: the id was not repeated.
            NotFound: `realm_not_found`.
            Conflict: `conflict`: realm `system` has to stay.
        """
        _require_platform(ctx, Permission.REALMS_MANAGE)
        if confirm != ctx.realm_id:
            raise InvalidFields({"/confirm": "must repeat the id of the realm"})
        _check_tenant(ctx.realm_id)
        now_us = self._clock.now_us()

        def destroy(tx: Tx) -> Deleted:
            self._found(tx, ctx.realm_id)
            self._store.destroy(tx, ctx.realm_id, now_us)
            # Nobody can ask for the records of a realm that is not there: this one belongs to who ended it.
            ctx.draft.realm_id = ctx.actor.realm_id
            ctx.draft.target = ctx.realm_id
            return Deleted(deleted=True)

        destroyed = await self._work.apply(ctx.draft, destroy)
        for part in self._provisioning:
            part.forget(ctx.realm_id)
        return destroyed

    async def _change(self, ctx: RequestContext, outcome: Callable[[RealmRecord], RealmRecord]) -> Realm:
        def change(tx: Tx) -> Realm:
            wanted = outcome(self._found(tx, ctx.realm_id))
            self._store.update(tx, wanted)
            self._epochs.bump(tx, ctx.realm_id)
            ctx.draft.target = ctx.realm_id
            return self._shown(wanted)

        return await self._work.apply(ctx.draft, change)

    def _found(self, tx: Tx, realm_id: RealmId) -> RealmRecord:
        found = self._store.find(tx, realm_id)
        if found is None:
            raise realm_not_found(realm_id)
        return found

    def _shown(self, realm: RealmRecord) -> Realm:
        return Realm(
            id=realm.realm_id,
            name=realm.name,
            issuer=self._terms.issuer_of(realm.realm_id),
            enabled=realm.enabled,
            created_at=rfc3339(realm.created_us),
            password_min_length=realm.password_min_length,
            allow_password_grant=realm.allow_password_grant,
            refresh_grace_seconds=realm.refresh_grace_seconds,
        )

    def _with(self, realm: RealmRecord, settings: RealmSettings) -> RealmRecord:
        self._check(realm.realm_id, settings)
        said = {name: value for name, value in asdict(settings).items() if value is not None}
        return replace(realm, **said)

    def _check(self, realm_id: RealmId, settings: RealmSettings) -> None:
        least, length = self._terms.password_min_length, settings.password_min_length
        if length is not None and not least <= length <= PASSWORD_MIN_LENGTH_MAX:
            raise InvalidFields({"/password_min_length": f"must be {least} to {PASSWORD_MIN_LENGTH_MAX}"})
        check_refresh_grace(settings.refresh_grace_seconds)
        if settings.allow_password_grant is False and realm_id == SYSTEM_REALM:
            raise InvalidFields({"/allow_password_grant": "operators sign in with it"})


def _require_platform(ctx: RequestContext, permission: Permission) -> None:
    require_everywhere(ctx, permission)
    if ctx.actor.realm_id != SYSTEM_REALM:
        # Realm ids are one name space for all tenants; who is a tenant does not begin and end tenants.
        raise Forbidden(permission)


def _check_name(name: str) -> None:
    fault = display_name_fault(name)
    if fault is not None:
        raise InvalidFields({"/name": fault})


def _check_tenant(realm_id: RealmId) -> None:
    if realm_id == SYSTEM_REALM:
        raise Conflict("realm system has to stay: the platform is run from it")
