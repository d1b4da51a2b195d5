"""Servers on a PostgreSQL that a test can stop, starve and cut off."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.api import Person
from tests.support.broken_postgres import MODULE
from tests.support.broken_server import broken
from tests.support.fault_load import Watch
from tests.support.load import a_world, tireless
from tests.support.postgres import Cluster
from tests.support.postgres_proxy import Proxy
from tests.support.processes import eventually
from tests.support.server import Server

CONNECTIONS = 80
"""More than the workers of all these servers ever hold, few enough to be used up."""
BACK_SECONDS = 3.0
NEEDS_NO_STORAGE = frozenset({"health"})


@dataclass(frozen=True)
class Node:
    """A running server, someone to be there, its database and the way to it."""

    server: Server
    person: Person
    cluster: Cluster
    proxy: Proxy
    url: str

    @property
    def database(self) -> str:
        return self.url.rpartition("/")[2]

    def watch(self) -> Watch:
        """Clients of every kind, signed in anew: many tests take longer than a token lives."""
        # A server that is broken on purpose is not back yet when the test before it ends.
        eventually(lambda: self.person.http.get("/ready").status_code == 200, seconds=20)
        self.person.pair = self.person.login()
        return Watch(self.server, self.person, wires=2)


@contextlib.contextmanager
def a_node(cluster: Cluster, place: Path, *faults: str, workers: int = 2) -> Iterator[Node]:
    """A running server behind a proxy; with faults, one that is broken on purpose."""
    url = cluster.create(migrated=False)
    environment = broken(place, *faults, module=MODULE) if faults else {}
    with Proxy(cluster.port) as proxy:
        server = Server(place, workers=workers, database_url=proxy.url(url), environment=environment)
        with a_world(server) as world:
            yield Node(server, tireless(world), cluster, proxy, url)


@pytest.fixture(scope="package")
def mortal_cluster() -> Iterator[Cluster]:
    """A PostgreSQL of its own: it has to run again after each test."""
    cluster = Cluster(max_connections=str(CONNECTIONS))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="package")
def node(mortal_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One server for all tests: it has to be sound again after each of them."""
    with a_node(mortal_cluster, tmp_path_factory.mktemp("node")) as made:
        yield made


@pytest.fixture(scope="package")
def trusting(mortal_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that waits for its database, however long that takes, and answers before it commits."""
    faults = ("waits_for_its_database", "acknowledges_keys_before_postgresql_commits")
    with a_node(mortal_cluster, tmp_path_factory.mktemp("trusting"), *faults, workers=1) as made:
        yield made


@pytest.fixture(scope="package")
def careless(mortal_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that decides from memory, takes a lost answer for a refusal, and asks on its event loop."""
    faults = (
        "trusts_memory_without_its_database",
        "takes_a_lost_answer_for_a_refusal",
        "asks_its_database_on_the_loop",
    )
    with a_node(mortal_cluster, tmp_path_factory.mktemp("careless"), *faults, workers=1) as made:
        yield made


@contextlib.contextmanager
def standing_still(cluster: Cluster) -> Iterator[None]:
    """The server's processes are stopped, all of them."""
    postmaster = psutil.Process(cluster.process.pid)
    postmaster.suspend()
    held = [postmaster, *postmaster.children()]
    try:
        for process in held[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in held:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def refused(watch: Watch, fault: str) -> int:
    """How many were refused for want of storage during the fault: none, and there was no fault."""
    return sum(count for (_, status, _), count in watch.seen(fault).items() if status == 503)


def faulty_answers(watch: Watch) -> list[str]:
    """What was late, undefined, lost, half done, or refused though it needs no storage."""
    return watch.findings(unaffected=NEEDS_NO_STORAGE) + watch.lost_or_half_done()


def survive(node: Node, fault: contextlib.AbstractContextManager[None]) -> list[str]:
    """Load, the fault, and the time after it; what went wrong."""
    with node.watch() as watch:
        time.sleep(0.3)
        with watch.during("fault"), fault:
            pass
        try:
            watch.recovers(BACK_SECONDS)
        except AssertionError as error:
            return [f"not back in time: {error}"]
    print(watch.seen("fault"))
    unnoticed = [] if refused(watch, "fault") else ["nobody noticed the fault"]
    return unnoticed + faulty_answers(watch)
