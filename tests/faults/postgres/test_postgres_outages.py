"""PostgreSQL dies, stands still, throws everybody out, is full, or takes no more writes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.faults.postgres.conftest import (
    BACK_SECONDS,
    Node,
    faulty_answers,
    standing_still,
    survive,
)
from tests.support.customers import ENCRYPT, KEYS, TOKEN
from tests.support.fault_load import ANSWER_SECONDS
from tests.support.load import Chance, Reply, Wire, burst, post
from tests.support.processes import eventually
from tests.support.volume import volume

OURS = "FROM pg_stat_activity WHERE datname = %s"
COUNT = f"SELECT count(*) {OURS}"
THROW_OUT = f"SELECT count(pg_terminate_backend(pid)) {OURS}"
Fault = Callable[[Node, float], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def dead(node: Node, seconds: float) -> Iterator[None]:
    node.cluster.crash()
    try:
        yield
        time.sleep(seconds)
    finally:
        node.cluster.start()


@contextlib.contextmanager
def frozen(node: Node, seconds: float) -> Iterator[None]:
    with standing_still(node.cluster):
        yield
        # Sooner, the standstill is a slow answer.
        time.sleep(seconds and seconds + ANSWER_SECONDS)


@contextlib.contextmanager
def full(node: Node, seconds: float) -> Iterator[None]:
    """Strangers hold every connection; ours are ended, and none is left to take their place."""
    place = node.cluster.url("postgres")
    with contextlib.ExitStack() as held:
        operator = held.enter_context(psycopg.connect(place, autocommit=True))

        def ours_are_gone() -> bool:
            operator.execute(THROW_OUT, (node.database,))
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    held.enter_context(psycopg.connect(place))
            return operator.execute(COUNT, (node.database,)).fetchone() == (0,)

        eventually(ours_are_gone, seconds=20)
        yield
        time.sleep(seconds)


@contextlib.contextmanager
def read_only(node: Node, seconds: float) -> Iterator[None]:
    """As a primary that was demoted; there is no other one here."""
    node.cluster.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    node.cluster.execute("SELECT pg_reload_conf()")
    try:
        yield
        time.sleep(seconds)
    finally:
        node.cluster.execute("ALTER SYSTEM RESET default_transaction_read_only")
        node.cluster.execute("SELECT pg_reload_conf()")


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("fault", "full_count", "share"),
    [(dead, 20, 0.05), (frozen, 20, 0.05), (full, 10, 0.1), (read_only, 10, 0.1)],
    ids=["dead", "frozen", "full", "read only"],
)
def test_a_fault_of_the_database_is_told_and_forgotten(
    node: Node, fault: Fault, full_count: int, share: float
) -> None:
    chance = Chance().source("outages")
    for _ in range(volume(full_count, share=share)):
        seconds = chance.uniform(0.3, volume(5, share=0.4))
        assert survive(node, fault(node, seconds)) == []


@pytest.mark.acceptance
def test_everybody_thrown_out_again_and_again(node: Node) -> None:
    with node.watch() as watch:
        with watch.during("fault"):
            for _ in range(volume(200, share=0.05)):
                node.cluster.execute(
                    f"SELECT count(pg_terminate_backend(pid)) {OURS}".replace("%s", f"'{node.database}'")
                )
                time.sleep(0.1)
        watch.recovers(BACK_SECONDS)
    assert faulty_answers(watch) == []


@pytest.mark.parametrize("fault", [dead, frozen, read_only], ids=lambda fault: fault.__name__)
def test_what_needs_no_storage_goes_on(node: Node, fault: Fault) -> None:
    with contextlib.closing(Wire(node.server.url)) as wire, fault(node, 0.0):
        for path in ("/health", "/", "/v1/openapi.json"):
            begun = time.monotonic()
            assert wire.get(path).status == 200, path
            assert time.monotonic() - begun < ANSWER_SECONDS
        eventually(lambda: wire.get("/ready").status == 503, seconds=5)
        begun = time.monotonic()
        ready = wire.get("/ready")
        assert (ready.status, set(ready.body["checks"])) == (503, {"storage"})
        assert time.monotonic() - begun < ANSWER_SECONDS
        wire.token = None
        login = wire.post(TOKEN, node.person.credentials())
        assert login.short == (503, "storage_unavailable")
        assert "retry-after" in login.headers
    with contextlib.closing(Wire(node.server.url)) as wire:
        eventually(lambda: wire.get("/ready").status == 200, seconds=BACK_SECONDS)


@pytest.mark.parametrize("fault", [dead, frozen], ids=lambda fault: fault.__name__)
def test_nothing_is_decided_while_the_database_is_away(node: Node, fault: Fault) -> None:
    node.person.pair = node.person.login_after_a_fault()
    assert {reply.short for reply in ask_without(node, fault)} == {(503, "storage_unavailable")}


def ask_without(node: Node, fault: Fault) -> list[Reply]:
    """Answers that what the worker holds in memory would be enough for."""
    with contextlib.closing(Wire(node.server.url, node.person.access_token)) as wire:
        warm = post(ENCRYPT, {"key_id": wire.done(KEYS, {})["key_id"], "input": "warm"})
        for _ in range(2):
            wire.done(*warm[1:])
        with fault(node, 0.0):
            return burst([wire], warm) + burst([wire], warm)


# Each of these servers breaks promises, and is found out.


def test_a_server_that_waits_for_its_database_is_found_out(trusting: Node) -> None:
    findings = survive(trusting, frozen(trusting, 0.5))
    assert any(finding.startswith("late") for finding in findings), findings


def test_a_server_that_decides_from_memory_is_found_out(careless: Node) -> None:
    assert (200, None) in {reply.short for reply in ask_without(careless, dead)}


def test_an_answer_before_the_commit_is_found_out(trusting: Node) -> None:
    findings = survive(trusting, dead(trusting, 0.1))
    assert any(finding.startswith("lost") for finding in findings), findings
