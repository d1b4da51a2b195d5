"""The grants of one user are found without reading those of others: to show them, to end them, to delete a user."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the index."""
    op.create_index(
        "ix_oauth_grant_realm_id_user_id_grant_id",
        "oauth_grant",
        ["realm_id", "user_id", "grant_id"],
        unique=False,
    )
