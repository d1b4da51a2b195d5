"""A server, or one of its workers, is killed under load: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.audit_log import faults
from tests.support.crash_cycles import Cycles, Mishap, at_its_own_address, someone
from tests.support.customers import Customer, under_load
from tests.support.examination import Auditor
from tests.support.load import (
    DATABASES,
    Chance,
    listeners,
    new_server,
    rows,
    spread,
    worker_pids,
)
from tests.support.processes import alive, eventually
from tests.support.server import Server
from tests.support.volume import volume

ADDRESS = "127.0.0.77:0"


def kill(server: Server, chance: random.Random) -> None:
    """End everything at once: like a crash, or like an impatient operator."""
    pids = worker_pids(server)
    if chance.random() < 0.3:
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    server.kill()
    # The workers die with their supervisor; until then they hold the port.
    eventually(lambda: not any(map(alive, pids)))


@pytest.fixture(scope="module", params=DATABASES)
def two_workers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A sound server that a test may kill, if it starts it again."""
    with at_its_own_address(
        new_server(request, tmp_path_factory.mktemp("mortal"), request.param), ADDRESS
    ) as server:
        yield server


def killed(server: Server) -> Cycles:
    """A server that is killed at random moments."""
    return Cycles(server, Mishap(lambda chance: kill(server, chance)))


@pytest.mark.acceptance
def test_what_was_acknowledged_survives_the_death_of_the_server(two_workers: Server) -> None:
    embedded = two_workers.database_url is None
    full = 1_000 if embedded else 100
    assert killed(two_workers).run(volume(full, share=3 / full if embedded else 1 / full)) == []
    assert faults(two_workers.data) == []
    if embedded:
        assert rows(two_workers, "PRAGMA integrity_check") == [("ok",)]


@pytest.fixture(scope="module")
def unhurried(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose answers do not wait for their records."""
    server = new_server(request, tmp_path_factory.mktemp("unhurried"), "sqlite")
    server.environment["QIMEM_AUDIT__MODE"] = "interval"
    with at_its_own_address(server, ADDRESS):
        yield server


def test_records_that_nobody_waits_for_are_missed(unhurried: Server) -> None:
    findings = killed(unhurried).run(10, until_found=True)
    assert any(finding.startswith("lost: the record of") for finding in findings), findings


@pytest.fixture(scope="module")
def hasty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that answers too early, and leaves the place of a dead worker empty."""
    faults = ("acknowledges_keys_before_commit", "replaces_no_worker")
    with at_its_own_address(
        new_server(request, tmp_path_factory.mktemp("hasty"), "sqlite", *faults), ADDRESS
    ) as server:
        yield server


def test_an_answer_before_the_commit_is_found_out(hasty: Server) -> None:
    findings = killed(hasty).run(10, until_found=True)
    # A key that was acknowledged is gone after the end, or is not there yet for the next request about it.
    signs = ("lost", "refused: (404, 'key_not_found')")
    assert any(finding.startswith(signs) for finding in findings), findings


def lose_a_worker(server: Server, replaced: Callable[[Server, int], None]) -> list[str]:
    """Kill one of two workers under load; what went wrong for those of the other, and for the data."""
    chance, person = Chance(), someone(server)
    pick = chance.source("kill")
    customers = []
    with spread(server, person.access_token) as wires:
        victim = wires[0].worker
        for number, wire in enumerate(wires):
            customer = Customer(server.url, person, chance.source(f"customer {number}"), f"c{number}")
            customer.wire = wire
            customers.append(customer)
        spared = [customer for customer, wire in zip(customers, wires, strict=True) if wire.worker != victim]
        with under_load(customers, reconnects=True):
            time.sleep(pick.uniform(0.05, 0.5))
            os.kill(victim, signal.SIGKILL)
            replaced(server, victim)
    auditor = Auditor(server, person)
    auditor.findings += [f"{customer.name} was cut off" for customer in spared if customer.ledger.cut_off]
    for customer in customers:
        auditor.examine(customer.ledger)
    return auditor.findings


def two_serve_without(server: Server, victim: int, seconds: float = 10) -> None:
    """Wait for the one that takes the place of the victim, until it listens; it comes later after many deaths."""
    eventually(lambda: len({*worker_pids(server)} - {victim}) == 2, seconds=seconds)
    eventually(lambda: len(listeners(server)) == 2, seconds=30)


@pytest.mark.acceptance
def test_a_killed_worker_is_replaced_and_its_neighbor_notices_nothing(two_workers: Server) -> None:
    for _ in range(volume(20)):
        assert lose_a_worker(two_workers, two_serve_without) == []
        with spread(two_workers) as wires:
            assert len({wire.worker for wire in wires}) == 2


def test_a_worker_that_is_not_replaced_is_found_out(hasty: Server) -> None:
    with pytest.raises(AssertionError, match="did not come to pass"):
        lose_a_worker(hasty, lambda server, victim: two_serve_without(server, victim, seconds=2))
