"""One number: a metric streamed, asked of history by `snapshot`, and computed from the file by `fql eval`, for a model of every
task, on a whole stack with a real broker."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.commands import command, invoke
from tests.running_stack import RunningStack
from tests.waiting import wait_equal

from fqlstream.cli.definitions import apply as apply_command
from fqlstream.cli.fql import app as fql_app
from fqlstream.cli.publish import publish as publish_command
from fqlstream.cli.snapshot import snapshot as snapshot_command
from fqlstream.errors import DefinitionError, FqlError, UsageError
from fqlstream.fql.evaluate import rfc3339
from fqlstream.store.client import rows_of

DEADLINE_S = 180.0
HOUR_MS = 3_600_000
#: Midnight two days ago: every window is over.
T0 = (int(time.time() * 1000) // (24 * HOUR_MS) - 2) * 24 * HOUR_MS
HOURS = 3
LAST = T0 + (HOURS - 1) * HOUR_MS
EVENTS = 90  # of an hour

COMMON: list[dict[str, Any]] = [
    {"name": "age", "type": "int", "min": 0, "max": 100},
    {"name": "e", "type": "float", "role": "metadata"},
    {"name": "t0", "type": "category", "categories": ["FR", "DE", "IT"]},
    {"name": "a note", "type": "string", "role": "metadata"},
    {"name": "vip", "type": "bool"},
    {"name": "seen", "type": "timestamp", "role": "metadata"},
    {"name": "l", "type": "vector", "n_dimensions": 2, "role": "metadata"},
]
DRIFT = ("jsd(age, 'training')", "psi(t0, 'first')", "jsd(vip, 'before') + psi(age, 'before')")
DATA_METRICS = (
    "traffic()",
    *(f"{kind}_violation_count({name})" for kind in ("null", "type", "range", "any") for name in ("age", "l")),
    *DRIFT,
    "gini(actual=abs(e), predicted=age)",
)
ROW_METRICS = (
    "sum(e)",
    "average(e * 1.1 - age % 7)",
    "average(age)",
    'count("a note") + count(l) + count(seen)',
    "min(e) - max(age / e)",
    "quantile(e, level=0.9)",
    "quantile(log(abs(e)))",
    'greatest(sum(age), least(10, count(e)), average(length("a note")))',
    "sum(if(match(\"a note\", '^[a-z]+é?$') or startswith(substring(\"a note\", 2, 9), 'x'), e ^ 2, null))",
    "average(if(is_null(t0) and not vip, 1, 0)) + 1 / count(e)",
    "sum(if(to_string(age) == '41' or t0 != 'FR', 10, -2.5))",
)


@dataclass(frozen=True)
class Subject:
    """A model of one task: its own columns, its metrics, and how an event's own columns and target are made."""

    task: str
    columns: Sequence[Mapping[str, Any]]
    metrics: Sequence[str]
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"model of {self.task}"

    @property
    def expressions(self) -> dict[str, str]:
        return {f"m{place}": text for place, text in enumerate(self.metrics)}


def column(name: str, kind: str, role: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "role": role, **more}


