"""What the end-to-end tests share: a stack whose caches are small, ways in, ways out, and the batch answer to compare with."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
import yaml
from confluent_kafka import Producer
from tests.commands import command, invoke
from tests.integration import test_crash
from tests.integration.test_crash import TOPIC, Stack, lag
from tests.topic_records import read_topic
from tests.waiting import wait_until

from fqlstream import evaluate
from fqlstream.cli import definitions, values
from fqlstream.store.client import Store

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
PARTITIONS = 4
IDLE_MS = 2_500
DEADLINE_S = 60.0
#: So small that labels meet evicted panes, ids that were forgotten and a full waiting room within a test.
SMALL = {
    "FQLSTREAM_STREAM__PANES_MAX": "10",
    "FQLSTREAM_STREAM__DUPLICATE_IDS_MAX": "1000",
    "FQLSTREAM_STREAM__WAITING_LABELS_MAX": "20",
    "FQLSTREAM_STREAM__RECENT_BYTES_MAX": str(2**20),
    "FQLSTREAM_STREAM__WINDOWS_MAX": "10",
    "FQLSTREAM_STREAM__LABEL_FLUSH_MS": "500",
    "FQLSTREAM_STREAM__LABEL_SEARCH_MS": "300",
    "FQLSTREAM_STREAM__FLUSH_MS": "100",
    "FQLSTREAM_STREAM__IDLE_MS": str(IDLE_MS),
}
COLUMNS = (
    "version", "metric", "segment", "window_start", "window_end", "window_s", "value", "rows", "labelled_rows", "exact",
    "error_bound", "status", "value_version", "definition_revision", "updated_at",
)  # fmt: skip
_TIMES = ("window_start", "window_end", "updated_at")

Row = dict[str, Any]
#: version, metric, segment, window's start and end in Unix ms
Key = tuple[str, str, str, int, int]


@dataclass(frozen=True)
class Expected:
    """What a window's value must be."""

    value: float | None
    rows: int
    labelled_rows: int
    exact: bool = True
    bound: float | None = None  # of a batch answer that is not exact


@dataclass
class Flow:
    """A running stack with two workers."""

    stack: Stack
    store: Store

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Define."""
        file = self.stack.data / f"{uuid.uuid4().hex}.yaml"
        file.write_text("---\n".join(yaml.safe_dump(dict(document)) for document in documents))
        done = invoke(command(definitions.apply), "-f", file, "--data", self.stack.data)
        assert done.exit_code == 0, done.output

    def finish(self, model: str, event_at: int, partitions: Sequence[int] = range(PARTITIONS)) -> None:
        """Send watermark events."""
        sender = Sender(self.stack.bootstrap)
        for partition in partitions:
            sender.mark(model, event_at, partition)
        sender.flush()

    def values(self, model: str) -> list[Row]:
        """Give the newest value of every window, times in Unix ms."""
        return self._query("metric_series", model)

    def latest(self, model: str) -> list[Row]:
        """Give the newest value of the newest windows."""
        return self._query("metric_latest", model)

    def _query(self, view: str, model: str) -> list[Row]:
        chosen = [f"toUnixTimestamp64Milli({name})" if name in _TIMES else name for name in COLUMNS]
        rows = self.store.query_rows(
            f"SELECT {', '.join(chosen)} FROM {view} WHERE model = {{model:String}}", {"model": model}
        )
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows]

    def command_values(self, model: str, metric: str, *options: str) -> list[Row]:
        """Ask `fqlstream values --json`."""
        done = invoke(command(values.values), model, metric, *options, "--json", "--data", self.stack.data)
        assert done.exit_code == 0, done.output
        rows: list[Row] = json.loads(done.stdout)
        return [_with_unix_times(row) for row in rows]

    def topic_values(self, model: str) -> list[Row]:
        """Give every value of a model on the topic metric-values, each partition in its order."""
        return [row for row in read_json(self.stack.bootstrap, "metric-values") if row["model"] == model]

    def caught_up(self) -> bool:
        """Whether the whole log is counted and written."""
        return lag(self.stack) == 0


@contextmanager
def flow_of(stack: Stack) -> Iterator[Flow]:
    """Start two workers with small caches."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setitem(test_crash.ENVIRONMENT, name, value)
        for _ in range(2):
            stack.start_worker()
        with stack.store() as store:
            yield Flow(stack, store)
        stack.stop_workers()


# ---------------------------------------------------------------------------------------------------------- ways in


