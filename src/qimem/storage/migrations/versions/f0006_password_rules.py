"""A realm says how long new passwords must be."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column; realms that are there have none, which is what held for all."""
    op.add_column("realm", sa.Column("password_min_length", sa.Integer(), nullable=True))
