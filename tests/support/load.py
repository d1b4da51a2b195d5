"""Load on several workers at once: kept-alive connections whose worker is known, and judges of what they saw."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import apsw
import psutil
import psycopg
import pytest

from tests.support.api import PASSWORD, Person, World
from tests.support.broken_server import broken
from tests.support.nodes import Machines
from tests.support.processes import eventually
from tests.support.server import Server, ok
from tests.support.volume import volume

T = TypeVar("T")

DATABASES = ("sqlite", "postgresql")
PLACES = ("sqlite", *("postgresql",)[: volume(1, share=0, least=0)], "two nodes")
"""The daily run does on two nodes of PostgreSQL what it would do on one."""
CARELESS = (
    "rotates_what_it_saw_before",
    "spends_what_it_saw_unspent",
    "forgets_what_it_answered",
    "leases_without_writing",
    "forgets_used_codes",
)
"""Faults that do not disturb each other: one server has them all."""

WIRES = 8
_OPENED_AT_ONCE = 24
_QUIET_SECONDS = 0.15
_SPREAD_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. Times are monotonic nanoseconds of this process."""

    status: int
    body: Any
    headers: Mapping[str, str]
    sent: int
    received: int

    @property
    def code(self) -> str | None:
        return self.body.get("code")

    @property
    def short(self) -> tuple[int, str | None]:
        """Status and code, for messages."""
        return self.status, self.code


class Wire:
    """One kept-alive connection. Use from one thread at a time; an answer belongs to the oldest request."""

    def __init__(self, url: str, token: str | None = None, *, node: int = 0, timeout: float = 30) -> None:
        place = urlsplit(url)
        self._host = place.netloc
        self._socket = socket.create_connection((place.hostname, place.port), timeout=timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""
        self._sent: list[int] = []
        self.token = token
        self.node = node
        self.worker = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, method: str, path: str, body: object = None, **headers: str) -> None:
        """Send a request without waiting; header names are written with underscores."""
        payload = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}", f"content-length: {len(payload)}"]
        lines += ["content-type: application/json"] if payload else []
        lines += [f"authorization: Bearer {self.token}"] if self.token else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._sent.append(time.monotonic_ns())
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + payload)

    def receive(self) -> Reply:
        """The next answer."""
        head, rest = self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        while len(rest) < length:
            rest += self._more()
        payload, self._read = rest[:length], rest[length:]
        return Reply(
            int(first.split()[1]), json.loads(payload), headers, self._sent.pop(0), time.monotonic_ns()
        )

    def post(self, path: str, body: object = None, **headers: str) -> Reply:
        self.send("POST", path, body, **headers)
        return self.receive()

    def get(self, path: str) -> Reply:
        self.send("GET", path)
        return self.receive()

    def done(self, path: str, body: object = None, **headers: str) -> Any:
        """The body of a POST that has to succeed."""
        reply = self.post(path, body, **headers)
        assert reply.status == 200, reply
        return reply.body

    def _until(self, mark: bytes) -> tuple[bytes, bytes]:
        while mark not in self._read:
            self._read += self._more()
        head, _, rest = self._read.partition(mark)
        return head, rest

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError("closed by the server")
        return data


Request = tuple[str, str, object]
"""Method, path, body."""


def post(path: str, body: object = None) -> Request:
    return "POST", path, body


def get(path: str) -> Request:
    return "GET", path, None


def burst(wires: Sequence[Wire], request: Request, **headers: str) -> list[Reply]:
    """The same request on every connection at once; the answers in the order of the connections."""
    for wire in wires:
        wire.send(*request, **headers)
    return [wire.receive() for wire in wires]


def worker_pids(server: Server) -> list[int]:
    """The processes that serve, in no order that means anything."""
    assert server.process is not None
    return [child.pid for child in psutil.Process(server.process.pid).children()]


