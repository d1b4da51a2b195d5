"""Signing keys get a life of their own: each is published, signs, and retires at its time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from qimem.storage.schema import Identifier

revision = "0003"
down_revision = "0002"

_PERIOD_US = 90 * 86_400 * 1_000_000
"""As it was when this was written: what a migration did must not change with a limit."""


def upgrade() -> None:
    """Create the table; the keys there are sign now, and their successors are due by their age."""
    op.create_table(
        "signing_key",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("key_id", Identifier(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("due_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["realm_id", "key_id"],
            ["kms_version.realm_id", "kms_version.key_id"],
            name="fk_signing_key_realm_id_key_id",
        ),
        sa.PrimaryKeyConstraint("realm_id", "key_id", name="pk_signing_key"),
    )
    op.create_index("ix_signing_key_due_us", "signing_key", ["due_us"], unique=False)
    op.execute(
        "INSERT INTO signing_key (realm_id, key_id, state, due_us) "  # noqa: S608 - a constant of this file
        f"SELECT realm_id, active_key_id, 'active', created_us + {_PERIOD_US} "
        "FROM kms_key WHERE purpose = 'token-signing'"
    )
