"""Clients keep the secret before the last for a while, deleted realms their id; attempts to sign in are counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns and indexes, and the built-in role of who runs the platform."""
    op.add_column("client", sa.Column("previous_digest", sa.LargeBinary(), nullable=True))
    op.add_column("client", sa.Column("previous_until_us", sa.BigInteger(), nullable=True))
    op.add_column("realm", sa.Column("deleted_us", sa.BigInteger(), nullable=True))
    op.create_table(
        "realm_remains",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("deleted_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["realm_id"], ["realm.realm_id"], name="fk_realm_remains_realm_id"),
        sa.PrimaryKeyConstraint("realm_id", name="pk_realm_remains"),
    )
    op.create_table(
        "login_attempt",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key_digest", sa.LargeBinary(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["realm_id"], ["realm.realm_id"], name="fk_login_attempt_realm_id"),
        sa.PrimaryKeyConstraint("realm_id", "kind", "key_digest", name="pk_login_attempt"),
    )
    op.create_index("ix_login_attempt_expires_us", "login_attempt", ["expires_us"], unique=False)
    op.create_index(
        "ix_oauth_grant_realm_id_client_id", "oauth_grant", ["realm_id", "client_id"], unique=False
    )
    op.create_index("ix_user_role_realm_id_role", "user_role", ["realm_id", "role"], unique=False)
    op.create_index("ix_client_role_realm_id_role", "client_role", ["realm_id", "role"], unique=False)
    _rename("platform-admin", "platform-admin-renamed")
    op.execute(
        "INSERT INTO role (realm_id, name, built_in, created_us) "
        "SELECT realm_id, 'platform-admin', built_in, created_us FROM role "
        "WHERE realm_id = 'system' AND name = 'operator'"
    )
    op.execute(
        "INSERT INTO role_permission (realm_id, role, permission, position) "
        "SELECT realm_id, 'platform-admin', 'platform:*', position FROM role_permission "
        "WHERE realm_id = 'system' AND role = 'operator' AND permission = '*'"
    )


def _rename(name: str, other: str) -> None:
    """A role that somebody gave the name of a built-in one, in any realm, keeps its holders and gets no power."""
    op.execute(
        "INSERT INTO role (realm_id, name, built_in, created_us) "  # noqa: S608 - constants of this file
        f"SELECT realm_id, '{other}', built_in, created_us FROM role WHERE name = '{name}'"
    )
    for table in ("role_permission", "user_role", "client_role"):
        op.execute(f"UPDATE {table} SET role = '{other}' WHERE role = '{name}'")  # noqa: S608
    op.execute(f"DELETE FROM role WHERE name = '{name}'")  # noqa: S608
