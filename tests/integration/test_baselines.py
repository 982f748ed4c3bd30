"""Drift against baselines, and stored history computed again, on a whole stack: every value is held to the batch answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fqlstream.fql.evaluate import evaluate
from fqlstream.local.ports import find_free_port

DEADLINE_S = 120.0
HOUR_MS = 3_600_000
#: Midnight two days ago: every window is over.
T0 = (int(time.time() * 1000) // (24 * HOUR_MS) - 2) * 24 * HOUR_MS
HOURS = 5

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


class Stack:
    """`fqlstream up` in a directory of its own, and commands in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **os.environ,
            "FQLSTREAM_LOCAL__KAFKA_PORT": str(find_free_port()),
            "FQLSTREAM_STORE__PORT": str(find_free_port()),
        }
        self.words = (directory / "words").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fqlstream.cli", "up", "--json", "--workers", "2"],
            cwd=directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=self.words,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), (directory / "words").read_text()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "fqlstream.cli", *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}{done.stdout}"
        return done

    def publish(self, frame: pd.DataFrame, name: str) -> None:
        frame.to_csv(self.directory / name, index=False)
        self.run("publish", "--model", "churn", name, "--finish")

    def values(self) -> dict[tuple[str, str, int], float | None]:
        query = (
            "SELECT metric, segment, toUnixTimestamp64Milli(window_start) AS start_ms, value FROM metric_series"
            " WHERE model = 'churn' AND version = 'all' AND window_s = 3600"
        )
        lines = self.run("sql", query, "--format", "JSONCompactEachRow").stdout.splitlines()
        return {(metric, segment, int(start)): value for metric, segment, start, value in map(json.loads, lines)}

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(35)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.words.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    opened = Stack(tmp_path_factory.mktemp("baselines"))
    yield opened
    opened.close()


def between(frame: pd.DataFrame, start_ms: int, end_ms: int) -> pd.DataFrame:
    at = pd.to_datetime(frame["event_at"], format="ISO8601").astype("datetime64[ms, UTC]").astype("int64")
    return frame[(at >= start_ms) & (at < end_ms)]


def batch(frame: pd.DataFrame, training: pd.DataFrame, metrics: dict[str, str]) -> dict[tuple[str, str, int], Any]:
    """Give every hour's values as evaluation over the rows themselves has them."""
    found = {}
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


def await_equal(found: Callable[[], dict[Any, Any]], wanted: dict[Any, Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (now := found()) != wanted:
        differing = {key: (now.get(key), value) for key, value in wanted.items() if now.get(key, ...) != value}
        assert time.monotonic() < deadline, (differing, now.keys() - wanted.keys())
        time.sleep(0.3)


def test_drift_is_what_evaluation_gives_and_history_is_computed_again(stack: Stack) -> None:
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
    stack.publish(frame, "events.csv")
    wanted = batch(frame, training, METRICS)
    assert sum(value is not None for value in wanted.values()) > 0.8 * len(wanted)
    await_equal(stack.values, wanted)

    # a late row in a baseline's range changes what every later window is compared with
    late = rows(50, 0, 100).assign(age=90)
    stack.publish(late, "late.csv")
    frame = pd.concat([frame, late], ignore_index=True)
    before, wanted = wanted, batch(frame, training, METRICS)
    assert wanted["range", "", T0 + 4 * HOUR_MS] != before["range", "", T0 + 4 * HOUR_MS]
    assert wanted["before", "", T0 + 2 * HOUR_MS] != before["before", "", T0 + 2 * HOUR_MS]
    await_equal(stack.values, wanted)

    # metrics that come after all windows are closed
    later = [json.dumps({"kind": "metric", "model": "churn", "name": k, "definition": v}) for k, v in LATER.items()]
    (stack.directory / "later.yaml").write_text("\n---\n".join(later))
    done = stack.run("apply", "-f", "later.yaml", "--backfill")
    assert "back-filled" in done.stderr
    wanted.update(batch(frame, training, LATER))
    await_equal(stack.values, wanted)

    # the counts of a file are part of what decides that values are published again
    training = rows(77, 3, 300)
    training.to_parquet(stack.directory / "training.parquet")
    applied = json.loads(stack.run("apply", "-f", "churn.yaml", "--backfill", "--json").stdout)
    assert [item["name"] for item in applied if item["result"] == "changed"] == ["training"]
    wanted = batch(frame, training, METRICS | LATER)
    await_equal(stack.values, wanted)

    # a repair changes nothing where nothing was wrong
    answer = json.loads(
        stack.run("repair", "churn", "--from", instant(T0), "--to", instant(T0 + HOUR_MS), "--json").stdout
    )
    assert answer["done"]
    assert answer["panes"] >= 60
    await_equal(stack.values, wanted)