@dataclass
class Sender:
    """A plain Kafka client that chooses partition and record time itself; record times of one sender only rise."""

    bootstrap: str
    at_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    producer: Producer = field(init=False)

    def __post_init__(self) -> None:
        self.producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5})

    def event(
        self, model: str, event_id: str, partition: int, columns: Mapping[str, Any], event_at: int, **fields: Any
    ) -> None:
        """Send an inference event."""
        self._send(
            partition, {"model": model, "event_id": event_id, "event_at": event_at, "columns": columns, **fields}
        )

    def label(self, model: str, event_id: str, partition: int, columns: Mapping[str, Any], **fields: Any) -> None:
        """Send a label."""
        self._send(partition, {"type": "label", "model": model, "event_id": event_id, "columns": columns, **fields})

    def mark(self, model: str, event_at: int, partition: int) -> None:
        """Send a watermark event."""
        self._send(partition, {"type": "watermark", "model": model, "event_at": event_at})

    def _send(self, partition: int, event: Mapping[str, Any]) -> None:
        self.at_ms = max(self.at_ms + 1, time.time_ns() // 1_000_000)
        self.producer.produce(TOPIC, json.dumps(event).encode(), partition=partition, timestamp=self.at_ms)
        self.producer.poll(0)

    def flush(self) -> None:
        """Wait until everything arrived."""
        assert self.producer.flush(30) == 0


# --------------------------------------------------------------------------------------------------------- ways out


def read_json(bootstrap: str, topic: str) -> list[Row]:
    """Read a whole topic, partition by partition."""
    return [_with_unix_times(json.loads(message.value())) for message in read_topic(bootstrap, topic)]


def _with_unix_times(row: Row) -> Row:
    return {
        name: round(datetime.fromisoformat(value).timestamp() * 1000) if name in _TIMES else value
        for name, value in row.items()
    }


def key_of(row: Row) -> Key:
    """Name a value."""
    return row["version"], row["metric"], row["segment"], row["window_start"], row["window_end"]


# --------------------------------------------------------------------------------------------- the batch answer


def batch(
    rows: Sequence[Row],
    model: Mapping[str, Any],
    metrics: Mapping[str, str],
    segments: Mapping[str, str],
    target: str,
    versions: Sequence[str] = ("v1", "all"),
) -> dict[Key, Expected]:
    """Give every value of every window as `fqlstream.evaluate` has it over the rows themselves."""
    definition = {name: value for name, value in model.items() if name != "kind"}
    out: dict[Key, Expected] = {}
    for window in model["windows"]["sizes"]:
        for segment, condition in {"": None, **segments}.items():
            asked = {"model": definition, "segment": condition, "window": window}
            labels = [
                round(found["value"] or 0) for found in evaluate(rows, f"sum(if(is_not_null({target}), 1, 0))", **asked)
            ]
            for metric, text in metrics.items():
                for labelled, found in zip(labels, evaluate(rows, text, **asked), strict=True):
                    start, end = (
                        round(datetime.fromisoformat(found[name]).timestamp() * 1000)
                        for name in ("window_start", "window_end")
                    )
                    expected = Expected(found["value"], found["rows"], labelled, found["exact"], found["error_bound"])
                    for version in versions:
                        out[version, metric, segment, start, end] = expected
    return out


def differences(found: Sequence[Row], expected: Mapping[Key, Expected], loose: Sequence[str] = ()) -> list[str]:
    """Say where published values are not what they must be; `loose` metrics are compared by their numbers of rows only."""
    by_key = {key_of(row): row for row in found}
    out = [f"{key} is missing" for key in expected.keys() - by_key.keys()]
    out += [f"{key} should not be there" for key in by_key.keys() - expected.keys()]
    for key in expected.keys() & by_key.keys():
        row, want = by_key[key], expected[key]
        if (row["rows"], row["labelled_rows"]) != (want.rows, want.labelled_rows):
            out.append(f"{key}: rows {row['rows']}, {row['labelled_rows']}, not {want.rows}, {want.labelled_rows}")
        if row["metric"] in loose:
            continue
        if row["exact"] != want.exact:
            out.append(f"{key}: exact is {row['exact']}")
        elif want.exact and row["value"] != want.value:
            out.append(f"{key}: {row['value']!r}, a recount gives {want.value!r}")
        elif not want.exact and abs(row["value"] - want.value) > row["error_bound"] + (want.bound or 0):
            out.append(f"{key}: {row['value']!r}, a recount gives {want.value!r} within {want.bound}")
    return out


def await_equal(
    found: Callable[[], Sequence[Row]],
    expected: Mapping[Key, Expected],
    *,
    loose: Sequence[str] = (),
    statuses: Sequence[str] = ("final", "revised"),
    seconds: float = DEADLINE_S,
) -> list[Row]:
    """Wait until values are what they must be, and over; gives them."""
    rows: list[Row] = []
    wrong: list[str] = []

    def equal() -> bool:
        rows[:] = found()
        wrong[:] = differences(rows, expected, loose)
        wrong.extend(f"{key_of(row)} is {row['status']}" for row in rows if row["status"] not in statuses)
        return not wrong

    what = "values that are what they must be, and over"
    wait_until(equal, what, seconds, saw=lambda: (f"{len(wrong)} are not", sorted(wrong)[:8]), look_s=0.2)
    return rows


def same(left: float | None, right: float | None) -> bool:
    """Whether two numbers are equal but for the order of additions in an oracle's sums."""
    if left is None or right is None:
        return left is right
    return math.isclose(left, right, rel_tol=1e-12, abs_tol=1e-15)
