"""A database is brought to the schema of the code, once, by whoever comes first."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import apsw
import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from qimem.errors import Unavailable
from qimem.kernel.limits import SIGNING_KEY_PERIOD_SECONDS
from qimem.kernel.refusal import Refused
from qimem.storage import sqlite_driver
from qimem.storage.database import DatabaseLocation
from qimem.storage.migrations.runner import HEAD, KNOWN, SchemaTooNew
from qimem.storage.schema import for_migrations
from tests.contract.storage.rows import add_realm, names

METADATA = for_migrations()
LATER = "UPDATE schema_version SET version_num = '9999'"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_location(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseLocation:
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    return DatabaseLocation(tmp_path, url)


@contextmanager
def connected(location: DatabaseLocation) -> Iterator[sa.Connection]:
    if location.url is None:
        engine = sa.create_engine(f"sqlite:///{location.file}", module=sqlite_driver, poolclass=sa.NullPool)
    else:
        engine = sa.create_engine(
            location.url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool
        )
    with engine.begin() as connection:
        yield connection


def differences(connection: sa.Connection) -> list[object]:
    options = {"compare_type": True, "compare_server_default": True, "version_table": "schema_version"}
    return compare_metadata(MigrationContext.configure(connection, opts=options), METADATA)


def test_the_migrations_make_the_schema_of_the_code(location: DatabaseLocation) -> None:
    with connected(location) as connection:
        assert differences(connection) == []


def test_a_difference_would_be_found(location: DatabaseLocation) -> None:
    with connected(location) as connection:
        connection.exec_driver_sql("ALTER TABLE realm ADD COLUMN note TEXT")
        connection.exec_driver_sql("DROP INDEX uq_kms_key_name")
        assert len(differences(connection)) == 2


@pytest.mark.parametrize("table", sorted(METADATA.tables))
def test_the_realm_stands_first_in_every_key(table: str) -> None:
    if table in {"instance", "root_key", "job", "audit_intent"}:
        return
    columns = METADATA.tables[table]
    assert next(iter(columns.primary_key.columns)).name == "realm_id"
    for key in columns.foreign_key_constraints:
        if key.referred_table.name == "root_key":
            # Of all realms.
            continue
        assert key.column_keys[0] == "realm_id"
        assert next(iter(key.elements)).column.name == "realm_id"
    assert columns.foreign_key_constraints or table == "realm"


def checks(connection: sa.Connection) -> dict[str, set[str]]:
    inspector = sa.inspect(connection)
    return {
        table: {str(check["name"]) for check in inspector.get_check_constraints(table)}
        for table in METADATA.tables
    }


def test_the_checks_of_the_schema_are_in_the_database(location: DatabaseLocation) -> None:
    with connected(location) as connection:
        migrated = checks(connection)
        METADATA.drop_all(connection)
        METADATA.create_all(connection)
        assert checks(connection) == migrated
    assert sum(len(found) for found in migrated.values()) == 4


def test_an_empty_place_has_no_schema_and_looking_makes_none(empty_location: DatabaseLocation) -> None:
    assert not empty_location.exists()
    assert list(empty_location.directory.iterdir()) == []


@pytest.mark.anyio
async def test_migrating_again_changes_nothing(empty_location: DatabaseLocation) -> None:
    empty_location.migrate()
    database = empty_location.open()
    await database.write(add_realm)
    empty_location.migrate()
    assert empty_location.exists()
    assert await database.read(names) == ["acme"]
    await database.close()


@pytest.fixture
def migrated_to(
    empty_location: DatabaseLocation, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], DatabaseLocation]:
    """A database as an earlier version left it."""

    def migrate(version: str) -> DatabaseLocation:
        upgrade = command.upgrade
        with monkeypatch.context() as patched:
            patched.setattr(command, "upgrade", lambda config, _: upgrade(config, version))
            empty_location.migrate()
        return empty_location

    return migrate


def test_who_ran_the_platform_before_there_was_a_role_for_it_has_it(
    migrated_to: Callable[[str], DatabaseLocation],
) -> None:
    location = migrated_to("0004")
    with connected(location) as connection:
        tables = METADATA.tables
        for realm_id in ("system", "acme"):
            realm = {"realm_id": realm_id, "created_us": 1}
            connection.execute(tables["realm"].insert().values(**realm, name="x", enabled=True))
            for name, permission in (("operator", "*"), ("realm-admin", "realm:*")):
                connection.execute(tables["role"].insert().values(**realm, name=name, built_in=True))
                values = {"realm_id": realm_id, "role": name, "permission": permission, "position": 0}
                connection.execute(tables["role_permission"].insert().values(**values))
    location.migrate()
    with connected(location) as connection:
        rows = connection.execute(METADATA.tables["role_permission"].select()).all()
        assert [tuple(row) for row in rows if row[1] == "platform-admin"] == [
            ("system", "platform-admin", "platform:*", 0)
        ]
        assert differences(connection) == []


def test_a_role_of_that_name_is_not_made_a_power(migrated_to: Callable[[str], DatabaseLocation]) -> None:
    location = migrated_to("0004")
    tables = METADATA.tables
    with connected(location) as connection:
        realm = {"realm_id": "system", "created_us": 1}
        connection.execute(tables["realm"].insert().values(**realm, name="x", enabled=True))
        for name, permission, built_in in (("operator", "*", True), ("platform-admin", "shop:sell", False)):
            connection.execute(tables["role"].insert().values(**realm, name=name, built_in=built_in))
            values = {"realm_id": "system", "role": name, "permission": permission, "position": 0}
            connection.execute(tables["role_permission"].insert().values(**values))
        connection.execute(
            tables["app_user"]
            .insert()
            .values(**realm, user_id=UUID(int=1), username="a", username_key="a", enabled=True)
        )
        connection.execute(
            tables["user_role"]
            .insert()
            .values(realm_id="system", user_id=UUID(int=1), role="platform-admin", position=0)
        )
    location.migrate()
    with connected(location) as connection:
        (held,) = connection.execute(tables["user_role"].select()).all()
        assert held[2] == "platform-admin-renamed"
        carried = {(row[1], row[2]) for row in connection.execute(tables["role_permission"].select()).all()}
        assert carried == {
            ("operator", "*"),
            ("platform-admin", "platform:*"),
            ("platform-admin-renamed", "shop:sell"),
        }


def install(connection: sa.Connection) -> None:
    """The row that says whose the database is."""
    connection.execute(
        METADATA.tables["instance"]
        .insert()
        .values(
            singleton=1, instance_id=UUID(int=9), incarnation=b"i", key_check=b"check", created_us=7
        )
    )  # fmt: skip


def test_what_was_wrapped_before_root_keys_had_generations_is_of_the_first(
    migrated_to: Callable[[str], DatabaseLocation],
) -> None:
    location, tables = migrated_to("0008"), METADATA.tables
    with connected(location) as connection:
        install(connection)
        for realm_id in ("system", "acme"):
            realm = {"realm_id": realm_id, "created_us": 1}
            connection.execute(tables["realm"].insert().values(**realm, name="x", enabled=True))
            connection.execute(tables["realm_kek"].insert().values(**realm, version=1, wrapped=b"w"))
    location.migrate()
    with connected(location) as connection:
        assert [tuple(row) for row in connection.execute(tables["root_key"].select())] == [(1, b"check", 7)]
        rows = connection.execute(tables["realm_kek"].select()).all()
        assert {(row.realm_id, row.root_generation) for row in rows} == {("acme", 1), ("system", 1)}
        assert differences(connection) == []


def test_keys_from_before_signing_keys_had_a_life_get_one(
    migrated_to: Callable[[str], DatabaseLocation],
) -> None:
    lineage, active = UUID(int=1), UUID(int=2)
    location = migrated_to("0002")
    with connected(location) as connection:
        realm = {"realm_id": "acme"}
        tables = METADATA.tables
        connection.execute(tables["realm"].insert().values(**realm, name="Acme", enabled=True, created_us=1))
        install(connection)
        connection.execute(tables["realm_kek"].insert().values(**realm, version=1, wrapped=b"", created_us=1))
        for key_id, purpose in ((lineage, "token-signing"), (UUID(int=3), "refresh-mac")):
            signs = purpose == "token-signing"
            key = realm | {"lineage_id": key_id, "created_us": 5}
            values = {"purpose": purpose, "algorithm": "es256", "name": None}
            chosen = active if signs else key_id
            connection.execute(tables["kms_key"].insert().values(**key, **values, active_key_id=chosen))
            for number, version in enumerate([key_id, active] if signs else [key_id], start=1):
                connection.execute(
                    tables["kms_version"]
                    .insert()
                    .values(
                        **key, key_id=version, version=number, enabled=True, wrapped=b"", kek_version=1,
                        messages_leased=0,
                    )
                )  # fmt: skip
    location.migrate()
    with connected(location) as connection:
        (row,) = connection.execute(METADATA.tables["signing_key"].select()).all()
        assert tuple(row) == ("acme", active, "active", 5 + SIGNING_KEY_PERIOD_SECONDS * 1_000_000)
        assert differences(connection) == []


def test_a_schema_from_the_future_is_refused_and_left_alone(location: DatabaseLocation) -> None:
    if location.url is None:
        connection = apsw.Connection(str(location.file))
        connection.execute(LATER)
        connection.close()
    else:
        with psycopg.connect(location.url) as postgres:
            postgres.execute(LATER)
    with pytest.raises(SchemaTooNew, match="9999"):
        location.migrate()
    with connected(location) as checked:
        assert differences(checked) == []


def test_a_file_that_is_no_database_is_refused_in_words(tmp_path: Path) -> None:
    location = DatabaseLocation(tmp_path)
    location.file.write_bytes(b"something else " * 1_000)
    for attempt in (location.exists, location.migrate, location.open):
        with pytest.raises(Refused, match="not a database"):
            attempt()
    assert location.file.read_bytes() == b"something else " * 1_000


def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    location = DatabaseLocation(tmp_path)
    location.file.mkdir()
    for attempt in (location.exists, location.migrate, location.open):
        with pytest.raises(Unavailable):
            attempt()


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    location = DatabaseLocation(tmp_path, "postgresql://postgres@127.0.0.1:1/absent")
    for attempt in (location.exists, location.migrate):
        with pytest.raises(Unavailable):
            attempt()


def test_the_newest_version_is_the_last_known_one() -> None:
    assert KNOWN[-1] == HEAD
    assert sorted(KNOWN) == list(KNOWN)


MIGRATE = """
import json, sys
from pathlib import Path
from qimem.storage.database import DatabaseLocation
location = DatabaseLocation(Path(sys.argv[1]), sys.argv[2] or None)
print("ready", flush=True)
sys.stdin.readline()
location.migrate()
database = location.open()
import asyncio
asyncio.run(database.close())
print(json.dumps([name for name in ("alembic", "sqlalchemy.engine.create", "sqlalchemy.orm") if name in sys.modules]))
"""


def migrating(location: DatabaseLocation) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MIGRATE, str(location.directory), location.url or ""]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def imported(process: subprocess.Popen[str]) -> list[str]:
    out, _ = process.communicate("go\n", timeout=60)
    assert process.returncode == 0
    result: list[str] = json.loads(out)
    return result


def test_four_processes_may_migrate_at_once(empty_location: DatabaseLocation) -> None:
    processes = [migrating(empty_location) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        imported(process)
    with connected(empty_location) as connection:
        assert differences(connection) == []


def test_a_start_on_a_current_database_does_not_import_alembic(location: DatabaseLocation) -> None:
    assert "alembic" not in imported(migrating(location))


def test_a_start_on_an_empty_database_does(empty_location: DatabaseLocation) -> None:
    assert "alembic" in imported(migrating(empty_location))
