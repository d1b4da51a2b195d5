"""The metrics as text that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry

from qimem.observability.metrics import (
    BOUNDS_SECONDS,
    BUILD,
    CHECKPOINT_FAILURES,
    CLOSED,
    DURATION,
    GAUGES,
    LOG_DROPPED,
    REFUSED,
    REQUESTS,
    STARTS,
    STRAYS,
    Metrics,
)


class _AllRows(Collector):
    def __init__(self, metrics: Metrics, version: str, now: float) -> None:
        self._metrics = metrics
        self._version = version
        self._now = now

    def collect(self) -> Iterator[Family]:
        requests = CounterMetricFamily(REQUESTS.name, REQUESTS.help, labels=REQUESTS.labels)
        duration = HistogramMetricFamily(DURATION.name, DURATION.help, labels=DURATION.labels)
        bounds = [*map(str, BOUNDS_SECONDS), "+Inf"]
        for sample in self._metrics.samples():
            for status, count in sample.statuses.items():
                requests.add_metric([sample.operation, str(status)], count)
            buckets = list(zip(bounds, accumulate(sample.buckets), strict=True))
            duration.add_metric([sample.operation], buckets, sample.seconds)
        yield requests
        yield duration
        for metric in (STRAYS, REFUSED, CLOSED, LOG_DROPPED, CHECKPOINT_FAILURES):
            counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
            for value, count in self._metrics.counts(metric).items():
                counter.add_metric([value] if metric.labels else [], count)
            yield counter
        yield CounterMetricFamily(STARTS.name, STARTS.help, value=self._metrics.starts())
        build = GaugeMetricFamily(BUILD.name, BUILD.help, labels=BUILD.labels)
        build.add_metric([self._version], 1)
        yield build
        workers = self._metrics.gauges(self._now)
        for place, gauge in enumerate(GAUGES):
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
            for number, values in workers.items():
                family.add_metric([str(number)], values[place])
            yield family


def exposed(metrics: Metrics, version: str, now: float) -> bytes:
    """All metrics in the text format 0.0.4.

    Args:
        metrics: Those of all workers.
        version: Of the product.
        now: Monotonic seconds.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_AllRows(metrics, version, now))
    return generate_latest(registry)
