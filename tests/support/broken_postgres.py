"""Servers that break a promise about their PostgreSQL, so that the tests of these promises can be seen to fail.

Server(directory, environment=broken(directory, "waits_for_its_database", module=MODULE))
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tests.support.broken_server import _replace

MODULE = "broken_postgres"

_LATE_SECONDS = 0.2
_LONG_LEASE_SECONDS = 1.0
_FOR_EVER_SECONDS = 60.0


def waits_for_its_database() -> None:
    """A request waits as long as PostgreSQL takes, as most servers have it."""
    from qimem.kernel import patience
    from qimem.storage import postgres_epochs

    _replace(patience, "STORAGE_ANSWER_SECONDS", _FOR_EVER_SECONDS)
    _replace(postgres_epochs, "STORAGE_ANSWER_SECONDS", _FOR_EVER_SECONDS)


def believes_its_lease_for_a_second() -> None:
    """A lease of a length that others call short."""
    from qimem.storage import postgres_lease

    _replace(postgres_lease, "LEASE_SECONDS", _LONG_LEASE_SECONDS)
    _replace(postgres_lease, "LEASE_POLL_SECONDS", _LONG_LEASE_SECONDS)
    _replace(postgres_lease, "LEASE_IDLE_SECONDS", 2 * _LONG_LEASE_SECONDS)


def trusts_memory_without_its_database() -> None:
    """While the epoch cannot be read, what was true before is taken to be true."""
    from qimem.errors import Unavailable
    from qimem.kernel.epochs import RealmCaches

    ask = RealmCaches.fresh

    async def fresh(self: RealmCaches, realm_id: Any) -> Any:
        try:
            return await ask(self, realm_id)
        except Unavailable:
            if realm_id not in self._caches:
                raise
            return self._caches[realm_id]

    _replace(RealmCaches, "fresh", fresh)


def acknowledges_keys_before_postgresql_commits() -> None:
    """The answer to a new key leaves when its rows are inserted, and COMMIT is sent a moment later."""
    from qimem.kernel.audit_draft import AuditDraft
    from qimem.storage.postgres import PostgresDatabase

    write, commit = PostgresDatabase._write, PostgresDatabase._commit
    early: set[Any] = set()

    def noted(self: PostgresDatabase, operation: Any, fn: Any) -> Any:
        held = (cell.cell_contents for cell in getattr(fn, "__closure__", None) or ())
        # Keys alone: a server that begins every answer too early does not even start.
        if any(isinstance(value, AuditDraft) and value.event == "keys.create" for value in held):
            early.add(operation)
        return write(self, operation, fn)

    def late(self: PostgresDatabase, operation: Any, connection: Any) -> None:
        if operation not in early:
            commit(self, operation, connection)
            return
        self._local.connection = None
        timer = threading.Timer(_LATE_SECONDS, lambda: connection.closed or connection.execute("COMMIT"))
        timer.start()

    _replace(PostgresDatabase, "_write", noted)
    _replace(PostgresDatabase, "_commit", late)


def takes_a_lost_answer_for_a_refusal() -> None:
    """A COMMIT without an answer is told as if nothing had changed."""
    from qimem.errors import storage_unavailable
    from qimem.storage import postgres, postgres_operation

    _replace(postgres, "outcome_unknown", storage_unavailable)
    _replace(postgres_operation, "outcome_unknown", storage_unavailable)


def asks_its_database_on_the_loop() -> None:
    """Each question to PostgreSQL holds up everybody."""
    from qimem.storage.postgres import PostgresDatabase
    from qimem.storage.postgres_operation import Operation

    async def inline(self: PostgresDatabase, work: Callable[[Operation], Any]) -> Any:
        return work(Operation(_FOR_EVER_SECONDS))

    _replace(PostgresDatabase, "_on_thread", inline)


def believes_in_old_connections() -> None:
    """What cut one connection is thought to have spared the others."""
    from qimem.storage.postgres import PostgresDatabase

    _replace(PostgresDatabase, "_distrust", lambda _database: None)
