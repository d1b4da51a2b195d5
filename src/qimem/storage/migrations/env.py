"""Alembic's entry point: runs on the connection it is given, inside that connection's transaction."""

from __future__ import annotations

from alembic import context

from qimem.storage.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table="schema_version",
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
