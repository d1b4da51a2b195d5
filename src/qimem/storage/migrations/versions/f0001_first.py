"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from qimem.storage.schema import Identifier

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    _instance_and_realms()
    _keys()
    _people()
    _clients()
    _single_use()


def _instance_and_realms() -> None:
    op.create_table(
        "instance",
        sa.Column("singleton", sa.SmallInteger(), nullable=False),
        sa.Column("instance_id", Identifier(), nullable=False),
        sa.Column("incarnation", sa.LargeBinary(), nullable=False),
        sa.Column("key_check", sa.LargeBinary(), nullable=False),
        sa.Column("external_url", sa.Text()),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("singleton = 1", name=op.f("ck_instance_one_row")),
        sa.PrimaryKeyConstraint("singleton", name="pk_instance"),
    )
    op.create_table(
        "job",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text()),
        sa.Column("leased_until_us", sa.BigInteger(), nullable=False),
        sa.Column("last_run_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_job"),
    )
    op.create_table(
        "realm",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("realm_id", name="pk_realm"),
    )
    op.create_table(
        "epoch",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["realm_id"], ["realm.realm_id"], name="fk_epoch_realm_id"),
        sa.PrimaryKeyConstraint("realm_id", name="pk_epoch"),
    )
    op.create_table(
        "realm_kek",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["realm_id"], ["realm.realm_id"], name="fk_realm_kek_realm_id"),
        sa.CheckConstraint("version >= 1", name=op.f("ck_realm_kek_version")),
        sa.PrimaryKeyConstraint("realm_id", "version", name="pk_realm_kek"),
    )


