"""The life of realms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qimem.authz.decisions import require_everywhere
from qimem.authz.permissions import Permission
from qimem.errors import Conflict, Forbidden, InvalidFields
from qimem.kernel.clock import Clock, rfc3339
from qimem.kernel.context import RequestContext
from qimem.kernel.ids import SYSTEM_REALM, RealmId, display_name_fault, is_realm_id
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.realms.models import RealmRecord
from qimem.realms.ports import RealmProvisioning, RealmStore
from qimem.wire.auth import Realm


class RealmService:
    """Creates realms, each with everything it needs to serve, in one transaction.

    Args:
        issuer_of: Realm id → issuer URL.
        provisioning: Parts that a new realm must have, in order.
    """

    def __init__(
        self,
        work: UnitOfWork,
        store: RealmStore,
        provisioning: Sequence[RealmProvisioning],
        issuer_of: Callable[[RealmId], str],
        clock: Clock,
    ) -> None:
        self._work = work
        self._store = store
        self._provisioning = provisioning
        self._issuer_of = issuer_of
        self._clock = clock

    async def create(self, ctx: RequestContext, realm_id: str, name: str) -> Realm:
        """Make a realm; an existing one is never overwritten.

        Raises:
            Forbidden: without `realms:create` in realm `system`.
            InvalidFields: id not `[a-z0-9][a-z0-9-]{0,62}`, or name empty or longer than 256.
            Conflict: `already_exists`.
        """
        require_everywhere(ctx, Permission.REALMS_CREATE)
        if ctx.actor.realm_id != SYSTEM_REALM:
            # Realm ids are one name space for all tenants and never given twice.
            raise Forbidden(Permission.REALMS_CREATE)
        insert = self.creation(realm_id, name)
        return await self._work.run(ctx, insert, Realm, object_id=lambda realm: realm.id)

    def creation(self, realm_id: str, name: str) -> Callable[[Tx], Realm]:
        """The change itself, validated and with its keys made; for a transaction to run."""
        if not is_realm_id(realm_id):
            raise InvalidFields({"/id": "must match [a-z0-9][a-z0-9-]{0,62}"})
        fault = display_name_fault(name)
        if fault is not None:
            raise InvalidFields({"/name": fault})
        now_us = self._clock.now_us()
        record = RealmRecord(RealmId(realm_id), name, enabled=True, created_us=now_us)
        prepared = [part.prepare(record.realm_id, now_us) for part in self._provisioning]

        def insert(tx: Tx) -> Realm:
            if not self._store.insert(tx, record):
                raise Conflict(f"realm already exists: {realm_id}", code="already_exists")
            for part, material in zip(self._provisioning, prepared, strict=True):
                part.provision(tx, record.realm_id, material, now_us)
            return Realm(
                id=record.realm_id,
                name=record.name,
                issuer=self._issuer_of(record.realm_id),
                created_at=rfc3339(now_us),
            )

        return insert
