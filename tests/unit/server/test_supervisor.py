"""The supervisor, with real processes around the smallest application."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil
import pytest
import structlog

from qimem.config.schema import Settings
from qimem.kernel.secret import SecretBytes
from qimem.server.forked import Forked
from qimem.server.order import Order
from qimem.server.supervisor import Supervisor
from tests.support import tiny_worker
from tests.support.processes import alive, eventually, get

KEY = hashlib.sha256(b"a root key for these tests").digest()
ROOT = Path(__file__).parents[3]


@dataclass
class Tiny:
    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def answering(self) -> dict[str, object]:
        return json.loads(get(self.url))

    def serving(self) -> set[int]:
        """Which workers answer, asked often enough for the kernel to have tried each."""
        return {int(self.answering()["pid"]) for _ in range(40)}


@contextmanager
def tiny(
    tmp_path: Path, workers: int = 2, silence: float = 10, origin: str = "https://a.example"
) -> Iterator[Tiny]:
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.tiny_server", str(workers), str(silence), origin],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT,
            env=os.environ | {"QIMEM_X": "1", "DATABASE_URL": "postgresql://u:hunter2@h/d"},
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(KEY.hex())
    process.stdin.close()
    line = process.stdout.readline()
    server = Tiny(process, line.removeprefix("ready ").strip(), log)
    try:
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        process.stdout.close()


def test_ready_is_said_when_every_worker_serves(tmp_path: Path) -> None:
    with tiny(tmp_path, workers=3) as server:
        assert server.serving() == server.workers
        assert len(server.workers) == 3


def test_workers_are_told_key_and_address_through_the_pipe_alone(tmp_path: Path) -> None:
    with tiny(tmp_path) as server:
        before = server.workers
        told = server.answering()
        assert told["key"] == hashlib.sha256(KEY).hexdigest()
        assert told["address"] == server.url
        for pid in (server.process.pid, *server.workers):
            for place in ("environ", "cmdline"):
                content = Path(f"/proc/{pid}/{place}").read_bytes()
                for spelling in (KEY, KEY.hex().encode(), KEY.hex().upper().encode()):
                    assert spelling not in content
        # One that was forked has the memory of its parent; what it starts, and one that replaces it, has not.
        assert told["environment"] == []
        os.kill(int(told["pid"]), signal.SIGKILL)
        eventually(lambda: len(server.serving() - {told["pid"]}) == 2)
        (later,) = server.workers - before
        assert b"hunter2" not in Path(f"/proc/{later}/environ").read_bytes()


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    with tiny(tmp_path) as server:
        before = server.workers
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(server.workers - {victim}) == 2)
        eventually(lambda: len(server.serving()) == 2)
        assert victim not in server.workers
        assert "worker died" in server.log.read_text()


@pytest.mark.parametrize("how", ["stopped", "blocked loop"])
def test_a_hung_worker_is_killed_and_replaced(tmp_path: Path, how: str) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(tiny(tmp_path, silence=2.5))
        before = server.workers
        stuck: Callable[[], set[int]]
        if how == "stopped":
            victim = min(before)
            os.kill(victim, signal.SIGSTOP)
            stuck = lambda: {victim} & server.workers  # noqa: E731
        else:
            host, port = server.url.removeprefix("http://").split(":")
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
            stuck = lambda: set() if len(server.workers - before) == 1 else before  # noqa: E731
        eventually(lambda: not stuck(), seconds=15)
        eventually(lambda: len(server.serving()) == 2)
        assert "worker hangs" in server.log.read_text()


def test_a_worker_that_only_works_is_left_alone(tmp_path: Path) -> None:
    with tiny(tmp_path, silence=2.5) as server:
        before = server.workers
        until = time.monotonic() + 4
        while time.monotonic() < until:
            server.answering()
        assert server.workers == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_zero(tmp_path: Path, number: signal.Signals) -> None:
    with tiny(tmp_path) as server:
        workers = server.workers
        # Ctrl-C goes to every process of the terminal, not to the supervisor alone.
        for pid in workers if number is signal.SIGINT else ():
            os.kill(pid, number)
        server.process.send_signal(number)
        assert server.process.wait(10) == 0
        assert not any(psutil.pid_exists(pid) for pid in workers)
        assert server.log.read_text().count("closed") == 2
        assert "Traceback" not in server.log.read_text()


def test_a_worker_that_cannot_drain_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with tiny(tmp_path) as server:
        os.kill(min(server.workers), signal.SIGSTOP)
        started = time.monotonic()
        server.process.terminate()
        assert server.process.wait(11) == 0
        assert time.monotonic() - started < 10


def test_files_that_cannot_be_read_at_a_hang_up_hold_nothing_up(tmp_path: Path) -> None:
    with tiny(tmp_path) as server:
        server.process.send_signal(signal.SIGHUP)
        victim = min(server.workers)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(server.workers) == 2 and victim not in server.workers, seconds=5)
        eventually(lambda: len(server.serving()) == 2, seconds=10)
        server.process.terminate()
        assert server.process.wait(11) == 0


def test_workers_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    with tiny(tmp_path) as server:
        workers = server.workers
        server.process.kill()
        server.process.wait()
        eventually(lambda: not any(psutil.pid_exists(pid) for pid in workers), seconds=5)


def test_what_a_worker_refuses_at_the_first_start_the_server_refuses(tmp_path: Path) -> None:
    with tiny(tmp_path, origin="https://refuse.example") as server:
        assert server.url == ""
        assert server.process.wait(10) == 1
        assert "Refused: not like this" in server.log.read_text()


def test_the_shared_port_is_closed_to_a_second_server(tmp_path: Path) -> None:
    with tiny(tmp_path) as server, socket.socket() as second:
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        host, port = server.url.removeprefix("http://").split(":")
        with pytest.raises(OSError, match="in use"):
            second.bind((host, int(port)))


def test_every_process_is_closed_to_others(tmp_path: Path) -> None:
    with tiny(tmp_path) as server:
        for pid in (server.process.pid, *server.workers):
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert "Max core file size        0                    0 " in limits
            assert "Umask:\t0077" in Path(f"/proc/{pid}/status").read_text()


Work = Callable[[list[str]], int] | None
TINY_WORKER = (sys.executable, "-m", "tests.support.tiny_worker")


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("work", [None, tiny_worker.work], ids=["started", "forked"])
def test_workers_that_wait_for_their_order_end_when_there_will_be_none(work: Work) -> None:
    before = children()
    with Supervisor(2, command=TINY_WORKER) as supervisor:
        supervisor.start(work)
        waiting = children() - before
        assert len(waiting) == 2
        assert all(map(alive, waiting))
    assert not any(map(alive, waiting))


@pytest.mark.parametrize("work", [None, tiny_worker.work], ids=["started", "forked"])
def test_a_signal_before_there_is_an_order_ends_in_order(work: Work) -> None:
    order = Order(Settings(), SecretBytes(KEY), "127.0.0.1", 1, "http://127.0.0.1:1")
    before = signal.getsignal(signal.SIGTERM)
    with Supervisor(1, command=TINY_WORKER) as supervisor:
        supervisor.start(work)
        os.kill(os.getpid(), signal.SIGTERM)
        assert supervisor.run(order, lambda: pytest.fail("nobody serves")) == 0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("work", [None, tiny_worker.work], ids=["started", "forked"])
def test_a_worker_that_ended_before_its_order_fails_the_start(work: Work) -> None:
    before = children()
    order = Order(Settings(), SecretBytes(KEY), "127.0.0.1", 1, "http://127.0.0.1:1")
    with Supervisor(1, command=TINY_WORKER) as supervisor:
        supervisor.start(work)
        (pid,) = children() - before
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        assert supervisor.run(order, lambda: pytest.fail("nobody serves")) == 1


def test_a_signal_before_there_are_workers_ends_in_order() -> None:
    order = Order(Settings(), SecretBytes(KEY), "127.0.0.1", 1, "http://127.0.0.1:1")
    with Supervisor(1) as supervisor:
        os.kill(os.getpid(), signal.SIGTERM)
        supervisor.start(lambda _: time.sleep(60) or 0)
        assert supervisor.run(order, lambda: pytest.fail("nobody serves")) == 0


def test_of_workers_that_cannot_all_be_started_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    before, forks, fork = children(), [0], os.fork

    def refuse_the_second() -> int:
        forks[0] += 1
        if forks[0] == 2:
            raise BlockingIOError
        return fork()

    monkeypatch.setattr(os, "fork", refuse_the_second)
    with pytest.raises(BlockingIOError), Supervisor(2) as supervisor:
        supervisor.start(lambda _: time.sleep(60) or 0)
    assert forks == [2]
    assert children() == before


def test_a_worker_that_cannot_be_started_now_ends_nobody_and_leaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Supervisor(1) as supervisor:
        (slot,) = supervisor._slots

        def refuse(*_: object, **__: object) -> None:
            raise BlockingIOError(11, "no process left")

        monkeypatch.setattr(subprocess, "Popen", refuse)
        before = len(os.listdir("/proc/self/fd"))
        supervisor._fill_again(slot, 5.0)
        assert len(os.listdir("/proc/self/fd")) == before
        assert (slot.process, slot.orders, slot.reports) == (None, -1, -1)
        assert slot.start_at > 5.0


def test_a_worker_is_not_taken_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gzip.py", "qimem/__init__.py", "qimem/server/__init__.py", "qimem/server/worker.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("import os; os._exit(66)\n")
    monkeypatch.chdir(tmp_path)
    orders, no_orders = os.pipe()
    reports, report = os.pipe()
    os.close(no_orders)
    worker = Supervisor(1)._spawned(orders, report)
    # Ours ends with 1 when there will be no order.
    assert worker.wait(20) == 1
    for descriptor in (orders, reports, report):
        os.close(descriptor)


class Stuck:
    """A process that waits for a disk which hangs: until that answers, no signal ends it."""

    pid = 4_000_000

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        assert timeout is not None, "waited for ever"
        if self.code is None:
            raise subprocess.TimeoutExpired("stuck", timeout)
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Ended(Stuck):
    """A process that is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.code = -9


