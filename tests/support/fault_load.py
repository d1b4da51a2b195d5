"""Clients that go on while the server's disk fails, and the judge of what they were answered.

with Watch(server, person) as watch:
    with watch.during("full disk"):
        …
    watch.recovers()
assert watch.findings("full disk") == []
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

from tests.support.api import Person
from tests.support.load import Reply, Wire
from tests.support.processes import eventually
from tests.support.server import Server

KEYS, ENCRYPT, DECRYPT = (f"/v1/security/{word}" for word in ("keys", "encrypt", "decrypt"))

ANSWER_SECONDS = 1.0
_MACHINE_SECONDS = 0.4
"""What a busy two-core machine may add; every hang that is looked for lasts longer."""
RECOVERY_SECONDS = 5.0
_PAUSE_SECONDS = 0.05
"""So that ten seconds of a fault do not use up a lease of 1,024 messages, which cannot be renewed meanwhile."""
_UNAVAILABLE = frozenset({"storage_unavailable", "outcome_unknown", "audit_unavailable"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client saw. `status` 0: no answer, the connection broke. Times are monotonic seconds."""

    kind: str
    name: str
    sent: float
    took: float
    status: int
    code: str | None = None
    retry_after: str | None = None

    @property
    def client(self) -> str:
        """Who asked: each has a connection of its own, and with it one worker."""
        return self.name.rsplit("-", 2)[0]


@dataclass
class Span:
    """When a fault was there."""

    began: float
    ended: float = float("inf")


@dataclass
class Watch:
    """One client of each kind: `create` writes, `list` reads, `encrypt` and `decrypt` use a warm key, the rest is public.

    Args:
        wires: Connections of each kind, each to whichever worker it meets.
    """

    server: Server
    person: Person
    wires: int = 3
    answers: list[Answer] = field(default_factory=list)
    spans: dict[str, Span] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        with contextlib.closing(Wire(self.server.url, self.person.access_token)) as wire:
            # This connection may have found the worker that the clients before did not: it recovers as well.
            eventually(lambda: wire.post(KEYS, {}).status == 200, seconds=RECOVERY_SECONDS)
            key = wire.done(KEYS, {})["lineage_id"]
            # A broken server tells of keys that are not there yet.
            eventually(lambda: wire.get(f"{KEYS}/{key}").status == 200)
            envelope = wire.done(ENCRYPT, {"lineage_id": key, "input": "warm"})["envelope"]
        jobs: dict[str, Callable[[Wire, str], Reply]] = {
            "create": lambda wire, name: wire.post(KEYS, {"name": name}),
            "list": lambda wire, _: wire.get(KEYS),
            "encrypt": lambda wire, _: wire.post(ENCRYPT, {"lineage_id": key, "input": "warm"}),
            "decrypt": lambda wire, _: wire.post(DECRYPT, {"input": envelope}),
            "health": lambda wire, _: wire.get("/health"),
            "jwks": lambda wire, _: wire.get(f"/realms/{self.person.realm_id}/jwks"),
        }
        self._threads = [
            threading.Thread(target=self._client, args=(kind, job, number))
            for kind, job in jobs.items()
            for number in range(self.wires)
        ]
        for thread in self._threads:
            thread.start()
        # A worker that has never used the key asks the database first: warm is what has been answered once.
        until = time.monotonic() + RECOVERY_SECONDS
        while not self._warm() and time.monotonic() < until:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _warm(self) -> bool:
        served = {answer.client for answer in list(self.answers) if answer.status == 200}
        return len(served) == len(self._threads)

    @contextlib.contextmanager
    def during(self, fault: str) -> Iterator[None]:
        """A fault begins and ends with this block."""
        span = self.spans[fault] = Span(time.monotonic())
        try:
            yield
        finally:
            span.ended = time.monotonic()

    def recovers(self, seconds: float = RECOVERY_SECONDS) -> float:
        """Wait until everything works again; how long it took."""
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            late = [answer for answer in list(self.answers) if answer.sent > began]
            last = {answer.client: answer.status for answer in late}
            if len(last) == len(self._threads) and set(last.values()) == {200}:
                return time.monotonic() - began
            time.sleep(0.02)
        raise AssertionError(f"{seconds} s later: {self.tally(began)}")

    def tally(self, since: float, until: float = float("inf")) -> dict[tuple[str, int, str | None], int]:
        """How often each kind was answered what, by when it was asked."""
        counts: dict[tuple[str, int, str | None], int] = {}
        for answer in list(self.answers):
            if since < answer.sent < until:
                place = answer.kind, answer.status, answer.code
                counts[place] = counts.get(place, 0) + 1
        return counts

    def seen(self, fault: str) -> dict[tuple[str, int, str | None], int]:
        """The tally of what was asked during the fault."""
        span = self.spans[fault]
        return self.tally(span.began, span.ended)

    def findings(self, *, unaffected: frozenset[str]) -> list[str]:
        """What must not be: ever for all kinds, and refusals of those that the faults do not touch."""
        found = []
        for answer in self.answers:
            if answer.status not in {200, 503}:
                found.append(f"neither done nor refused: {answer}")
            elif answer.took > ANSWER_SECONDS + _MACHINE_SECONDS:
                found.append(f"late: {answer}")
            elif answer.status == 503 and (answer.code not in _UNAVAILABLE or not answer.retry_after):
                found.append(f"an undefined refusal: {answer}")
            elif answer.status == 503 and answer.kind in unaffected:
                found.append(f"refused without need: {answer}")
        return found

    def names(self, *codes: str | None) -> set[str]:
        """The keys whose creation was answered like this; None: done."""
        return {
            answer.name
            for answer in self.answers
            if answer.kind == "create" and answer.status in {200, 503} and answer.code in codes
        }

    def lost_or_half_done(self) -> list[str]:
        """What the server holds now against what it told."""
        held = set(_names(self.server, self.person))
        lost = self.names(None) - held
        undone = self.names("storage_unavailable") & held
        return [*(f"lost: {name}" for name in lost), *(f"refused and there: {name}" for name in undone)]

    def _client(self, kind: str, job: Callable[[Wire, str], Reply], number: int) -> None:
        wire: Wire | None = None
        count = 0
        while not self._over.is_set():
            count += 1
            name, sent = f"{kind}-{number}-{count}-{int(time.monotonic() * 1e6)}", time.monotonic()
            try:
                wire = wire or Wire(self.server.url, self.person.access_token, timeout=15)
                reply = job(wire, name)
                self.answers.append(
                    Answer(
                        kind, name, sent, time.monotonic() - sent, reply.status,
                        reply.code if reply.status != 200 else None, reply.headers.get("retry-after"),
                    )
                )  # fmt: skip
            except OSError:
                self.answers.append(Answer(kind, name, sent, time.monotonic() - sent, 0))
                if wire is not None:
                    wire.close()
                wire = None
            self._over.wait(_PAUSE_SECONDS)
        if wire is not None:
            wire.close()


def _names(server: Server, person: Person) -> Iterator[str]:
    with contextlib.closing(Wire(server.url, person.access_token)) as wire:
        cursor = ""
        while True:
            reply = wire.get(f"{KEYS}?limit=200{cursor}")
            assert reply.status == 200, reply
            yield from (key["name"] for key in reply.body["items"] if key["name"])
            if reply.body["next_cursor"] is None:
                return
            cursor = f"&cursor={reply.body['next_cursor']}"
