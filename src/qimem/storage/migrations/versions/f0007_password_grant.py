"""A realm says whether applications may take passwords for tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column; realms that are there have none, which lets them go on."""
    op.add_column("realm", sa.Column("allow_password_grant", sa.Boolean(), nullable=True))
