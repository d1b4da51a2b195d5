"""An hour of ordinary life at a fifth of the capacity, with others looking into the database: nothing grows."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import psutil
import pytest

from tests.support.api import Person, World
from tests.support.load import Wire
from tests.support.overload import flooding, post
from tests.support.server import Server, ok
from tests.support.volume import VARIABLE, volume

SECONDS = volume(3_600, share=0.001)
FULL = os.environ.get(VARIABLE) == "full"
ENCRYPTS_PER_SECOND = 1_000 if FULL else 200
WARM_UP = 1 / 6
SAMPLE_SECONDS = 5.0 if FULL else 0.2
SLOPE_BYTES_PER_HOUR = 1e6
LOG_BYTES_MAX = 64 * 1024 * 1024
OUTSIDER = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute('select count(*) from realm').fetchone(); c.close()"


@dataclass(frozen=True, slots=True)
class Sample:
    """A server at one moment; sizes in bytes."""

    at: float
    resident: int
    descriptors: int
    threads: int
    log: int
    rows: int


@dataclass
class Life:
    """What clients did and were answered."""

    done: int = 0
    failures: list[str] = field(default_factory=list)


def look(server: Server, began: float) -> Sample:
    assert server.process is not None
    root = psutil.Process(server.process.pid)
    family = [root, *root.children(recursive=True)]
    log = server.data / "qimem.db-wal"
    reader = apsw.Connection(str(server.data / "qimem.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        tables = [row[0] for row in reader.execute("select name from sqlite_master where type = 'table'")]
        rows = sum(reader.execute(f'select count(*) from "{table}"').fetchone()[0] for table in tables)
    finally:
        reader.close()
    return Sample(
        time.monotonic() - began,
        sum(process.memory_full_info().pss for process in family),
        sum(process.num_fds() for process in family),
        sum(process.num_threads() for process in family),
        log.stat().st_size if log.exists() else 0,
        rows,
    )


def slope_per_hour(samples: list[Sample]) -> float:
    """Growth of the memory by linear regression, behind the warm-up."""
    kept = samples[int(len(samples) * WARM_UP) :]
    found = statistics.linear_regression([one.at for one in kept], [one.resident for one in kept])
    return found.slope * 3_600


def live(server: Server, person: Person, stop: threading.Event, life: Life) -> None:
    """Logins, refreshes and revocations, one after the other: all that writes rows and leaves some for the sweeps."""
    wire = Wire(server.url)
    while not stop.wait(0.05):
        pair = person.login()
        for path, body in (
            ("/v1/auth/token/refresh", {"refresh_token": pair["refresh_token"]}),
            ("/v1/auth/token/revoke", {"token": pair["access_token"]}),
            ("/v1/auth/token/revoke", {"token": pair["refresh_token"]}),
        ):
            reply = wire.post(path, body)
            life.done += 1
            if reply.status >= 500:
                life.failures.append(f"{path}: {reply.short}")
    wire.close()


def read_from_outside(server: Server, stop: threading.Event) -> None:
    """What people do with a database file: another program, another engine, a copy."""
    while not stop.wait(1.0):
        file = server.data / "qimem.db"
        subprocess.run([sys.executable, "-c", OUTSIDER, file], check=True, timeout=30)
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as reader:
            reader.execute("select count(*) from client").fetchone()


@contextlib.contextmanager
def at_work(*work: threading.Thread) -> Iterator[None]:
    for one in work:
        one.start()
    try:
        yield
    finally:
        for one in work:
            one.join(60)


@pytest.mark.acceptance
def test_an_hour_of_life_leaves_nothing_behind(tmp_path: Path) -> None:
    server = Server(tmp_path).start()
    try:
        key = ok(server.client(server.token()).post("/v1/security/keys", json={}))["key_id"]
        world = World(server)
        person = world.person()
        body = b'{"key_id":"%s","input":"4111 1111 1111 1111"}' % key.encode()
        stop, life, began = threading.Event(), Life(), time.monotonic()
        samples, statuses = [], {}
        outside = threading.Thread(target=read_from_outside, args=(server, stop))
        with at_work(threading.Thread(target=live, args=(server, person, stop, life)), outside):
            try:
                while time.monotonic() - began < SECONDS:
                    # A token lives for a quarter of an hour.
                    left = min(600.0, SECONDS - (time.monotonic() - began))
                    asked = [post("/v1/security/encrypt", body, server.token())]
                    with flooding(
                        server.url, asked, tmp_path, rate=ENCRYPTS_PER_SECOND, seconds=left, connections=200
                    ) as told:
                        until = time.monotonic() + left
                        while time.monotonic() < until:
                            samples.append(look(server, began))
                            time.sleep(SAMPLE_SECONDS)
                        for status, count in told().statuses.items():
                            statuses[status] = statuses.get(status, 0) + count
            finally:
                stop.set()
        world.close()
    finally:
        server.stop()
    kept = samples[int(len(samples) * WARM_UP) :]
    growth = slope_per_hour(samples)
    print(f"{growth / 1e6:+.2f} MB/h, {statuses}, {life.done} other requests, from {kept[0]} to {kept[-1]}")
    assert life.failures == []
    assert life.done > 0
    assert set(statuses) == {"200"}, statuses
    assert max(one.log for one in samples) <= LOG_BYTES_MAX
    assert kept[-1].threads <= kept[0].threads + 4
    if FULL:
        assert growth < SLOPE_BYTES_PER_HOUR
        assert kept[-1].descriptors <= max(one.descriptors for one in kept[: len(kept) // 4])


def test_a_growing_process_is_found() -> None:
    steady = [Sample(float(at), 100_000_000 + at % 7 * 4096, 40, 12, 0, 0) for at in range(3_600)]
    growing = [Sample(one.at, one.resident + int(one.at * 1_000), 40, 12, 0, 0) for one in steady]
    assert slope_per_hour(steady) < SLOPE_BYTES_PER_HOUR < slope_per_hour(growing)
