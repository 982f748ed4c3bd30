"""`fqlstream bench pipeline`: events per second and processor core, on a real broker, each contender in its own process.

A topic of four partitions is filled first; then every contender reads it alone, from the beginning, and says what that
cost its process. The broker's own processor time is not counted, the check of the answers neither.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from fqlstream.bench import Report, Request, machine
from fqlstream.bench.contender import Task, run_contender
from fqlstream.bench.workload import Workload
from fqlstream.errors import BrokerError, UsageError
from fqlstream.local.broker import provide_broker
from fqlstream.local.progress import Progress
from fqlstream.ops.kafka_options import librdkafka_options, producer_options
from fqlstream.settings import KafkaSettings, load

PARTITIONS: Final = 4
#: Events in one Arrow batch, as the SDK sends them.
ARROW_ROWS: Final = 1_000
_TIMEOUT_S: Final = 900.0
_ANSWER_S: Final = 30.0

Form = Literal["json", "arrow"]


@dataclass(frozen=True, slots=True)
class Contender:
    """One figure: the module that is run for it, the form of the events, and the share of them that it reads."""

    figure: str
    module: str
    form: Form
    share: float = 1.0


#: In this order. The share keeps each run near ten seconds.
CONTENDERS: Final = (
    Contender("consume_events_per_s_core", "fqlstream.bench.consume", "json"),
    Contender("faust_events_per_s_core", "fqlstream.bench.faust_plain", "json", share=0.02),
)


def run(request: Request) -> Report:
    """Run all contenders, or those whose figures were named. Raises UsageError for a figure that there is not."""
    chosen = _chosen(request.figures)
    with tempfile.TemporaryDirectory(prefix="fqlstream-bench-") as directory:
        progress = Progress(line=request.say, status=lambda _: None)
        broker = provide_broker(load(), Path(directory), progress=progress, port=0)
        try:
            kafka = load().kafka.model_copy(update={"bootstrap": broker.bootstrap})
            figures, checked = {}, True
            for contender in chosen:
                workload = Workload(max(1, int(request.events_count * contender.share)))
                task = fill(kafka, workload, contender.form, Path(directory), request)
                request.say(f"{contender.figure}: reading {task.events_count} events")
                measured = run_contender(contender.module, task, _TIMEOUT_S)
                figures[contender.figure] = round(measured.events_per_s_core)
                checked = checked and measured.checked
                request.say(f"{contender.figure}: {measured.events_per_s_core:,.0f} ({measured.cpu_s:.2f} s of a core)")
        finally:
            broker.stop()
    return Report("pipeline", machine(), checked, figures)


def _chosen(figures: frozenset[str]) -> tuple[Contender, ...]:
    known = {contender.figure: contender for contender in CONTENDERS}
    unknown = sorted(figures - set(known))
    if unknown:
        raise UsageError("BEN004", f"there is no figure {unknown[0]!r}", f"there are: {', '.join(known)}")
    return tuple(contender for contender in CONTENDERS if not figures or contender.figure in figures)


def fill(kafka: KafkaSettings, workload: Workload, form: Form, directory: Path, request: Request) -> Task:
    """Make a topic, write the workload's events into it, and give the task of reading them.

    The records go around the partitions in turn, each with its event's time. Raises BrokerError where one was refused.
    """
    topic = f"bench-{form}-{uuid.uuid4().hex[:8]}"
    admin = AdminClient(librdkafka_options(kafka))
    # The workload's times are fixed ones: retention by time would delete them at once.
    new = NewTopic(topic, PARTITIONS, 1, config={"retention.ms": "-1", "message.timestamp.after.max.ms": str(2**62)})
    admin.create_topics([new])[topic].result(_ANSWER_S)
    started_s = time.perf_counter()
    bytes_count = _write(kafka, topic, _records(workload, form))
    request.say(f"{topic}: {workload.events_count} events in {time.perf_counter() - started_s:.1f} s")
    data_dir = directory / topic
    data_dir.mkdir()
    return Task(str(kafka.bootstrap), topic, PARTITIONS, workload.events_count, bytes_count, str(data_dir))


def _records(workload: Workload, form: Form) -> Iterator[tuple[str, int, bytes]]:
    return workload.json_records() if form == "json" else workload.arrow_records(ARROW_ROWS)


def _write(kafka: KafkaSettings, topic: str, records: Iterator[tuple[str, int, bytes]]) -> int:
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
                    topic, value, key, partition=index % PARTITIONS, timestamp=at_ms, on_delivery=delivered
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
