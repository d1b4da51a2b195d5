from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from qimem.coordination import window_table
from qimem.coordination.window_table import WindowTable, shared_windows
from qimem.kernel.clock import ManualClock, SystemClock
from qimem.kernel.metering import UNITS_MAX, Allowance, Charge

THREE = Allowance(3, 60)
START = 1_800_000_000


def client(number: int, tail: int = 0) -> bytes:
    """A client's bucket in the set that `tail` names."""
    return b"c" + number.to_bytes(11, "big") + tail.to_bytes(4, "big")


def address(number: int, tail: int = 0) -> bytes:
    return b"a" + number.to_bytes(11, "big") + tail.to_bytes(4, "big")


A, B = client(1), client(2)


@pytest.fixture
def clock() -> ManualClock:
    clock = ManualClock(START * 1_000_000)
    clock.monotonic = 1_000.0
    return clock


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = shared_windows()
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=["alone", "shared"])
def table(request: pytest.FixtureRequest, clock: ManualClock, memory: int) -> WindowTable:
    return WindowTable(clock, None if request.param == "alone" else memory, 2)


def test_a_limit_of_three_admits_three(table: WindowTable) -> None:
    reset = START + 60
    admitted = [Charge(True, 3, left, reset, 0) for left in (2, 1, 0)]
    assert [table.charge(A, 1, THREE) for _ in range(5)] == [*admitted, *[Charge(False, 3, 0, reset, 60)] * 2]


def test_buckets_are_counted_apart_also_in_one_set(table: WindowTable) -> None:
    for _ in range(3):
        table.charge(A, 1, THREE)
    assert table.charge(B, 1, THREE).remaining == 2
    assert not table.charge(A, 1, THREE).admitted


def test_a_refusal_is_not_charged_and_moves_nothing(table: WindowTable, clock: ManualClock) -> None:
    table.charge(A, 2, THREE)
    clock.advance(10)
    for _ in range(5):
        assert table.charge(A, 2, THREE) == Charge(False, 3, 0, START + 60, 50)
    assert table.charge(A, 1, THREE) == Charge(True, 3, 0, START + 60, 0)


def test_several_units_are_taken_all_or_none_and_given_back(table: WindowTable) -> None:
    assert table.charge(A, 3, THREE).remaining == 0
    assert table.charge(A, -1, THREE).remaining == 1
    assert table.charge(A, 1, THREE).admitted
    assert not table.charge(A, 1, THREE).admitted
    assert table.charge(A, -9, THREE).remaining == 3
    assert not table.charge(B, 4, THREE).admitted
    assert table.charge(B, 3, THREE).admitted


def test_a_window_ends_by_the_monotonic_clock_alone(table: WindowTable, clock: ManualClock) -> None:
    table.charge(A, 3, THREE)
    clock.wall_us += 86_400_000_000
    assert not table.charge(A, 1, THREE).admitted
    clock.wall_us -= 2 * 86_400_000_000
    assert not table.charge(A, 1, THREE).admitted
    clock.monotonic += 59.9
    assert not table.charge(A, 1, THREE).admitted
    clock.monotonic += 0.1
    assert table.charge(A, 1, THREE).remaining == 2


def test_nobody_is_sent_away_for_longer_than_the_window(table: WindowTable, clock: ManualClock) -> None:
    table.charge(A, 3, THREE)
    clock.wall_us -= 86_400_000_000
    assert table.charge(A, 1, THREE).retry_after_seconds == 61
    clock.wall_us += 2 * 86_400_000_000
    assert table.charge(A, 1, THREE).retry_after_seconds == 1


def test_the_end_is_rounded_up_and_later_than_now(table: WindowTable, clock: ManualClock) -> None:
    clock.wall_us += 1
    assert table.charge(A, 1, THREE).reset == START + 61
    clock.advance(59.9)
    assert table.charge(A, 1, THREE).reset == START + 61
    clock.advance(0.2)
    assert table.charge(A, 1, THREE).reset == START + 121


def test_another_limit_counts_from_the_next_charge_on(table: WindowTable, clock: ManualClock) -> None:
    table.charge(A, 3, THREE)
    assert table.charge(A, 1, Allowance(10, 3_600)) == Charge(True, 10, 6, START + 60, 0)
    assert table.charge(A, 1, THREE) == Charge(False, 3, 0, START + 60, 60)
    clock.advance(60)
    assert table.charge(A, 1, Allowance(10, 3_600)).reset == START + 60 + 3_600


def test_what_is_unlimited_counts_down_like_any_other(table: WindowTable) -> None:
    without = Allowance(UNITS_MAX, 60)
    assert [table.charge(A, 1, without).remaining for _ in range(2)] == [2_147_483_646, 2_147_483_645]


def test_a_full_set_gives_up_who_has_used_least_and_no_client_for_an_address(table: WindowTable) -> None:
    ten = Allowance(10, 60)
    for number in range(8):
        table.charge(address(number), 1 + number, ten)
    table.charge(client(1), 1, ten)
    # Address 0 had used one unit, and begins anew; the others still know what they did.
    assert table.charge(address(7), 1, ten).remaining == 1
    for number in range(2, 9):
        table.charge(client(number), 1, ten)
    assert table.charge(client(1), 1, ten).remaining == 8
    # All eight places are clients' now: an address has its own count, and its share of the limit.
    alone = [table.charge(address(99), 1, ten).admitted for _ in range(11)]
    assert alone == [True] * 5 + [False] * 6
    assert table.charge(client(2), 1, ten).remaining == 8


