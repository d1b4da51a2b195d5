"""One running server for the tests of this folder, per test process and kind of database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.api import Person, World
from tests.support.certificates import authority, trusting
from tests.support.server import Server


@pytest.fixture(scope="session")
def sqlite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on SQLite, one worker."""
    server = Server(tmp_path_factory.mktemp("sqlite-server")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that speaks TLS, one worker."""
    directory = tmp_path_factory.mktemp("tls-server")
    cert, key = authority().issue().write(directory)
    extra = ("--tls-cert", str(cert), "--tls-key", str(key))
    server = Server(directory, extra=extra, verify=trusting()).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory, postgres_cluster) -> Iterator[Server]:
    """A server on PostgreSQL, one worker."""
    url = postgres_cluster.create(migrated=False)
    server = Server(tmp_path_factory.mktemp("postgres-server"), database_url=url).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def world(sqlite_server: Server) -> Iterator[World]:
    """The operator of the server on SQLite."""
    world = World(sqlite_server)
    yield world
    world.close()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def each_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """As `world`, once on each kind of database; for what the database decides."""
    name = "sqlite_server" if request.param == "sqlite" else "postgres_server"
    world = World(request.getfixturevalue(name))
    yield world
    world.close()


@pytest.fixture(scope="module")
def admin(world: World) -> Person:
    """A `realm-admin` in a realm of its own."""
    return world.person()
