"""Sends spoiled requests to a running server for as long as it is told, and judges every answer.

with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
    reports = list(processes.map(run, orders))
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.draft import Draft
from tests.fuzz.material import Account, Material
from tests.fuzz.mutations import spoil
from tests.fuzz.wire import Connection, Got, sample_seed

LANES = 4
RENEW_AFTER = 1_500
ANSWER_SECONDS = 1.0
UNSPOILED = 0.05
PIPELINED = 0.2
SHOWN_BYTES = 3_000
UNAVAILABLE = {"sealed", "overloaded", "storage_unavailable", "audit_unavailable", "outcome_unknown"}
_CODE = re.compile(rb'"code":"([a-z_]+)"')


@dataclass(frozen=True)
class Order:
    """What one process does."""

    account: Account
    count: int
    seed: str
    part: int
    faults_max: int = 5


@dataclass
class Report:
    """What one process saw.

    Attributes:
        faults: What no request may bring about, with the request.
        accepted: Operation → answers 200, and 409 where it exists already.
        refused: Operation → other answers 4xx.
        codes: Error code → answers.
        silent: Unframed requests that got no answer.
        slow: Operation → answers that came late once, and in time when asked for again.
    """

    faults: list[str] = field(default_factory=list)
    sent: int = 0
    seconds: float = 0.0
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    silent: int = 0
    slow: Counter[str] = field(default_factory=Counter)


class Fault(Exception):
    """An answer that no request may get."""


def run(order: Order) -> Report:
    """Send `count` requests, or fewer if faults pile up."""
    campaign = _Campaign(order)
    started = time.monotonic()
    try:
        campaign.go()
    finally:
        campaign.close()
    campaign.report.seconds = time.monotonic() - started
    return campaign.report


class _Campaign:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._chance = sample_seed(order.seed, order.part)
        self._lanes: list[Connection | None] = [None] * LANES
        self._renew_at = 0
        self.report = Report()

    def close(self) -> None:
        for number in range(LANES):
            self._drop(number)

    def go(self) -> None:
        try:
            self._go()
        except (OSError, AssertionError) as error:
            # Where a plain request is not answered either, there is nothing left to fuzz.
            self.report.faults.append(f"{type(error).__name__}: {error}")

    def _go(self) -> None:
        report = self.report
        while report.sent < self._order.count and len(report.faults) < self._order.faults_max:
            if report.sent >= self._renew_at:
                self._material = Material.make(self._order.account, self._ask)
                self._renew_at = report.sent + RENEW_AFTER
            batches = [self._batch() for _ in range(LANES)]
            for number, batch in enumerate(batches):
                self._send(number, batch)
            for number, batch in enumerate(batches):
                self._judge(number, batch)
                report.sent += len(batch)

    def _batch(self) -> list[Draft]:
        count = self._chance.randrange(2, 7) if self._chance.random() < PIPELINED else 1
        batch: list[Draft] = []
        while len(batch) < count:
            draft = self._material.valid(self._chance)
            if self._chance.random() >= UNSPOILED:
                spoil(self._chance, draft)
            batch.append(draft)
            if draft.unframed or draft.closes:
                break
        return batch

    def _send(self, number: int, batch: list[Draft]) -> None:
        try:
            lane = self._lanes[number] = self._lanes[number] or Connection(self._order.account.url)
            lane.send(b"".join(draft.render() for draft in batch))
        except OSError as error:
            self._end(number, batch, batch[-1], error)

    def _judge(self, number: int, batch: list[Draft]) -> None:
        lane = self._lanes[number]
        allowed = ANSWER_SECONDS
        for draft in batch:
            if lane is None:
                return
            allowed = max(allowed, ANSWER_SECONDS + draft.queue_seconds)
            try:
                answer = lane.receive(bodiless=draft.method == b"HEAD", unframed=draft.unframed)
                self._count(draft, answer)
                check(draft, answer)
                if answer.at - lane.sent > allowed and not draft.unframed:
                    self.report.slow[draft.operation] += 1
                    self._try_again(draft, allowed)
            except (Fault, ValueError, OSError) as error:
                self._end(number, batch, draft, error)
                return
        if batch[-1].unframed or batch[-1].closes:
            self._drop(number)

    def _end(self, number: int, batch: list[Draft], draft: Draft, error: Exception) -> None:
        self._drop(number)
        if draft.unframed and isinstance(error, OSError):
            self.report.silent += 1
        else:
            self.report.faults.append(_told(error, draft, batch))

    def _drop(self, number: int) -> None:
        lane, self._lanes[number] = self._lanes[number], None
        if lane is not None:
            lane.close()

    def _try_again(self, draft: Draft, allowed: float) -> None:
        # A machine that was busy answers in time now; a request that is expensive does not.
        for _ in range(2):
            lane = Connection(self._order.account.url)
            try:
                lane.send(draft.render())
                answer = lane.receive(bodiless=draft.method == b"HEAD", unframed=False)
            finally:
                lane.close()
            if answer.at - lane.sent <= allowed:
                return
        raise Fault(f"answered after more than {allowed} s, each of three times")

    def _count(self, draft: Draft, answer: Got) -> None:
        report = self.report
        report.statuses[answer.status] += 1
        if answer.status in {200, 409}:
            report.accepted[draft.operation] += 1
        elif 400 <= answer.status < 500:
            report.refused[draft.operation] += 1
            found = _CODE.search(answer.body)
            report.codes[found[1].decode() if found else ""] += 1

    def _ask(self, path: str, body: Any, token: str | None) -> Any:
        lane = Connection(self._order.account.url)
        headers = [(b"Host", self._order.account.host), (b"Content-Type", b"application/json")]
        headers += [(b"Authorization", b"Bearer " + token.encode())] if token else []
        lane.send(Draft("", b"POST", path.encode(), b"", headers, encoded=json.dumps(body).encode()).render())
        answer = lane.receive(bodiless=False, unframed=False)
        lane.close()
        if answer.status != 200:
            raise AssertionError(f"{path}: {answer.status} {answer.body!r}")
        return json.loads(answer.body)


def check(draft: Draft, answer: Got) -> None:
    """Whether the answer is one that such a request may get.

    Raises:
        Fault: it is not.
    """
    status, body = answer.status, answer.body
    if status in {500, 502, 504} or b'"code":"internal"' in body:
        raise Fault(f"{status} {body[:300]!r}")
    if answer.closes and not (draft.closes or draft.unframed):
        raise Fault(f"{status} ends a connection that had no reason to end")
    if status < 400 or draft.method == b"HEAD":
        return
    if b"\r\ncontent-type: application/json\r\n" not in answer.head:
        raise Fault(f"{status} without JSON")
    told = json.loads(body)
    if not {"error", "code", "request_id"} <= told.keys():
        raise Fault(f"{status} without error, code and request id: {body[:300]!r}")
    if status >= 500 and status != 505 and not (status == 503 and told["code"] in UNAVAILABLE):
        raise Fault(f"{status} {told['code']}")


def _told(error: Exception, draft: Draft, batch: list[Draft]) -> str:
    place = next(number for number, one in enumerate(batch) if one is draft) + 1
    sent = draft.render()
    return (
        f"{error or type(error).__name__}\n  {draft.operation} after {', '.join(draft.history) or 'nothing'}; "
        f"number {place} of {len(batch)} on the line, {len(sent)} bytes:\n  {sent[:SHOWN_BYTES]!r}"
    )
