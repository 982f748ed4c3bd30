"""From producers to every place where values are read, on the real broker and the real store, against batch answers.

Two workers with caches so small that every slow path is taken. Models of their own keep the tests apart.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from confluent_kafka import Producer as KafkaProducer
from sklearn import metrics as sk
from tests.integration import test_crash
from tests.integration.flows import (
    HOUR_MS,
    IDLE_MS,
    MINUTE_MS,
    PARTITIONS,
    Expected,
    Flow,
    Key,
    Row,
    Sender,
    await_equal,
    batch,
    differences,
    flow_of,
    key_of,
    same,
)
from tests.integration.test_crash import TOPIC, Stack
from tests.waiting import wait_equal, wait_until

from fqlstream.client import Producer
from fqlstream.client.payloads import event_json

stack = test_crash.stack
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def flow(stack: Stack) -> Iterator[Flow]:
    with flow_of(stack) as running:
        yield running


def new_name(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex[:8]}"


def hour_ago(hours: int) -> int:
    return (time.time_ns() // 1_000_000 // HOUR_MS - hours) * HOUR_MS


def documents(model: Row, metrics: dict[str, str], segments: dict[str, str]) -> list[Row]:
    """Everything that is defined of a model."""
    name = model["name"]
    return [
        model,
        *({"kind": "metric", "model": name, "name": metric, "definition": text} for metric, text in metrics.items()),
        *({"kind": "segment", "model": name, "name": segment, "definition": of} for segment, of in segments.items()),
    ]


# ------------------------------------------------------------------------------- three tasks, several producers


WINDOWS = {"pane": "1m", "sizes": ["1h", {"size": "2h", "every": "30m"}], "lateness": "1m"}
BINARY: Row = {
    "kind": "model",
    "task": "binary_classification",
    "columns": [
        {"name": "age", "type": "int", "min": 18, "max": 100},
        {"name": "country", "type": "category", "categories": ["FR", "DE", "IT"]},
        {"name": "latency_ms", "type": "float", "role": "metadata"},
        {"name": "score", "type": "float", "role": "output"},
        {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
    ],
    "task_params": {"threshold": 0.4, "target_class_order": ["no", "yes"]},
    "windows": WINDOWS,
}
MULTICLASS: Row = {
    "kind": "model",
    "task": "multiclass_classification",
    "columns": [
        {"name": "weight", "type": "float"},
        {"name": "p_cat", "type": "float", "role": "output"},
        {"name": "p_dog", "type": "float", "role": "output"},
        {"name": "p_owl", "type": "float", "role": "output"},
        {"name": "animal", "type": "category", "role": "target", "categories": ["cat", "dog", "owl"]},
    ],
    "task_params": {"target_class_order": ["cat", "dog", "owl"]},
    "windows": WINDOWS,
}
REGRESSION: Row = {
    "kind": "model",
    "task": "regression",
    "columns": [
        {"name": "area", "type": "float"},
        {"name": "guess", "type": "float", "role": "output"},
        {"name": "price", "type": "float", "role": "target"},
    ],
    "windows": WINDOWS,
}
METRICS = {
    "binary": {
        "traffic": "traffic()",
        "precision": "precision()",
        "recall": "recall()",
        "f1": "f1_score()",
        "auroc": "auroc()",
        "cost": "average(if(fn(), -40, if(fp(), -400, 250)))",
        "oldest": "max(age)",
        "oldest_hit": "max(if(tp(), age, 0))",
        "slow": "quantile(latency_ms, level=0.9)",
        "germans": "sum(if(country == 'DE', 1, 0))",
    },
    "multiclass": {
        "accuracy": "accuracy()",
        "log_loss": "log_loss()",
        "cats_found": "sum(if(tp(class='cat'), 1, 0))",
        "mean_weight": "average(weight)",
    },
    "regression": {"mae": "mae()", "mse": "mse()", "r2": "r2()", "wmape": "wmape()", "area": "sum(area)"},
}
SEGMENTS = {
    "binary": {"old": "age >= 60", "wrong": "fp() or fn()"},
    "multiclass": {"heavy": "weight > 5", "dogs": "animal == 'dog'"},
    "regression": {"small": "area < 100"},
}
TARGETS = {"binary": "churned", "multiclass": "animal", "regression": "price"}
EVENTS = 1_200


def produced(task: str, seed: int, start_ms: int) -> list[Row]:
    """Make events of three hours: columns, times, and the label that comes later, if one does."""
    random = np.random.default_rng(seed)
    at = start_ms + random.integers(0, 3 * HOUR_MS, EVENTS)
    is_labelled = random.random(EVENTS) < 0.8
    if task == "binary":
        columns = {
            "age": random.integers(18, 90, EVENTS),
            "country": random.choice(["FR", "DE", "IT"], EVENTS),
            "latency_ms": random.exponential(30, EVENTS).round(4),
            "score": random.random(EVENTS).round(3),
        }
        label = np.where(random.random(EVENTS) < columns["score"], "yes", "no")
    elif task == "multiclass":
        chances = random.dirichlet([1, 1, 1], EVENTS).round(4)
        columns = {"weight": random.gamma(2, 2, EVENTS).round(3)}
        columns |= {f"p_{name}": chances[:, place] for place, name in enumerate(["cat", "dog", "owl"])}
        label = random.choice(["cat", "dog", "owl"], EVENTS)
    else:
        columns = {"area": random.uniform(20, 200, EVENTS).round(2), "guess": random.uniform(1, 9, EVENTS).round(3)}
        label = (columns["guess"] + random.normal(0, 1, EVENTS)).round(3)
    return [
        {
            "event_id": f"{task}-{seed}-{row}",
            "event_at": int(at[row]),
            **{name: values[row].item() for name, values in columns.items()},
            TARGETS[task]: label[row].item() if is_labelled[row] else None,
        }
        for row in range(EVENTS)
    ]


def without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def send_json(bootstrap: str, model: str, rows: list[Row], target: str) -> None:
    """Be a producer in another language: records as bytes, Kafka's own partitioner."""
    producer = KafkaProducer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"})
    for kind in ("inference", "label"):
        for row in rows:
            columns = without(row, "event_id", "event_at", target) if kind == "inference" else {target: row[target]}
            if kind == "label" and row[target] is None:
                continue
            at = row["event_at"] if kind == "inference" else None
            value = event_json(kind, model, row["event_id"], columns, at)
            producer.produce(TOPIC, value, row["event_id"])
    assert producer.flush(30) == 0


