"""A server, or one of its workers, is killed under load: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from tests.support.api import PASSWORD, Person
from tests.support.load import (
    DATABASES,
    Chance,
    Reply,
    Wire,
    listeners,
    new_server,
    operator_of,
    rows,
    spread,
    tireless,
    worker_pids,
)
from tests.support.processes import eventually
from tests.support.server import Server
from tests.support.volume import volume

KEYS, ENCRYPT, DECRYPT, ROTATE = (f"/v1/security/{word}" for word in ("keys", "encrypt", "decrypt", "rotate"))
TOKEN, REFRESH, REVOKE = (f"/v1/auth/token{word}" for word in ("", "/refresh", "/revoke"))
CUSTOMERS = 8
GRACE_SECONDS = 9
# Nobody else uses this loopback address, so that nobody takes the port while the server is down.
ADDRESS = "127.0.0.77:0"


@dataclass
class Lineage:
    """A key. `version` and `key_id` are the last that were acknowledged."""

    lineage_id: str
    key_id: str
    version: int = 1
    in_doubt: bool = False


@dataclass
class Session:
    """A login. `revoked` is what was acknowledged to be revoked; in doubt is what has no answer yet."""

    pair: dict[str, str]
    spent: str | None = None
    revoked: str | None = None
    in_doubt: str | None = None


@dataclass
class Ledger:
    """What one customer was told."""

    lineages: list[Lineage] = field(default_factory=list)
    envelopes: list[tuple[str, str]] = field(default_factory=list)
    usernames: list[str] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    cut_off: int = 0

    def __len__(self) -> int:
        return sum(map(len, (self.lineages, self.envelopes, self.usernames, self.sessions)))


class Customer:
    """Does a bit of everything on one connection after the other, and writes down what was answered."""

    def __init__(self, url: str, person: Person, chance: random.Random, name: str) -> None:
        self.url, self.person, self.chance, self.name = url, person, chance, name
        self.ledger = Ledger()
        self.wire: Wire | None = None
        self.number = 0
        self._deeds = [self.create_key, self.encrypt, self.rotate, self.create_user, self.login, self.refresh,
                       self.revoke]  # fmt: skip

    def live(self, over: threading.Event, *, reconnects: bool = False) -> None:
        """Go on until it is over, or until the server is gone."""
        try:
            while not over.is_set():
                try:
                    self.wire = self.wire or Wire(self.url, self.person.access_token)
                    (deed,) = self.chance.choices(self._deeds, weights=[20, 30, 10, 15, 10, 10, 5])
                    deed(self.wire)
                except OSError:
                    self.ledger.cut_off += 1
                    self._disconnect()
                    if not reconnects:
                        return
        finally:
            self._disconnect()

    def _disconnect(self) -> None:
        if self.wire is not None:
            self.wire.close()
        self.wire = None

    def _told(self, reply: Reply) -> dict[str, Any] | None:
        if reply.status == 200:
            return reply.body
        if reply.code == "overloaded":
            # A slow machine may turn passwords away; nothing was promised, and nothing is to be kept.
            return None
        self.ledger.refusals.append(f"refused: {reply.short}")
        return None

    def fresh(self) -> str:
        self.number += 1
        return f"{self.name}-{self.number}"

    def create_key(self, wire: Wire) -> None:
        if (told := self._told(wire.post(KEYS, {"name": self.fresh()}))) is not None:
            self.ledger.lineages.append(Lineage(told["lineage_id"], told["key_id"]))

    def encrypt(self, wire: Wire) -> None:
        if self.ledger.lineages:
            lineage, text = self.chance.choice(self.ledger.lineages), self.fresh()
            told = self._told(wire.post(ENCRYPT, {"lineage_id": lineage.lineage_id, "input": text}))
            if told is not None:
                self.ledger.envelopes.append((told["envelope"], text))

    def rotate(self, wire: Wire) -> None:
        sure = [lineage for lineage in self.ledger.lineages if not lineage.in_doubt]
        if sure:
            lineage = self.chance.choice(sure)
            lineage.in_doubt = True
            told = self._told(wire.post(ROTATE, {"lineage_id": lineage.lineage_id}))
            if told is not None:
                lineage.key_id, lineage.version, lineage.in_doubt = told["key_id"], told["version"], False

    def create_user(self, wire: Wire) -> None:
        body = {"realm_id": self.person.realm_id, "username": self.fresh(), "password": PASSWORD, "roles": []}
        if (told := self._told(wire.post("/v1/auth/users", body))) is not None:
            self.ledger.usernames.append(told["username"])

    def login(self, wire: Wire) -> None:
        if (told := self._told(wire.post(TOKEN, self.person.credentials()))) is not None:
            self.ledger.sessions.append(Session(told))

    def refresh(self, wire: Wire) -> None:
        if (session := self._live_session()) is not None:
            session.in_doubt = "refresh"
            told = self._told(wire.post(REFRESH, {"refresh_token": session.pair["refresh_token"]}))
            if told is not None:
                session.spent, session.pair, session.in_doubt = session.pair["refresh_token"], told, None

    def revoke(self, wire: Wire) -> None:
        if (session := self._live_session()) is not None:
            kind = self.chance.choice(["access_token", "refresh_token"])
            session.in_doubt = "revoke"
            if self._told(wire.post(REVOKE, {"token": session.pair[kind]})) is not None:
                session.revoked, session.in_doubt = kind, None

    def _live_session(self) -> Session | None:
        live = [session for session in self.ledger.sessions if not (session.in_doubt or session.revoked)]
        return self.chance.choice(live) if live else None


class Auditor:
    """Asks the server for all that a ledger holds; `findings` tells what is not so."""

    def __init__(self, server: Server, person: Person, killed: float) -> None:
        self.server, self.person, self.killed = server, person, killed
        self.findings: list[str] = []

    def examine(self, ledger: Ledger) -> None:
        self.findings += ledger.refusals
        with contextlib.closing(Wire(self.server.url, self.person.access_token)) as wire:
            for session in ledger.sessions:
                # First of all, while those whose answer was lost may still ask again.
                self._session(wire, session)
            wire.token = self.person.access_token
            for lineage in ledger.lineages:
                self._lineage(wire, lineage)
            self._envelopes(wire, ledger.envelopes)
            for username in ledger.usernames:
                login = wire.post(TOKEN, self.person.credentials() | {"username": username})
                self._expect(login, 200, None, f"user {username}")

    def _expect(self, reply: Reply, status: int, code: str | None, what: str) -> None:
        if reply.short != (status, code):
            self.findings.append(f"lost: {what}: {reply.short}")

    def _lineage(self, wire: Wire, lineage: Lineage) -> None:
        reply = wire.get(f"{KEYS}/{lineage.key_id}")
        if reply.status != 200:
            self.findings.append(f"lost: {lineage}: {reply.short}")
            return
        versions = reply.body["versions"]
        numbers = [version["version"] for version in versions]
        active = [version["version"] for version in versions if version["active"]]
        newest = {lineage.version, lineage.version + 1} if lineage.in_doubt else {lineage.version}
        if numbers != list(range(1, len(numbers) + 1)) or active != numbers[-1:] or numbers[-1] not in newest:
            self.findings.append(f"lost: {lineage}: versions {numbers}, active {active}")

    def _envelopes(self, wire: Wire, envelopes: Sequence[tuple[str, str]]) -> None:
        for start in range(0, len(envelopes), 500):
            part = envelopes[start : start + 500]
            items = wire.done(DECRYPT, {"items": [{"input": envelope} for envelope, _ in part]})["items"]
            for (_, text), item in zip(part, items, strict=True):
                if item.get("plaintext") != text:
                    self.findings.append(f"lost: envelope of {text}: {item}")

    def _session(self, wire: Wire, session: Session) -> None:
        dead, gone = (401, "invalid_token"), (400, "invalid_grant")
        wire.token = session.pair["access_token"]
        access = wire.get(KEYS)
        refresh = wire.post(REFRESH, {"refresh_token": session.pair["refresh_token"]})
        if session.in_doubt == "refresh":
            # Nobody knows whether it was spent; its owner gets a pair either way while the grace lasts.
            allowed = {(200, None)} if time.monotonic() - self.killed < GRACE_SECONDS else {(200, None), gone}
            if access.status != 200 or refresh.short not in allowed:
                self.findings.append(f"lost: an owner without an answer: {access.short} {refresh.short}")
        elif session.in_doubt == "revoke":
            if refresh.status != 200 and access.status == 200:
                self.findings.append(f"half revoked: {access.short} {refresh.short}")
        elif session.revoked:
            self._expect(access, *dead, f"revocation of {session.revoked}")
            self._expect(
                refresh,
                *(gone if session.revoked == "refresh_token" else (200, None)),
                f"after {session.revoked}",
            )
        else:
            self._expect(access, 200, None, "session")
            self._expect(refresh, 200, None, "refresh")
            if session.spent is not None:
                self._expect(wire.post(REFRESH, {"refresh_token": session.spent}), *gone, "spent token")


def kill(server: Server, chance: random.Random) -> None:
    """End everything at once: like a crash, or like an impatient operator."""
    pids = worker_pids(server)
    if chance.random() < 0.3:
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    server.kill()
    # The workers die with their supervisor; until then they hold the port.
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))


@contextlib.contextmanager
def under_load(customers: Sequence[Customer], *, reconnects: bool = False) -> Iterator[None]:
    over = threading.Event()
    with ThreadPoolExecutor(len(customers)) as threads:
        lives = [threads.submit(customer.live, over, reconnects=reconnects) for customer in customers]
        try:
            yield
        finally:
            over.set()
    for life in lives:
        life.result()


def someone(server: Server) -> Person:
    """A new person."""
    with operator_of(server) as world:
        return tireless(world)


def cycles(server: Server, count: int, *, until_found: bool = False) -> list[str]:
    """Load, kill at a random moment, start again at the same address, examine; what went wrong."""
    chance = Chance()
    address, pick = server.url.removeprefix("http://"), chance.source("kills")
    findings: list[str] = []
    acknowledged = 0
    for cycle in range(count):
        person = someone(server)
        customers = [
            Customer(server.url, person, chance.source(f"customer {cycle}.{n}"), f"c{cycle}-{n}")
            for n in range(CUSTOMERS)
        ]
        with under_load(customers):
            time.sleep(pick.uniform(0.05, 1.5))
            patience = time.monotonic() + 10
            while sum(len(customer.ledger) for customer in customers) <= 10 and time.monotonic() < patience:
                time.sleep(0.01)
            kill(server, pick)
            killed = time.monotonic()
        server.start(address)
        auditor = Auditor(server, person, killed)
        for customer in customers:
            auditor.examine(customer.ledger)
            acknowledged += len(customer.ledger)
        findings += auditor.findings
        if findings and until_found:
            break
    print(f"{acknowledged} acknowledged")
    return findings if acknowledged > 10 * count else [*findings, f"too little to judge: {acknowledged}"]


@contextlib.contextmanager
def at_its_own_address(server: Server) -> Iterator[Server]:
    try:
        yield server.start(ADDRESS)
    finally:
        server.stop()


@pytest.fixture(scope="module", params=DATABASES)
def two_workers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A sound server that a test may kill, if it starts it again."""
    with at_its_own_address(new_server(request, tmp_path_factory.mktemp("mortal"), request.param)) as server:
        yield server


