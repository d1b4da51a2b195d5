"""What a worker takes on: turns of the loop, memory of bodies, clients who do not read."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import pytest

from qimem.errors import Unavailable
from qimem.kernel import limits
from qimem.observability.metrics import Metric
from qimem.web.admin import AdminApp
from qimem.web.kit import admission
from qimem.web.kit.admission import Admission, Body, admission_of

pytestmark = pytest.mark.anyio

SHORT, LONG = limits.TURN_SECONDS / 2, limits.TURN_SECONDS * 1.5


class FakeCounts:
    def __init__(self) -> None:
        self.found: Counter[tuple[str, str]] = Counter()

    def count(self, metric: Metric, reason: str = "", more: int = 1) -> None:
        self.found[metric.name, reason] += more


class FakePeer:
    def __init__(self) -> None:
        self.is_cut = False

    def cut(self) -> None:
        self.is_cut = True


class Worker:
    """An admission on a clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts = FakeCounts()
        self.now, self.used = 100.0, 5.0
        monkeypatch.setattr(admission, "monotonic", lambda: self.now)
        monkeypatch.setattr(admission, "thread_time", lambda: self.used)
        self.admission = Admission(self.counts)

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.used += seconds

    def admits(self) -> bool:
        return self.admission.admits(self.now)

    async def long_turn(self) -> None:
        """One that takes too long."""
        self.admits()
        self.work(LONG)
        await turn()


async def turn() -> None:
    """Let the loop turn once."""
    await asyncio.sleep(0)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(monkeypatch)


async def test_a_single_long_turn_refuses_nobody(worker: Worker) -> None:
    assert worker.admits()
    worker.work(10)
    assert worker.admits()


async def test_in_a_second_long_turn_whoever_is_met_after_its_share_is_refused(worker: Worker) -> None:
    await worker.long_turn()
    assert worker.admits()
    worker.work(SHORT)
    assert worker.admits()
    worker.work(LONG)
    assert not worker.admits()
    await turn()
    assert worker.admits()


async def test_a_pause_without_work_refuses_nobody(worker: Worker) -> None:
    for _ in range(3):
        assert worker.admits()
        worker.now += 10
        assert worker.admits()
        await turn()


async def test_after_a_short_turn_a_long_one_is_the_first_again(worker: Worker) -> None:
    await worker.long_turn()
    worker.admits()
    worker.work(SHORT)
    await turn()
    await turn()
    assert worker.admits()
    worker.work(10)
    assert worker.admits()


@pytest.mark.parametrize("length", [SHORT / 10, SHORT])
async def test_what_the_thread_did_between_turns_makes_none_of_them_long(
    worker: Worker, length: float
) -> None:
    assert worker.admits()
    await turn()
    # Nothing is asked for a while, but a job of the background is done now and then.
    worker.work(10)
    assert worker.admits()
    worker.work(length)
    await turn()
    await turn()
    assert worker.admits()
    worker.work(LONG)
    assert worker.admits()


async def test_what_is_left_to_be_done_for_others_counts_as_part_of_the_turn(worker: Worker) -> None:
    await worker.long_turn()
    # Nothing was asked yet; answers of the turn before were being written.
    worker.work(LONG)
    assert not worker.admits()


async def test_an_idle_worker_watches_nothing(worker: Worker) -> None:
    worker.admits()
    await turn()
    assert worker.admission._began == 0.0


async def test_a_refusal_says_when_to_come_back_and_is_counted(worker: Worker) -> None:
    refusal = worker.admission.refusal()
    assert (refusal.code, refusal.retry_after_seconds) == ("overloaded", 2)
    assert worker.counts.found == {("qimem_overload_refused_total", "turn"): 1}


async def test_those_who_were_refused_together_come_back_apart_and_within_what_they_were_told(
    worker: Worker,
) -> None:
    rests = sorted(worker.admission.rest_seconds() for _ in range(100))
    assert limits.REST_SECONDS / 2 <= rests[0]
    assert rests[-1] <= limits.REST_SECONDS
    gaps = [after - before for before, after in pairwise(rests)]
    assert max(gaps) < 3 * limits.REST_SECONDS / 2 / len(rests)