BINARY = Subject(
    "binary_classification",
    [column("score", "float", "output"), column("churned", "category", "target", categories=["no", "yes"])],
    (
        *(f"{name}()" for name in ("precision", "recall", "f1_score", "fpr", "accuracy", "geometric_mean", "auroc")),
        "expected_calibration_error()",
        "log_loss()",
        "calibrated_threshold()",
        "recall(threshold=0.3)",
        "average(if(fn(), -40, if(fp(), -400, 250)))",
        "sum(if(tp() or tn(), 1, 0)) / traffic()",
        *DRIFT,
    ),
    {"threshold": 0.5, "target_class_order": ["no", "yes"]},
)
MULTICLASS = Subject(
    "multiclass_classification",
    [
        *(column(f"p_{name}", "float", "output") for name in ("cat", "dog", "fox")),
        column("animal", "category", "target", categories=["cat", "dog", "fox"]),
    ],
    ("accuracy()", "log_loss()", "average(if(tp(class='dog'), 1, 0))", "sum(if(fn(class='fox'), e, 0))"),
    {"target_class_order": ["cat", "dog", "fox"]},
)
REGRESSION = Subject(
    "regression",
    [column("estimate", "float", "output"), column("price", "float", "target")],
    ("mse()", "mae()", "mape()", "wmape()", "r2()", "gini(actual=abs(price), predicted=estimate)", "max(price)"),
)
RANKING = Subject(
    "ranking",
    [
        column("query", "string", "metadata"),
        column("rank_score", "float", "output"),
        column("clicked", "int", "target"),
    ],
    ("map()", "ndcg_mean()", "query_count()", "query_count(target=clicked)"),
    {"group_by": "query", "top_k": 3, "is_binary_ranking_model": True},
)
LLM = Subject(
    "llm",
    [column("tokens", "int", "metadata", source="user", scope="span")],
    (
        "sum(attribute('tokens'))",
        "quantile(attribute('tokens', type='user', scope='span'), 0.25)",
        "average(attribute('e') * length(attribute('a note')))",
        "count(attribute('vip')) / sum(1)",
    ),
)
NOT_SET = Subject("not_set", [column("cost", "float", "metadata")], ("sum(cost) / sum(1)", *ROW_METRICS, *DATA_METRICS))
SUBJECTS = (BINARY, MULTICLASS, REGRESSION, RANKING, LLM, NOT_SET)
SEGMENTS = {"": None, "part": 'age >= 41 or is_null("a note")'}


# ------------------------------------------------------------------------------------------------ events


def values(rng: random.Random, subject: Subject, target: Any) -> dict[str, Any]:
    """Give an event's columns: some missing, null, of the wrong type, out of range."""
    found: dict[str, Any] = {
        "age": rng.choice((rng.randint(15, 60), 41, 130, None, 41.5, "old")),
        "e": rng.choice((rng.gauss(0, 5), 0.1, -0.0, 1e16, 1e-9, None)),
        "t0": rng.choice(("FR", "DE", "XX", None, 7)),
        "a note": rng.choice(("", "abc", "wörd", "xxé", "é" * 3, None, 5)),
        "vip": rng.choice((True, False, 1, None, "yes")),
        "seen": rng.choice((T0, None)),
        "l": rng.choice(([1.0, 2.0], [], [1.0], None, ["x"])),
        "score": rng.choice((rng.random(), 0.5, 0.25, None)),
        **{f"p_{name}": rng.choice((rng.random(), 0.5)) for name in ("cat", "dog", "fox")},
        "estimate": rng.gauss(10, 3),
        "query": f"q{rng.randint(0, 20)}",
        "rank_score": rng.choice((rng.random(), 0.5)),
        "tokens": rng.choice((rng.randint(1, 5000), 2**53 + 1, None)),
        "cost": rng.lognormvariate(0, 1),
    }
    known = {item["name"] for item in (*COMMON, *subject.columns)}
    return {name: value for name, value in found.items() if name in known and rng.random() < 0.97} | target


def targets(rng: random.Random, subject: Subject) -> dict[str, Any]:
    found = {
        "churned": rng.choice(("no", "yes", "yes", None, "maybe")),
        "animal": rng.choice(("cat", "dog", "fox", "cow")),
        "price": rng.choice((rng.gauss(10, 4), 0.0)),
        "clicked": rng.randint(0, 1),
    }
    known = {item["name"] for item in subject.columns}
    return {name: value for name, value in found.items() if name in known}


