"""Drift against baselines, and stored history computed again, on a whole stack: every value is held to the batch answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.running_stack import RunningStack
from tests.waiting import wait_equal

from fqlstream.fql.evaluate import evaluate

DEADLINE_S = 120.0
HOUR_MS = 3_600_000
#: Midnight two days ago: every window is over.
T0 = (int(time.time() * 1000) // (24 * HOUR_MS) - 2) * 24 * HOUR_MS
HOURS = 5

Key = tuple[str, str, int]

COLUMNS = [
    {"name": "age", "type": "int", "min": 0, "max": 100},
    {"name": "country", "type": "category", "categories": ["FR", "DE"]},
    {"name": "score", "type": "float", "role": "output"},
    {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
]
MODEL = {
    "name": "churn",
    "version": "v1",
    "task": "binary_classification",
    "columns": COLUMNS,
    "task_params": {"threshold": 0.5, "target_class_order": ["no", "yes"]},
}
METRICS = {
    "n": "traffic()",
    "file": "jsd(age, 'training')",
    "range": "psi(age, 'first hour')",
    "before": "jsd(age, 'before')",
}
LATER = {"country": "psi(country, 'before') + jsd(country, 'training')", "mean": "average(age)", "recall": "recall()"}
SEGMENTS = {"": None, "old": "age >= 50"}


def instant(ms: int) -> str:
    return str(pd.Timestamp(ms, unit="ms", tz="UTC").isoformat())


def rows(seed: int, hour: int, count: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "event_id": [f"r-{seed}-{at}" for at in range(count)],
            "event_at": [instant(T0 + hour * HOUR_MS + int(at)) for at in random.integers(0, HOUR_MS, count)],
            "age": random.normal(30 + 8 * hour, 15, count).clip(0, 120).astype(int),
            "country": random.choice(["FR", "DE", "IT"], count),
            "score": random.random(count).round(3),
            "churned": random.choice(["no", "yes"], count),
        }
    )


def publish(stack: RunningStack, frame: pd.DataFrame, name: str) -> None:
    frame.to_csv(stack.directory / name, index=False)
    stack.run("publish", "--model", "churn", name, "--finish")


def await_values(stack: RunningStack, wanted: dict[Key, float | None]) -> None:
    def published() -> dict[Key, float | None]:
        query = (
            "SELECT metric, segment, toUnixTimestamp64Milli(window_start) AS start_ms, value FROM metric_series"
            " WHERE model = 'churn' AND version = 'all' AND window_s = 3600"
        )
        lines = stack.run("sql", query, "--format", "JSONCompactEachRow").stdout.splitlines()
        return {(metric, segment, int(start)): value for metric, segment, start, value in map(json.loads, lines)}

    wait_equal(published, wanted, "the values of evaluation over the rows themselves", DEADLINE_S, look_s=0.3)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = RunningStack.start(tmp_path_factory.mktemp("baselines"), "--workers", "2")
    yield running
    running.stop()


def between(frame: pd.DataFrame, start_ms: int, end_ms: int) -> pd.DataFrame:
    at = pd.to_datetime(frame["event_at"], format="ISO8601").astype("datetime64[ms, UTC]").astype("int64")
    return frame[(at >= start_ms) & (at < end_ms)]


def batch(frame: pd.DataFrame, training: pd.DataFrame, metrics: dict[str, str]) -> dict[Key, float | None]:
    """Give every hour's values as evaluation over the rows themselves has them."""
    found: dict[Key, float | None] = {}
    for hour in range(HOURS):
        start = T0 + hour * HOUR_MS
        end = start + HOUR_MS
        baselines = {
            "training": training,
            "first hour": between(frame, T0, T0 + HOUR_MS),
            "before": between(frame, end - 3 * HOUR_MS, end - HOUR_MS),
        }
        for metric, text in metrics.items():
            for segment, condition in SEGMENTS.items():
                value = evaluate(between(frame, start, end), text, model=MODEL, segment=condition, baselines=baselines)[
                    "value"
                ]
                found[metric, segment, start] = value
    return found


def test_drift_is_what_evaluation_gives_and_history_is_computed_again(stack: RunningStack) -> None:
    training = rows(99, 1, 400)
    training.to_parquet(stack.directory / "training.parquet")
    windows = {"pane": "1m", "sizes": ["1h"], "lateness": "1m"}
    kinds: list[dict[str, Any]] = [
        {"kind": "model", **MODEL, "windows": windows},
        {"kind": "baseline", "name": "training", "type": "static", "file": "training.parquet"},
        {"kind": "baseline", "name": "before", "type": "rolling", "window": "2h", "offset": "1h"},
        {
            "kind": "baseline",
            "name": "first hour",
            "type": "static",
            "start": instant(T0),
            "end": instant(T0 + HOUR_MS),
        },
        {"kind": "segment", "name": "old", "definition": SEGMENTS["old"]},
        *({"kind": "metric", "name": name, "definition": text} for name, text in METRICS.items()),
    ]
    documents = [json.dumps(kind if kind["kind"] == "model" else {"model": "churn", **kind}) for kind in kinds]
    (stack.directory / "churn.yaml").write_text("\n---\n".join(documents))
    stack.run("apply", "-f", "churn.yaml")
    frame = pd.concat([rows(hour, hour, 200) for hour in range(HOURS)], ignore_index=True)
    publish(stack, frame, "events.csv")
    wanted = batch(frame, training, METRICS)
    assert sum(value is not None for value in wanted.values()) > 0.8 * len(wanted)
    await_values(stack, wanted)

    # a late row in a baseline's range changes what every later window is compared with
    late = rows(50, 0, 100).assign(age=90)
    publish(stack, late, "late.csv")
    frame = pd.concat([frame, late], ignore_index=True)
    before, wanted = wanted, batch(frame, training, METRICS)
    assert wanted["range", "", T0 + 4 * HOUR_MS] != before["range", "", T0 + 4 * HOUR_MS]
    assert wanted["before", "", T0 + 2 * HOUR_MS] != before["before", "", T0 + 2 * HOUR_MS]
    await_values(stack, wanted)

    # metrics that come after all windows are closed
    later = [json.dumps({"kind": "metric", "model": "churn", "name": k, "definition": v}) for k, v in LATER.items()]
    (stack.directory / "later.yaml").write_text("\n---\n".join(later))
    done = stack.run("apply", "-f", "later.yaml", "--backfill")
    assert "back-filled" in done.stderr
    wanted.update(batch(frame, training, LATER))
    await_values(stack, wanted)

    # the counts of a file are part of what decides that values are published again
    training = rows(77, 3, 300)
    training.to_parquet(stack.directory / "training.parquet")
    applied = json.loads(stack.run("apply", "-f", "churn.yaml", "--backfill", "--json").stdout)
    assert [item["name"] for item in applied if item["result"] == "changed"] == ["training"]
    wanted = batch(frame, training, METRICS | LATER)
    await_values(stack, wanted)

    # a repair changes nothing where nothing was wrong
    answer = json.loads(
        stack.run("repair", "churn", "--from", instant(T0), "--to", instant(T0 + HOUR_MS), "--json").stdout
    )
    assert answer["done"]
    assert answer["panes"] >= 60
    await_values(stack, wanted)
