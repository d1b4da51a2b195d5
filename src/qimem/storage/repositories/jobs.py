"""Leases of background jobs, and deletion of what expired."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from qimem.kernel.transaction import Tx
from qimem.storage.schema import idempotency, job, login_attempt, oauth_grant, spent
from qimem.storage.statement import SQLStatement, insert_if_absent, sql

_ENSURE = insert_if_absent(job)
_FUTURE = sa.bindparam("future_us", type_=sa.BigInteger)
# A stamp that no right clock can have written comes from one that was ahead: it counts as no stamp,
# or the job would stand still until time has caught up.
_TAKE = sql(
    sa.update(job)
    .where(
        job.c.name == sa.bindparam("of_name"),
        sa.or_(
            job.c.leased_until_us <= sa.bindparam("now_us", type_=sa.BigInteger),
            job.c.leased_until_us > _FUTURE,
        ),
        sa.or_(
            job.c.last_run_us <= sa.bindparam("due_before_us", type_=sa.BigInteger),
            job.c.last_run_us > _FUTURE,
        ),
    )
    .values(holder=sa.bindparam("by"), leased_until_us=sa.bindparam("until_us"))
    .returning(job.c.name)
)
_FINISH = sql(
    sa.update(job)
    .where(job.c.name == sa.bindparam("of_name"), job.c.holder == sa.bindparam("by"))
    .values(holder=sa.null(), leased_until_us=0, last_run_us=sa.bindparam("now_us"))
)
_RELEASE = sql(
    sa.update(job)
    .where(job.c.name == sa.bindparam("of_name"), job.c.holder == sa.bindparam("by"))
    .values(holder=sa.null(), leased_until_us=0)
)


class JobRepository:
    """Implements `jobs.ports.JobStore`."""

    def take(self, tx: Tx, name: str, *, holder: str, now_us: int, lease_us: int, due_before_us: int) -> bool:
        """Lease the job if nobody holds it and it is due."""
        tx.run(_ENSURE, name=name, holder=None, leased_until_us=0, last_run_us=0)
        row = tx.one(
            _TAKE,
            of_name=name,
            by=holder,
            now_us=now_us,
            until_us=now_us + lease_us,
            due_before_us=due_before_us,
            # Twice the lease: the clocks of two nodes may differ, by far less than that.
            future_us=now_us + 2 * lease_us,
        )
        return row is not None

    def finish(self, tx: Tx, name: str, *, holder: str, now_us: int) -> None:
        """Release the lease of this holder and note the run."""
        tx.run(_FINISH, of_name=name, by=holder, now_us=now_us)

    def release(self, tx: Tx, name: str, *, holder: str) -> None:
        """Release the lease of this holder; there was no run."""
        tx.run(_RELEASE, of_name=name, by=holder)


def _delete_expired(table: sa.Table) -> SQLStatement:
    key: list[Any] = list(table.primary_key.columns)
    old = (
        sa.select(*key)
        .where(table.c.expires_us <= sa.bindparam("before_us", type_=sa.BigInteger))
        .limit(sa.bindparam("count", type_=sa.Integer))
    )
    return sql(sa.delete(table).where(sa.tuple_(*key).in_(old)))


_DELETE = tuple(_delete_expired(table) for table in (spent, idempotency, oauth_grant, login_attempt))


class ExpiredRowsRepository:
    """Implements `jobs.ports.ExpiredRows`."""

    def delete_expired(self, tx: Tx, *, before_us: int, limit: int) -> int:
        """Delete at most `limit` rows that expired at or before a time."""
        deleted = 0
        for statement in _DELETE:
            if deleted < limit:
                deleted += tx.run(statement, before_us=before_us, count=limit - deleted)
        return deleted