@pytest.mark.parametrize("kind", [address, client])
def test_two_that_displace_each_other_have_no_more_than_one(
    table: WindowTable, kind: Callable[[int], bytes]
) -> None:
    ten = Allowance(10, 60)
    for number in range(7):
        table.charge(kind(number), 10, ten)
    admitted = [table.charge(kind(100 + number % 2), 1, ten).admitted for number in range(100)]
    assert sum(admitted) <= 10


def test_a_place_whose_window_has_ended_is_taken_first(table: WindowTable, clock: ManualClock) -> None:
    for number in range(8):
        table.charge(client(number), 3, Allowance(3, 10 if number == 5 else 60))
    clock.advance(10)
    table.charge(client(100), 1, THREE)
    for number in (0, 1, 2, 3, 4, 6, 7):
        assert not table.charge(client(number), 1, THREE).admitted


def test_buckets_of_more_sets_than_are_remembered_keep_their_counts(
    table: WindowTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_table, "REMEMBERED_BUCKETS_MAX", 4)
    for _ in range(2):
        for number in range(20):
            table.charge(client(number, number), 1, THREE)
    assert {table.charge(client(number, number), 1, THREE).remaining for number in range(20)} == {0}
    assert len(table._places) <= 4


# --- several processes -------------------------------------------------------------------------

_COUNT = """
import sys, time
from qimem.coordination.window_table import WindowTable
from qimem.kernel.clock import SystemClock
from qimem.kernel.metering import Allowance
table = WindowTable(SystemClock(), int(sys.argv[1]), 4)
print("ready", flush=True)
for line in sys.stdin:
    bucket, count, limit = line.split()
    charges = [table.charge(bytes.fromhex(bucket), 1, Allowance(int(limit), 600)) for _ in range(int(count))]
    told = {charge.reset for charge in charges}
    left = [charge.remaining for charge in charges if charge.admitted]
    print(len(left), *told, *left, sep=",", flush=True)
"""


class Workers:
    """Processes that count in one table."""

    def __init__(self, memory: int, count: int) -> None:
        command = [sys.executable, "-c", _COUNT, str(memory)]
        self.all = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(memory,)
            )
            for _ in range(count)
        ]
        for worker in self.all:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"

    def ask(self, bucket: bytes, count: int, limit: int) -> None:
        for worker in self.all:
            assert worker.stdin is not None
            worker.stdin.write(f"{bucket.hex()} {count} {limit}\n")
            worker.stdin.flush()

    def answers(self) -> list[list[int]]:
        """Of each: how many were admitted, every end that was told, and what was left each time."""
        lines = [worker.stdout.readline() for worker in self.all if worker.stdout is not None]
        return [[int(part) for part in line.split(",")] for line in lines]

    def end(self) -> None:
        for worker in self.all:
            worker.kill()
            worker.communicate()


@pytest.fixture
def workers(memory: int) -> Iterator[Workers]:
    workers = Workers(memory, 4)
    yield workers
    workers.end()


def test_four_processes_at_once_admit_exactly_the_limit(workers: Workers) -> None:
    for number in range(10):
        workers.ask(client(number, number), 400, 1_000)
        answers = workers.answers()
        assert sum(admitted for admitted, *_ in answers) == 1_000
        assert len({reset for _, reset, *_ in answers}) == 1
        # Each unit was told to one of them, so none was given twice.
        left = sorted(units for _, _, *units in answers for units in units)
        assert left == list(range(1_000))


