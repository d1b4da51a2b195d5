"""Alembic's entry point: runs on the connection it is given, inside that connection's transaction."""

from __future__ import annotations

from alembic import context

from qimem.storage.schema import for_migrations

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=for_migrations(),
    version_table="schema_version",
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
