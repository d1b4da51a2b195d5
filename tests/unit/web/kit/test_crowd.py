"""Room for newcomers, many of whom come in one turn of the loop."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from qimem.observability.metrics import Metric
from qimem.web.kit import crowd
from qimem.web.kit.admission import Admission
from qimem.web.kit.crowd import has_room


class FakeCounts:
    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def count(self, metric: Metric, reason: str = "", more: int = 1) -> None:
        self.found[reason] += more


class FakeConnection:
    """Its end is told only in the next turn, as by the event loops."""

    def __init__(self, admission: Admission, connections: set[Any], idle_until: float | None) -> None:
        self.admission = admission
        self.connections = connections
        self.until = idle_until
        self.transport = self
        self.looks = 0
        self.is_cut = False
        connections.add(self)

    @property
    def idle_until(self) -> float | None:
        self.looks += 1
        return self.until

    def is_closing(self) -> bool:
        return self.is_cut

    def cut(self) -> None:
        self.is_cut = True


class Crowd:
    def __init__(self, *idle_until: float | None) -> None:
        self.counts = FakeCounts()
        self.admission = Admission(self.counts)
        self.connections: set[Any] = set()
        self.there = [self.newcomer(until) for until in idle_until]

    def newcomer(self, idle_until: float | None = None) -> FakeConnection:
        return FakeConnection(self.admission, self.connections, idle_until)


def test_who_was_closed_for_a_newcomer_takes_no_place_from_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crowd, "CONNECTIONS_ROOM", 3)
    present = Crowd(*map(float, range(10)))
    assert has_room(present.newcomer())
    assert [one.is_cut for one in present.there] == [True] * 3 + [False] * 7
    assert len(present.connections) == 10 + 1 - 3
    assert present.counts.found == {"idle": 3}


def test_while_all_are_busy_one_newcomer_in_a_while_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(crowd, "monotonic", lambda: now)
    present = Crowd(*[None] * 10)
    admitted = [has_room(present.newcomer()) for _ in range(64)]
    assert admitted == [False] * 64
    assert {one.looks for one in present.there} == {1}
    assert present.counts.found == {"full": 64}
    present.there[0].until = 1.0
    now += 0.06
    assert has_room(present.newcomer())
    assert present.there[0].is_cut
