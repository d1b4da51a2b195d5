"""A real `qimem serve` on its own data, for tests that must see real processes and real HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.metering import LIMITLESS

READY_SECONDS = 60.0

NOBODY_TRUSTED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that speak plain HTTP: one that trusts the public authorities takes 25 ms of processor to make."""


@dataclass
class Server:
    """One installation that can be started, killed and started again."""

    directory: Path
    workers: int = 1
    database_url: str | None = None
    extra: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    log_file: Path | None = None
    machine: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """Where it is started."""
    address: str = "127.0.0.1"
    limited: bool = False
    """Rate limits as a user has them. Without, a hundred tests may ask from one address."""
    verify: ssl.SSLContext = NOBODY_TRUSTED
    """How its certificate is judged, where it has one."""
    peers: list[Server] = field(default_factory=list)
    """Further nodes of the same installation; started after this one, stopped before it."""
    process: subprocess.Popen[str] | None = None
    url: str = ""
    lines: list[str] = field(default_factory=list)
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.log_file or self.directory / "log.txt"

    @property
    def credentials(self) -> dict[str, str]:
        return json.loads(Path(f"{self.data}.credentials.json").read_text())

    @property
    def nodes(self) -> list[Server]:
        return [self, *self.peers]

    def start(self, bind: str | None = None) -> Server:
        """Start it, and its peers with its root key."""
        self._start(bind or f"{self.address}:0")
        for peer in self.peers:
            key = Path(f"{peer.data}.root.key")
            if not key.exists():
                shutil.copy(f"{self.data}.root.key", key)
            peer.start()
        return self

    def _start(self, bind: str) -> None:
        command = [
            sys.executable, "-m", "qimem", "serve",
            "--data-dir", str(self.data),
            "--bind", bind,
            "--workers", str(self.workers),
            *(["--database-url", self.database_url] if self.database_url else []),
            *self.extra,
        ]  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("QIMEM_", "DATABASE_URL"))}
        environment |= {} if self.limited else LIMITLESS
        environment |= {} if self.address == "127.0.0.1" else {"QIMEM_SERVER__ALLOW_PLAIN_HTTP": "true"}
        with self.log.open("a") as log, self.machine():
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment | self.environment
            )
        started = time.monotonic()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("ready "):
                self.url = line.split()[1]
                return
            assert time.monotonic() - started < READY_SECONDS, "not ready in time"
        raise AssertionError(f"exit {self.process.wait()}:\n{self.log.read_text()[-4000:]}")

    def kill(self) -> None:
        """kill -9, as a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._forget()

    def stop(self) -> int:
        """SIGTERM and drain; the exit code. Closes the clients that were asked for."""
        for peer in self.peers:
            peer.stop()
        for client in self.clients:
            client.close()
        self.clients.clear()
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(15)
        self._forget()
        return code

    def _forget(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None

    def token(self) -> str:
        """The operator's token, over HTTP."""
        known = self.credentials
        body = {
            name: known[name] for name in ("client_id", "client_secret", "realm_id", "username", "password")
        }
        url = f"{self.url}/v1/auth/token"
        return patiently(lambda: httpx.post(url, json=body, verify=self.verify))["access_token"]

    def client(self, token: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = httpx.Client(base_url=self.url, headers=headers, timeout=30, verify=self.verify)
        self.clients.append(client)
        return client


def ok(answer: httpx.Response) -> dict[str, Any]:
    """The JSON of a 200."""
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
    return answer.json()


def patiently(ask: Callable[[], httpx.Response]) -> dict[str, Any]:
    """The JSON of a 200, asked for again while storage does not answer in time: on a busy machine that is no finding."""
    deadline = time.monotonic() + READY_SECONDS / 2
    while (answer := ask()).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.1)
    return ok(answer)


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The JSON of an expected refusal."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    body = answer.json()
    assert body["code"] == code, body
    return body
