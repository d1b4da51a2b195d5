"""What a server tells about itself: every metric by its name, counted in memory that all workers share.

Each worker writes into a row of its own, without a lock; whoever is asked adds the rows up. A row belongs to the
process that holds a lock on it, and the system takes the lock from whoever dies: the next worker goes on counting in
the same row, so counters do not go back when a worker is replaced.
"""

from __future__ import annotations

import math
import mmap
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from enum import StrEnum
from fcntl import LOCK_EX, LOCK_NB, lockf
from typing import Final, NamedTuple

from qimem.kernel.limits import METRICS_STALE_SECONDS, WORKERS_MAX
from qimem.kernel.shared_memory import memory_file


class Kind(StrEnum):
    """What may be done with a metric's value."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


class Metric(NamedTuple):
    """A name of the table below."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


REQUESTS: Final = Metric(
    "qimem_http_requests_total",
    Kind.COUNTER,
    "Answers by operation (`none` where the path or the method is none of ours) and status.",
    ("operation", "status"),
)
DURATION: Final = Metric(
    "qimem_http_request_duration_seconds",
    Kind.HISTOGRAM,
    "From the head of a request to its answer, the wait for its body included.",
    ("operation",),
)
REFUSED: Final = Metric(
    "qimem_overload_refused_total",
    Kind.COUNTER,
    "Requests refused before any work: the worker was late (`turn`), kept too many unfinished bodies (`bodies`) or "
    "requests behind others of their connection (`pipelined`).",
    ("reason",),
)
CLOSED: Final = Metric(
    "qimem_overload_connections_closed_total",
    Kind.COUNTER,
    "Connections closed to make room: `idle` for newcomers, `full` newcomers without room, `unread` of clients who do "
    "not read.",
    ("reason",),
)
LOG_DROPPED: Final = Metric(
    "qimem_log_lines_dropped_total", Kind.COUNTER, "Log lines that nobody read in time. Never audit records."
)
STARTS: Final = Metric(
    "qimem_worker_starts_total", Kind.COUNTER, "Workers that were started, the first ones included."
)
STRAYS: Final = Metric(
    "qimem_forwarded_ignored_total",
    Kind.COUNTER,
    "Requests with forwarded headers that were ignored: the peer is not in `server.trusted_proxies`.",
)
SINKS: Final = ("file", "url")
"""Where checkpoints of the audit log are brought to."""
CHECKPOINT_FAILURES: Final = Metric(
    "qimem_checkpoint_failures_total",
    Kind.COUNTER,
    "Attempts to bring checkpoints of the audit log to `audit.checkpoint_file` or `audit.checkpoint_url` that failed.",
    ("sink",),
)
BUILD: Final = Metric("qimem_build_info", Kind.GAUGE, "1; the version is a label.", ("version",))
GAUGES: Final = (
    Metric("qimem_worker_resident_bytes", Kind.GAUGE, "Memory of the process.", ("worker",)),
    Metric("qimem_worker_open_files", Kind.GAUGE, "Open descriptors of the process.", ("worker",)),
    Metric(
        "qimem_worker_loop_delay_seconds",
        Kind.GAUGE,
        "How late the event loop was for its last look.",
        ("worker",),
    ),
    Metric("qimem_worker_passwords_waiting", Kind.GAUGE, "Passwords that wait to be hashed.", ("worker",)),
    Metric(
        "qimem_worker_audit_waiting", Kind.GAUGE, "Records that wait for the audit log's disk.", ("worker",)
    ),
    Metric(
        "qimem_worker_audit_writable",
        Kind.GAUGE,
        "1 while the audit log can be written, else 0.",
        ("worker",),
    ),
    Metric("qimem_worker_audit_free_bytes", Kind.GAUGE, "Free space where the audit log is.", ("worker",)),
    Metric(
        "qimem_worker_audit_seconds_until_full",
        Kind.GAUGE,
        "How long that space does at the rate of the last two hours; +Inf while it does not shrink, and at first.",
        ("worker",),
    ),
    *(
        Metric(
            f"qimem_worker_checkpoint_{sink}_late_seconds",
            Kind.GAUGE,
            f"For how long `audit.checkpoint_{sink}` has lacked a checkpoint that it should have; "
            "0 while it has all, and where another worker brings them.",
            ("worker",),
        )
        for sink in SINKS
    ),
)
COUNTS: Final = (
    (REFUSED, "turn"),
    (REFUSED, "bodies"),
    (REFUSED, "pipelined"),
    (CLOSED, "idle"),
    (CLOSED, "full"),
    (CLOSED, "unread"),
    (LOG_DROPPED, ""),
    (STRAYS, ""),
    *((CHECKPOINT_FAILURES, sink) for sink in SINKS),
)
"""Plain counters, each with the value of its label."""
METRICS: Final = (
    REQUESTS, DURATION, STRAYS, REFUSED, CLOSED, LOG_DROPPED, STARTS, CHECKPOINT_FAILURES, BUILD, *GAUGES,
)  # fmt: skip
"""Every metric there is."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text that `exposition` renders."""
BOUNDS_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
STATUSES: Final = (200, 204, 400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 428, 429, 500, 503)
NO_OPERATION: Final = "none"

