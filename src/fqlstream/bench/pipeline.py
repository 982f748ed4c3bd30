"""`fqlstream bench pipeline`: events per second and processor core, on a real broker, each contender in its own process.

A topic of four partitions is filled first; then every contender reads it alone, from the beginning, and says what that
cost its process. The broker's own processor time is not counted, the check of the answers neither.
"""

from __future__ import annotations

import math
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import yaml
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from fqlstream.bench import Report, Request, machine
from fqlstream.bench.contender import Measurement, Task, run_contender
from fqlstream.bench.workload import DEFINITIONS, MODEL, VERSION, Workload
from fqlstream.errors import BrokerError, UsageError
from fqlstream.events.columns import coerce_table
from fqlstream.events.definitions import ModelDefinition
from fqlstream.events.documents import read_documents
from fqlstream.fql.evaluate import Question, evaluate_table
from fqlstream.local.broker import provide_broker
from fqlstream.local.progress import Progress
from fqlstream.local.stack import running_stack
from fqlstream.ops.definitions import apply
from fqlstream.ops.kafka_options import librdkafka_options, producer_options
from fqlstream.settings import KafkaSettings, Settings, load
from fqlstream.store.client import Store

PARTITIONS: Final = 4
#: Events in one Arrow batch, as the SDK sends them.
ARROW_ROWS: Final = 1_000
_TIMEOUT_S: Final = 900.0
_ANSWER_S: Final = 30.0
SOURCE_TOPIC: Final = "inference-events"
#: The workload's times are fixed ones: retention by time would delete them at once.
_KEPT: Final = {"retention.ms": "-1", "message.timestamp.after.max.ms": str(2**62)}

Form = Literal["json", "arrow"]


#: What a record of each form says about itself.
_HEADERS: Final[Mapping[Form, list[tuple[str, str]]]] = {
    "json": [],
    "arrow": [("content-type", "application/vnd.apache.arrow.stream"), ("model", MODEL), ("version", VERSION)],
}


@dataclass(frozen=True, slots=True)
class Contender:
    """One figure: the module that is run for it, the form of the events, and the share of them that it reads.

    `whole`: it is our worker, with a store and all topics of its own, and `environment` sets it up.
    """

    figure: str
    module: str
    form: Form
    share: float = 1.0
    whole: bool = False
    environment: tuple[tuple[str, str], ...] = ()


_WORKER: Final = "fqlstream.bench.worker"
NO_HISTORY: Final = (("FQLSTREAM_STREAM__HISTORY", "false"),)
#: In this order. The share keeps each run near ten seconds.
CONTENDERS: Final = (
    Contender("consume_events_per_s_core", "fqlstream.bench.consume", "json"),
    Contender("faust_events_per_s_core", "fqlstream.bench.faust_plain", "json", share=0.02),
    Contender("json_events_per_s_core", _WORKER, "json", whole=True),
    Contender("arrow_events_per_s_core", _WORKER, "arrow", share=2.0, whole=True),
    Contender("arrow_no_history_events_per_s_core", _WORKER, "arrow", share=4.0, whole=True, environment=NO_HISTORY),
)


def run(request: Request) -> Report:
    """Run all contenders, or those whose figures were named. Raises UsageError for a figure that there is not."""
    chosen = _chosen(request.figures)
    figures, checked = {}, True
    with tempfile.TemporaryDirectory(prefix="fqlstream-bench-") as directory:
        for contender in chosen:
            workload = Workload(max(1, int(request.events_count * contender.share)))
            place = Path(directory) / contender.figure
            place.mkdir()
            measure = measure_whole if contender.whole else _bare
            measured = measure(contender, workload, place, request)
            figures[contender.figure] = round(measured.events_per_s_core)
            checked = checked and measured.checked
            request.say(f"{contender.figure}: {measured.events_per_s_core:,.0f} ({measured.cpu_s:.2f} s of a core)")
    return Report("pipeline", machine(), checked, figures)


def _bare(contender: Contender, workload: Workload, place: Path, request: Request) -> Measurement:
    """Measure a contender that only reads a topic."""
    progress = Progress(line=request.say, status=lambda _: None)
    broker = provide_broker(load(), place, progress=progress, port=0)
    try:
        kafka = load().kafka.model_copy(update={"bootstrap": broker.bootstrap})
        topic = f"bench-{contender.form}-{uuid.uuid4().hex[:8]}"
        admin = AdminClient(librdkafka_options(kafka))
        admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=_KEPT)])[topic].result(_ANSWER_S)
        bytes_count = fill(kafka, topic, workload, contender.form, request)
        task = Task(broker.bootstrap, topic, PARTITIONS, workload.events_count, bytes_count, str(place))
        return run_contender(contender.module, task, _TIMEOUT_S)
    finally:
        broker.stop()


