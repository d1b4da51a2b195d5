"""Keeps a number of workers alive: starts them, waits until all serve, replaces the dead and the hung.

    starting ──all ready──▶ serving ──SIGTERM, SIGINT──▶ draining ──▶ exit 0
        └── one exits ──▶ fail with its reason: what stops the first start would stop every other

The first workers are forked from a process that has imported all they need and opened nothing yet; those that take
their place are started anew, because by then this process holds the root key. Importing is most of a start: 0.6 s of
processor time in each process that does it.

A worker is hung when it has reported nothing for `HEARTBEAT_MISSED_SECONDS`; it is killed and
replaced like a dead one, at once the first time and ever later when it keeps dying. One that waits for a disk that
hangs cannot be killed before that answers. Nobody waits for it: its place stays empty until it is gone, since another
one would soon wait for the same disk, and an end does without it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from qimem.kernel.hardening import is_setting
from qimem.kernel.limits import DRAIN_SECONDS, HEARTBEAT_MISSED_SECONDS, WORKER_START_SECONDS
from qimem.kernel.refusal import Refused
from qimem.observability.logging import logger
from qimem.server.forked import Forked
from qimem.server.notify import InitSystem
from qimem.server.worker import READY, REFUSAL

if TYPE_CHECKING:
    from qimem.server.order import Order

WORKER_COMMAND = (sys.executable, "-P", "-m", "qimem.server.worker")
"""CWE-427: without -P, files of the working directory would be imported in place of ours, and given the root key."""

_TURN_SECONDS = 0.1
_BACK_OFF_FIRST_SECONDS = 0.1
_BACK_OFF_MAX_SECONDS = 5.0
_SETTLED_SECONDS = 30.0
"""A worker that served this long is taken as sound: the next back-off begins anew."""
_KILL_SECONDS = 0.5
"""Whoever is not gone that long after SIGKILL waits for a disk that hangs."""


@dataclass(slots=True)
class _Slot:
    """The place of one worker, through all the processes that fill it."""

    number: int
    process: subprocess.Popen[bytes] | Forked | None = None
    orders: int = -1
    """Where its order is to be written, as long as it has none."""
    reports: int = -1
    started: float = 0.0
    heard: float = 0.0
    ready: bool = False
    killed: bool = False
    said: bytes = b""
    deaths: int = 0
    start_at: float = 0.0
    outdated: bool = False
    """Whether it is still to be told of another certificate."""


class Supervisor:
    """Runs the workers of one server. Use from the main thread: signals and parent-death signals need it.

        with Supervisor(workers) as supervisor:
            supervisor.start(worker.main)  # they wait for their order
            return supervisor.run(order, announce)

    Args:
        workers: How many, at least 1.
        command: How a worker is started that is not forked; two descriptors are appended.
        inherited: Further descriptors that every worker has, under the same numbers.
        silence_seconds: How long a serving worker may say nothing.
        init_system: Who wants to hear that this process is alive, and when it stops.
    """

    def __init__(
        self,
        workers: int,
        *,
        command: Sequence[str] = WORKER_COMMAND,
        inherited: Sequence[int] = (),
        silence_seconds: float = HEARTBEAT_MISSED_SECONDS,
        init_system: InitSystem | None = None,
    ) -> None:
        self._command = tuple(command)
        self._inherited = tuple(inherited)
        self._silence_seconds = silence_seconds
        self._init_system = init_system or InitSystem()
        self._slots = [_Slot(number) for number in range(1, workers + 1)]
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._hung_up = False
        self._renewal: threading.Thread | None = None
        self._announced = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take the signals over."""
        self._previous = {
            number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)
        }
        self._previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._hang_up)
        # Started with it ignored, the system would keep no exit codes and give away the number of who ended.
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers, and give the signals back."""
        self._drain()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def start(self, work: Callable[[list[str]], int] | None = None) -> None:
        """Start the first workers, which will wait for their order.

        Args:
            work: What they do, given two descriptors as text: they are forked. Without it they are started like
                the later ones.

        Raises:
            OSError: the system refuses another process.
        """
        if work is None:
            for slot in self._slots:
                self._fill(slot, self._spawned)
            return
        # What lives now lives on in every worker: left untouched, its memory stays shared.
        gc.collect()
        gc.freeze()
        for slot in self._slots:
            self._fill(slot, lambda orders, report: Forked(lambda: self._become_worker(work, orders, report)))

    def run(
        self, order: Order, announce: Callable[[], None], renew: Callable[[], bool] = lambda: False
    ) -> int:
        """Supervise until told to stop; the exit code of the process.

        Args:
            order: What each worker is told.
            announce: Called once, when all workers serve.
            renew: Called at SIGHUP, in a thread; whether workers are to be told by one, too.

        Raises:
            Refused: a worker refused the first start, in its words.
        """
        while not self._stopping:
            self._init_system.beat()
            failed = self._turn(order, announce)
            self._renew(renew)
            if failed is not None:
                return failed
        return 0

    def _turn(self, order: Order, announce: Callable[[], None]) -> int | None:
        """One round; the exit code when the first start failed."""
        now = time.monotonic()
        for slot in self._slots:
            if slot.process is None and now >= slot.start_at:
                self._fill_again(slot, now)
            if slot.orders >= 0:
                self._instruct(slot, order)
        self._listen()
        now = time.monotonic()
        for slot in self._slots:
            self._judge(slot, now)
            code = None if slot.process is None else slot.process.poll()
            if code is not None:
                refusal = self._refusal(slot)
                self._bury(slot, code, now)
                if not self._announced and refusal is not None:
                    raise refusal
                if not self._announced:
                    return code if code > 0 else 1
            elif slot.killed and not self._announced:
                return 1
        if not self._announced and all(slot.ready for slot in self._slots):
            self._announced = True
            announce()
        return None

    def _fill_again(self, slot: _Slot, now: float) -> None:
        try:
            self._fill(slot, self._spawned)
        except OSError as error:
            # No memory or no process left, at the moment: no reason to end those that serve.
            logger().error("worker cannot be started", worker=slot.number, error=error.strerror)
            slot.start_at = now + _BACK_OFF_MAX_SECONDS

    def _fill(self, slot: _Slot, start: Callable[[int, int], subprocess.Popen[bytes] | Forked]) -> None:
        orders, slot.orders = os.pipe()
        report = -1
        try:
            slot.reports, report = os.pipe()
            slot.process = start(orders, report)
        except BaseException:
            _close(slot.orders, slot.reports)
            slot.orders = slot.reports = -1
            raise
        finally:
            _close(orders, report)
        os.set_blocking(slot.reports, False)
        slot.ready, slot.killed, slot.said = False, False, b""

    def _spawned(self, orders: int, report: int) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not is_setting(name)}
        return subprocess.Popen(
            [*self._command, str(orders), str(report)],
            pass_fds=(orders, report, *self._inherited),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            env=environment,
        )

    def _become_worker(self, work: Callable[[list[str]], int], orders: int, report: int) -> int:
        # With a copy of the writing end it would wait for its order after the death of who could give one.
        for slot in self._slots:
            _close(slot.orders, slot.reports)
        self._selector.close()
        for name in filter(is_setting, list(os.environ)):
            del os.environ[name]
        return work([str(orders), str(report)])

    def _instruct(self, slot: _Slot, order: Order) -> None:
        try:
            # One that ended already is found by its exit code.
            with contextlib.suppress(BrokenPipeError):
                order.send(slot.orders)
        finally:
            os.close(slot.orders)
            slot.orders = -1
        self._selector.register(slot.reports, selectors.EVENT_READ, slot)
        slot.started = slot.heard = time.monotonic()

    def _listen(self) -> None:
        for key, _ in self._selector.select(_TURN_SECONDS):
            slot: _Slot = key.data
            said = os.read(slot.reports, 4096)
            if not said:
                self._selector.unregister(slot.reports)
                continue
            slot.heard = time.monotonic()
            slot.ready = slot.ready or said.startswith(READY)
            slot.said = said

    def _refusal(self, slot: _Slot) -> Refused | None:
        """Why a worker that ended did not start, in its own words."""
        with contextlib.suppress(BlockingIOError):
            slot.said = os.read(slot.reports, 4096) or slot.said
        if not slot.said.startswith(REFUSAL):
            return None
        message, hint = json.loads(slot.said[len(REFUSAL) :])
        return Refused(message, hint)

    def _judge(self, slot: _Slot, now: float) -> None:
        if slot.process is None or slot.killed:
            return
        silent = now - slot.heard
        limit = self._silence_seconds if slot.ready else WORKER_START_SECONDS
        if silent > limit:
            logger().error("worker hangs", worker=slot.number, pid=slot.process.pid, duration_seconds=silent)
            slot.process.kill()
            slot.killed = True

    def _bury(self, slot: _Slot, code: int, now: float) -> None:
        assert slot.process is not None
        logger().error("worker died", worker=slot.number, pid=slot.process.pid, exit_code=code)
        self._forget(slot)
        slot.deaths = 1 if slot.ready and now - slot.started > _SETTLED_SECONDS else slot.deaths + 1
        slot.ready = False
        slot.start_at = now + min(
            _BACK_OFF_MAX_SECONDS, _BACK_OFF_FIRST_SECONDS * 2 ** min(slot.deaths - 1, 10)
        )

    def _forget(self, slot: _Slot) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(slot.reports)
        _close(slot.reports, slot.orders)
        slot.process, slot.orders, slot.reports = None, -1, -1

    def _renew(self, renew: Callable[[], bool]) -> None:
        if self._hung_up and (self._renewal is None or not self._renewal.is_alive()):
            self._hung_up = False
            # The disk that the files are on may hang: whoever supervises must not wait for it.
            self._renewal = threading.Thread(target=self._take_anew, args=(renew,), name="renew", daemon=True)
            self._renewal.start()
        for slot in self._slots:
            # Before it serves, the signal would end it or be lost.
            if slot.outdated and slot.ready and slot.process is not None and slot.process.poll() is None:
                slot.outdated = False
                slot.process.send_signal(signal.SIGHUP)

    def _take_anew(self, renew: Callable[[], bool]) -> None:
        if renew():
            for slot in self._slots:
                slot.outdated = True

    def _hang_up(self, *_: object) -> None:
        self._hung_up = True

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _drain(self) -> None:
        """Ask every worker to finish, and end those that do not in time."""
        self._init_system.stopping()
        deadline = time.monotonic() + DRAIN_SECONDS - _KILL_SECONDS
        alive = [slot for slot in self._slots if slot.process is not None]
        for slot in alive:
            assert slot.process is not None
            # A stopped process cannot answer; let it run to its end.
            with contextlib.suppress(ProcessLookupError):
                slot.process.send_signal(signal.SIGTERM)
        late = [slot for slot in alive if slot.killed or not _ended(slot, deadline)]
        for slot in late:
            assert slot.process is not None
            logger().warning("worker did not drain", worker=slot.number, pid=slot.process.pid)
            slot.process.kill()
        patience = time.monotonic() + _KILL_SECONDS
        for slot in late:
            assert slot.process is not None
            if not _ended(slot, patience):
                logger().error("worker cannot be killed", worker=slot.number, pid=slot.process.pid)
        for slot in alive:
            self._forget(slot)
        self._selector.close()


def _ended(slot: _Slot, deadline: float) -> bool:
    """Whether its process is gone by then, by the monotonic clock."""
    assert slot.process is not None
    try:
        slot.process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def _close(*descriptors: int) -> None:
    """Those that are open."""
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)
