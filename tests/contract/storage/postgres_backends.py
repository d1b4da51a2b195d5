"""The server side of a connection to PostgreSQL."""

from __future__ import annotations

import psycopg

from qimem.kernel.transaction import Tx


def backend(tx: Tx) -> int:
    """Process id of the server side of this transaction."""
    return int(tx._cursor.connection.info.backend_pid)


def end(admin: psycopg.Connection, pid: int) -> None:
    """Cut a connection on the server side, and wait until it is gone."""
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
