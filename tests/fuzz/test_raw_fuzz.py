"""No request, however spoiled, brings about an error of the server, silence, a slow answer or a dead worker.

Valid requests of every operation, with one to three mutations each, over kept-alive connections from many
addresses, some of them pipelined. The seed is fixed; `QIMEM_TEST_SEED` sets another one.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from qimem.bootstrap.serving import ENDPOINTS
from tests.fuzz.campaign import Order, Report, run
from tests.fuzz.material import Account
from tests.support.broken_server import broken
from tests.support.load import a_world, tireless, worker_pids
from tests.support.server import Server
from tests.support.volume import volume

REQUESTS = 1_000_000
SEED = os.environ.get("QIMEM_TEST_SEED") or "2026"
PROCESSES = 2
ENOUGH_TO_FIND = 40_000

FAULTS = ["chokes_on_duplicate_keys", "dies_of_deep_bodies", "dawdles_over_long_names"]


def attack(server: Server, count: int, *, faults_max: int = 5) -> list[Report]:
    """Fuzz a server that is started here, with this many requests or until there are so many faults."""
    with a_world(server) as world:
        person = tireless(world)
        known = server.credentials
        operator = {
            name: known[name] for name in ("client_id", "client_secret", "realm_id", "username", "password")
        }
        account = Account(server.url, person.realm_id, person.credentials(), operator)
        before = set(worker_pids(server))
        orders = [Order(account, count // PROCESSES, SEED, part, faults_max) for part in range(PROCESSES)]
        with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
            reports = list(pool.map(run, orders))
        assert server.process is not None
        assert server.process.poll() is None
        after = set(worker_pids(server))
    reports[0].faults += [f"workers were replaced: {before} {after}"] * (before != after)
    reports[0].faults += [f"the log has: {line[:2000]}" for line in complaints(server)]
    return reports


def complaints(server: Server) -> Iterator[str]:
    """Lines of the log that no request may bring about."""
    for line in server.log.read_text().splitlines():
        try:
            known = json.loads(line)
        except ValueError:
            yield line
            continue
        if known["level"] in {"error", "critical"} or "exception" in known:
            yield line


def total(reports: list[Report], name: str) -> Counter:
    return sum((getattr(report, name) for report in reports), Counter())


@pytest.mark.acceptance
def test_no_spoiled_request_brings_about_a_fault(tmp_path: Path) -> None:
    count = volume(REQUESTS, share=0.008)
    reports = attack(Server(tmp_path, workers=2), count)
    rate = sum(report.sent / report.seconds for report in reports)
    print(f"{rate:.0f}/s, silent {sum(r.silent for r in reports)}, slow once {total(reports, 'slow')}")
    print(total(reports, "statuses"), total(reports, "codes"), total(reports, "accepted"), sep="\n")
    assert [fault for report in reports for fault in report.faults] == []
    assert sum(report.sent for report in reports) >= count // PROCESSES * PROCESSES
    # Requests of which none is accepted, or none refused, would have spoiled nothing.
    names = {endpoint.name for endpoint in ENDPOINTS}
    assert set(total(reports, "accepted")) >= names
    assert set(total(reports, "refused")) >= names


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_on_some_input_is_found(tmp_path: Path, fault: str) -> None:
    server = Server(tmp_path, workers=2, environment=broken(tmp_path, fault))
    reports = attack(server, ENOUGH_TO_FIND, faults_max=1)
    assert any(report.faults for report in reports)