NO_ORDER = Order(Settings(), SecretBytes(KEY), "127.0.0.1", 1, "http://127.0.0.1:1")


def serving(supervisor: Supervisor, *processes: Stuck) -> None:
    """As if these were its workers, and had served for long."""
    supervisor._announced = True
    for slot, process in zip(supervisor._slots, processes, strict=True):
        slot.reports, said = os.pipe()
        os.close(said)
        slot.process, slot.ready, slot.heard = cast("Forked", process), True, time.monotonic()


def no_announcement() -> None:
    pytest.fail("said before")


def test_a_worker_that_cannot_be_killed_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is filled when it is gone, and no sooner."""
    supervisor, stuck, ended = Supervisor(2, silence_seconds=5), Stuck(), Ended()
    serving(supervisor, stuck, ended)
    started: list[int] = []
    monkeypatch.setattr(supervisor, "_fill_again", lambda slot, now: started.append(slot.number))
    silent, dead = supervisor._slots
    silent.heard -= 6
    assert supervisor._turn(NO_ORDER, no_announcement) is None
    assert stuck.signals == [signal.SIGKILL]
    assert (silent.process, dead.process) == (stuck, None)
    dead.start_at = 0.0
    assert supervisor._turn(NO_ORDER, no_announcement) is None
    assert (stuck.signals, started) == ([signal.SIGKILL], [2])
    stuck.code = -9
    supervisor._turn(NO_ORDER, no_announcement)
    assert silent.process is None
    silent.start_at = 0.0
    supervisor._turn(NO_ORDER, no_announcement)
    assert started[-2:] == [1, 2]
    supervisor._drain()


@pytest.mark.timeout(30)
def test_a_first_start_with_a_worker_that_cannot_be_killed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor(1)
    serving(supervisor, Stuck())
    supervisor._announced = False
    supervisor._slots[0].ready = False
    supervisor._slots[0].heard -= 31
    assert supervisor.run(NO_ORDER, no_announcement) == 1
    supervisor._drain()


def test_an_end_does_without_a_worker_that_cannot_be_killed() -> None:
    supervisor, stuck = Supervisor(2), Stuck()
    serving(supervisor, stuck, Ended())
    # A test before this one may have let a guest's logging in, which keeps warnings to itself.
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as said:
        supervisor._drain()
    assert stuck.signals == [signal.SIGTERM, signal.SIGKILL]
    assert [slot.process for slot in supervisor._slots] == [None, None]
    assert [line["event"] for line in said] == ["worker did not drain", "worker cannot be killed"]


def test_children_are_waited_for_whoever_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with Supervisor(1):
            assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGCHLD, before)
