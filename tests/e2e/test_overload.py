"""Ten times what a server can do: it goes on doing it, refuses the rest at once, and health checks do not notice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.api import World
from tests.support.broken_server import broken
from tests.support.metering import LIMITLESS
from tests.support.overload import (
    ON_KEPT_AND_NEW_CONNECTIONS,
    ON_KEPT_CONNECTIONS,
    Day,
    endure,
    flooding,
    on_core,
    post,
)
from tests.support.server import Server, ok
from tests.support.volume import VARIABLE, volume

SECONDS = volume(60)
CONNECTIONS = volume(2_000, share=0.3)
FULL = os.environ.get(VARIABLE) == "full"
KINDS = ("encrypt", "text", "large", "login", "headers") if FULL else ("text",)
SHARES = {"large": 0.5}
"""The kernel copies more than a gigabyte a second of what is going to be refused."""
ATTEMPTS = 3
NAMES = 16
TEXT = 30_000
DRAIN_SECONDS = 10.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On a core of its own, as far as the machine has two."""
    with on_core(0):
        server = Server(tmp_path_factory.mktemp("overload")).start()
        yield server
        server.stop()


def encrypts(server: Server, size: int) -> list[bytes]:
    token = server.token()
    key = ok(server.client(token).post("/v1/security/keys", json={}))["key_id"]
    return [
        post("/v1/security/encrypt", b'{"key_id":"%b","input":"%b"}' % (key.encode(), b"x" * size), token)
    ]


def logins(server: Server) -> list[bytes]:
    world = World(server)
    people = [world.person() for _ in range(NAMES)]
    world.close()
    return [post("/v1/auth/token", json.dumps(person.credentials()).encode()) for person in people]


def requests(server: Server, kind: str) -> list[bytes]:
    match kind:
        case "encrypt":
            return encrypts(server, 64)
        case "text":
            return encrypts(server, TEXT)
        case "large":
            return encrypts(server, 2_000_000)
        case "login":
            return logins(server)
    return [post("/v1/security/encrypt", b"{}", None, *(f"X-{n}: {'y' * 4000}" for n in range(64)))]


def lived_through(server: Server, kind: str, place: Path) -> list[tuple[list[str], Day]]:
    """What was not kept in each of a few floods, up to the first in which all was."""
    assert server.process is not None
    family = psutil.Process(server.process.pid).children(recursive=True)
    asked, found = requests(server, kind), []
    # Where each request is a connection, new ones wait for those before them with the system.
    health = ON_KEPT_CONNECTIONS if kind == "headers" else ON_KEPT_AND_NEW_CONNECTIONS
    for attempt in range(1 if FULL else ATTEMPTS):
        day = endure(
            server, asked, place / str(attempt), seconds=SECONDS, connections=CONNECTIONS, asked=health
        )
        found.append((day.faults(exactly=FULL, share=SHARES.get(kind, 0.7)), day))
        if not found[-1][0]:
            break
    assert psutil.Process(server.process.pid).children(recursive=True) == family
    return found


@pytest.mark.acceptance
@pytest.mark.parametrize("kind", KINDS)
def test_ten_times_the_capacity_is_lived_through(server: Server, kind: str, tmp_path: Path) -> None:
    # What else the machine does can only make it look worse.
    found = lived_through(server, kind, tmp_path)
    print(f"{kind}: {found[-1]}")
    assert not found[-1][0], found
    said = server.log.read_text()
    assert not any(word in said for word in ("unexpected error", "worker died", "worker hangs"))


def test_a_server_that_takes_everything_on_is_found(tmp_path: Path) -> None:
    with on_core(0):
        server = Server(tmp_path, environment=broken(tmp_path, "takes_everything_on")).start()
        try:
            day = endure(
                server,
                encrypts(server, TEXT),
                tmp_path / "flood",
                seconds=1.5,
                connections=2_000,
                asked=ON_KEPT_AND_NEW_CONNECTIONS,
            )
        finally:
            server.stop()
    assert any(fault.startswith(("health", "memory")) for fault in day.faults(exactly=False)), day


class Writer:
    """Creates keys one after the other and notes those that were acknowledged."""

    def __init__(self, server: Server, token: str) -> None:
        self.acknowledged: list[str] = []
        self._url, self._token = server.url, token
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            try:
                with httpx.Client(headers={"Authorization": f"Bearer {self._token}"}, timeout=5) as client:
                    while True:
                        answer = client.post(f"{self._url}/v1/security/keys", json={})
                        if answer.status_code == 200:
                            self.acknowledged.append(answer.json()["key_id"])
                        else:
                            assert answer.status_code == 503, answer.text
                            assert answer.json()["code"] in {"overloaded", "outcome_unknown"}
            except httpx.ConnectError:
                return
            except httpx.TransportError:
                continue


@pytest.mark.acceptance
def test_a_stop_in_a_flood_is_a_drain_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    server = Server(tmp_path, workers=2).start()
    try:
        token, asked = server.token(), encrypts(server, 64)
        assert server.process is not None
        workers = psutil.Process(server.process.pid).children()
        with flooding(
            server.url, asked, tmp_path, rate=50_000, seconds=volume(30, share=0.1) + 10, connections=500
        ):
            writer = Writer(server, token)
            time.sleep(volume(30, share=0.05))
            # A loop that is busy is not one that hangs: nobody was replaced.
            assert psutil.Process(server.process.pid).children() == workers
            began = time.monotonic()
            assert server.stop() == 0
            took = time.monotonic() - began
            writer.join()
        assert took < DRAIN_SECONDS
        assert writer.acknowledged
        print(f"drained in {took:.2f} s, {len(writer.acknowledged)} keys acknowledged")
        server.start()
        client = server.client(server.token())
        for key in writer.acknowledged:
            assert client.get(f"/v1/security/keys/{key}").status_code == 200
    finally:
        server.stop()


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    command = [
        sys.executable,
        "-m",
        "qimem",
        "serve",
        "--data-dir",
        str(tmp_path / "data"),
        "--bind",
        "127.0.0.1:0",
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("QIMEM_", "DATABASE_URL"))}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=writing, text=True, env=environment | LIMITLESS
    )
    os.close(writing)
    try:
        assert process.stdout is not None
        url = next(line for line in process.stdout if line.startswith("ready ")).split()[1]
        for _ in range(20):
            assert httpx.get(f"{url}/health", timeout=2).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(DRAIN_SECONDS + 5) == 0
    finally:
        process.kill()
        process.stdout.close()
        os.close(reading)
