"""Processes of a server stand still or are gone: the others go on, and none outlives its supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.faults.conftest import NEIGHBORS, Faulty, alive, judge
from tests.faults.test_failing_disk import ALL_BUT_WRITES, DATABASE, UNDONE
from tests.support.disk_faults import UNTIL_IT_ENDS, Rule
from tests.support.fault_load import ANSWER_SECONDS, KEYS, Watch
from tests.support.load import Wire, spread, stopped, worker_pids
from tests.support.processes import eventually
from tests.support.volume import volume

EVERYTHING = ALL_BUT_WRITES | {"create"}


def kept_waiting(watch: Watch, fault: str) -> set[str]:
    """The clients that had no answer while the fault lasted: those of a worker that stands still."""
    span = watch.spans[fault]
    answered = {
        answer.client
        for answer in watch.answers
        if span.began < answer.sent and answer.sent + answer.took < span.ended
    }
    return {answer.client for answer in watch.answers} - answered


def answers_before_the_end(wire: Wire) -> Iterator[int]:
    """What still came over a connection that broke."""
    with contextlib.suppress(ConnectionError):
        while True:
            yield wire.receive().status


def of(watch: Watch, clients: set[str]) -> None:
    """Forget what the others saw."""
    watch.answers[:] = [answer for answer in watch.answers if answer.client in clients]


@NEIGHBORS
@pytest.mark.acceptance
def test_a_worker_that_stands_still_keeps_its_own_clients_waiting_alone(faulty: Faulty) -> None:
    for _ in range(volume(20)):
        with Watch(faulty.server, faulty.person, wires=6) as watch:
            time.sleep(0.3)
            with stopped(worker_pids(faulty.server)[0]), watch.during("stopped"):
                time.sleep(1.5)
            watch.recovers()
        waited = kept_waiting(watch, "stopped")
        everyone = {answer.client for answer in watch.answers}
        assert waited
        assert waited < everyone
        # It may stand still in the middle of a write: then others cannot write, and are told so in time.
        assert {answer.status for answer in watch.answers} <= {200, 503}
        assert watch.lost_or_half_done() == []
        of(watch, everyone - waited)
        judge(watch, unaffected=ALL_BUT_WRITES)


@NEIGHBORS
def test_a_supervisor_that_stands_still_is_not_missed(faulty: Faulty) -> None:
    assert faulty.server.process is not None
    with Watch(faulty.server, faulty.person) as watch:
        with watch.during("stopped"), stopped(faulty.server.process.pid):
            time.sleep(1.2)
        watch.recovers()
    judge(watch, unaffected=EVERYTHING)


@NEIGHBORS
def test_a_worker_killed_amid_a_commit_frees_the_others(faulty: Faulty) -> None:
    with (
        spread(faulty.server, faulty.person.access_token) as (held, free, *_),
        Watch(faulty.server, faulty.person) as watch,
    ):
        rule = Rule("sync", DATABASE, wait_ms=UNTIL_IT_ENDS, process=held.worker)
        time.sleep(0.2)
        with watch.during("held"), faulty.disk.failing(rule):
            held.send("POST", KEYS, {})
            eventually(lambda: free.post(KEYS, {}).code == UNDONE)
            os.kill(held.worker, signal.SIGKILL)
            killed = time.monotonic()
            eventually(lambda: free.post(KEYS, {}).status == 200)
            assert time.monotonic() - killed < ANSWER_SECONDS
        watch.recovers()
        eventually(lambda: len({*worker_pids(faulty.server)} - {held.worker}) == faulty.server.workers)
        # Its clients lost their connection, and nothing else.
        assert set(answers_before_the_end(held)) <= {503}
    watch.answers[:] = [answer for answer in watch.answers if answer.status]
    judge(watch, unaffected=ALL_BUT_WRITES)


@NEIGHBORS
@pytest.mark.acceptance
@pytest.mark.parametrize("still", ["a worker", "the supervisor", "nobody"][: volume(3, share=0.4)])
def test_nobody_outlives_a_killed_supervisor(faulty: Faulty, still: str) -> None:
    server = faulty.server
    assert server.process is not None
    workers = worker_pids(server)
    address = server.url.removeprefix("http://")
    standing = {"nobody": None, "a worker": workers[0], "the supervisor": server.process.pid}[still]
    if standing is not None:
        os.kill(standing, signal.SIGSTOP)
    server.kill()
    eventually(lambda: not any(alive(pid) for pid in workers), seconds=ANSWER_SECONDS)
    server.start(address)
    with Watch(server, faulty.person) as watch:
        watch.recovers()
    judge(watch, unaffected=EVERYTHING)
