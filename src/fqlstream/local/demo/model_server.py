"""A model server as anyone would write one: it predicts, publishes each prediction, learns from labels, publishes those too.

Run as `python -m fqlstream.local.demo.model_server phishing --data DIR ...`, a process of its own like any producer.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from confluent_kafka import Producer as RawProducer

from fqlstream.client import Producer
from fqlstream.client.kafka_options import producer_options
from fqlstream.errors import FqlstreamError
from fqlstream.local.demo.models import MODELS, DemoModel
from fqlstream.local.demo.traffic import Broken, Inference, Label, Message, Timed, endless, spread, traffic
from fqlstream.local.joining import join
from fqlstream.settings import Settings, load

TOPIC = "inference-events"


@dataclass(slots=True)
class Sent:
    """What was sent so far."""

    predictions: int = 0
    repeated: int = 0
    labels: int = 0
    broken: int = 0

    def __str__(self) -> str:
        return (
            f"{self.predictions:,} predictions, {self.labels:,} labels, {self.repeated} predictions again, "
            f"{self.broken} broken records"
        )


@dataclass(frozen=True, slots=True)
class Assignment:
    """What this server is to send.

    The data set once, laid out from `start_ms` to `end_ms` (Unix ms); then, where `per_second` is not 0, again and again at
    that speed until it is told to stop. `finish_ms`: the watermark at the end; None: no word about it.
    """

    model: DemoModel
    run: str
    seed: int
    start_ms: int
    end_ms: int
    per_second: float
    finish_ms: int | None


def serve(assignment: Assignment, settings: Settings, stopping: threading.Event) -> Sent:
    """Send everything, or until told to stop; returns when Kafka has all of it."""
    model, sent = assignment.model, Sent()
    raw = RawProducer(producer_options(settings.kafka))
    with Producer(settings=settings) as producer:
        for message in traffic(model, _rows(assignment), seed=assignment.seed, run=assignment.run):
            if isinstance(message, Inference) and message.at_ms is None:
                stopping.wait(1 / assignment.per_second)
            if stopping.is_set():
                break
            _send(producer, raw, model, message)
            _count(sent, message)
        producer.flush()
        raw.flush()
        if assignment.finish_ms is not None and not stopping.is_set():
            producer.finish(model.name, event_at=assignment.finish_ms)
    return sent


def _rows(assignment: Assignment) -> Iterator[Timed]:
    rows = assignment.model.rows()
    past = spread(rows, assignment.start_ms, assignment.end_ms)
    return chain(past, endless(rows, assignment.seed)) if assignment.per_second else past


def _send(producer: Producer, raw: RawProducer, model: DemoModel, message: Message) -> None:
    match message:
        case Inference():
            producer.log_inference(model.name, message.event_id, message.columns, event_at=message.at_ms)
        case Label():
            producer.log_label(model.name, message.event_id, message.columns)
        case Broken():
            # no client of ours would send such a thing: it goes around the SDK
            raw.produce(producer.topic, value=message.value, key=model.name.encode())


def _count(sent: Sent, message: Message) -> None:
    match message:
        case Inference(repeated=True):
            sent.repeated += 1
        case Inference():
            sent.predictions += 1
        case Label():
            sent.labels += 1
        case Broken():
            sent.broken += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one model server until it has sent everything, or until SIGTERM; gives the exit code."""
    given = _parser().parse_args(arguments)
    stopping = threading.Event()
    assignment = Assignment(
        MODELS[given.model], given.run, given.seed, given.start_ms, given.end_ms, given.per_second, given.finish_ms
    )
    try:
        settings = join(given.data, load())
        signal.signal(signal.SIGTERM, lambda *_: stopping.set())
        sent = serve(assignment, settings, stopping)
    except FqlstreamError as error:
        print(error, file=sys.stderr)  # noqa: T201  # its log file is what it has
        return error.exit_code
    print(f"{given.model}: {sent}")  # noqa: T201  # its log file is what it has
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fqlstream.local.demo.model_server", description=__doc__)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("--data", type=Path, required=True, help="data directory of a running stack")
    parser.add_argument("--run", required=True, help="begins every event_id")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start-ms", type=int, required=True, help="time of the first event, Unix ms")
    parser.add_argument("--end-ms", type=int, required=True)
    parser.add_argument("--per-second", type=float, default=0.0, help="then go on at this speed until SIGTERM")
    parser.add_argument("--finish-ms", type=int, help="send this watermark at the end, Unix ms")
    return parser


if __name__ == "__main__":
    sys.exit(main())
