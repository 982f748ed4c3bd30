"""What is counted, and how a scrape has it."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fqlstream.app.numbers import Numbers, Reading
from fqlstream.ops import numbers as rows


def scraped(numbers: Numbers, *readings: Reading) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(numbers.text(readings).decode())
    return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


def test_counters_add_up_and_gauges_are_as_they_were_read() -> None:
    numbers = Numbers()
    numbers.add(rows.RECORDS, 3, "events")
    numbers.add(rows.RECORDS, 4, "events")
    found = scraped(numbers, (rows.PARTITIONS, 2, ("events",)), (rows.PARTITIONS, 1, ("metrics",)), (rows.PANES, 5, ()))
    assert found["fqlstream_records_total", ("events",)] == 7
    assert found["fqlstream_partitions", ("events",)] == 2
    assert found["fqlstream_partitions", ("metrics",)] == 1
    assert found["fqlstream_panes", ()] == 5
    assert found["process_resident_memory_bytes", ()] > 0
    assert ("fqlstream_panes", ()) not in scraped(numbers), "what was not read this time is not told"


def test_a_partitions_diagnostics_count_by_what_they_have_grown() -> None:
    numbers = Numbers()
    numbers.moved({"events": 100, "late": 1, "labels_waiting": 5}, {"events": 110, "late": 1, "labels_waiting": 9})
    found = scraped(numbers)
    assert found["fqlstream_events_total", ()] == 10
    assert found["fqlstream_late_rows_total", ()] == 0, "a counter stands from the start: a first rise must be seen"
    numbers.moved({"events": 110}, {"events": 3})
    assert scraped(numbers)["fqlstream_events_total", ()] == 10, "another owner's memory begins lower"


def test_what_fails_has_taken_its_time_too() -> None:
    numbers = Numbers()
    with pytest.raises(ValueError, match="no"), numbers.timed(rows.DECODE_SECONDS):
        raise ValueError("no")
    assert scraped(numbers)["fqlstream_decode_seconds_count", ()] == 1