def listeners(server: Server) -> list[Any]:
    """The sockets that listen on the server's port: one of each worker that serves."""
    port = urlsplit(server.url).port
    found = psutil.net_connections("tcp")
    return [one for one in found if one.status == psutil.CONN_LISTEN and one.laddr.port == port]


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that stand still meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in pids:
            # The signal is only on its way when kill returns.
            eventually(lambda pid=pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def spread(server: Server, token: str | None = None) -> Iterator[list[Wire]]:
    """Eight connections, of which every worker of every node serves the same number.

    Neighbors belong to different workers, and to different nodes. Which worker serves which is found out, not
    assumed: see `_find_owners`.
    """
    rows = list(zip(*map(worker_pids, server.nodes), strict=True))
    assert len(rows) == server.workers
    chosen: dict[int, list[Wire]] = {pid: [] for row in rows for pid in row}
    share = WIRES // len(chosen)
    deadline = time.monotonic() + _SPREAD_SECONDS
    with contextlib.ExitStack() as stack:
        while min(map(len, chosen.values())) < share:
            assert time.monotonic() < deadline, "the connections do not reach every worker"
            opened = [
                stack.enter_context(contextlib.closing(Wire(node.url, token, node=number)))
                for number, node in enumerate(server.nodes)
                for _ in range(_OPENED_AT_ONCE // len(server.nodes))
            ]
            _find_owners(opened, rows, deadline)
            for wire in opened:
                if len(chosen[wire.worker]) < share:
                    chosen[wire.worker].append(wire)
                else:
                    wire.close()
        yield [wire for row in zip(*chosen.values(), strict=True) for wire in row]


def _find_owners(wires: Sequence[Wire], rows: Sequence[Sequence[int]], deadline: float) -> None:
    # What answers while all other workers of its node stand still is served by the one that does not. The
    # descriptors of a hardened process cannot be read by its own user, so /proc does not tell everyone.
    unknown = set(wires)
    while unknown:
        assert time.monotonic() < deadline, "some connections are served by no worker"
        for row in rows:
            waiting = set(unknown)
            with stopped(*(pid for other in rows if other != row for pid in other)):
                for wire in waiting:
                    wire.send(*get("/health"))
                while waiting:
                    readable, _, _ = select.select(list(waiting), [], [], _QUIET_SECONDS)
                    if not readable:
                        break
                    for wire in readable:
                        assert wire.receive().status == 200
                        wire.worker = row[wire.node]
                    waiting.difference_update(readable)
            unknown &= waiting
            for wire in waiting:
                # The answer of a worker that stood still tells nothing, but must not be taken for a later one.
                wire.receive()


def of_each_worker(wires: Sequence[Wire]) -> dict[int, list[Wire]]:
    """Worker → its connections."""
    found: dict[int, list[Wire]] = {}
    for wire in wires:
        found.setdefault(wire.worker, []).append(wire)
    return found


def at_once(works: Sequence[Callable[[], T]]) -> list[T]:
    """Run each on a thread of its own, begin together; the results in order."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], T]) -> T:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(begin, works))


@dataclass(frozen=True, slots=True)
class Seen:
    """A version that an operation told, and when the operation began and ended."""

    invoked: int
    returned: int
    version: int


def out_of_order(made: Sequence[Seen], used: Sequence[Seen]) -> list[str]:
    """What no single key in one place could have answered; empty when the history is linearizable.

    Every version is made once, in order, and stays current until the next is made. So an operation
    must tell at least the newest version told before it began, and none that nobody had begun to make.

    Args:
        made: One entry for each rotation that succeeded.
        used: One entry for each encryption that succeeded.
    """
    findings = []
    versions = sorted(seen.version for seen in made)
    if versions != list(range(versions[0], versions[0] + len(versions))):
        findings.append(f"versions do not follow each other: {versions}")
    begun = {seen.version: seen.invoked for seen in made}
    told = sorted((*made, *used), key=lambda seen: seen.returned)
    newest, position = 0, 0
    for seen in sorted((*made, *used), key=lambda seen: seen.invoked):
        while told[position].returned < seen.invoked:
            newest = max(newest, told[position].version)
            position += 1
        if seen.version < newest:
            findings.append(f"{seen} though version {newest} was told before it began")
        if begun.get(seen.version, 0) > seen.returned:
            findings.append(f"{seen} though nobody had begun to make it")
    made_in_order = sorted(made, key=lambda seen: seen.version)
    for older, newer in itertools.pairwise(made_in_order):
        if newer.returned < older.invoked:
            findings.append(f"{newer} was there before {older} was asked for")
    return findings


@dataclass(frozen=True)
class Chance:
    """Random choices that can be had again: the seed is printed, and `QIMEM_TEST_SEED` sets it."""

    seed: int = field(
        default_factory=lambda: int(os.environ.get("QIMEM_TEST_SEED") or random.getrandbits(32))
    )

    def source(self, name: str) -> random.Random:
        """A source of its own for each user, so that threads do not disturb each other's sequence."""
        print(f"seed {self.seed} for {name}")
        return random.Random(f"{self.seed} {name}")


Query = Callable[..., list[tuple[Any, ...]]]
"""A statement with `?` for each parameter, and the parameters; its rows."""


@contextlib.contextmanager
def queries(server: Server) -> Iterator[Query]:
    """Ask the server's database directly, over one connection of its own. Use from one thread."""
    if server.database_url is not None:
        with psycopg.connect(server.database_url, autocommit=True) as postgres:

            def ask_postgres(statement: str, *parameters: object) -> list[tuple[Any, ...]]:
                cursor = postgres.execute(statement.replace("?", "%s").encode(), parameters)
                return cursor.fetchall() if cursor.description else []

            yield ask_postgres
        return
    with contextlib.closing(
        apsw.Connection(str(server.data / "qimem.db"), flags=apsw.SQLITE_OPEN_READWRITE)
    ) as sqlite:
        sqlite.set_busy_timeout(5_000)

        def ask_sqlite(statement: str, *parameters: object) -> list[tuple[Any, ...]]:
            stored = [value.bytes if hasattr(value, "bytes") else value for value in parameters]
            return sqlite.execute(statement, stored).fetchall()

        yield ask_sqlite


def rows(server: Server, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Ask once."""
    with queries(server) as ask:
        return ask(statement, *parameters)


def tireless(world: World) -> Person:
    """A `realm-admin` in a realm of its own whose client is not limited in rate."""
    realm_id = world.realm()
    client = world.client(realm_id, tier="unlimited")
    username = world.user(realm_id, ["realm-admin"])["username"]
    credentials = {"client_id": client["client_id"], "client_secret": client["client_secret"],
                   "realm_id": realm_id, "username": username, "password": PASSWORD}  # fmt: skip
    pair = ok(world.operator.post("/v1/auth/token", json=credentials))
    return Person(
        realm_id, client["client_id"], client["client_secret"], username, pair,
        world.bearer(pair["access_token"]), ["realm-admin"],
    )  # fmt: skip


@contextlib.contextmanager
def a_world(server: Server) -> Iterator[World]:
    """A server that is started, and its operator, until the end of the block."""
    try:
        with contextlib.closing(World(server.start())) as world:
            yield world
    finally:
        server.stop()


_SHARED = pytest.StashKey[dict[tuple[str, ...], Server]]()


def shared_server(request: pytest.FixtureRequest, kind: str, *faults: str) -> Server:
    """A running server as `new_server` makes it, one for all modules, as starting takes seconds."""
    shared = request.session.stash.setdefault(_SHARED, {})
    if (kind, *faults) not in shared:
        directory = request.getfixturevalue("tmp_path_factory").mktemp("shared")
        server = new_server(request, directory, kind, *faults)
        request.session.addfinalizer(server.stop)
        shared[kind, *faults] = server.start()
    return shared[kind, *faults]


def new_server(request: pytest.FixtureRequest, directory: Path, kind: str, *faults: str) -> Server:
    """Two workers on an empty database, or on each of two nodes; with faults, a server that is broken on purpose."""
    if kind == "two nodes":
        machines: Machines = request.getfixturevalue("machines")
        return machines.nodes(directory, broken(directory, *faults) if faults else {})
    url = None
    if kind == "postgresql":
        url = request.getfixturevalue("postgres_cluster").create(migrated=False)
    environment = broken(directory, *faults) if faults else {}
    return Server(directory, workers=2, database_url=url, environment=environment)


@contextlib.contextmanager
def operator_of(server: Server) -> Iterator[World]:
    """The operator of a running server, signed in anew: many tests take longer than a token lives."""
    with contextlib.closing(World(server)) as world:
        yield world
