from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qimem.bootstrap.serving import ENDPOINTS
from qimem.kernel.limits import WORKERS_MAX
from qimem.observability import metrics as module
from qimem.observability.exposition import exposed
from qimem.observability.metrics import GAUGES, METRICS, STATUSES, Kind, Metrics, shared_metrics

NAMES = ("keys.encrypt", "system.health")
VALUES = [float(number) for number in range(1, len(GAUGES) + 1)]


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = shared_metrics()
    yield descriptor
    os.close(descriptor)


def read(metrics: Metrics, now: float = 0.0) -> dict[tuple[str, ...], float]:
    """What a scraper makes of the text: name and values of the labels → value."""
    text = exposed(metrics, "1.2.3", now).decode()
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_answers_are_counted_by_operation_and_status() -> None:
    metrics = Metrics(NAMES)
    for status in (200, 200, 429):
        metrics.answered("keys.encrypt", status, 0.001)
    metrics.answered(None, 404, 0.001)
    metrics.answered("system.health", 599, 0.001)
    requests = {
        key[1:]: value for key, value in read(metrics).items() if key[0] == "qimem_http_requests_total"
    }
    assert requests == {
        ("keys.encrypt", "200"): 2, ("keys.encrypt", "429"): 1, ("none", "404"): 1, ("system.health", "500"): 1,
    }  # fmt: skip


def test_durations_fall_into_cumulated_buckets() -> None:
    metrics = Metrics(NAMES)
    for seconds in (0.0, 0.0005, 0.0006, 0.3, 60.0):
        metrics.answered("keys.encrypt", 200, seconds)
    seen = read(metrics)
    name = "qimem_http_request_duration_seconds"
    at = {key[1]: value for key, value in seen.items() if key[0] == f"{name}_bucket"}
    assert (at["0.0005"], at["0.001"], at["0.25"], at["0.5"], at["2.5"], at["+Inf"]) == (2, 3, 3, 4, 4, 5)
    assert seen[f"{name}_count", "keys.encrypt"] == 5
    assert seen[f"{name}_sum", "keys.encrypt"] == pytest.approx(60.3011)


def test_what_was_never_asked_for_is_not_shown() -> None:
    assert not [key for key in read(Metrics(NAMES)) if key[0].startswith("qimem_http")]


def test_a_worker_that_tells_nothing_any_more_is_not_shown() -> None:
    metrics = Metrics(NAMES)
    assert metrics.gauges(100.0) == {}
    metrics.tell(VALUES, 100.0)
    assert metrics.gauges(104.9) == {1: VALUES}
    assert metrics.gauges(105.1) == {}
    shown = read(metrics, 100.0)
    assert [shown[gauge.name, "1"] for gauge in GAUGES] == VALUES
    assert not [key for key in read(metrics, 200.0) if key[0] in {gauge.name for gauge in GAUGES}]


def test_no_value_is_too_large_to_be_told() -> None:
    metrics = Metrics(NAMES)
    metrics.tell([1e300, -5.0, *VALUES[2:]], 1.0)
    told = metrics.gauges(1.0)[1]
    assert told[0] > 1e12
    assert told[1:] == [0.0, *VALUES[2:]]


def test_what_never_ends_is_told_as_infinite() -> None:
    metrics = Metrics(NAMES)
    metrics.tell([*VALUES[:-1], math.inf], 1.0)
    assert metrics.gauges(1.0) == {1: [*VALUES[:-1], math.inf]}
    assert read(metrics, 1.0)[GAUGES[-1].name, "1"] == math.inf


def test_one_of_several_processes_is_the_first(memory: int) -> None:
    assert Metrics(NAMES).first
    taken = worker(memory, 0)
    try:
        assert not Metrics(NAMES, memory).first
    finally:
        taken.kill()
        taken.communicate()


_WORKER = """
import sys
from qimem.observability.metrics import GAUGES, Metrics
metrics = Metrics(("keys.encrypt", "system.health"), int(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    metrics.answered("keys.encrypt", 200, 0.001)
metrics.tell([7.0] * len(GAUGES), 50.0)
print("done", flush=True)
sys.stdin.readline()
"""


def worker(memory: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WORKER, str(memory), str(count)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(memory,)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    return process


def test_rows_of_all_processes_are_added_up_and_go_on_where_a_dead_one_stopped(memory: int) -> None:
    ours = Metrics(NAMES, memory)
    ours.answered("keys.encrypt", 200, 0.001)
    first, second = worker(memory, 1_000), worker(memory, 100)
    key = "qimem_http_requests_total", "keys.encrypt", "200"
    try:
        seen = read(ours, 50.0)
        assert seen[key] == 1_101
        assert seen["qimem_worker_starts_total",] == 3
        assert sorted(ours.gauges(50.0)) == [2, 3]
        first.kill()
        first.wait()
        third = worker(memory, 10)
        try:
            # In the row of the dead one, on top of what stands there.
            assert ours._rows[1][module._STATUS_AT[200] + ours._bases["keys.encrypt"]] == 1_010
            assert read(ours, 50.0)[key] == 1_111
        finally:
            third.kill()
            third.communicate()
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_there_is_a_row_for_each_worker_and_no_more(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORKERS_MAX", 1)
    process = worker(memory, 1)
    try:
        with pytest.raises(ValueError, match="rows"):
            Metrics(NAMES, memory)
    finally:
        process.kill()
        process.communicate()


def test_a_row_holds_all_operations_and_refuses_more() -> None:
    Metrics([endpoint.name for endpoint in ENDPOINTS])
    with pytest.raises(ValueError, match="more metrics"):
        Metrics([f"many.{number}" for number in range(1_000)])


def test_names_keep_the_rules_of_prometheus() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"qimem_[a-z]+(_[a-z]+)+", metric.name)
        assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER)
        assert metric.help.endswith(".")
        assert not set(metric.labels) & {"realm", "client", "user", "address", "key"}
    assert {metric.name for metric in METRICS if "seconds" in metric.name or "bytes" in metric.name} >= {
        "qimem_http_request_duration_seconds"
    }


def test_every_status_that_is_answered_has_a_cell() -> None:
    from qimem.web.kit.errors import STATUS

    assert set(STATUS.values()) <= set(STATUSES)
    assert {200, 204, 405, 413, 415, 428} <= set(STATUSES)
    assert WORKERS_MAX * module._ROW_BYTES == module._MEMORY_BYTES
