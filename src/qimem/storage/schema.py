"""One schema for SQLite and PostgreSQL.

The realm stands first in every primary and foreign key, so that a row of one realm cannot refer to
a row of another. Times are BIGINT microseconds since the Unix epoch. Secrets never stand here in
clear: keys are wrapped, passwords and client secrets are digests, tokens are not stored at all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

METADATA = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Identifier(TypeDecorator[UUID]):
    """A UUID: native on PostgreSQL, 16 bytes on SQLite."""

    impl = sa.Uuid
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column type of the dialect."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.LargeBinary(16))
        return dialect.type_descriptor(sa.Uuid())

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        """UUID → what the driver takes."""
        if dialect.name == "sqlite":
            return lambda value: None if value is None else value.bytes
        return None

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:  # noqa: ARG002
        """What the driver gives → UUID."""
        if dialect.name == "sqlite":
            return lambda value: None if value is None else UUID(bytes=value)
        return None


def _realm() -> sa.Column[str]:
    return sa.Column("realm_id", sa.Text, primary_key=True)


def _time(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _within(table: str, *columns: str) -> sa.ForeignKeyConstraint:
    names = ["realm_id", *columns]
    targets = {"client_id": "client_id", "user_id": "user_id", "role": "name", "lineage_id": "lineage_id"}
    return sa.ForeignKeyConstraint(names, [f"{table}.{targets.get(name, name)}" for name in names])


instance = sa.Table(
    "instance",
    METADATA,
    # One row at most: two installations in one database would each see the other's keys as damage.
    sa.Column(
        "singleton", sa.SmallInteger, sa.CheckConstraint("singleton = 1", name="one_row"), primary_key=True
    ),
    sa.Column("instance_id", Identifier, nullable=False),
    sa.Column("incarnation", sa.LargeBinary, nullable=False),
    sa.Column("key_check", sa.LargeBinary, nullable=False),
    sa.Column("external_url", sa.Text),
    _time("created_us"),
)

root_key = sa.Table(
    "root_key",
    METADATA,
    # One row, and two while the root key is rotated. Whatever is wrapped refers to its row, so that none goes
    # away with something still wrapped under it, and nothing is wrapped under one that is gone.
    sa.Column(
        "generation", sa.Integer, sa.CheckConstraint("generation >= 1", name="generation"), primary_key=True
    ),
    sa.Column("key_check", sa.LargeBinary, nullable=False),
    _time("created_us"),
    sa.UniqueConstraint("key_check"),
)

realm = sa.Table(
    "realm",
    METADATA,
    _realm(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    _time("created_us"),
    # Null for realms that were made before there was a choice.
    sa.Column("password_min_length", sa.Integer, nullable=True),
    sa.Column("allow_password_grant", sa.Boolean, nullable=True),
    sa.Column("refresh_grace_seconds", sa.Integer, nullable=True),
    # An id is never given twice: the row of a deleted realm stays, and nothing else of it.
    _time("deleted_us", nullable=True),
)

epoch = sa.Table(
    "epoch",
    METADATA,
    _realm(),
    sa.Column("n", sa.BigInteger, nullable=False),
    _within("realm"),
)

realm_remains = sa.Table(
    "realm_remains",
    METADATA,
    # A deleted realm whose rows, of no use without its key, are still to be removed.
    _realm(),
    _time("deleted_us"),
    _within("realm"),
)

realm_kek = sa.Table(
    "realm_kek",
    METADATA,
    _realm(),
    sa.Column("version", sa.Integer, sa.CheckConstraint("version >= 1", name="version"), primary_key=True),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
    _time("created_us"),
    sa.Column(
        "root_generation",
        sa.Integer,
        sa.ForeignKey("root_key.generation"),
        nullable=False,
        server_default=sa.text("1"),
    ),
    sa.Index(None, "root_generation", "realm_id", "version"),
    _within("realm"),
)

kms_key = sa.Table(
    "kms_key",
    METADATA,
    _realm(),
    sa.Column("lineage_id", Identifier, primary_key=True),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("algorithm", sa.Text, nullable=False),
    sa.Column("name", sa.Text),
    # One column for one active version: two of them, a fork, cannot be written down. No foreign key, for
    # versions refer to this table, and no database checks a circle of them before the end of a transaction
    # without a cost for every insert.
    sa.Column("active_key_id", Identifier, nullable=False),
    _time("created_us"),
    sa.Index(None, "realm_id", "purpose", "created_us", "lineage_id"),
    _within("realm"),
)

kms_version = sa.Table(
    "kms_version",
    METADATA,
    _realm(),
    sa.Column("key_id", Identifier, primary_key=True),
    sa.Column("lineage_id", Identifier, nullable=False),
    sa.Column("version", sa.Integer, sa.CheckConstraint("version >= 1", name="version"), nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
    sa.Column("kek_version", sa.Integer, nullable=False),
    sa.Column("messages_leased", sa.BigInteger, nullable=False),
    _time("created_us"),
    sa.UniqueConstraint("realm_id", "lineage_id", "version"),
    _within("kms_key", "lineage_id"),
    sa.ForeignKeyConstraint(["realm_id", "kek_version"], ["realm_kek.realm_id", "realm_kek.version"]),
)

signing_key = sa.Table(
    "signing_key",
    METADATA,
    _realm(),
    sa.Column("key_id", Identifier, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    _time("due_us"),
    sa.Index(None, "due_us"),
    _within("kms_version", "key_id"),
)

role = sa.Table(
    "role",
    METADATA,
    _realm(),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("built_in", sa.Boolean, nullable=False),
    _time("created_us"),
    _within("realm"),
)

role_permission = sa.Table(
    "role_permission",
    METADATA,
    _realm(),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("permission", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    _within("role", "role"),
)

app_user = sa.Table(
    "app_user",
    METADATA,
    _realm(),
    sa.Column("user_id", Identifier, primary_key=True),
    sa.Column("username", sa.Text, nullable=False),
    sa.Column("username_key", sa.Text, nullable=False),
    sa.Column("email", sa.Text),
    sa.Column("enabled", sa.Boolean, nullable=False),
    _time("created_us"),
    sa.UniqueConstraint("realm_id", "username_key"),
    _within("realm"),
)

credential = sa.Table(
    "credential",
    METADATA,
    _realm(),
    sa.Column("user_id", Identifier, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("data", sa.Text, nullable=False),
    _time("created_us"),
    _within("app_user", "user_id"),
)

user_role = sa.Table(
    "user_role",
    METADATA,
    _realm(),
    sa.Column("user_id", Identifier, primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Index(None, "realm_id", "role"),
    _within("app_user", "user_id"),
    _within("role", "role"),
)

client = sa.Table(
    "client",
    METADATA,
    _realm(),
    sa.Column("client_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("secret_digest", sa.LargeBinary),
    sa.Column("previous_digest", sa.LargeBinary),
    _time("previous_until_us", nullable=True),
    sa.Column("auth_method", sa.Text, nullable=False),
    sa.Column("grant_types", sa.Text, nullable=False),
    sa.Column("redirect_uris", sa.Text, nullable=False),
    sa.Column("scope", sa.Text),
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("refresh_grace_seconds", sa.Integer, nullable=True),
    sa.Column("refresh_requires_client", sa.Boolean, nullable=True),
    sa.Column("enabled", sa.Boolean, nullable=False),
    _time("created_us"),
    sa.UniqueConstraint("client_id"),
    _within("realm"),
)

client_role = sa.Table(
    "client_role",
    METADATA,
    _realm(),
    sa.Column("client_id", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Index(None, "realm_id", "role"),
    _within("client", "client_id"),
    _within("role", "role"),
)

oauth_grant = sa.Table(
    "oauth_grant",
    METADATA,
    _realm(),
    sa.Column("grant_id", Identifier, primary_key=True),
    sa.Column("user_id", Identifier),
    sa.Column("client_id", sa.Text, nullable=False),
    sa.Column("scope", sa.Text),
    sa.Column("generation", sa.BigInteger, nullable=False),
    _time("rotated_us", nullable=True),
    sa.Column("rotated_by_client", sa.Boolean, nullable=False),
    _time("created_us"),
    _time("expires_us"),
    _time("revoked_us", nullable=True),
    sa.Index(None, "expires_us"),
    sa.Index(None, "realm_id", "user_id", "grant_id"),
    sa.Index(None, "realm_id", "client_id"),
    _within("client", "client_id"),
    _within("app_user", "user_id"),
)

login_attempt = sa.Table(
    "login_attempt",
    METADATA,
    _realm(),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("key_digest", sa.LargeBinary, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    _time("updated_us"),
    _time("expires_us"),
    sa.Index(None, "expires_us"),
    _within("realm"),
)

spent = sa.Table(
    "spent",
    METADATA,
    _realm(),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("key_digest", sa.LargeBinary, primary_key=True),
    _time("expires_us"),
    sa.Index(None, "expires_us"),
    _within("realm"),
)

idempotency = sa.Table(
    "idempotency",
    METADATA,
    _realm(),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("route", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("body_digest", sa.LargeBinary, nullable=False),
    sa.Column("answer_sealed", sa.LargeBinary),
    sa.Column("object_id", sa.Text, nullable=False),
    _time("created_us"),
    _time("expires_us"),
    sa.Index(None, "expires_us"),
    _within("realm"),
)

job = sa.Table(
    "job",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text),
    _time("leased_until_us"),
    _time("last_run_us"),
)

audit_intent = sa.Table(
    "audit_intent",
    METADATA,
    # A stream is a node's and not a realm's, as its log is; the line says which realm it is about.
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("record_id", sa.Text, primary_key=True),
    sa.Column("segment", sa.Integer, nullable=False),
    sa.Column("line", sa.LargeBinary, nullable=False),
)


@cache
def for_migrations() -> sa.MetaData:
    """All of it, with what no running server needs to know.

    A partial index has SQLAlchemy load the dialect of PostgreSQL, 80 ms of each start.
    """
    # Most keys have no name, and then no entry here: one page less for the log to carry.
    sa.Index(
        "uq_kms_key_name",
        kms_key.c.realm_id,
        kms_key.c.name,
        unique=True,
        sqlite_where=sa.text("name IS NOT NULL"),
        postgresql_where=sa.text("name IS NOT NULL"),
    )
    return METADATA
