"""The DB-API shim, as SQLAlchemy and Alembic use it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from qimem.storage import sqlite_driver
from qimem.storage.schema import for_migrations, realm, role


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = sa.create_engine(f"sqlite:///{tmp_path / 'x.db'}", module=sqlite_driver, poolclass=sa.NullPool)
    for_migrations().create_all(made)
    yield made
    made.dispose()


ROW = {
    "realm_id": "acme",
    "name": "Acme",
    "enabled": True,
    "created_us": 1,
    "password_min_length": 8,
    "allow_password_grant": None,
    "refresh_grace_seconds": None,
    "deleted_us": None,
}


def test_core_writes_and_reads(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(realm), [ROW, {**ROW, "realm_id": "other"}])
    with engine.connect() as connection:
        rows = connection.execute(sa.select(realm).order_by(realm.c.realm_id)).all()
        assert [tuple(row) for row in rows] == [
            ("acme", "Acme", True, 1, 8, None, None, None),
            ("other", "Acme", True, 1, 8, None, None, None),
        ]
        assert connection.execute(sa.select(realm)).fetchmany(1) == [
            ("acme", "Acme", True, 1, 8, None, None, None)
        ]


def test_an_empty_result_still_has_columns(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert list(connection.execute(sa.select(realm)).keys()) == [*ROW]
        assert connection.execute(sa.select(realm)).first() is None


def test_returning_and_counts(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert connection.execute(sa.insert(realm).returning(realm.c.name), ROW).scalar_one() == "Acme"
        assert connection.execute(sa.update(realm).values(enabled=False)).rowcount == 1
        assert connection.execute(sa.delete(realm).where(realm.c.name == "none")).rowcount == 0


def test_a_second_row_with_one_key_is_an_integrity_error(engine: sa.Engine) -> None:
    with engine.begin() as connection, pytest.raises(sa.exc.IntegrityError):
        connection.execute(sa.insert(realm), [ROW, ROW])


def test_an_absent_table_is_an_operational_error(engine: sa.Engine) -> None:
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError, match="no such table"):
        connection.exec_driver_sql("SELECT * FROM absent")


def test_what_is_not_committed_is_undone(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.execute(sa.insert(realm), ROW)
        connection.rollback()
        assert connection.execute(sa.select(realm)).all() == []


def test_reflection_finds_tables_keys_and_indexes(engine: sa.Engine) -> None:
    inspector = sa.inspect(engine)
    assert set(inspector.get_table_names()) == set(for_migrations().tables)
    assert inspector.get_pk_constraint("role")["constrained_columns"] == ["realm_id", "name"]
    assert inspector.get_foreign_keys("role_permission")[0]["referred_columns"] == ["realm_id", "name"]
    assert "uq_kms_key_name" in {index["name"] for index in inspector.get_indexes("kms_key")}
    reflected = sa.Table("role", sa.MetaData(), autoload_with=engine, resolve_fks=False)
    assert [column.name for column in reflected.c] == [column.name for column in role.c]


def test_alembic_alters_tables(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(realm), ROW)
        operations = Operations(MigrationContext.configure(connection))
        operations.add_column("realm", sa.Column("note", sa.Text))
        with operations.batch_alter_table("realm") as batch:
            batch.alter_column("note", new_column_name="remark")
        assert connection.exec_driver_sql("SELECT realm_id, remark FROM realm").all() == [("acme", None)]


HOLD = """
import sys
from qimem.storage import sqlite_driver
connection = sqlite_driver.connect(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
import time
time.sleep(0.3)
connection.commit()
"""


def test_it_waits_for_another_writer(engine: sa.Engine) -> None:
    command = [sys.executable, "-c", HOLD, str(engine.url.database)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")


def test_identifiers_are_sixteen_bytes(engine: sa.Engine) -> None:
    key = UUID(int=7)
    values = {"singleton": 1, "instance_id": key, "incarnation": b"i", "key_check": b"k", "created_us": 1}
    with engine.begin() as connection:
        connection.execute(sa.insert(for_migrations().tables["instance"]), values)
        raw = connection.exec_driver_sql("SELECT instance_id, typeof(instance_id) FROM instance").one()
        assert tuple(raw) == (key.bytes, "blob")
        assert (
            connection.execute(sa.select(for_migrations().tables["instance"].c.instance_id)).scalar_one()
            == key
        )
