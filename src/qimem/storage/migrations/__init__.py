"""Schema versions. Alembic is imported only when a database is older than the code."""