@pytest.mark.acceptance
def test_what_was_acknowledged_survives_the_death_of_the_server(two_workers: Server) -> None:
    embedded = two_workers.database_url is None
    assert cycles(two_workers, volume(100, share=0.03 if embedded else 0.01)) == []
    if embedded:
        assert rows(two_workers, "PRAGMA integrity_check") == [("ok",)]


@pytest.fixture(scope="module")
def hasty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that answers too early, and leaves the place of a dead worker empty."""
    faults = ("acknowledges_keys_before_commit", "replaces_no_worker")
    with at_its_own_address(
        new_server(request, tmp_path_factory.mktemp("hasty"), "sqlite", *faults)
    ) as server:
        yield server


def test_an_answer_before_the_commit_is_found_out(hasty: Server) -> None:
    findings = cycles(hasty, 10, until_found=True)
    assert any(finding.startswith("lost") for finding in findings), findings


def lose_a_worker(server: Server, replaced: Callable[[Server, int], None]) -> list[str]:
    """Kill one of two workers under load; what went wrong for those of the other, and for the data."""
    chance, person = Chance(), someone(server)
    pick = chance.source("kill")
    customers = []
    with spread(server, person.access_token) as wires:
        victim = wires[0].worker
        for number, wire in enumerate(wires):
            customer = Customer(server.url, person, chance.source(f"customer {number}"), f"c{number}")
            customer.wire = wire
            customers.append(customer)
        spared = [customer for customer, wire in zip(customers, wires, strict=True) if wire.worker != victim]
        with under_load(customers, reconnects=True):
            time.sleep(pick.uniform(0.05, 0.5))
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            replaced(server, victim)
    auditor = Auditor(server, person, killed)
    auditor.findings += [f"{customer.name} was cut off" for customer in spared if customer.ledger.cut_off]
    for customer in customers:
        auditor.examine(customer.ledger)
    return auditor.findings


def two_serve_without(server: Server, victim: int, seconds: float = 10) -> None:
    """Wait for the one that takes the place of the victim, until it listens; it comes later after many deaths."""
    eventually(lambda: len({*worker_pids(server)} - {victim}) == 2, seconds=seconds)
    eventually(lambda: len(listeners(server)) == 2, seconds=30)


@pytest.mark.acceptance
def test_a_killed_worker_is_replaced_and_its_neighbor_notices_nothing(two_workers: Server) -> None:
    for _ in range(volume(20)):
        assert lose_a_worker(two_workers, two_serve_without) == []
        with spread(two_workers) as wires:
            assert len({wire.worker for wire in wires}) == 2


def test_a_worker_that_is_not_replaced_is_found_out(hasty: Server) -> None:
    with pytest.raises(AssertionError, match="did not come to pass"):
        lose_a_worker(hasty, lambda server, victim: two_serve_without(server, victim, seconds=2))