def measure_whole(contender: Contender, workload: Workload, place: Path, request: Request) -> Measurement:
    """Measure our worker: a store and all topics of its own; what it published is compared with batch afterwards."""
    progress = Progress(line=request.say, status=lambda _: None)
    with running_stack(_free_ports(load()), place, workers=0, progress=progress) as stack:
        apply(stack.settings, read_documents(yaml.safe_dump_all(DEFINITIONS), "workload"))
        resource = ConfigResource(ConfigResource.Type.TOPIC, SOURCE_TOPIC)
        resource.incremental_configs = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in _KEPT.items()
        ]
        admin = AdminClient(librdkafka_options(stack.settings.kafka))
        for done in admin.incremental_alter_configs([resource]).values():
            done.result(_ANSWER_S)
        bytes_count = fill(stack.settings.kafka, SOURCE_TOPIC, workload, contender.form, request)
        task = Task(stack.broker.bootstrap, SOURCE_TOPIC, PARTITIONS, workload.events_count, bytes_count, str(place))
        measured = run_contender(contender.module, task, _TIMEOUT_S, contender.environment)
        with Store.connect(stack.settings.store) as store:
            wrong = differences(store, workload)
        for line in wrong:
            request.say(f"wrong: {line}")
        return replace(measured, checked=measured.checked and not wrong)


def _free_ports(settings: Settings) -> Settings:
    """Let the store take any free port: a stack of the user's may be running."""
    return settings.model_copy(update={"store": settings.store.model_copy(update={"port": 0})})


def differences(store: Store, workload: Workload) -> list[str]:
    """Compare every published value with the same metric over the same rows in memory; name those that differ."""
    model = ModelDefinition.model_validate(DEFINITIONS[0])
    table = coerce_table(workload.table, model, [column.name for column in model.columns])
    metrics = [d for d in DEFINITIONS if d["kind"] == "metric"]
    segments = {"": None} | {d["name"]: d["definition"] for d in DEFINITIONS if d["kind"] == "segment"}
    rows = store.query_rows(
        "SELECT metric, segment, value, rows, exact, error_bound FROM metric_series "
        "WHERE model = {model:String} AND version = 'all'",
        {"model": MODEL},
    )
    published = {
        (metric, segment): (value, count, exact, bound) for metric, segment, value, count, exact, bound in rows
    }
    wrong = []
    for metric in metrics:
        for segment, condition in segments.items():
            (batch,) = evaluate_table(table, model, Question(metric["definition"], condition))
            value, count, exact, bound = published.get((metric["name"], segment), (None, None, True, None))
            what = f"{metric['name']} of {segment or 'all rows'}: {value} over {count} rows, in memory {batch['value']} over {batch['rows']}"
            if count != batch["rows"] or value is None or batch["value"] is None:
                wrong.append(what)
            elif exact and batch["exact"]:
                if not math.isclose(value, batch["value"], rel_tol=1e-12):
                    wrong.append(what)
            elif not _same_rank(workload, metric["definition"], segment, value, batch["value"], bound):
                wrong.append(what)
    return wrong


def _same_rank(
    workload: Workload, definition: str, segment: str, value: float, other: float, bound: float | None
) -> bool:
    """Compare two sketched quantiles by rank: each may be off by its bound."""
    column = definition.partition("(")[2].partition(",")[0]
    values = np.sort(workload.rows_of(segment).column(column).to_numpy())
    ranks = np.searchsorted(values, [value, other]) / max(1, len(values))
    return bool(abs(ranks[0] - ranks[1]) <= 2 * (bound or 0.0))


def _chosen(figures: frozenset[str]) -> tuple[Contender, ...]:
    known = {contender.figure: contender for contender in CONTENDERS}
    unknown = sorted(figures - set(known))
    if unknown:
        raise UsageError("BEN004", f"there is no figure {unknown[0]!r}", f"there are: {', '.join(known)}")
    return tuple(contender for contender in CONTENDERS if not figures or contender.figure in figures)


def fill(kafka: KafkaSettings, topic: str, workload: Workload, form: Form, request: Request) -> int:
    """Write the workload's events into a topic; gives their bytes.

    The records go around the partitions in turn, each with its event's time. Raises BrokerError where one was refused.
    """
    started_s = time.perf_counter()
    bytes_count = _write(kafka, topic, _records(workload, form), _HEADERS[form])
    request.say(f"{topic}: {workload.events_count} events in {time.perf_counter() - started_s:.1f} s")
    return bytes_count


def _records(workload: Workload, form: Form) -> Iterator[tuple[str, int, bytes]]:
    return workload.json_records() if form == "json" else workload.arrow_records(ARROW_ROWS)


def _write(
    kafka: KafkaSettings, topic: str, records: Iterator[tuple[str, int, bytes]], headers: list[tuple[str, str]]
) -> int:
    producer = Producer(producer_options(kafka, linger_ms=50, batch_size=2**19, queue_buffering_max_messages=500_000))
    failed: list[str] = []
    bytes_count = 0

    def delivered(error: object, _: object) -> None:
        if error is not None:
            failed.append(str(error))

    for index, (event_id, at_ms, value) in enumerate(records):
        key = event_id.encode()
        bytes_count += len(key) + len(value)
        while True:
            try:
                producer.produce(
                    topic,
                    value,
                    key,
                    partition=index % PARTITIONS,
                    timestamp=at_ms,
                    on_delivery=delivered,
                    headers=headers,
                )
            except BufferError:
                producer.poll(0.1)
            else:
                break
        if index % 1_000 == 0:
            producer.poll(0)
    if producer.flush(_ANSWER_S) or failed:
        raise BrokerError("BEN005", f"not all events reached {topic}: {failed[0] if failed else 'no answer'}")
    return bytes_count
