"""Audit records that stand beside their effects until they stand in the log."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from qimem.audit.ports import PendingIntent
from qimem.kernel.transaction import Tx
from qimem.storage.schema import audit_intent
from qimem.storage.statement import sql

_OF_STREAM = audit_intent.c.stream == sa.bindparam("of_stream")

_PUT = sql(
    sa.insert(audit_intent).values({column.name: sa.bindparam(column.name) for column in audit_intent.c})
)
_PENDING = sql(
    sa.select(audit_intent.c.record_id, audit_intent.c.segment, audit_intent.c.line)
    .where(_OF_STREAM)
    .order_by(audit_intent.c.segment, audit_intent.c.line)
)
_DELETE = sql(
    sa.delete(audit_intent).where(_OF_STREAM, audit_intent.c.record_id == sa.bindparam("of_record"))
)


class IntentRepository:
    """Implements `audit.ports.IntentStore`."""

    def put(self, tx: Tx, stream: str, intent: PendingIntent) -> None:
        """Write it in the transaction of its effect."""
        tx.run(_PUT, stream=stream, record_id=intent.record_id, segment=intent.segment, line=intent.line)

    def pending(self, tx: Tx, stream: str) -> Sequence[PendingIntent]:
        """All of a stream, in the order they were made."""
        # A line begins with its time.
        return [PendingIntent(row[0], row[1], bytes(row[2])) for row in tx.all(_PENDING, of_stream=stream)]

    def delete(self, tx: Tx, stream: str, record_ids: Sequence[str]) -> None:
        """Forget those that stand in the log."""
        for record_id in record_ids:
            tx.run(_DELETE, of_stream=stream, of_record=record_id)
