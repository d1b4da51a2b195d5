"""Answered requests that carried an Idempotency-Key."""

from __future__ import annotations

import sqlalchemy as sa

from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import IdempotencyRow, Slot
from qimem.storage.schema import idempotency
from qimem.storage.statement import sql

_SLOT = (
    idempotency.c.realm_id == sa.bindparam("realm_id"),
    idempotency.c.subject == sa.bindparam("subject"),
    idempotency.c.route == sa.bindparam("route"),
    idempotency.c.key == sa.bindparam("key"),
)
_FIND = sql(sa.select(*idempotency.c).where(*_SLOT))
_DELETE_EXPIRED = sql(
    sa.delete(idempotency).where(*_SLOT, idempotency.c.expires_us <= sa.bindparam("now_us"))
)
_INSERT = sql(
    sa.insert(idempotency).values({column.name: sa.bindparam(column.name) for column in idempotency.c})
)


class IdempotencyRepository:
    """Implements `kernel.unit_of_work.IdempotencyStore`."""

    def find(self, tx: Tx, slot: Slot) -> IdempotencyRow | None:
        """The row, expired or not."""
        row = tx.one(_FIND, **slot._asdict())
        if row is None:
            return None
        named = dict(zip(idempotency.c.keys(), row, strict=True))
        for binary in ("body_digest", "answer_sealed"):
            named[binary] = None if named[binary] is None else bytes(named[binary])
        return IdempotencyRow(
            slot=Slot(*(named.pop(name) for name in Slot._fields)),
            **named,
        )

    def put(self, tx: Tx, row: IdempotencyRow) -> None:
        """Insert the row, or replace one that expired before `row.created_us`."""
        slot = row.slot._asdict()
        tx.run(_DELETE_EXPIRED, **slot, now_us=row.created_us)
        tx.run(
            _INSERT,
            **slot,
            body_digest=row.body_digest,
            answer_sealed=row.answer_sealed,
            object_id=row.object_id,
            created_us=row.created_us,
            expires_us=row.expires_us,
        )