def events_of(subject: Subject, hour: int) -> list[dict[str, Any]]:
    """Give an hour's events, some twice, and then their labels: some none, some corrected, some taken back."""
    rng = random.Random(f"{subject.task} {hour}")
    inferences, labels = [], []
    for at in range(EVENTS):
        event_id = f"{hour}-{at}"
        moment = T0 + hour * HOUR_MS + rng.randint(0, HOUR_MS - 1)
        place = {"model": subject.name, "event_id": event_id, "event_at": rfc3339(moment)}
        early = targets(rng, subject) if rng.random() < 0.1 else {}
        columns = values(rng, subject, early)
        inferences.append({"type": "inference", **place, "columns": columns})
        if rng.random() < 0.05:
            inferences.append({"type": "inference", **place, "columns": {**columns, "age": 99}})
        about = {"query": columns["query"]} if "query" in columns else {}
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            target = targets(rng, subject)
            if target:
                empty = rng.random() < 0.1
                given = dict.fromkeys(target) if empty else target
                labels.append({"type": "label", **place, "columns": {**about, **given}})
    return [*inferences, *labels]


# ------------------------------------------------------------------------------------------------ the stack


def run(stack: RunningStack, function: Callable[..., None], *arguments: object) -> str:
    """Run a command in this process: it is asked hundreds of times."""
    result = invoke(command(function), "--data", stack.data, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def asked(stack: RunningStack, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(stack, snapshot_command, "--json", *arguments))
    return found


def streamed(stack: RunningStack, model: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Give the last hour's newest values."""
    query = (
        "SELECT metric, segment, value, rows, exact, error_bound FROM metric_series"
        f" WHERE model = '{model}' AND version = 'all' AND window_s = 3600"
        f" AND toUnixTimestamp64Milli(window_start) = {LAST}"
    )
    with stack.store() as store:
        rows = rows_of(store.query_arrow(query))
    return {(row.pop("metric"), row.pop("segment")): row for row in rows}


def define(stack: RunningStack, name: str, *documents: Mapping[str, Any]) -> None:
    path = stack.directory / f"{name}.yaml"
    path.write_text("\n---\n".join(map(json.dumps, documents)))
    run(stack, apply_command, "-f", path)


def written(stack: RunningStack, name: str, events: Sequence[Mapping[str, Any]]) -> str:
    (stack.directory / name).write_text("".join(json.dumps(event) + "\n" for event in events))
    return name


def documents(subject: Subject) -> list[dict[str, Any]]:
    model = {
        "kind": "model",
        "name": subject.name,
        "task": subject.task,
        "columns": [*COMMON, *subject.columns],
        "task_params": subject.params,
        "windows": {"pane": "1m", "sizes": ["1h"], "lateness": "1m"},
    }
    first = {"start": rfc3339(T0), "end": rfc3339(T0 + HOUR_MS)}
    rest: list[dict[str, Any]] = [
        {"kind": "baseline", "name": "training", "type": "static", "file": f"{subject.task}-training.jsonl"},
        {"kind": "baseline", "name": "first", "type": "static", **first},
        {"kind": "baseline", "name": "before", "type": "rolling", "window": "1h", "offset": "1h"},
        {"kind": "segment", "name": "part", "definition": SEGMENTS["part"]},
        *({"kind": "metric", "name": name, "definition": text} for name, text in subject.expressions.items()),
    ]
    return [model, *({"model": subject.name, **item} for item in rest)]


@pytest.fixture(scope="module")
def published(stack: RunningStack) -> RunningStack:
    """Every model with three hours of events and their labels."""
    for subject in SUBJECTS:
        training = [event for event in events_of(subject, 7) if event["type"] == "inference"]
        written(stack, f"{subject.task}-training.jsonl", training)
        define(stack, subject.task, *documents(subject))
        hours = [events_of(subject, hour) for hour in range(HOURS)]
        for hour, events in enumerate(hours):
            written(stack, f"{subject.task}-{hour}.jsonl", events)
        everything = [event for events in hours for event in events]
        path = stack.directory / written(stack, f"{subject.task}.jsonl", everything)
        run(stack, publish_command, "--model", subject.name, path, "--finish")
    return stack


def evaluated(
    stack: RunningStack, subject: Subject, text: str, segment: str | None, engine: str = "arrow"
) -> dict[str, Any]:
    """Give what `fql eval` makes of the last hour's file."""
    arguments = ["eval", "--model", stack.directory / f"{subject.task}.yaml", "--engine", engine, "--json"]
    arguments += ["--data", stack.directory / f"{subject.task}-{HOURS - 1}.jsonl"]
    for name, hour in (("first", 0), ("before", HOURS - 2)):
        arguments += ["--baseline", f"{name}={stack.directory / f'{subject.task}-{hour}.jsonl'}"]
    arguments += [] if segment is None else ["--segment", segment]
    result = invoke(fql_app, *arguments, text)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


#: Their last digits are a matter of the library that computes logarithms and powers, or of the order of a mean.
ROUNDED = ("log", "^", "psi", "jsd", "map", "ndcg")


def same(text: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    others = ("rows", "exact", "error_bound")
    if [a[name] for name in others] != [b[name] for name in others] or (a["value"] is None) != (b["value"] is None):
        return False
    if a["value"] is None or not any(name in text for name in ROUNDED):
        return bool(a["value"] == b["value"])
    return math.isclose(a["value"], b["value"], rel_tol=1e-12, abs_tol=1e-15)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.task)
def test_streamed_snapshot_and_file_are_one_number(published: RunningStack, subject: Subject) -> None:
    wanted = {
        (name, segment): evaluated(published, subject, text, condition)
        for name, text in subject.expressions.items()
        for segment, condition in SEGMENTS.items()
    }
    present = sum(item["value"] is not None for item in wanted.values())
    assert present > 0.9 * len(wanted), [key for key, item in wanted.items() if item["value"] is None]
    wait_equal(
        lambda: streamed(published, subject.name), wanted, f"values of {subject.expressions}", DEADLINE_S, look_s=0.3
    )
    between = ("--from", rfc3339(LAST), "--to", rfc3339(LAST + HOUR_MS))
    for (name, segment), item in wanted.items():
        text, condition = subject.expressions[name], SEGMENTS[segment]
        answer = asked(
            published, *between, *(() if condition is None else ("--segment", condition)), "--", subject.name, text
        )
        assert same(text, answer, item), (text, segment, answer, item)
        if condition is None and text in subject.metrics:  # the differential test has all others
            by_sql = evaluated(published, subject, text, condition, "clickhouse")
            assert same(text, by_sql, item), (text, by_sql, item)


def test_what_cannot_be_asked_is_told(published: RunningStack) -> None:
    about = (published.data, "--json")
    with pytest.raises(DefinitionError, match="no model 'nobody'"):
        invoke(command(snapshot_command), "--data", *about, "nobody", "traffic()")
    with pytest.raises(FqlError, match="did you mean age"):
        invoke(command(snapshot_command), "--data", *about, BINARY.name, "sum(agee)")
    with pytest.raises(FqlError):
        invoke(command(snapshot_command), "--data", *about, "--segment", "sum(age) > 1", BINARY.name, "sum(age)")
    with pytest.raises(UsageError, match="has no version 'v9'"):
        invoke(command(snapshot_command), "--data", *about, "--version", "v9", BINARY.name, "sum(age)")
    with pytest.raises(UsageError, match="is no time"):
        invoke(command(snapshot_command), "--data", *about, "--from", "yesterday", BINARY.name, "sum(age)")


def test_a_snapshot_needs_no_range_and_speaks_to_people(published: RunningStack) -> None:
    said = run(published, snapshot_command, NOT_SET.name, "sum(1) * -1")
    assert said == f"-{HOURS * EVENTS}.0  (exact, over {HOURS * EVENTS} rows)\n"
    answer = asked(published, "--from", rfc3339(LAST), "--version", "v1", NOT_SET.name, "sum(1)")
    assert answer == {"value": EVENTS, "rows": EVENTS, "exact": True, "error_bound": None}
