"""Customers who do a bit of everything, and ledgers of what they were told: the load of crash tests."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.support.api import PASSWORD, Person
from tests.support.load import Reply, Wire

KEYS, ENCRYPT, DECRYPT, ROTATE = (f"/v1/security/{word}" for word in ("keys", "encrypt", "decrypt", "rotate"))
TOKEN, REFRESH, REVOKE = (f"/v1/auth/token{word}" for word in ("", "/refresh", "/revoke"))


@dataclass
class Lineage:
    """A key. `version` and `key_id` are the last that were acknowledged."""

    lineage_id: str
    key_id: str
    version: int = 1
    in_doubt: bool = False


@dataclass
class Session:
    """A login. `revoked` is what was acknowledged to be revoked; in doubt is what has no answer yet.

    Args:
        asked: When the refresh was begun, on the monotonic clock.
    """

    pair: dict[str, str]
    spent: str | None = None
    revoked: str | None = None
    in_doubt: str | None = None
    asked: float = 0


SLOW_DISK = {"storage_unavailable", "audit_unavailable", "outcome_unknown"}
"""The defined answers to a disk that takes longer than a second, as those of shared machines sometimes do."""


@dataclass
class Ledger:
    """What one customer was told; `put_off` are the refusals that a slow disk alone explains."""

    lineages: list[Lineage] = field(default_factory=list)
    envelopes: list[tuple[str, str]] = field(default_factory=list)
    usernames: list[str] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    put_off: list[str] = field(default_factory=list)
    request_ids: set[str] = field(default_factory=set)
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
            self.ledger.request_ids.add(reply.headers["x-request-id"])
            return reply.body
        if reply.code == "overloaded":
            # A slow machine may turn passwords away; nothing was promised, and nothing is to be kept.
            return None
        slow = reply.status == 503 and reply.code in SLOW_DISK
        (self.ledger.put_off if slow else self.ledger.refusals).append(f"refused: {reply.short}")
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
            session.in_doubt, session.asked = "refresh", time.monotonic()
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
