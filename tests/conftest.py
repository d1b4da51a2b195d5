"""What every test may ask for: the event loop, and a migrated database on fresh storage."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from qimem.storage.database import DatabaseLocation, OpenDatabase
from qimem.storage.postgres import PostgresDatabase
from qimem.storage.sqlite import SqliteDatabase
from tests.support.nodes import Machines
from tests.support.postgres import Cluster

# Installed programs have their bytecode. Where the environment forbids to write it, each of hundreds of servers
# compiles the product anew, a quarter of a second of processor time each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Tests run on the loop of production."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    """One server for all tests of this process."""
    cluster = Cluster()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def machines() -> Iterator[Machines]:
    """Three machines on a network of their own, and PostgreSQL on one of them."""
    with Machines.made() as made:
        yield made


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> Iterator[str]:
    """An empty PostgreSQL database."""
    url = postgres_cluster.create(migrated=False)
    yield url
    postgres_cluster.drop(url)


@pytest.fixture
def sqlite_location(tmp_path: Path) -> DatabaseLocation:
    """A migrated embedded database that nobody has open."""
    location = DatabaseLocation(tmp_path)
    location.migrate()
    return location


@pytest.fixture
def postgres_location(postgres_cluster: Cluster, tmp_path: Path) -> Iterator[DatabaseLocation]:
    """A migrated PostgreSQL database."""
    url = postgres_cluster.create()
    yield DatabaseLocation(tmp_path, url)
    postgres_cluster.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest) -> DatabaseLocation:
    """Where a migrated database is, once for each kind."""
    kind = "sqlite_location" if request.param == "sqlite" else "postgres_location"
    found: DatabaseLocation = request.getfixturevalue(kind)
    return found


@pytest.fixture
async def database(location: DatabaseLocation, anyio_backend: object) -> AsyncIterator[OpenDatabase]:
    """An open, migrated database, once for each kind."""
    opened = location.open()
    yield opened
    await opened.close()


@pytest.fixture
async def sqlite_database(
    sqlite_location: DatabaseLocation, anyio_backend: object
) -> AsyncIterator[SqliteDatabase]:
    """An open embedded database."""
    opened = sqlite_location.open()
    assert isinstance(opened, SqliteDatabase)
    yield opened
    await opened.close()


@pytest.fixture
async def postgres_database(
    postgres_location: DatabaseLocation, anyio_backend: object
) -> AsyncIterator[PostgresDatabase]:
    """An open PostgreSQL database."""
    opened = postgres_location.open()
    assert isinstance(opened, PostgresDatabase)
    yield opened
    await opened.close()
