"""A worker's numbers. Counters are moved once per batch, never per event; gauges are read when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from fqlstream.ops import numbers as rows
from fqlstream.ops.numbers import Kind, NumberRow

#: What a partition's own diagnostics are called here. `labels_waiting` is no counter: it is read when somebody asks.
_OF_PARTITIONS: Final[Mapping[str, NumberRow]] = {
    "events": rows.EVENTS,
    "labels": rows.LABELS,
    "labels_joined": rows.LABELS_JOINED,
    "duplicates": rows.DUPLICATES,
    "late": rows.LATE,
    "deleted": rows.DELETED,
}

#: One reading of a gauge: its row, what it says, and its labels' values.
Reading = tuple[NumberRow, float, tuple[str, ...]]


class Numbers:
    """Counters and histograms of one worker, by their rows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[NumberRow, Counter] = {}
        self._histograms: dict[NumberRow, Histogram] = {}
        for row in rows.WORKER_NUMBERS:
            if row.kind is Kind.COUNTER:
                self._counters[row] = rows.counter(row, self.registry)
            elif row.kind is Kind.HISTOGRAM:
                self._histograms[row] = rows.histogram(row, self.registry)
        ProcessCollector(registry=self.registry)
        for row in _OF_PARTITIONS.values():
            self.add(row, 0)

    def add(self, row: NumberRow, amount: float, *labels: str) -> None:
        """Move a counter."""
        found = self._counters[row]
        (found.labels(*labels) if labels else found).inc(amount)

    def took(self, row: NumberRow, seconds: float, *labels: str) -> None:
        """Note how long something took."""
        found = self._histograms[row]
        (found.labels(*labels) if labels else found).observe(seconds)

    @contextmanager
    def timed(self, row: NumberRow, *labels: str) -> Iterator[None]:
        """Note how long what is inside takes, also where it fails."""
        began_s = time.perf_counter()
        try:
            yield
        finally:
            self.took(row, time.perf_counter() - began_s, *labels)

    def moved(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """Count by how much a partition's own diagnostics have moved."""
        for name, count in after.items():
            grown = count - before.get(name, 0)
            if grown > 0 and (row := _OF_PARTITIONS.get(name)) is not None:
                self.add(row, grown)

    def text(self, readings: Iterable[Reading]) -> bytes:
        """Give everything in Prometheus' text form, with these readings of gauges."""
        now = CollectorRegistry()
        now.register(_Once(list(readings)))
        return generate_latest(self.registry) + generate_latest(now)


class _Once(Collector):
    """Gives readings that were taken already."""

    def __init__(self, readings: Iterable[Reading]) -> None:
        self._families: dict[str, GaugeMetricFamily] = {}
        for row, value, labels in readings:
            family = self._families.get(row.name)
            if family is None:
                family = self._families[row.name] = GaugeMetricFamily(row.name, row.help, labels=row.labels)
            family.add_metric(labels, value)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give the families."""
        yield from self._families.values()


__all__ = ["Numbers", "Reading"]
