"""Floods: a closed-loop capacity, an open loop far above it, and what others see meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil

from tests.support.server import Server
from tests.support.shims import program

CLOSED_CONNECTIONS = 32
FACTOR = 10
PROBES_PER_SECOND = 50
PROBES_AT_ONCE = 200
ON_KEPT_CONNECTIONS = (b"GET /health HTTP/1.1\r\nHost: a.example\r\n\r\n",)
ON_KEPT_AND_NEW_CONNECTIONS = (
    *ON_KEPT_CONNECTIONS,
    b"GET /health HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load generator saw."""

    seconds: float
    sent: int
    unsent: int
    broken: int
    opened: int
    waiting: int
    bare: int
    """429 and 503 that do not say when to come back."""
    p50: float
    p99: float
    most: float
    statuses: dict[str, int]
    per_second: list[int]

    @property
    def good(self) -> float:
        """Answers 200 a second."""
        return self.statuses.get("200", 0) / self.seconds

    @property
    def refused(self) -> int:
        return self.statuses.get("503", 0)


@dataclass(frozen=True, slots=True)
class Day:
    """A flood, and the time before and after it."""

    before: Outcome
    during: Outcome
    health: Outcome
    after: Outcome
    idle_bytes: int
    most_bytes: int

    def faults(self, *, exactly: bool, share: float = 0.7) -> list[str]:
        """What was promised and not kept.

        Args:
            exactly: By the figures of the promise; otherwise by what a run of two seconds on a busy machine shows.
            share: Of the capacity that has to be left.
        """
        share, seconds = (share, self.health.p99) if exactly else (0.6 * share, self.health.p50)
        found = {
            f"goodput {self.during.good:.0f}/s of {self.before.good:.0f}": self.during.good
            < share * self.before.good,
            f"health {seconds:.3f} s, {self.health.statuses}, {self.health.broken} broken": seconds > 0.1
            or set(self.health.statuses) != {"200"}
            or self.health.broken > 0,
            f"memory {self.idle_bytes} to {self.most_bytes}": self.most_bytes > 1.5 * self.idle_bytes + 64e6,
            f"answers {self.during.statuses}": not self.during.statuses.keys()
            <= {"200", "429", "431", "503"},
            f"{self.during.bare} refusals without Retry-After": self.during.bare > 0,
            f"afterwards {self.after.good:.0f}/s of {self.before.good:.0f}": self.after.good
            < share * self.before.good,
        }
        return [fault for fault, there in found.items() if there]


def endure(
    server: Server,
    requests: Sequence[bytes],
    place: Path,
    *,
    seconds: float,
    connections: int,
    asked: Sequence[bytes],
) -> Day:
    """Flood a server with ten times its capacity, and look at it before, meanwhile and afterwards."""
    idle = Memory(server).now()
    place.mkdir()
    before = capacity(server.url, requests, place, seconds=min(3.0, max(0.5, seconds / 4)))
    answered = sum(before.statuses.values()) / before.seconds
    with probing(server.url, place, seconds + 0.5, asked) as health, Memory(server) as memory:
        time.sleep(0.25)
        rate = FACTOR * (before.good or answered)
        with flooding(
            server.url, requests, place, rate=rate, seconds=seconds, connections=connections
        ) as flood:
            during = flood()
        found = health()
    # Back to normal within five seconds: measured in the last of them.
    time.sleep(min(3.0, max(1.0, seconds / 4)))
    after = capacity(server.url, requests, place, seconds=min(2.0, max(0.5, seconds / 4)))
    return Day(before, during, found, after, idle, memory.most)


def post(path: str, body: bytes, token: str | None = None, *lines: str) -> bytes:
    """A request as bytes."""
    head = [
        f"POST {path} HTTP/1.1",
        "Host: a.example",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    head += [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([*head, *lines, "", ""]).encode() + body


@contextlib.contextmanager
def flooding(
    url: str, requests: Sequence[bytes], place: Path, *, rate: float, seconds: float, connections: int
) -> Iterator[Any]:
    """A generator at work; what the context gives returns its outcome when it has ended."""
    file = place / "requests"
    file.write_bytes(b"".join(b"%d\n%b" % (len(one), one) for one in requests))
    command = [program("flood"), str(urlsplit(url).port), str(connections), str(rate), str(seconds), file]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:

        def outcome() -> Outcome:
            told, _ = process.communicate(timeout=seconds + 30)
            assert process.returncode == 0
            return Outcome(**json.loads(told))

        yield outcome
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def capacity(
    url: str, requests: Sequence[bytes], place: Path, *, seconds: float, connections: int = CLOSED_CONNECTIONS
) -> Outcome:
    """Closed loop: as many at once as are served well."""
    with flooding(url, requests, place, rate=0, seconds=seconds, connections=connections) as outcome:
        return outcome()


@contextlib.contextmanager
def probing(url: str, place: Path, seconds: float, asked: Sequence[bytes]) -> Iterator[Any]:
    """Asking for `/health` at fixed times; returns the outcome."""
    mine = place / "probe"
    mine.mkdir()
    with flooding(
        url, asked, mine, rate=PROBES_PER_SECOND, seconds=seconds, connections=PROBES_AT_ONCE
    ) as told:
        yield told


class Memory:
    """The most that the processes of a server had resident, in bytes, looked at ten times a second."""

    def __init__(self, server: Server) -> None:
        assert server.process is not None
        self._process = psutil.Process(server.process.pid)
        self.most = 0

    def now(self) -> int:
        found = 0
        for process in [self._process, *self._process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                found += process.memory_info().rss
        return found

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self.most = max(self.most, self.now())


@contextlib.contextmanager
def on_core(number: int) -> Iterator[None]:
    """Processes started inside run on one core; this thread goes to the other one afterwards."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number} & before or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before - {number} or before)