async def test_bodies_are_promised_memory_or_refused(worker: Worker) -> None:
    half = limits.BODIES_BYTES_MAX // 2
    worker.admission.keep_body(Body.KNOWN, half)
    worker.admission.keep_body(Body.KNOWN, half)
    with pytest.raises(Unavailable, match="too many"):
        worker.admission.keep_body(Body.KNOWN, 1)
    worker.admission.drop_body(Body.KNOWN, half)
    worker.admission.keep_body(Body.KNOWN, half)
    assert worker.counts.found == {("qimem_overload_refused_total", "bodies"): 1}


async def test_strangers_do_not_take_the_memory_of_those_who_are_known(worker: Worker) -> None:
    worker.admission.keep_body(Body.ANONYMOUS, limits.BODIES_ANONYMOUS_BYTES_MAX)
    with pytest.raises(Unavailable):
        worker.admission.keep_body(Body.ANONYMOUS, 1)
    worker.admission.keep_body(Body.KNOWN, limits.BODIES_BYTES_MAX)


async def test_a_turn_serves_one_large_body_whatever_its_size_and_the_next_one_waits(worker: Worker) -> None:
    sizes = 2 * limits.LARGE_BYTES_PER_TURN, limits.LARGE_BODY_BYTES
    first, second = (asyncio.create_task(worker.admission.begin_large(size)) for size in sizes)
    await turn()
    assert (first.done(), second.done()) == (True, False)
    await asyncio.wait_for(second, 1)


async def test_a_turn_serves_as_many_large_bodies_as_fit(worker: Worker) -> None:
    quarter = limits.LARGE_BYTES_PER_TURN // 4
    served: list[int] = []

    async def serve(number: int) -> None:
        await worker.admission.begin_large(quarter)
        served.append(number)

    tasks = [asyncio.create_task(serve(number)) for number in range(10)]
    seen = []
    while len(served) < 10:
        await turn()
        seen.append(len(served))
    assert served == list(range(10))
    assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) == 4
    await asyncio.gather(*tasks)


async def test_too_many_large_bodies_are_refused_and_one_who_left_holds_up_nobody(worker: Worker) -> None:
    size = limits.LARGE_BYTES_PER_TURN
    begun, gone, *waiting, blocked = (
        asyncio.create_task(worker.admission.begin_large(size)) for _ in range(limits.LARGE_BODIES_MAX + 2)
    )
    await turn()
    gone.cancel()
    with pytest.raises(Unavailable):
        await blocked
    await asyncio.gather(begun, *waiting)
    await worker.admission.begin_large(size)


async def test_a_large_body_does_not_make_those_behind_it_refused(worker: Worker) -> None:
    await worker.long_turn()
    await worker.admission.begin_large(limits.LARGE_BYTES_PER_TURN)
    worker.work(LONG)
    assert worker.admits()


async def test_who_has_not_read_for_longest_is_cut_when_too_much_is_unread(worker: Worker) -> None:
    peers = [FakePeer() for _ in range(3)]
    third = limits.UNREAD_BYTES_MAX // 3
    for peer in peers:
        worker.admission.unread(peer, third)
    # The first has read, and fallen behind again.
    worker.admission.taken(peers[0])
    worker.admission.unread(peers[0], third)
    late = FakePeer()
    worker.admission.unread(late, third)
    assert [peer.is_cut for peer in [*peers, late]] == [False, True, False, False]
    assert worker.counts.found == {("qimem_overload_connections_closed_total", "unread"): 1}


async def test_a_single_client_may_be_owed_more_than_all_together(worker: Worker) -> None:
    peer = FakePeer()
    worker.admission.unread(peer, 2 * limits.UNREAD_BYTES_MAX)
    assert not peer.is_cut


async def test_only_so_many_requests_wait_behind_others(worker: Worker) -> None:
    assert all(worker.admission.pipeline() for _ in range(limits.PIPELINED_MAX))
    assert not worker.admission.pipeline()
    worker.admission.unpipeline(2)
    assert worker.admission.pipeline()
    assert not worker.admission.pipeline()


async def test_what_one_client_does_not_read_counts_once(worker: Worker) -> None:
    peer, other = FakePeer(), FakePeer()
    for _ in range(3):
        worker.admission.unread(peer, limits.UNREAD_BYTES_MAX // 2)
    worker.admission.unread(other, limits.UNREAD_BYTES_MAX // 2)
    assert (peer.is_cut, other.is_cut) == (False, False)


async def test_all_connections_of_the_admin_listener_have_one_bound() -> None:
    app = AdminApp(bytes, None)  # type: ignore[arg-type]
    assert admission_of(app) is admission_of(app)