_CELL_BYTES: Final = 8
_CELL_MAX: Final = 2**64 - 1
_ROW_BYTES: Final = 64 * 1024
_MEMORY_BYTES: Final = _ROW_BYTES * WORKERS_MAX
_BUCKETS: Final = len(BOUNDS_SECONDS) + 1
_PER_OPERATION: Final = len(STATUSES) + _BUCKETS + 1
"""A count for each status and each bucket, and the sum in nanoseconds."""
_COUNT_AT: Final = {count: place for place, count in enumerate(COUNTS)}
_STATUS_AT: Final = {status: place for place, status in enumerate(STATUSES)}
_NANOSECONDS: Final = 1_000_000_000
_MICRO: Final = 1_000_000
"""Gauges are kept in millionths: cells hold whole numbers, the largest of which is infinite."""
_GAUGE_MAX: Final = 1e13


def shared_metrics() -> int:
    """A descriptor of empty rows; processes that inherit it count there.

    Raises:
        OSError: the system has no memory for it.
    """
    return memory_file("metrics", _MEMORY_BYTES)


class Sample(NamedTuple):
    """One operation over all workers: counts by status and by bucket (not cumulated), and the sum in seconds."""

    operation: str
    statuses: Mapping[int, int]
    buckets: Sequence[int]
    seconds: float


class Metrics:
    """The rows, and this process's own.

    Args:
        operations: Names of all endpoints; the same in each process that shares the memory.
        descriptor: Of `shared_metrics`, which stays open; None counts for this process alone.
    """

    def __init__(self, operations: Sequence[str], descriptor: int | None = None) -> None:
        self._operations = (NO_OPERATION, *operations)
        self._bases = {name: number * _PER_OPERATION for number, name in enumerate(self._operations)}
        self._gauges_at = len(self._operations) * _PER_OPERATION
        self._stamp_at = self._gauges_at + len(GAUGES)
        self._starts_at = self._stamp_at + 1
        self._counts_at = self._starts_at + 1
        if (self._counts_at + len(COUNTS)) * _CELL_BYTES > _ROW_BYTES:
            raise ValueError("more metrics than a row holds")
        memory = mmap.mmap(-1 if descriptor is None else descriptor, _MEMORY_BYTES)
        self._rows = [
            memoryview(memory)[start : start + _ROW_BYTES].cast("Q")
            for start in range(0, _MEMORY_BYTES, _ROW_BYTES)
        ]
        number = 0 if descriptor is None else _claim(descriptor)
        self.first = number == 0
        """Whether this is the process that says what is the same for all of a server."""
        self._own = self._rows[number]
        self._own[self._starts_at] += 1

    def answered(self, operation: str | None, status: int, seconds: float) -> None:
        """Count an answer.

        Args:
            operation: Name of the endpoint; None where there was none.
            status: One of `STATUSES`; another one is counted as 500.
            seconds: How long it took.
        """
        own, base = self._own, self._bases[operation or NO_OPERATION]
        own[base + _STATUS_AT.get(status, _STATUS_AT[500])] += 1
        base += len(STATUSES)
        own[base + bisect_left(BOUNDS_SECONDS, seconds)] += 1
        own[base + _BUCKETS] += int(seconds * _NANOSECONDS)

    def count(self, metric: Metric, reason: str = "", more: int = 1) -> None:
        """Add to one of `COUNTS`."""
        self._own[self._counts_at + _COUNT_AT[metric, reason]] += more

    def counts(self, metric: Metric) -> dict[str, int]:
        """Value of the label → how many, over all workers; of one of `COUNTS`."""
        return {
            reason: sum(row[self._counts_at + place] for row in self._rows)
            for (counted, reason), place in _COUNT_AT.items()
            if counted is metric
        }

    def tell(self, values: Sequence[float], now: float) -> None:
        """How this worker is.

        Args:
            values: One for each of `GAUGES`, at least 0; may be infinite.
            now: Monotonic seconds.
        """
        for place, value in enumerate(values, self._gauges_at):
            self._own[place] = _CELL_MAX if value >= _GAUGE_MAX else int(max(0.0, value) * _MICRO)
        self._own[self._stamp_at] = int(now * _MICRO)

    def samples(self) -> list[Sample]:
        """Every operation that was asked for."""
        rows = [row for row in self._rows if row[self._starts_at]]
        found = []
        for name, base in self._bases.items():
            cells = [sum(row[base + place] for row in rows) for place in range(_PER_OPERATION)]
            if not any(cells):
                continue
            statuses = {status: count for status, count in zip(STATUSES, cells, strict=False) if count}
            buckets = cells[len(STATUSES) : len(STATUSES) + _BUCKETS]
            found.append(Sample(name, statuses, buckets, cells[-1] / _NANOSECONDS))
        return found

    def starts(self) -> int:
        """How many workers have claimed a row."""
        return sum(row[self._starts_at] for row in self._rows)

    def gauges(self, now: float) -> dict[int, list[float]]:
        """Number of each worker that was heard of lately → one value for each of `GAUGES`.

        Args:
            now: Monotonic seconds.
        """
        oldest = int((now - METRICS_STALE_SECONDS) * _MICRO)
        return {
            number: [
                math.inf if cell == _CELL_MAX else cell / _MICRO
                for cell in row[self._gauges_at : self._stamp_at]
            ]
            for number, row in enumerate(self._rows, 1)
            if row[self._stamp_at] and row[self._stamp_at] >= oldest
        }


def _claim(descriptor: int) -> int:
    """The first row that no living process holds, from now on this one's."""
    for number in range(WORKERS_MAX):
        try:
            lockf(descriptor, LOCK_EX | LOCK_NB, 1, number)
        except OSError:
            continue
        return number
    raise ValueError("more workers than rows")