def _keys() -> None:
    op.create_table(
        "kms_key",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("lineage_id", Identifier(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("algorithm", sa.Text(), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("active_key_id", Identifier(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["realm_id"], ["realm.realm_id"], name="fk_kms_key_realm_id"),
        sa.PrimaryKeyConstraint("realm_id", "lineage_id", name="pk_kms_key"),
    )
    op.create_index(
        "uq_kms_key_name",
        "kms_key",
        ["realm_id", "name"],
        unique=True,
        sqlite_where=sa.text("name IS NOT NULL"),
        postgresql_where=sa.text("name IS NOT NULL"),
    )
    op.create_index(
        "ix_kms_key_realm_id_purpose_created_us_lineage_id",
        "kms_key",
        ["realm_id", "purpose", "created_us", "lineage_id"],
        unique=False,
    )
    op.create_table(
        "kms_version",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("key_id", Identifier(), nullable=False),
        sa.Column("lineage_id", Identifier(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("kek_version", sa.Integer(), nullable=False),
        sa.Column("messages_leased", sa.BigInteger(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["realm_id", "kek_version"],
            ["realm_kek.realm_id", "realm_kek.version"],
            name="fk_kms_version_realm_id_kek_version",
        ),
        sa.ForeignKeyConstraint(
            ["realm_id", "lineage_id"],
            ["kms_key.realm_id", "kms_key.lineage_id"],
            name="fk_kms_version_realm_id_lineage_id",
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_kms_version_version")),
        sa.PrimaryKeyConstraint("realm_id", "key_id", name="pk_kms_version"),
        sa.UniqueConstraint(
            "realm_id", "lineage_id", "version", name="uq_kms_version_realm_id_lineage_id_version"
        ),
    )


def _people() -> None:
    op.create_table(
        "app_user",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("user_id", Identifier(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("username_key", sa.Text(), nullable=False),
        sa.Column("email", sa.Text()),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["realm_id"], ["realm.realm_id"], name="fk_app_user_realm_id"),
        sa.PrimaryKeyConstraint("realm_id", "user_id", name="pk_app_user"),
        sa.UniqueConstraint("realm_id", "username_key", name="uq_app_user_realm_id_username_key"),
    )
    op.create_table(
        "role",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("built_in", sa.Boolean(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["realm_id"], ["realm.realm_id"], name="fk_role_realm_id"),
        sa.PrimaryKeyConstraint("realm_id", "name", name="pk_role"),
    )
    op.create_table(
        "credential",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("user_id", Identifier(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["realm_id", "user_id"],
            ["app_user.realm_id", "app_user.user_id"],
            name="fk_credential_realm_id_user_id",
        ),
        sa.PrimaryKeyConstraint("realm_id", "user_id", "kind", name="pk_credential"),
    )
    op.create_table(
        "role_permission",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("permission", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["realm_id", "role"], ["role.realm_id", "role.name"], name="fk_role_permission_realm_id_role"
        ),
        sa.PrimaryKeyConstraint("realm_id", "role", "permission", name="pk_role_permission"),
    )
    op.create_table(
        "user_role",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("user_id", Identifier(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["realm_id", "role"], ["role.realm_id", "role.name"], name="fk_user_role_realm_id_role"
        ),
        sa.ForeignKeyConstraint(
            ["realm_id", "user_id"],
            ["app_user.realm_id", "app_user.user_id"],
            name="fk_user_role_realm_id_user_id",
        ),
        sa.PrimaryKeyConstraint("realm_id", "user_id", "role", name="pk_user_role"),
    )


def _clients() -> None:
    op.create_table(
        "client",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("secret_digest", sa.LargeBinary()),
        sa.Column("auth_method", sa.Text(), nullable=False),
        sa.Column("grant_types", sa.Text(), nullable=False),
        sa.Column("redirect_uris", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text()),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["realm_id"], ["realm.realm_id"], name="fk_client_realm_id"),
        sa.PrimaryKeyConstraint("realm_id", "client_id", name="pk_client"),
        sa.UniqueConstraint("client_id", name="uq_client_client_id"),
    )
    op.create_table(
        "client_role",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["realm_id", "client_id"],
            ["client.realm_id", "client.client_id"],
            name="fk_client_role_realm_id_client_id",
        ),
        sa.ForeignKeyConstraint(
            ["realm_id", "role"], ["role.realm_id", "role.name"], name="fk_client_role_realm_id_role"
        ),
        sa.PrimaryKeyConstraint("realm_id", "client_id", "role", name="pk_client_role"),
    )
    op.create_table(
        "oauth_grant",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("grant_id", Identifier(), nullable=False),
        sa.Column("user_id", Identifier()),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text()),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("rotated_us", sa.BigInteger()),
        sa.Column("rotated_by_client", sa.Boolean(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("revoked_us", sa.BigInteger()),
        sa.ForeignKeyConstraint(
            ["realm_id", "client_id"],
            ["client.realm_id", "client.client_id"],
            name="fk_oauth_grant_realm_id_client_id",
        ),
        sa.ForeignKeyConstraint(
            ["realm_id", "user_id"],
            ["app_user.realm_id", "app_user.user_id"],
            name="fk_oauth_grant_realm_id_user_id",
        ),
        sa.PrimaryKeyConstraint("realm_id", "grant_id", name="pk_oauth_grant"),
    )
    op.create_index("ix_oauth_grant_expires_us", "oauth_grant", ["expires_us"], unique=False)


def _single_use() -> None:
    op.create_table(
        "idempotency",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_digest", sa.LargeBinary(), nullable=False),
        sa.Column("answer_sealed", sa.LargeBinary()),
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["realm_id"], ["realm.realm_id"], name="fk_idempotency_realm_id"),
        sa.PrimaryKeyConstraint("realm_id", "subject", "route", "key", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_expires_us", "idempotency", ["expires_us"], unique=False)
    op.create_table(
        "spent",
        sa.Column("realm_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key_digest", sa.LargeBinary(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["realm_id"], ["realm.realm_id"], name="fk_spent_realm_id"),
        sa.PrimaryKeyConstraint("realm_id", "kind", "key_digest", name="pk_spent"),
    )
    op.create_index("ix_spent_expires_us", "spent", ["expires_us"], unique=False)
