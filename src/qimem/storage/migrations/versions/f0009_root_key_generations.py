"""The root key may be rotated: each wrapped key-encryption key says which generation of it holds it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the generations; all that is there is wrapped under the first one."""
    op.create_table(
        "root_key",
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("key_check", sa.LargeBinary(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("generation >= 1", name=op.f("ck_root_key_generation")),
        sa.PrimaryKeyConstraint("generation", name="pk_root_key"),
        sa.UniqueConstraint("key_check", name="uq_root_key_key_check"),
    )
    op.execute(
        "INSERT INTO root_key (generation, key_check, created_us) SELECT 1, key_check, created_us FROM instance"
    )
    # In SQL that both databases know: Alembic would make the whole table anew on SQLite.
    op.execute(
        "ALTER TABLE realm_kek ADD COLUMN root_generation INTEGER DEFAULT 1 NOT NULL "
        "CONSTRAINT fk_realm_kek_root_generation REFERENCES root_key (generation)"
    )
    op.create_index(
        "ix_realm_kek_root_generation_realm_id_version",
        "realm_kek",
        ["root_generation", "realm_id", "version"],
        unique=False,
    )
