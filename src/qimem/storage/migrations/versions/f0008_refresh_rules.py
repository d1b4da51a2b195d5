"""Realms and clients say how long a spent refresh token is forgiven; clients, that they must be there to refresh."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the columns; what is there has none of it, which lets it go on as before."""
    op.add_column("realm", sa.Column("refresh_grace_seconds", sa.Integer(), nullable=True))
    op.add_column("client", sa.Column("refresh_grace_seconds", sa.Integer(), nullable=True))
    op.add_column("client", sa.Column("refresh_requires_client", sa.Boolean(), nullable=True))
