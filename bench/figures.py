"""What is measured: runs, pairs of runs, and the statistics over them. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class RunRefused(Exception):
    """The run is no measurement: something in it went wrong, so its rate means nothing."""


class Spread(NamedTuple):
    """Median, least and greatest of some figures."""

    median: float
    least: float
    most: float


def spread(values: Iterable[float]) -> Spread:
    """The spread of at least one figure."""
    every = sorted(values)
    if not every:
        raise ValueError("no figures")
    return Spread(statistics.median(every), every[0], every[-1])


@dataclass(frozen=True, slots=True)
class Run:
    """One load on one side.

    Args:
        requests: How many were answered, all of them well.
        seconds: For how long.
        cpu_seconds: User and system time of the server's processes meanwhile; None where other loads share it.
        p50_us: Median latency in microseconds; None where the side has no clients.
        p99_us: 99th percentile.
    """

    requests: int
    seconds: float
    cpu_seconds: float | None
    p50_us: float | None = None
    p99_us: float | None = None

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float | None:
        """CPU microseconds per request."""
        return None if self.cpu_seconds is None else self.cpu_seconds * 1e6 / self.requests


@dataclass(frozen=True, slots=True)
class Pair:
    """Two runs, one directly after the other."""

    first: Run
    second: Run


@dataclass(frozen=True, slots=True)
class Row:
    """Pairs of one scenario. `first` is what `second` is compared with."""

    name: str
    first: str
    second: str
    connections: int
    pairs: list[Pair]

    def ratio(self, field: str) -> Spread:
        """Second ÷ first of one field of `Run`, pair by pair.

        Raises:
            KeyError: a side has no such figure.
        """
        return spread(_known(pair.second, field) / _known(pair.first, field) for pair in self.pairs)

    def first_runs(self, field: str) -> Spread:
        """One field over the first runs; raises as `ratio` does."""
        return spread(_known(pair.first, field) for pair in self.pairs)

    def second_runs(self, field: str) -> Spread:
        """One field over the second runs; raises as `ratio` does."""
        return spread(_known(pair.second, field) for pair in self.pairs)

    def figure(self, name: str) -> float:
        """One figure by the name that gates use.

        Raises:
            KeyError: no such figure, or the side has none.
        """
        if name == "rate ratio":
            return self.ratio("rate").median
        if name == "time ratio":
            # How much longer one takes: the other way around than the rate.
            return spread(pair.first.rate / pair.second.rate for pair in self.pairs).median
        if name == "cpu ratio":
            return self.ratio("cpu_us").median
        if name == "p99 ratio":
            return self.ratio("p99_us").median
        if name == "rate":
            return self.second_runs("rate").median
        if name == "p50 ms":
            return self.second_runs("p50_us").median / 1000
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure that is no rate, measured a few times."""

    name: str
    unit: str
    values: list[float]

    def figure(self, name: str) -> float:
        """`median` or `most`.

        Raises:
            KeyError: another name.
        """
        if name not in ("median", "most"):
            raise KeyError(name)
        return float(getattr(spread(self.values), name))


def _known(run: Run, field: str) -> float:
    value: float | None = getattr(run, field)
    if value is None:
        raise KeyError(field)
    return value
