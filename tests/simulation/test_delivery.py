"""Thousands of small histories with trouble in them, each from a seed: finals must equal a recount of what was produced.

A failure names its seed; `pytest tests/simulation -k seed --seed N` is not needed: call `simulate(N)`.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
from tests.simulation.world import World, event, publish, run_out, settle, step, work

from fqlstream.clock import ManualClock
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import DEFINITION
from fqlstream.settings import FqlSettings, StreamSettings
from fqlstream.stream.engines import Engines

START_MS = 1_790_000_040_000 // 60_000 * 60_000
MINUTE_MS = 60_000
SEEDS = 400

DEFINITIONS: list[dict[str, Any]] = [
    {
        "kind": "model",
        "name": "m",
        "task": "binary_classification",
        "columns": [
            {"name": "x", "type": "float"},
            {"name": "s", "type": "float", "role": "output"},
            {"name": "y", "type": "int", "role": "target"},
        ],
        "task_params": {"threshold": 0.5, "target_class_order": [0, 1]},
        "windows": {"pane": "1m", "sizes": ["2m", {"size": "4m", "every": "2m"}], "lateness": "1m"},
    },
    {"kind": "metric", "model": "m", "name": "traffic", "definition": "traffic()"},
    {"kind": "metric", "model": "m", "name": "sum", "definition": "sum(x)"},
    {"kind": "metric", "model": "m", "name": "max", "definition": "max(x)"},
    {"kind": "metric", "model": "m", "name": "cost", "definition": "average(if(fn(), -40, if(fp(), -400, 250)))"},
    {"kind": "metric", "model": "m", "name": "precision", "definition": "precision()"},
    {"kind": "metric", "model": "m", "name": "best_hit", "definition": "max(if(tp(), s, 0))"},
    {
        "kind": "metric",
        "model": "m",
        "name": "median_positive",
        "definition": "quantile(if(y == 1, x, null), level=0.5)",
    },
    {"kind": "segment", "model": "m", "name": "high", "definition": "x >= 5"},
    {"kind": "segment", "model": "m", "name": "wrong", "definition": "fp() or fn()"},
]


def catalogue() -> Catalogue:
    known = Catalogue()
    for document in DEFINITIONS:
        known = known.with_definition(DEFINITION.validate_python(document))
    return known


CATALOGUE = catalogue()
ENGINES = Engines(CATALOGUE, FqlSettings())


@dataclass
class Row:
    minute: int
    x: float | None
    s: float | None
    y: int | None


def settings(rng: random.Random) -> StreamSettings:
    return StreamSettings(
        duplicate_ids_max=rng.choice([20, 2_000_000]),
        waiting_labels_max=rng.choice([1, 3, 1000]),
        recover_rows_max=rng.choice([0, 5, 1000]),
        panes_max=rng.choice([10, 1000]),
        label_flush_ms=rng.choice([1, 1_000, 10_000]),
    )


def produce(world: World, rng: random.Random, events: int) -> dict[tuple[int, str], Row]:
    """Write events and labels in a random order; give the counted rows with their last label, by partition and id."""
    rows: dict[tuple[int, str], Row] = {}
    labels: dict[tuple[int, str], int | None] = {}
    todo: list[tuple[float, int, str, dict[str, Any]]] = []
    for number in range(events):
        partition, name = rng.randrange(world.partitions), f"e{number}"
        minute = rng.randrange(8)
        x = rng.choice([None, float(rng.randrange(10)), rng.random() * 10])
        s = rng.choice([None, rng.random(), 0.5])
        at = START_MS + minute * MINUTE_MS + rng.randrange(MINUTE_MS)
        when = number + rng.random() * 6
        columns = {"x": x, "s": s}
        fields = {"event_id": name, "event_at": at, "columns": columns}
        todo.append((when, partition, "inference", fields))
        rows[partition, name] = Row(minute, x, s, None)
        if rng.random() < 0.15:  # a producer tries again
            todo.append((when + rng.random() * 5, partition, "inference", fields))
        for _ in range(
            rng.choice([0, 1, 1, 1, 2, 3])
        ):  # labels, some before their event, some corrected, some taken back
            y = rng.choice([0, 1, 1, None])
            todo.append((when + rng.random() * 40 - 4, partition, "label", {"event_id": name, "columns": {"y": y}}))
    for _ in range(rng.randrange(3)):
        todo.append((rng.random() * events, rng.randrange(world.partitions), "broken", {}))
    for _, partition, kind, fields in sorted(todo, key=lambda item: item[:3]):
        if kind == "broken":
            world.append(partition, b'{"model": "m", ')
            continue
        event(world, partition, type=kind, **fields)
        if kind == "label":
            labels[partition, fields["event_id"]] = fields["columns"]["y"]
    for key, y in labels.items():
        rows[key].y = y
    for partition in range(world.partitions):
        event(world, partition, type="watermark", event_at=START_MS + 40 * MINUTE_MS)
    return rows


def batch(rows: list[Row]) -> dict[str, float | None]:
    """Count the metrics anew, row by row."""

    def state(row: Row) -> str | None:
        if row.s is None or row.y is None:
            return None
        return ("t" if (row.s >= 0.5) == (row.y == 1) else "f") + ("p" if row.s >= 0.5 else "n")

    xs = [row.x for row in rows if row.x is not None]
    states = [state(row) for row in rows]
    costs = [-40 if s == "fn" else -400 if s == "fp" else 250 for s in states]
    positives = sorted(row.x for row in rows if row.y == 1 and row.x is not None)
    middle = len(positives) // 2
    return {
        "traffic": len(rows),
        "sum": math.fsum(xs) if xs else None,
        "max": max(xs, default=None),
        "cost": math.fsum(costs) / len(costs) if costs else None,
        "precision": states.count("tp") / (states.count("tp") + states.count("fp"))
        if states.count("tp") + states.count("fp")
        else None,
        "best_hit": max((row.s if s == "tp" else 0 for row, s in zip(rows, states, strict=True)), default=None),
        "median_positive": None
        if not positives
        else (positives[middle] if len(positives) % 2 else (positives[middle - 1] + positives[middle]) / 2),
    }


def in_segment(row: Row, segment: str) -> bool:
    if segment == "high":
        return row.x is not None and row.x >= 5
    if segment == "wrong":
        return row.s is not None and row.y is not None and (row.s >= 0.5) != (row.y == 1)
    return True


def expected(rows: list[Row]) -> dict[tuple[str, str, int, int], float | None]:
    out: dict[tuple[str, str, int, int], float | None] = {}
    windows: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in rows:
        at = START_MS + row.minute * MINUTE_MS
        for size, every in ((2, 2), (4, 2)):
            start = at // (every * MINUTE_MS) * every * MINUTE_MS
            while start > at - size * MINUTE_MS:
                windows[start, start + size * MINUTE_MS].append(row)
                start -= every * MINUTE_MS
    for (start, end), inside in windows.items():
        for segment in ("", "high", "wrong"):
            for metric, value in batch([row for row in inside if in_segment(row, segment)]).items():
                out[metric, segment, start, end] = value
    return out


def simulate(seed: int, *, events: int = 40) -> None:
    rng = random.Random(seed)
    world = World(CATALOGUE, rng.choice([1, 2, 3]), ManualClock(START_MS + 30 * MINUTE_MS), ENGINES)
    limits = settings(rng)
    rows = produce(world, rng, events)
    names = iter(range(10_000))
    tasks: list[Any] = [work(world, p, f"w{next(names)}", limits, rng) for p in range(world.partitions)]
    owners = list(range(world.partitions))
    tasks.append(publish(world, "m", limits))
    owners.append(-1)
    for _ in range(rng.choice([100, 300, 600])):
        world.clock.advance(rng.choice([0, 1, 50, 400]))
        chosen = rng.randrange(len(tasks))
        trouble = rng.random()
        if trouble < 0.03:  # killed, and somebody else takes over
            tasks[chosen].close()
            del tasks[chosen]
            partition = owners.pop(chosen)
            tasks.append(
                work(world, partition, f"w{next(names)}", limits, rng)
                if partition >= 0
                else publish(world, "m", limits)
            )
            owners.append(partition)
        elif trouble < 0.05 and owners[chosen] >= 0 and len(tasks) < 10:  # paused: a successor starts while it lives on
            tasks.append(work(world, owners[chosen], f"w{next(names)}", limits, rng))
            owners.append(owners[chosen])
        else:
            step(tasks[chosen])
    # The last owners: new ones, or one of those that live, whatever epochs others have claimed meanwhile. Whoever else is
    # left over wakes up once more before they end, or after them, and must not hurt.
    last: dict[int, Any] = {}
    for partition in range(world.partitions):
        living = [task for task, owned in zip(tasks, owners, strict=True) if owned == partition]
        last[partition] = rng.choice([*living, None])
        if last[partition] is None:
            last[partition] = work(world, partition, f"w{next(names)}", limits, rng)
            settle(last[partition])
    for task in tasks:
        if task not in last.values():
            for _ in range(rng.randrange(40)):
                step(task)
            task.close()
    for task in last.values():
        settle(task)
        task.close()
    world.clock.advance(1)
    run_out(publish(world, "m", limits, times=2))
    check(world, rows, seed)


def check(world: World, rows: dict[tuple[int, str], Row], seed: int) -> None:
    produced = sum(1 for records in world.log.values() for record in records if b'"inference"' in record.value)
    assert len(world.events) == produced, f"seed {seed}: history holds other rows than were produced"
    wanted = expected(list(rows.values()))
    got = {
        (v.metric, v.segment, v.window_start_ms, v.window_end_ms): v
        for v in world.values.values()
        if v.version == "all"
    }
    assert got.keys() == wanted.keys(), f"seed {seed}: other windows than expected"
    for key, value in wanted.items():
        published = got[key]
        assert published.status in ("final", "revised"), f"seed {seed}: {key} is {published.status}"
        same = (
            published.value == value
            if value is None or published.value is None
            else math.isclose(published.value, value, rel_tol=1e-12)
        )
        assert same, f"seed {seed}: {key} is {published.value}, a recount gives {value}"
    for partition, records in world.log.items():
        assert world.committed.get(partition) == len(records), f"seed {seed}: committed {world.committed}"


@pytest.mark.parametrize("block", range(8))
def test_finals_equal_a_recount_whatever_happens(block: int) -> None:
    for seed in range(block * SEEDS // 8, (block + 1) * SEEDS // 8):
        simulate(seed)