def send_by_row(bootstrap: str, model: str, rows: list[Row], target: str) -> None:
    """Send labels first, corrected ones among them, and every tenth event twice."""
    with Producer(bootstrap) as producer:
        for row in rows:
            if row[target] is not None:
                producer.log_label(model, row["event_id"], {target: None})
                producer.log_label(model, row["event_id"], {target: row[target]})
        for number, row in enumerate(rows):
            for _ in range(2 if number % 10 == 0 else 1):
                columns = without(row, "event_id", "event_at", target)
                producer.log_inference(model, row["event_id"], columns, row["event_at"])


def send_frame(bootstrap: str, model: str, rows: list[Row], target: str) -> None:
    """Send DataFrames; a part of the labels travels with its event."""
    with Producer(bootstrap) as producer:
        half = len(rows) // 2
        producer.log_inferences(model, pd.DataFrame([without(row, target) for row in rows[:half]]))
        producer.log_inferences(model, pd.DataFrame(rows[half:]))
        labels = [{"event_id": row["event_id"], target: row[target]} for row in rows[:half] if row[target] is not None]
        producer.log_labels(model, pd.DataFrame(labels))


def send_arrow(bootstrap: str, model: str, rows: list[Row], target: str) -> None:
    """Send Arrow tables, times as timestamps."""
    with Producer(bootstrap) as producer:
        table = pa.Table.from_pylist([without(row, target) for row in rows])
        times = table.column("event_at").cast(pa.timestamp("ms", "UTC"))
        producer.log_inferences(model, table.set_column(table.column_names.index("event_at"), "event_at", times))
        labels = [{"event_id": row["event_id"], target: row[target]} for row in rows if row[target] is not None]
        producer.log_labels(model, pa.Table.from_pylist(labels))


SENDERS = (send_json, send_by_row, send_frame, send_arrow)


