"""`fqlstream bench chaos`: a stack whose processes are killed, stopped and frozen while events flow, and what it says afterwards.

A round defines a model, sends it events and labels over some seconds, and lets troubles happen meanwhile. When all is sent,
every final of every metric, segment and window must equal the same expression over the same rows in memory, history must hold
what was sent, and no lag may be left. A round that does not get there in time counts its differences as mismatches.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import yaml
from confluent_kafka import Consumer, KafkaException, TopicPartition

from fqlstream.bench import Report, Request, machine
from fqlstream.bench.troubles import KILLS, Troublemaker, draw
from fqlstream.client import Producer
from fqlstream.errors import FqlstreamError
from fqlstream.events.columns import coerce_table
from fqlstream.events.definitions import ModelDefinition
from fqlstream.events.documents import read_documents
from fqlstream.fql.evaluate import Question, evaluate_table, window_of
from fqlstream.local.progress import Progress
from fqlstream.local.stack import Stack, running_stack
from fqlstream.ops.definitions import apply
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.settings import Settings, load
from fqlstream.store.client import Store
from fqlstream.store.naming import event_view, label_table

WORKERS: Final = 2
_SOURCE: Final = "inference-events"
_ROUND_EVENTS_MAX: Final = 20_000
_ROUND_S: Final = 6.0
#: Beyond the session time-out below.
_FROZEN_S: Final = 9.0
#: A part that died again and again is started after 30 s at the latest; then everything is done once more.
_RECOVERY_S_MAX: Final = 180.0
_ASK_S: Final = 10.0
_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
#: Sessions are short, and memory small: labels also look for their event in ClickHouse, and panes are loaded again.
_ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "FQLSTREAM_KAFKA__SESSION_TIMEOUT_MS": "6000",
        "FQLSTREAM_STREAM__LABEL_FLUSH_MS": "1500",
        "FQLSTREAM_STREAM__RECENT_BYTES_MAX": str(2**20),
        "FQLSTREAM_STREAM__WAITING_LABELS_MAX": "2000",
        "FQLSTREAM_STREAM__PANES_MAX": "50",
    }
)
_METRICS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "traffic": "traffic()",
        "sum": "sum(x)",
        # counts 250 for a row without a label, so that its label takes something back
        "bill": "average(if(fn(), -40, if(fp(), -400, 250)))",
        "cost": "average(if(is_null(churned), null, if(fn(), -40, if(fp(), -400, 250))))",
        "precision": "precision()",
        "recall": "recall()",
        "best_hit": "max(if(tp(), score, 0))",
        "auroc": "auroc()",
    }
)
_SEGMENTS: Final[Mapping[str, str | None]] = MappingProxyType({"": None, "high": "x >= 5", "wrong": "fp() or fn()"})


@dataclass(frozen=True, slots=True)
class Sent:
    """What a round has sent: one row per event with its last label, and how many labels there were."""

    model: ModelDefinition
    table: pa.Table
    event_at_ms: np.ndarray
    labels: int


def run(request: Request) -> Report:
    """Run the rounds. `checked` says that nothing differed in any of them."""
    rng = random.Random(request.seed)  # noqa: S311  # a course that can be repeated, not a secret
    events = max(200, min(_ROUND_EVENTS_MAX, request.events_count // request.rounds))
    mismatches, longest_s = 0, 0.0
    progress = Progress(line=request.say, status=lambda _: None)
    settings = load()
    settings = settings.model_copy(update={"store": settings.store.model_copy(update={"port": 0})})
    with tempfile.TemporaryDirectory(prefix="fqlstream-chaos-") as directory, _environment(_ENVIRONMENT):
        place = Path(directory)
        with running_stack(settings, place, workers=WORKERS, progress=progress) as stack:
            maker = Troublemaker(place, stack.describe, rng, _FROZEN_S, request.say)
            try:
                for number in range(1, request.rounds + 1):
                    wrong, recovery_s = _round(stack, maker, rng, f"m{request.seed}r{number}", events)
                    mismatches += len(wrong)
                    longest_s = max(longest_s, recovery_s)
                    request.say(
                        f"round {number} of {request.rounds}: {len(wrong)} wrong, right after {recovery_s:.1f} s"
                    )
                    for line in wrong[:10]:
                        request.say(f"  wrong: {line}")
            finally:
                maker.stop()
    figures: dict[str, float] = {
        "rounds": request.rounds,
        "events": request.rounds * events,
        "kills": sum(maker.done[kind] for kind in KILLS),
        "mismatches": mismatches,
        "longest_recovery_s": round(longest_s, 1),
        **{kind: maker.done[kind] for kind in sorted(maker.done)},
    }
    return Report("chaos", machine(), mismatches == 0, figures)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _round(stack: Stack, maker: Troublemaker, rng: random.Random, name: str, events: int) -> tuple[list[str], float]:
    """Run one round; gives what is wrong at its end, and how long after the last trouble all was right."""
    documents = definitions(name)
    _patiently(lambda: apply(stack.settings, read_documents(yaml.safe_dump_all(documents), name)))
    model = ModelDefinition.model_validate(documents[0])
    sent: list[Sent] = []
    seed = rng.randrange(2**31)
    sender = threading.Thread(target=lambda: sent.append(send(stack.settings, model, seed, events, _ROUND_S)))
    sender.start()
    maker.run(draw(rng, _ROUND_S))
    sender.join()
    if not sent:
        raise FqlstreamError("BEN007", f"the events of model {name} could not be sent", "see the messages above")
    begun_s = time.monotonic()
    wanted = _batch(sent[0])
    while True:
        wrong = _wrong(stack, sent[0], wanted)
        taken_s = time.monotonic() - begun_s
        if not wrong or taken_s > _RECOVERY_S_MAX:
            return wrong, taken_s
        time.sleep(0.5)


def _patiently(work: Any) -> None:
    """Try again while a part of the stack is away."""
    deadline_s = time.monotonic() + _RECOVERY_S_MAX
    while True:
        try:
            work()
        except FqlstreamError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(1.0)
        else:
            return


def definitions(name: str) -> list[dict[str, Any]]:
    """Give a model's documents: itself, its metrics and its segments."""
    return [
        {
            "kind": "model",
            "name": name,
            "task": "binary_classification",
            "columns": [
                {"name": "x", "type": "float"},
                {"name": "score", "type": "float", "role": "output"},
                {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
            ],
            "task_params": {"threshold": 0.5, "target_class_order": ["no", "yes"]},
            "windows": {"pane": "1m", "sizes": ["1h"], "lateness": "1m"},
        },
        *({"kind": "metric", "model": name, "name": key, "definition": text} for key, text in _METRICS.items()),
        *(
            {"kind": "segment", "model": name, "name": key, "definition": text}
            for key, text in _SEGMENTS.items()
            if text is not None
        ),
    ]


# ---- sending -------------------------------------------------------------------------------------------------------


def send(settings: Settings, model: ModelDefinition, seed: int, events: int, seconds: float) -> Sent:
    """Send events over some seconds, and labels late, early, corrected and taken back; watermark events at the end."""
    numbers = np.random.default_rng(seed)
    begin_ms = (time.time_ns() // 1_000_000 - 6 * _HOUR_MS) // _HOUR_MS * _HOUR_MS
    x, score = np.round(numbers.normal(5, 3, events), 6), np.round(numbers.random(events), 6)
    event_at = begin_ms + numbers.integers(0, 2 * _HOUR_MS, events)
    due: dict[int, list[tuple[int, str | None]]] = {}
    for number in range(events):
        for _ in range(numbers.choice([0, 1, 1, 1, 2])):
            place = min(events - 1, max(0, number + int(numbers.integers(-20, events // 3))))
            due.setdefault(place, []).append((number, ("no", "yes", "yes", None)[numbers.integers(4)]))
    last: list[str | None] = [None] * events
    labels = 0
    begun_s = time.monotonic()
    with Producer(settings=settings) as producer:
        for number in range(events):
            columns = {"x": float(x[number]), "score": float(score[number])}
            producer.log_inference(model.name, f"{model.name}-{number}", columns, event_at=int(event_at[number]))
            for other, label in due.get(number, ()):
                producer.log_label(model.name, f"{model.name}-{other}", {"churned": label})
                last[other] = label
                labels += 1
            if number % 100 == 0:
                time.sleep(max(0.0, number / events * seconds - (time.monotonic() - begun_s)))
        producer.flush(_RECOVERY_S_MAX)
        producer.finish(model.name, begin_ms + 3 * _HOUR_MS)
        producer.flush(_RECOVERY_S_MAX)
    table = coerce_table(pa.table({"x": x, "score": score, "churned": pa.array(last, pa.string())}), model)
    return Sent(model, table, event_at, labels)


# ---- checking ------------------------------------------------------------------------------------------------------

_Key = tuple[str, str, str]
_Answer = tuple[float | None, int]


def _batch(sent: Sent) -> dict[_Key, _Answer]:
    """Give value and rows per metric, segment and window start, computed over the rows in memory."""
    wanted: dict[_Key, _Answer] = {}
    for metric, text in _METRICS.items():
        for segment, condition in _SEGMENTS.items():
            question = Question(text, condition, window_of("1h"), sent.event_at_ms)
            found = evaluate_table(sent.table, sent.model, question)
            for value in found:
                wanted[metric, segment, value["window_start"]] = value["value"], value["rows"]
    return wanted


def _wrong(stack: Stack, sent: Sent, wanted: Mapping[_Key, _Answer]) -> list[str]:
    """Say what is not as it should be; while a part is away, that."""
    try:
        with Store.connect(stack.settings.store) as store:
            return _differences(store, sent, wanted) + _left_behind(stack)
    except FqlstreamError as error:
        return [f"{error.code}: {error.message}"]


def _differences(store: Store, sent: Sent, wanted: Mapping[_Key, _Answer]) -> list[str]:
    name = sent.model.name
    rows = store.query_rows(
        "SELECT metric, segment, formatDateTime(window_start, '%Y-%m-%dT%H:%i:%SZ', 'UTC'), value, rows, error_bound "
        "FROM metric_series WHERE model = {model:String} AND version = 'all' AND status != 'early'",
        {"model": name},
    )
    published = {
        (metric, segment, start): (value, count, bound) for metric, segment, start, value, count, bound in rows
    }
    wrong = [f"{key}: there is no final" for key in wanted.keys() - published.keys()]
    wrong += [f"{key}: a window without events" for key in published.keys() - wanted.keys()]
    for key, (value, count, bound) in published.items():
        if key in wanted and not _same((value, count), wanted[key], bound):
            wrong.append(f"{key}: {value} of {count} rows, in memory {wanted[key]}")
    events = store.query_rows("SELECT count(), uniqExact(event_id) FROM {view:Identifier}", {"view": event_view(name)})[
        0
    ]
    labels = store.query_rows("SELECT count() FROM {table:Identifier} FINAL", {"table": label_table(name)})[0][0]
    if tuple(events) != (len(sent.table), len(sent.table)):
        wrong.append(f"history holds {tuple(events)} events and ids, {len(sent.table)} were sent")
    if labels != sent.labels:
        wrong.append(f"history holds {labels} labels, {sent.labels} were sent")
    return wrong


def _same(found: _Answer, wanted: _Answer, bound: float | None) -> bool:
    """Exact values are the same number; others lie within both bounds."""
    if found[1] != wanted[1]:
        return False
    if found[0] is None or wanted[0] is None or bound is None:
        return found[0] == wanted[0]
    return abs(found[0] - wanted[0]) <= 2 * bound


def _left_behind(stack: Stack) -> list[str]:
    """Say how many records lie between the group's commits and the log's end, where there are any.

    By a consumer: librdkafka's administrative requests end the whole process now and then when the broker dies under them.
    """
    kafka = stack.settings.kafka
    consumer = Consumer({**librdkafka_options(kafka), "group.id": kafka.group, "enable.auto.commit": False})
    lag = 0
    try:
        partitions = consumer.list_topics(_SOURCE, _ASK_S).topics[_SOURCE].partitions
        for found in consumer.committed([TopicPartition(_SOURCE, number) for number in partitions], _ASK_S):
            _, end = consumer.get_watermark_offsets(found, _ASK_S)
            lag += end - max(0, found.offset)
    except KafkaException as error:
        return [f"Kafka: {error}"]
    finally:
        consumer.close()
    return [f"{lag} records are not committed"] if lag else []
