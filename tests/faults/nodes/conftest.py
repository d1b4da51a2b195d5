"""Two nodes on machines of their own: the second one in both modes of consistency, and one that trusts its memory too long."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from qimem.kernel.limits import LEASE_SECONDS
from tests.support.api import Person, World
from tests.support.broken_postgres import MODULE
from tests.support.broken_server import broken
from tests.support.load import Reply, Wire, operator_of, shared_server, stopped, tireless
from tests.support.namespaces import Network
from tests.support.nodes import B, Machines
from tests.support.processes import eventually
from tests.support.server import Server, patiently

KEYS, ENCRYPT, REVOKE, REFRESH, TOKEN = (
    "/v1/security/keys", "/v1/security/encrypt", "/v1/auth/token/revoke", "/v1/auth/token/refresh", "/v1/auth/token",
)  # fmt: skip
REVOKED, AWAY = (401, "invalid_token"), (503, "storage_unavailable")
HEAL_SECONDS = 2.0
MODES = ("strict", "bounded")


@dataclass
class Pair:
    """Node a and node b, and someone with a key who is signed in.

    Args:
        lease: For how many seconds b may not know what was acknowledged on a.
    """

    network: Network
    world: World
    person: Person
    b: Server
    lease: float
    refresh_token: str = ""
    key_id: str = ""

    def __post_init__(self) -> None:
        self.key_id = patiently(lambda: self.person.post(KEYS, {}))["key_id"]

    @property
    def a(self) -> Server:
        return self.world.server

    def sign_in(self) -> None:
        """Anew: many tests take longer than a token lives."""
        credentials = self.person.credentials()
        self.person.pair = patiently(lambda: self.person.http.post(TOKEN, json=credentials))
        self.person.http.headers["authorization"] = f"Bearer {self.person.access_token}"
        self.refresh_token = self.person.refresh_token

    def token(self) -> str:
        """A fresh access token, without the price of a password."""
        pair = patiently(lambda: self.person.post(REFRESH, {"refresh_token": self.refresh_token}))
        self.refresh_token = pair["refresh_token"]
        return pair["access_token"]

    def revoke(self, token: str) -> int:
        """On a; when that was acknowledged, in monotonic nanoseconds."""
        patiently(lambda: self.person.post(REVOKE, {"token": token}))
        return time.monotonic_ns()

    def use(self, wire: Wire) -> Reply:
        """What is allowed to whoever is signed in, and needs nothing but memory."""
        return wire.post(ENCRYPT, {"key_id": self.key_id, "input": "warm"})

    @contextlib.contextmanager
    def warm(self, token: str) -> Iterator[Wire]:
        """A connection to b, whose worker has all in memory that the token needs."""
        with contextlib.closing(Wire(self.b.url, token)) as wire:
            eventually(lambda: self.use(wire).status == 200)
            eventually(lambda: self.use(wire).status == 200)
            yield wire

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """All processes of b stand still."""
        assert self.b.process is not None
        parent = psutil.Process(self.b.process.pid)
        with stopped(parent.pid, *(child.pid for child in parent.children(recursive=True))):
            yield

    def heals(self) -> float:
        """How long b takes to serve everything again, on every connection."""
        began = time.monotonic()
        eventually(self._serves, seconds=HEAL_SECONDS)
        return time.monotonic() - began

    def _serves(self) -> bool:
        replies = []
        for path in ("/ready", KEYS) * 2:
            with contextlib.closing(Wire(self.b.url, self.person.access_token)) as wire:
                replies.append(wire.get(path).status)
        return set(replies) == {200}


@pytest.fixture(scope="package")
def strict(request: pytest.FixtureRequest, machines: Machines) -> Iterator[Pair]:
    """In mode `strict`."""
    server = shared_server(request, "two nodes")
    with operator_of(server) as world:
        yield Pair(machines.network, world, tireless(world), server.peers[0], 0.0)


@contextlib.contextmanager
def bounded_at(strict: Pair, machines: Machines, place: Path, *faults: str, workers: int) -> Iterator[Pair]:
    """The same node a; b is another one, in mode `bounded`, and with faults broken on purpose."""
    url = strict.a.database_url
    assert url is not None
    environment = {"QIMEM_CONSISTENCY__MODE": "bounded"}
    environment |= broken(place, *faults, module=MODULE) if faults else {}
    b = machines.node(B, place / B, url, workers=workers, **environment)
    shutil.copy(f"{strict.a.data}.root.key", f"{b.data}.root.key")
    try:
        yield Pair(machines.network, strict.world, tireless(strict.world), b.start(), LEASE_SECONDS)
    finally:
        b.stop()


@pytest.fixture(scope="package")
def bounded(strict: Pair, machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """In mode `bounded`."""
    with bounded_at(strict, machines, tmp_path_factory.mktemp("bounded"), workers=2) as made:
        yield made


@pytest.fixture(scope="package")
def trusting(strict: Pair, machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """In mode `bounded`, with a lease of a second."""
    place = tmp_path_factory.mktemp("trusting")
    with bounded_at(strict, machines, place, "believes_its_lease_for_a_second", workers=1) as made:
        yield made


@pytest.fixture(params=MODES)
def pair(request: pytest.FixtureRequest) -> Pair:
    """One after the other."""
    found: Pair = request.getfixturevalue(request.param)
    found.sign_in()
    return found