def test_three_tasks_from_several_producers_equal_the_batch_answer_wherever_they_are_read(flow: Flow) -> None:
    start_ms = hour_ago(6)
    models = {
        task: {**of, "name": new_name(task)} for task, of in zip(METRICS, (BINARY, MULTICLASS, REGRESSION), strict=True)
    }
    flow.apply(*(d for task, model in models.items() for d in documents(model, METRICS[task], SEGMENTS[task])))
    rows = {task: produced(task, seed, start_ms) for seed, task in enumerate(models)}
    threads = [
        threading.Thread(
            target=send,
            args=(flow.stack.bootstrap, models[task]["name"], rows[task][place :: len(SENDERS)], TARGETS[task]),
        )
        for place, send in enumerate(SENDERS)
        for task in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for model in models.values():
        flow.finish(model["name"], start_ms + 5 * HOUR_MS)
    for task, model in models.items():
        expected = batch(rows[task], model, METRICS[task], SEGMENTS[task], TARGETS[task])
        found = await_equal(lambda name=model["name"]: flow.values(name), expected, loose=("slow",))
        check_with_other_libraries(task, rows[task], found, start_ms)
        check_other_ways_out(flow, model["name"], found, METRICS[task])
        check_rows(flow, model, rows[task])
    assert flow.caught_up()


def check_with_other_libraries(task: str, rows: list[Row], found: list[Row], start_ms: int) -> None:
    """Compare the values of all rows of each hour with scikit-learn, pandas and NumPy."""
    frame = pd.DataFrame(rows)
    for hour in range(3):
        inside = frame[(frame["event_at"] - start_ms) // HOUR_MS == hour]
        wanted = recount(task, inside)
        assert len(wanted) >= 4
        for metric, value in wanted.items():
            (row,) = (
                row
                for row in found
                if key_of(row) == ("all", metric, "", start_ms + hour * HOUR_MS, start_ms + (hour + 1) * HOUR_MS)
            )
            assert same(row["value"], float(value)), (metric, hour, row["value"], value)
        if task == "binary":
            (slow,) = (
                row["value"]
                for row in found
                if key_of(row)[:4] == ("all", "slow", "", start_ms + hour * HOUR_MS) and row["window_s"] == 3600
            )
            rank = (inside["latency_ms"] <= slow).mean()
            assert abs(rank - 0.9) <= 0.04  # three times the bound of 99 % confidence


def recount(task: str, frame: pd.DataFrame) -> dict[str, float]:
    """Count metrics of all rows anew."""
    labelled = frame[frame[TARGETS[task]].notna()]
    if task == "binary":
        truth, said = labelled["churned"] == "yes", labelled["score"] >= 0.4
        all_truth, all_said = frame["churned"] == "yes", frame["score"] >= 0.4
        is_labelled = frame["churned"].notna()
        cost = np.where(
            is_labelled & all_truth & ~all_said, -40, np.where(is_labelled & ~all_truth & all_said, -400, 250)
        )
        return {
            "traffic": len(frame),
            "precision": sk.precision_score(truth, said),
            "recall": sk.recall_score(truth, said),
            "f1": sk.f1_score(truth, said),
            "auroc": sk.roc_auc_score(truth, labelled["score"]),
            "cost": cost.mean(),
            "oldest": frame["age"].max(),
            "oldest_hit": labelled["age"][truth & said].max(),
            "germans": (frame["country"] == "DE").sum(),
        }
    if task == "multiclass":
        classes = ["cat", "dog", "owl"]
        chances = labelled[["p_cat", "p_dog", "p_owl"]].to_numpy()
        said = np.array(classes)[chances.argmax(axis=1)]
        of_truth = chances[np.arange(len(labelled)), [classes.index(name) for name in labelled["animal"]]]
        return {
            "accuracy": sk.accuracy_score(labelled["animal"], said),
            # not scikit-learn's, which makes the rounded chances of a row add up to 1 first
            "log_loss": -np.log(of_truth.clip(np.finfo(float).eps, 1 - np.finfo(float).eps)).mean(),
            "cats_found": ((labelled["animal"] == "cat") & (said == "cat")).sum(),
            "mean_weight": frame["weight"].mean(),
        }
    truth, guess = labelled["price"].astype(float), labelled["guess"]
    return {
        "mae": sk.mean_absolute_error(truth, guess),
        "mse": sk.mean_squared_error(truth, guess),
        "r2": sk.r2_score(truth, guess),
        "wmape": (truth - guess).abs().sum() / truth.abs().sum(),
        "area": frame["area"].sum(),
    }


def check_other_ways_out(flow: Flow, model: str, found: list[Row], metrics: dict[str, str]) -> None:
    """Every other place has the values of `metric_series`."""
    newest: dict[tuple[Any, ...], Row] = {}
    for row in sorted(found, key=lambda row: row["window_start"]):
        newest[row["version"], row["metric"], row["segment"], row["window_s"]] = row
    latest = {(row["version"], row["metric"], row["segment"], row["window_s"]): row for row in flow.latest(model)}
    assert latest == newest

    series = {key_of(row): row for row in found}

    def on_topic() -> dict[Key, Row]:
        return {key_of(row): without(row, "model") for row in flow.topic_values(model)}

    wait_equal(on_topic, series, "the last record of each window on metric-values", DEADLINE_S)
    for metric in metrics:
        told = flow.command_values(model, metric, "--window", "2h")
        wanted = [row for row in found if (row["version"], row["metric"], row["segment"]) == ("all", metric, "")]
        assert [without(row, "model") for row in told] == sorted(
            (row for row in wanted if row["window_s"] == 7200), key=lambda row: row["window_start"]
        )


def check_rows(flow: Flow, model: Row, rows: list[Row]) -> None:
    """The view of events has each event once, with its columns and its last label; history has the repeated ones too."""
    name = model["name"]
    names = ["event_id", *(column["name"] for column in model["columns"])]
    stored = flow.store.query_rows(
        f"SELECT toUnixTimestamp64Milli(event_at), version, {', '.join(names)} FROM events_{name} ORDER BY event_id"
    )
    wanted = [
        (row["event_at"], "v1", *(row[name] for name in names)) for row in sorted(rows, key=lambda r: r["event_id"])
    ]
    assert stored == wanted
    repeated = flow.store.query_rows(f"SELECT count() FROM event_rows_{name} FINAL WHERE duplicate")[0][0]
    assert repeated == len(rows[1 :: len(SENDERS)][::10])


# ------------------------------------------------------------------------------------- two versions at once


def test_two_versions_alive_at_once_are_read_each_in_its_own_way_and_together(flow: Flow) -> None:
    """Which score is a yes, and which class is the one looked for, differ; under `all` each row counts as its version reads it."""
    name, start_ms = new_name("two"), hour_ago(5)
    versions = {"v1": (0.5, ["no", "yes"]), "v2": (0.3, ["yes", "no"])}
    common = {**BINARY, "name": name, "windows": {"pane": "1m", "sizes": ["1h"], "lateness": "1m"}}
    metrics = {name: METRICS["binary"][name] for name in ("traffic", "precision", "cost", "oldest_hit")}
    segments = {"wrong": "fp() or fn()"}
    for version, (threshold, order) in versions.items():
        params = {"threshold": threshold, "target_class_order": order}
        model = {**common, "version": version, "task_params": params}
        flow.apply(*documents(model, metrics, segments))
    rows = produced("binary", 7, start_ms)
    for number, row in enumerate(rows):
        row["version"] = "v1" if number % 3 else "v2"
    with Producer(flow.stack.bootstrap) as producer:
        for version in versions:
            mine = [without(row, "version") for row in rows if row["version"] == version]
            half = len(mine) // 2
            frame = pd.DataFrame([without(row, "churned") for row in mine[:half]])
            producer.log_inferences(name, frame, version=version)
            for row in mine[half:]:
                columns = without(row, "event_id", "event_at", "churned")
                producer.log_inference(name, row["event_id"], columns, row["event_at"], version)
            for place, row in enumerate(row for row in mine if row["churned"] is not None):
                # a label may name its event's version, or none
                producer.log_label(
                    name, row["event_id"], {"churned": row["churned"]}, version=version if place % 2 else None
                )
    flow.finish(name, start_ms + 5 * HOUR_MS)
    expected = {}
    for hour in range(3):
        inside = [row for row in rows if (row["event_at"] - start_ms) // HOUR_MS == hour]
        for version in (*versions, "all"):
            mine = [row for row in inside if version in (row["version"], "all")]
            states = [confusion(row, *versions[row["version"]]) for row in mine]
            for segment in ("", "wrong"):
                kept = [(r, s) for r, s in zip(mine, states, strict=True) if not segment or s in ("fp", "fn")]
                for metric, value in count_states(kept).items():
                    labelled = sum(row["churned"] is not None for row, _ in kept)
                    key = (version, metric, segment, start_ms + hour * HOUR_MS, start_ms + (hour + 1) * HOUR_MS)
                    expected[key] = Expected(value, len(kept), labelled)
    assert len({expected[key].value for key in expected if key[1:3] == ("precision", "")}) == 9
    await_equal(lambda: flow.values(name), expected)


def confusion(row: Row, threshold: float, order: list[str]) -> str | None:
    """Say what a prediction was; the class looked for is the second of the order."""
    if row["churned"] is None:
        return None
    said, truth = row["score"] >= threshold, row["churned"] == order[1]
    return ("t" if said == truth else "f") + ("p" if said else "n")


def count_states(rows: list[tuple[Row, str | None]]) -> dict[str, float | None]:
    states = [state for _, state in rows]
    hits = states.count("tp") + states.count("fp")
    costs = [-40 if state == "fn" else -400 if state == "fp" else 250 for state in states]
    return {
        "traffic": float(len(rows)),
        "precision": states.count("tp") / hits if hits else None,
        "cost": sum(costs) / len(costs) if costs else None,
        "oldest_hit": float(max(row["age"] if state == "tp" else 0 for row, state in rows)) if rows else None,
    }


# ------------------------------------------------------------------------------------------- dirty columns

#: What comes, what FQL sees, and how it is counted.
ABSENT = object()
DIRTY: dict[str, list[tuple[Any, Any, str]]] = {
    "x": [
        (1.5, 1.5, ""), (3, 3.0, ""), (10, 10.0, ""), (0.0, 0.0, ""), (ABSENT, None, "null"), (None, None, "null"), ("", None, "null"),
        ("abc", None, "type"), ("1.5", None, "type"), (True, None, "type"), ([1.0], None, "type"), ({"a": 1}, None, "type"),
        (float("inf"), None, "range"), (float("-inf"), None, "range"), (-0.5, -0.5, "range"), (11, 11.0, "range"),
    ],
    "n": [
        (2, 2, ""), (4.0, 4, ""), (-7, -7, ""), (2.5, None, "type"), ("7", None, "type"), (False, None, "type"), (None, None, "null"),
        (ABSENT, None, "null"), (float("inf"), None, "null"),
    ],
    "c": [
        ("a", "a", ""), ("b", "b", ""), ("z", "z", "range"), (5, None, "type"), ("", "", "null"), (ABSENT, None, "null"),
        (True, None, "type"),
    ],
    "b": [(True, True, ""), (False, False, ""), (0, False, ""), (1, True, ""), (2, None, "type"), ("true", None, "type"), (None, None, "null")],
}  # fmt: skip
DIRTY_METRICS = {
    **{
        f"{kind}_{name}": f"{kind}_violation_count({name})"
        for name in DIRTY
        for kind in ("null", "type", "range", "any")
    },
    "traffic": "traffic()",
    "sum_x": "sum(x)",
    "max_x": "max(x)",
    "count_n": "count(n)",
    "sum_n": "sum(n)",
    "is_a": "sum(if(c == 'a', 1, 0))",
    "true_b": "sum(if(b, 1, 0))",
    "label_type": "type_violation_count(y)",
    "labels": "sum(y)",
}


def test_dirty_columns_are_null_counted_and_kept_with_the_row(flow: Flow) -> None:
    name, start_ms = new_name("dirty"), hour_ago(4)
    model = {
        "kind": "model", "name": name, "task": "regression",
        "columns": [
            {"name": "x", "type": "float", "min": 0, "max": 10},
            {"name": "n", "type": "int"},
            {"name": "c", "type": "category", "categories": ["a", "b"]},
            {"name": "b", "type": "bool"},
            {"name": "guess", "type": "float", "role": "output"},
            {"name": "y", "type": "float", "role": "target"},
        ],
        "windows": {"pane": "1m", "sizes": ["1h"], "lateness": "1m"},
    }  # fmt: skip
    flow.apply(*documents(model, DIRTY_METRICS, {}))
    random = np.random.default_rng(5)
    drawn = [{column: cases[random.integers(len(cases))] for column, cases in DIRTY.items()} for _ in range(600)]
    # every case at least once
    drawn += [{column: cases[at % len(cases)] for column, cases in DIRTY.items()} for at in range(16)]
    labels = {
        number: [(1.5, 1.5, ""), ("good", None, "type"), (None, None, "")][number % 3] for number in range(0, 616, 2)
    }
    with Producer(flow.stack.bootstrap) as producer:
        for number, cases in enumerate(drawn):
            columns = {column: case[0] for column, case in cases.items() if case[0] is not ABSENT}
            producer.log_inference(name, f"r{number:03d}", columns, start_ms + number * 1_000)
        for number, (value, _, _) in labels.items():
            producer.log_label(name, f"r{number:03d}", {"y": "first an ill-typed one"})
            producer.log_label(name, f"r{number:03d}", {"y": value})
    flow.finish(name, start_ms + 3 * HOUR_MS)

    def seen(column: str) -> list[Any]:
        return [cases[column][1] for cases in drawn if cases[column][1] is not None]

    counts = {
        f"{kind}_{column}": sum(
            cases[column][2] == kind or (kind == "any" and is_any(cases[column])) for cases in drawn
        )
        for column in DIRTY
        for kind in ("null", "type", "range", "any")
    }
    wanted = {
        **counts,
        "traffic": len(drawn),
        "sum_x": sum(seen("x")),
        "max_x": 11.0,
        "count_n": len(seen("n")),
        "sum_n": sum(seen("n")),
        "is_a": seen("c").count("a"),
        "true_b": seen("b").count(True),
        "label_type": sum(kind == "type" for _, _, kind in labels.values()),
        "labels": sum(value for _, value, _ in labels.values() if value is not None),
    }
    labelled = sum(value is not None for _, value, _ in labels.values())
    expected = {
        (version, metric, "", start_ms, start_ms + HOUR_MS): Expected(float(value), len(drawn), labelled)
        for metric, value in wanted.items()
        for version in ("v1", "all")
    }
    await_equal(lambda: flow.values(name), expected)
    stored = flow.store.query_rows(
        f"SELECT x, n, c, b, y, arraySort(_type_violations), arraySort(_range_violations) FROM events_{name} ORDER BY event_id"
    )
    assert stored == [
        (
            *(None if cases[column][1] is None else cases[column][1] for column in DIRTY),
            labels.get(number, (None, None, ""))[1],
            violations(cases, "type") + (["y"] if labels.get(number, ("", "", ""))[2] == "type" else []),
            violations(cases, "range"),
        )
        for number, cases in enumerate(drawn)
    ]


def is_any(case: tuple[Any, Any, str]) -> bool:
    """An infinity without bounds is null to FQL, and any_violation_count counts what is null."""
    return case[1] is None or case[2] != ""


def violations(cases: dict[str, tuple[Any, Any, str]], kind: str) -> list[str]:
    return sorted(column for column, case in cases.items() if case[2] == kind)


def test_arrow_columns_of_the_wrong_type_are_violations_row_by_row(flow: Flow) -> None:
    name, start_ms = new_name("dirty"), hour_ago(4)
    model = {
        "kind": "model", "name": name,
        "columns": [{"name": "x", "type": "float", "min": 0, "max": 10}, {"name": "n", "type": "int"}, {"name": "c", "type": "category", "categories": ["a"]}],
        "windows": {"pane": "1m", "sizes": ["1h"], "lateness": "1m"},
    }  # fmt: skip
    metrics = {f"{k}_{c}": f"{k}_violation_count({c})" for c in "xnc" for k in ("null", "type", "range")}
    flow.apply(*documents(model, {**metrics, "sum_x": "sum(x)", "sum_n": "sum(n)"}, {}))
    times = pa.array([start_ms + number for number in range(6)], pa.timestamp("ms", "UTC"))
    clean = pa.table({
        "event_id": [f"a{number}" for number in range(6)], "event_at": times,
        "x": pa.array([1.0, float("nan"), None, float("inf"), 11.0, -1.0]),
        "n": pa.array([1.0, 2.5, None, 3.0, -4.0, float("nan")]),
        "c": pa.array(["a", "z", None, "a", "", "a"]).dictionary_encode(),
    })  # fmt: skip
    ill = pa.table({
        "event_id": [f"b{number}" for number in range(6)], "event_at": times,
        "x": pa.array(["1", None, "", "x", "2", "3"]),
        "n": pa.array([True, False, None, True, True, True]),
        "c": pa.array([1, 2, None, 3, 4, 5]),
    })  # fmt: skip
    with Producer(flow.stack.bootstrap) as producer:
        producer.log_inferences(name, clean)
        producer.log_inferences(name, ill)
    flow.finish(name, start_ms + 3 * HOUR_MS)
    wanted = {
        "null_x": 2 + 2, "type_x": 4, "range_x": 3, "null_n": 2 + 1, "type_n": 1 + 5, "range_n": 0, "null_c": 2 + 1, "type_c": 5, "range_c": 1,
        "sum_x": 11.0, "sum_n": 0.0,
    }  # fmt: skip
    expected = {
        (version, metric, "", start_ms, start_ms + HOUR_MS): Expected(float(value), 12, 0)
        for metric, value in wanted.items()
        for version in ("v1", "all")
    }
    await_equal(lambda: flow.values(name), expected)


# --------------------------------------------------------------------------- definitions that come while events flow


def test_what_is_defined_while_events_flow_is_right_from_its_first_value(flow: Flow) -> None:
    """Every x is 1 and every z is 3, so that each published value can be told from the rows it says it is of."""
    name, start_ms = new_name("grown"), hour_ago(3)
    columns = [{"name": "x", "type": "float"}, {"name": "side", "type": "category"}]
    # open windows: nothing is final before the end of the test
    windows = {"pane": "1m", "sizes": ["10m", {"size": "20m", "every": "10m"}], "lateness": "1d"}
    model = {"kind": "model", "name": name, "columns": columns, "windows": windows}
    flow.apply(*documents(model, {"traffic": "traffic()", "ones": "sum(x)"}, {}))
    with_z, done = threading.Event(), threading.Event()
    sent: list[Row] = []

    def produce() -> None:
        random = np.random.default_rng(3)
        with Producer(flow.stack.bootstrap) as producer:
            while not done.wait(0.005):
                row = {"x": 1.0, "side": "left" if random.random() < 0.3 else "right"} | (
                    {"z": 3.0} if with_z.is_set() else {}
                )
                at = int(start_ms + random.integers(0, 20 * MINUTE_MS))
                producer.log_inference(name, len(sent), row, at)
                sent.append({"event_at": at, **row})

    def has(metric: str, segment: str = "") -> bool:
        return any((row["metric"], row["segment"]) == (metric, segment) for row in flow.values(name))

    producing = threading.Thread(target=produce)
    producing.start()
    try:
        wait_until(lambda: has("ones"), "first values", DEADLINE_S)
        flow.apply(
            {**model, "columns": [*columns, {"name": "z", "type": "float"}]},
            {"kind": "metric", "model": name, "name": "doubled", "definition": "sum(2 * x)"},
            {"kind": "metric", "model": name, "name": "z_seen", "definition": "count(z)"},
            {"kind": "metric", "model": name, "name": "z_sum", "definition": "sum(z)"},
            {"kind": "segment", "model": name, "name": "left", "definition": "side == 'left'"},
            {"kind": "segment", "model": name, "name": "right", "definition": "side == 'right'"},
        )
        wait_until(lambda: has("doubled", "left") and has("z_seen"), "values of what is new", DEADLINE_S)
        with_z.set()
        wait_until(
            lambda: any(row["metric"] == "z_sum" and row["value"] for row in flow.values(name)),
            "values of the new column",
            DEADLINE_S,
        )
    finally:
        done.set()
        producing.join(30)
    metrics = {
        "traffic": "traffic()",
        "ones": "sum(x)",
        "doubled": "sum(2 * x)",
        "z_seen": "count(z)",
        "z_sum": "sum(z)",
    }
    grown = {**model, "columns": [*columns, {"name": "z", "type": "float"}]}
    expected = batch(sent, grown, metrics, {"left": "side == 'left'", "right": "side == 'right'"}, "x")
    expected = {key: Expected(of.value, of.rows, 0, of.exact, of.bound) for key, of in expected.items()}  # no target
    await_equal(lambda: flow.values(name), expected, statuses=("early",))

    published = flow.topic_values(name)
    check_each_value_ever_published(published)
    assert any(row["metric"] == "doubled" for row in published)


def test_a_value_that_is_sent_right_after_its_column_was_added_is_there(flow: Flow) -> None:
    """`apply` returns once a definition is stored; the workers have not looked for it yet."""
    name, event_at = new_name("wider"), hour_ago(2)
    numbers = range(1, 5)

    def define(count: int) -> None:
        columns = [{"name": f"c{number}", "type": "int"} for number in range(count + 1)]
        flow.apply({"kind": "model", "name": name, "version": "v1", "columns": columns})

    define(0)
    sender = Sender(flow.stack.bootstrap)
    for partition in range(PARTITIONS):
        sender.event(name, f"first-{partition}", partition, {"c0": 0}, event_at)
    sender.flush()
    wait_until(flow.caught_up, "both workers know the model", DEADLINE_S)
    with Producer(flow.stack.bootstrap) as producer:
        for number in numbers:
            define(number)
            if number % 2:
                sender.event(name, f"json-{number}", number % PARTITIONS, {f"c{number}": number}, event_at)
                sender.flush()
            else:
                frame = pd.DataFrame({"event_id": [f"arrow-{number}"], "event_at": [event_at], f"c{number}": [number]})
                producer.log_inferences(name, frame)
                producer.flush()
    wait_until(flow.caught_up, "everything is counted", DEADLINE_S)
    found = flow.store.query_rows(
        f"SELECT {', '.join(f'sum(c{number})' for number in numbers)}, count() FROM events_{name}"
    )
    assert list(found[0]) == [*numbers, PARTITIONS + len(numbers)]


def check_each_value_ever_published(published: list[Row]) -> None:
    """Hold every value to the rows that it says it is of, the first ones too; the sides add up to the whole."""
    factors = {"traffic": 1, "ones": 1, "doubled": 2}
    for row in published:
        if row["metric"] in factors:
            assert row["value"] == (
                factors[row["metric"]] * row["rows"] if row["rows"] or row["metric"] == "traffic" else None
            ), row
    # values of one version of one window belong together, whatever order their partitions are read in
    latest: dict[tuple[Any, ...], int] = {}
    moments: dict[tuple[int, int], list[Row]] = {}
    for row in published:
        if row["metric"] == "traffic" and row["version"] == "all":
            moments.setdefault((row["value_version"], row["updated_at"]), []).append(row)
    compared = 0
    for moment in sorted(moments):
        for row in moments[moment]:
            latest[row["window_start"], row["window_end"], row["segment"]] = row["rows"]
        for window in {(row["window_start"], row["window_end"]) for row in moments[moment]}:
            sides = [latest.get((*window, segment)) for segment in ("left", "right")]
            if None not in sides:
                assert sum(sides) == latest[*window, ""], (window, moment)
                compared += 1
    assert compared > 5


# ------------------------------------------------------------------------------------------------- labels


LABEL_METRICS = {
    "traffic": "traffic()",
    "precision": "precision()",
    "cost": "average(if(fn(), -40, if(fp(), -400, 250)))",
    "best_hit": "max(if(tp(), score, 0))",
    "middle": "quantile(if(churned == 'yes', score, null), level=0.5)",
}
LABEL_SEGMENTS = {"wrong": "fp() or fn()", "churners": "churned == 'yes'", "high": "score >= 0.5"}


def test_labels_of_every_kind_reach_their_event_whenever_and_wherever_they_come(flow: Flow) -> None:
    name, filler, start_ms = new_name("labels"), new_name("filler"), hour_ago(4)
    model = {**BINARY, "name": name, "windows": {"pane": "1m", "sizes": ["1h"], "lateness": "1m"}}
    flow.apply(*documents(model, LABEL_METRICS, LABEL_SEGMENTS))
    other = {"kind": "model", "name": filler, "columns": [{"name": "x", "type": "float"}], "windows": model["windows"]}
    flow.apply(*documents(other, {"sum": "sum(x)"}, {}))
    random = np.random.default_rng(11)
    sender = Sender(flow.stack.bootstrap)
    rows: dict[str, Row] = {}

    def send_events(kind: str, count: int) -> list[str]:
        ids = []
        for number in range(count):
            event_id = f"{kind}-{number}"
            row = {
                "event_id": event_id,
                "event_at": int(start_ms + random.integers(0, HOUR_MS)),
                "score": round(random.random(), 3),
            }
            churned = random.choice(["no", "yes"]) if kind == "with it" else None  # an event may bring its target
            carried = {"churned": churned} if churned else {}
            sender.event(name, event_id, home(event_id), {"score": row["score"], **carried}, row["event_at"])
            rows[event_id] = {**row, "churned": churned, **rows.pop(event_id, {})}
            ids.append(event_id)
        return ids

    def label(ids: list[str], *said: str | None, away: int = 0) -> None:
        for event_id in ids:
            for value in said:
                value = random.choice(["no", "yes"]) if value == "any" else value
                sender.label(name, event_id, (home(event_id) + away) % PARTITIONS, {"churned": value})
                rows.setdefault(event_id, {})["churned"] = value

    # more than the waiting room holds come before their events; some of them in other partitions
    label([f"early-{number}" for number in range(150)], "any")
    label([f"astray and early-{number}" for number in range(20)], "any", away=2)
    sender.flush()
    kinds = {
        kind: send_events(kind, count)
        for kind, count in {
            "early": 150, "astray and early": 20, "never labelled": 30, "at once": 60, "corrected": 60, "taken back": 40,
            "astray": 30, "long after": 80, "corrected long after": 60, "taken back long after": 40, "astray long after": 20, "with it": 40,
        }.items()
    }  # fmt: skip
    label(kinds["at once"] + kinds["corrected long after"] + kinds["taken back long after"], "any")
    label(kinds["corrected"], "yes", "no", "any")
    label(kinds["taken back"], "any", None)
    label(kinds["astray"], "any", away=1)
    label(kinds["with it"][:20], "any")
    for number in range(40):  # for events that never come
        sender.label(name, f"nothing-{number}", number % PARTITIONS, {"churned": "yes"})
    sender.flush()
    wait_until(flow.caught_up, "everything so far is counted", DEADLINE_S)
    await_equal(lambda: flow.values(name), wanted_of(rows, model))

    # the ids, the rows and the panes of those events leave the memory
    with Producer(flow.stack.bootstrap) as producer:
        for part in range(3):
            times = start_ms + np.arange(3_000) * 1_000
            ids = [f"f-{part}-{number}" for number in range(3_000)]
            producer.log_inferences(filler, pd.DataFrame({"event_id": ids, "event_at": times, "x": 1.0}))
    wait_until(flow.caught_up, "the filler is counted", DEADLINE_S)
    label(kinds["long after"], "any")
    label(kinds["corrected long after"], "any", "any")
    label(kinds["taken back long after"], None)
    label(kinds["astray long after"], "any", away=3)
    sender.flush()
    await_equal(lambda: flow.values(name), wanted_of(rows, model))
    stored = dict(flow.store.query_rows(f"SELECT event_id, churned FROM events_{name}"))
    assert stored == {event_id: row["churned"] for event_id, row in rows.items()}


def home(event_id: str) -> int:
    """The partition of an event."""
    return sum(event_id.encode()) % PARTITIONS


def wanted_of(rows: dict[str, Row], model: Row) -> dict[Key, Expected]:
    return batch(list(rows.values()), model, LABEL_METRICS, LABEL_SEGMENTS, "churned")


# ------------------------------------------------------------------------------------- early, final, revised


def test_a_value_is_early_then_final_then_revised_and_late_rows_count(flow: Flow) -> None:
    name, sender = new_name("time"), Sender(flow.stack.bootstrap)
    # windows of the near future: only watermark events can end them
    start_ms = (sender.at_ms // (10 * MINUTE_MS) + 2) * 10 * MINUTE_MS
    end_ms = start_ms + 10 * MINUTE_MS
    model = {
        "kind": "model", "name": name, "columns": [{"name": "x", "type": "float"}],
        "windows": {"pane": "1m", "sizes": ["10m"], "lateness": "5m"},
    }  # fmt: skip
    flow.apply(*documents(model, {"sum": "sum(x)"}, {}))

    def value() -> tuple[float | None, str] | None:
        found = [row for row in flow.values(name) if (row["version"], row["window_start"]) == ("all", start_ms)]
        return (found[0]["value"], found[0]["status"]) if found else None

    def send(x: float, at: int, partition: int = 0) -> None:
        sender.event(name, f"e{sender.at_ms}-{x}", partition, {"x": x}, at)
        sender.flush()

    late_before = late_rows(flow)
    send(1.0, start_ms)
    send(2.0, end_ms - 1, 1)
    wait_equal(value, (3.0, "early"), "an early value", DEADLINE_S)
    # time is as far as the slowest partition that has rows of the model; the others do not hold it back
    flow.finish(name, end_ms + 5 * MINUTE_MS, [0])
    send(4.0, start_ms + 5 * MINUTE_MS, 1)
    wait_equal(value, (7.0, "early"), "another early value", DEADLINE_S)
    flow.finish(name, end_ms + 5 * MINUTE_MS - 1, [1])
    send(8.0, end_ms - 2, 1)  # within lateness, by one millisecond, into a window that has ended
    wait_equal(value, (15.0, "early"), "still early", DEADLINE_S)
    assert late_rows(flow) == late_before
    flow.finish(name, end_ms + 5 * MINUTE_MS, [1])
    wait_equal(value, (15.0, "final"), "the final value", DEADLINE_S)
    send(16.0, start_ms + 2 * MINUTE_MS, 0)
    wait_equal(value, (31.0, "revised"), "a revised value", DEADLINE_S)
    send(32.0, start_ms - 1, 1)  # of the window before, which did not exist
    wait_equal(lambda: len(flow.values(name)), 4, "a window that begins late", DEADLINE_S)
    assert {row["status"] for row in flow.values(name) if row["window_end"] == start_ms} == {"final"}
    wait_equal(lambda: late_rows(flow), late_before + 2, "late rows are told", DEADLINE_S)
    assert flow.store.query_rows(f"SELECT sum(x) FROM events_{name}") == [(63.0,)]
    statuses = [
        row["status"] for row in flow.topic_values(name) if (row["version"], row["window_start"]) == ("all", start_ms)
    ]
    assert statuses == sorted(statuses)  # early, final, revised: in the order of the alphabet, too
    assert statuses.count("final") == statuses.count("revised") == 1


def late_rows(flow: Flow) -> int:
    """Rows whose pane had ended by more than the lateness, as far as their partition knew."""
    (found,) = flow.store.query_rows(
        "SELECT sum(late) FROM (SELECT argMax(counters['late'], (epoch, flush)) AS late FROM flushes"
        " WHERE topic = 'inference-events' GROUP BY partition)"
    )
    return int(found[0])


def test_a_partition_without_rows_for_a_while_no_longer_holds_time_back(flow: Flow) -> None:
    name, sender = new_name("idle"), Sender(flow.stack.bootstrap)
    start_ms = (sender.at_ms // (10 * MINUTE_MS) + 2) * 10 * MINUTE_MS
    model = {
        "kind": "model", "name": name, "columns": [{"name": "x", "type": "float"}],
        "windows": {"pane": "1m", "sizes": ["10m"], "lateness": "1m"},
    }  # fmt: skip
    flow.apply(*documents(model, {"sum": "sum(x)"}, {}))
    for partition in (0, 3):
        sender.event(name, f"e{partition}", partition, {"x": 1.0}, start_ms)
    sender.flush()
    quiet_from_ms = sender.at_ms  # partition 3 has nothing more to say
    wait_equal(lambda: [row["status"] for row in flow.values(name)], ["early"] * 2, "early values", DEADLINE_S)
    flow.finish(name, start_ms + 30 * MINUTE_MS, [0])
    wait_equal(lambda: {row["status"] for row in flow.values(name)}, {"final"}, "the final value", DEADLINE_S)
    (row,) = (row for row in flow.values(name) if row["version"] == "all")
    assert row["value"] == 2.0
    assert row["updated_at"] >= quiet_from_ms + IDLE_MS


def test_published_values_only_ever_get_newer_versions(flow: Flow) -> None:
    """Under every key of metric-values, versions never go back, whoever published them."""
    newest: dict[tuple[Any, ...], tuple[int, int]] = {}
    name, start_ms = new_name("newer"), hour_ago(2)
    model = {**REGRESSION, "name": name, "windows": {"pane": "1m", "sizes": ["1h"], "lateness": "1m"}}
    flow.apply(*documents(model, {"area": "sum(area)"}, {}))

    def is_published(value: float) -> bool:
        return any(row["value"] == value for row in flow.values(name))

    with Producer(flow.stack.bootstrap) as producer:
        for number in range(3):
            producer.log_inference(name, number, {"area": 1.0}, start_ms + number)
            producer.flush()
            wait_until(partial(is_published, float(number + 1)), "a value", DEADLINE_S)
    rows = flow.topic_values(name)
    assert len(rows) >= 6
    for row in rows:
        moment = (row["value_version"], row["updated_at"])
        assert newest.get(key_of(row), (0, 0)) < moment
        newest[key_of(row)] = moment
    assert not differences(flow.values(name), {key: Expected(3.0, 3, 0) for key in newest})
