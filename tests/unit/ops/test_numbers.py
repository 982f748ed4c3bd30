"""The declared rows: what Prometheus can take, and what their names promise."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry

from fqlstream.ops import numbers
from fqlstream.ops.numbers import API_NUMBERS, LAG_NUMBERS, WORKER_NUMBERS, Kind, NumberRow

ROWS = [*WORKER_NUMBERS, *API_NUMBERS, *LAG_NUMBERS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_says_in_its_name_what_it_counts(row: NumberRow) -> None:
    # lag has the names that kafka-lag-exporter gave it
    assert re.fullmatch(r"(fqlstream|kafka)_[a-z_]+" if row in LAG_NUMBERS else r"fqlstream_[a-z_]+", row.name)
    assert row.help.endswith(".")
    assert (row.kind is Kind.COUNTER) == row.name.endswith("_total")
    assert (row.kind is Kind.HISTOGRAM) == bool(row.buckets)
    assert list(row.buckets) == sorted(set(row.buckets))
    for unit in ("bytes", "seconds"):
        assert (row.unit == unit) == (unit in row.name.split("_")), f"{row.name} is in {row.unit}"


def test_a_name_is_declared_once_and_every_declared_row_is_exported() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    declared = {value.name for value in vars(numbers).values() if isinstance(value, NumberRow)}
    assert declared == set(names)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_series_of_a_row_are_those_that_a_scrape_has(row: NumberRow) -> None:
    registry = CollectorRegistry()
    make = {Kind.COUNTER: numbers.counter, Kind.GAUGE: numbers.gauge, Kind.HISTOGRAM: numbers.histogram}[row.kind]
    made = make(row, registry)
    if row.labels:
        made.labels(*("x" for _ in row.labels))
    scraped = {sample.name for family in registry.collect() for sample in family.samples}
    assert {name for name in scraped if not name.endswith("_created")} == set(row.series)
