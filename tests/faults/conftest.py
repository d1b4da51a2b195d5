"""Servers on disks that a test can break."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.api import Person
from tests.support.broken_server import broken
from tests.support.disk_faults import FaultyDisk
from tests.support.fault_load import Watch
from tests.support.load import a_world, rows, tireless, worker_pids
from tests.support.processes import alive, eventually
from tests.support.server import Server
from tests.support.volume import volume

WORKER_COUNTS = [2, 1][: volume(2, share=0.5)]
"""The daily run has servers of two workers alone: what one does alone, each of two does, too."""


NEIGHBORS = pytest.mark.parametrize("faulty", [2], indirect=True, ids="{} workers".format)
"""For tests that need a supervisor, or a worker beside the one that suffers."""


@dataclass(frozen=True)
class Faulty:
    """A running server, someone to be there, and the switch of its disk."""

    server: Server
    person: Person
    disk: FaultyDisk


@contextlib.contextmanager
def on_a_faulty_disk(place: Path, *faults: str, workers: int = 1) -> Iterator[Faulty]:
    """A running server with the shim; with faults, one that is broken on purpose as well."""
    disk = FaultyDisk(place / "data", place)
    environment = disk.environment() | (broken(place, *faults) if faults else {})
    server = Server(place, workers=workers, environment=environment)
    try:
        with a_world(server) as world:
            yield Faulty(server, tireless(world), disk)
    finally:
        disk.heal()


@pytest.fixture(scope="package", params=WORKER_COUNTS, ids="{} workers".format)
def faulty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """One server for all tests: it has to be sound again after each of them."""
    with on_a_faulty_disk(tmp_path_factory.mktemp("faulty"), workers=request.param) as made:
        yield made


def crash_and_start(server: Server) -> None:
    """kill -9, and again at the same address."""
    address, workers = server.url.removeprefix("http://"), worker_pids(server)
    server.kill()
    eventually(lambda: not any(alive(pid) for pid in workers))
    server.start(address)


def judge(watch: Watch, *, unaffected: frozenset[str]) -> None:
    """Nothing was late, undefined, lost or half done, and what the fault does not touch went on."""
    assert watch.findings(unaffected=unaffected) == []
    assert watch.lost_or_half_done() == []
    assert rows(watch.server, "PRAGMA integrity_check") == [("ok",)]