def test_without_the_lock_they_would_admit_more(
    memory: int, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what the test above would see."""
    workers.end()
    broken = "WindowTable._try_lock = lambda self, number: True\nprint('ready', flush=True)"
    monkeypatch.setattr(f"{__name__}._COUNT", _COUNT.replace('print("ready", flush=True)', broken, 1))
    unguarded = Workers(memory, 4)
    try:
        for number in range(10, 60):
            unguarded.ask(client(number, number), 2_000, 4_000)
            admitted = sum(count for count, *_ in unguarded.answers())
            if admitted > 4_000:
                return
        pytest.fail("four processes without a lock never met")
    finally:
        unguarded.end()


def _holder(memory: int, number: int) -> subprocess.Popen[str]:
    """A process that holds the lock of a set, and does nothing."""
    hold = "import fcntl, sys, time\nfcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX, 1, int(sys.argv[2]))\nprint(flush=True)\ntime.sleep(60)"
    command = [sys.executable, "-c", hold, str(memory), str(number)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=(memory,))
    assert holder.stdout is not None
    holder.stdout.readline()
    return holder


@pytest.fixture
def held(memory: int) -> Iterator[subprocess.Popen[str]]:
    holder = _holder(memory, 0)
    yield holder
    holder.kill()
    holder.communicate()


def test_a_holder_that_stands_still_costs_the_others_little_time_and_no_limit(
    memory: int, held: subprocess.Popen[str]
) -> None:
    table = WindowTable(SystemClock(), memory, 4)
    held.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    admitted = [table.charge(A, 1, Allowance(100, 60)).admitted for _ in range(100)]
    # A stopped holder is not waited for; one that runs is, for 0.1 s, and a hundred times that were ten seconds.
    assert time.monotonic() - began < 0.5
    # Its share: four workers that all count alone stay below the limit together.
    assert admitted == [True] * 25 + [False] * 75
    held.kill()
    held.wait()
    # What was admitted meanwhile counts.
    assert table.charge(A, 1, Allowance(100, 60)).remaining == 74


def test_others_are_not_waited_for_twice_in_a_row(memory: int, held: subprocess.Popen[str]) -> None:
    table = WindowTable(SystemClock(), memory, 4)
    table.charge(A, 1, THREE)
    began = time.monotonic()
    for _ in range(20):
        table.charge(A, 1, THREE)
    assert time.monotonic() - began < 0.005


def test_one_that_merely_lost_its_processor_is_waited_for(memory: int) -> None:
    """It sleeps here for a moment, and gives the lock back."""
    table = WindowTable(SystemClock(), memory, 4)
    hold = (
        "import fcntl, sys, time\nfcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX, 1, 0)\n"
        "print(flush=True)\ntime.sleep(0.02)\nfcntl.lockf(int(sys.argv[1]), fcntl.LOCK_UN, 1, 0)\ntime.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(memory)], stdout=subprocess.PIPE, pass_fds=(memory,)
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert table.charge(A, 1, THREE).remaining == 2
        assert table._alone == {}
    finally:
        holder.kill()
        holder.communicate()


def test_one_that_cannot_be_looked_at_is_not_waited_for_long(
    memory: int, held: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(_: object) -> str:
        raise PermissionError

    monkeypatch.setattr(window_table.Path, "read_text", hidden)
    table = WindowTable(SystemClock(), memory, 1)
    began = time.monotonic()
    assert table.charge(A, 1, THREE).admitted
    assert time.monotonic() - began < 0.05


def test_waiting_in_vain_is_done_ever_more_seldom(
    memory: int, held: subprocess.Popen[str], clock: ManualClock
) -> None:
    table = WindowTable(clock, memory, 4)
    monotonic = clock.monotonic_seconds
    # The clock of the table stands still but for its own looks at it.
    table._now = lambda: clock.advance(0.011) or monotonic()  # type: ignore[assignment, func-returns-value]
    pauses = []
    for _ in range(6):
        assert not table._waited_for(0)
        until, pause = table._stuck[0]
        pauses.append(pause)
        clock.advance(until - clock.monotonic)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0]
    clock.advance(10)
    assert not table._waited_for(0)
    assert table._stuck[0][1] == 0.25


def test_what_was_admitted_alone_is_forgotten_with_its_window(table: WindowTable, clock: ManualClock) -> None:
    for number in range(8):
        table.charge(client(number), 1, Allowance(3, 600))
    table.charge(address(1), 1, THREE)
    assert list(table._alone) == [address(1)]
    clock.advance(60)
    table.charge(client(1), 1, THREE)
    assert table._alone == {}


def test_a_holder_that_dies_leaves_the_lock(memory: int, held: subprocess.Popen[str]) -> None:
    table = WindowTable(SystemClock(), memory, 4)
    held.kill()
    held.wait()
    assert [table.charge(A, 1, THREE).remaining for _ in range(3)] == [2, 1, 0]


def test_what_was_counted_before_the_lock_was_held_limits_who_counts_alone(memory: int) -> None:
    table = WindowTable(SystemClock(), memory, 2)
    ten = Allowance(10, 60)
    reset = {table.charge(A, 1, ten).reset for _ in range(6)}
    holder = _holder(memory, 0)
    try:
        charges = [table.charge(A, 1, ten) for _ in range(4)]
    finally:
        holder.kill()
        holder.communicate()
    assert [charge.admitted for charge in charges] == [True, True, False, False]
    assert {charge.reset for charge in charges} == reset
    assert table.charge(A, 1, ten).remaining == 1


def test_who_counts_alone_for_too_many_refuses(
    memory: int, held: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_table, "COUNTS_ALONE_MAX", 3)
    table = WindowTable(SystemClock(), memory, 1)
    admitted = [table.charge(client(number), 1, THREE).admitted for number in range(5)]
    assert admitted == [True, True, True, False, False]
    assert table.charge(client(0), 1, THREE).admitted


def test_the_locks_of_other_sets_are_free(memory: int, held: subprocess.Popen[str]) -> None:
    table = WindowTable(SystemClock(), memory, 4)
    assert [table.charge(client(1, 1), 1, THREE).admitted for _ in range(4)] == [True, True, True, False]
    # And given back: another process can take it.
    probe = "import fcntl, sys\nfcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1)"
    done = subprocess.run([sys.executable, "-c", probe, str(memory)], pass_fds=(memory,), check=False)
    assert done.returncode == 0
