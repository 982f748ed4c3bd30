"""How a worker is judged, and what its gauges say."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from fqlstream.app.ledger import Held, Ledger, Partition
from fqlstream.app.observed import (
    PartitionsHeld,
    Status,
    health_of,
    held_partitions,
    readings_of_process,
    readings_of_publishing,
    readings_of_source,
)
from fqlstream.app.retries import Trouble
from fqlstream.app.transport import Progress
from fqlstream.stream.forgetting import Forgetting
from fqlstream.stream.protocol import Published

HELD = {"events": PartitionsHeld(2, 2)}
AWAY = (Trouble("ClickHouse", 12.0, 3, ("states",)),)


@pytest.mark.parametrize(
    ("partitions", "trouble", "slowest", "status", "is_ready", "is_live"),
    [
        (HELD, (), None, Status.OK, True, True),
        ({}, (), ("flushing", 9.0), Status.OK, True, True),  # one of more workers than there are partitions
        (None, (), None, Status.STARTING, False, True),
        ({"events": PartitionsHeld(2, 1)}, (), None, Status.STARTING, False, True),
        (HELD, AWAY, None, Status.TROUBLE, False, True),
        (HELD, AWAY, ("flushing", 11.0), Status.STUCK, False, False),
    ],
)
def test_a_worker_is_ready_where_it_does_all_its_work_and_dead_only_where_it_is_stuck(
    partitions: dict[str, PartitionsHeld] | None,
    trouble: tuple[Trouble, ...],
    slowest: tuple[str, float] | None,
    status: Status,
    is_ready: bool,
    is_live: bool,
) -> None:
    health = health_of(partitions, trouble, slowest, 10.0)
    assert (health.status, health.is_ready, health.is_live) == (status, is_ready, is_live)


@dataclass
class Source:
    ledger: Ledger = field(default_factory=lambda: Ledger(2**20))
    commit_age_s: float = 1.5

    def progress(self, held: Held) -> Progress | None:
        return None if held.position is None else Progress(held.position, 120, 0)


def test_the_transports_gauges_tell_of_what_is_assigned_and_of_what_is_not_durable() -> None:
    source = Source()
    assert held_partitions(source.ledger) is None
    source.ledger.assign([Partition("events", 0), Partition("events", 1), Partition("hints", 0)], 1)
    first = source.ledger.held(Partition("events", 0))
    assert first is not None
    source.ledger.begin(first, 110)
    assert held_partitions(source.ledger) == {"events": PartitionsHeld(2, 1), "hints": PartitionsHeld(1, 0)}
    found = {(row.name, labels): value for row, value, labels in readings_of_source(source, {("events", 0): 100})}
    assert found == {
        ("fqlstream_queued_bytes", ()): 0,
        ("fqlstream_commit_age_seconds", ()): 1.5,
        ("fqlstream_partitions", ("events",)): 2,
        ("fqlstream_partitions", ("hints",)): 1,
        ("fqlstream_partition_lag_records", ("events", "0")): 20,
    }


def test_of_too_many_models_those_furthest_behind_are_told() -> None:
    def finaliser(watermark_ms: int | None) -> SimpleNamespace:
        return SimpleNamespace(published=Published(watermark_ms=watermark_ms), open={1, 2})

    finalisers = {"new": finaliser(9_000), "old": finaliser(2_000), "older": finaliser(1_000), "none": finaliser(None)}
    memory = SimpleNamespace(blocks=Forgetting(100))
    readings = list(readings_of_publishing(finalisers, memory, 10_000, 2))
    delays = {labels: value for row, value, labels in readings if row.name == "fqlstream_watermark_delay_seconds"}
    assert delays == {("older",): 9.0, ("old",): 8.0}


def test_what_is_away_is_told_with_its_time_and_what_is_not_with_zero() -> None:
    readings = list(readings_of_process(3, health_of(HELD, AWAY, None, 10.0), 0.25))
    found = {(row.name, labels): value for row, value, labels in readings}
    assert found["fqlstream_outside_trouble_seconds", ("ClickHouse",)] == 12.0
    assert found["fqlstream_outside_trouble_seconds", ("Kafka",)] == 0.0
    assert found["fqlstream_worker_ready", ()] == 0
