"""`fqlstream bench scaling`: what more workers and partitions bring on one machine, and what happens when a worker joins under load.

Workers wait at an empty log until each has its share; then the log is filled as fast as it goes, with Arrow batches, and the
time is taken until everything is durable. Broker, store and producer run on the same machine: what they use, workers lack. Then events
come steadily, faster than one worker takes them, and a second one is started in the middle.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from fqlstream.bench import Report, Request, machine
from fqlstream.bench.pipeline import ARROW_ROWS, SOURCE_TOPIC
from fqlstream.bench.workload import DEFINITIONS, MODEL, VERSION, Workload
from fqlstream.errors import BrokerError, FqlstreamError
from fqlstream.events.documents import read_documents
from fqlstream.local.processes import Child, ChildSpec
from fqlstream.local.progress import Progress
from fqlstream.local.stack import Stack, running_stack
from fqlstream.ops import topics
from fqlstream.ops.definitions import apply
from fqlstream.ops.kafka_options import librdkafka_options, producer_options
from fqlstream.settings import load
from fqlstream.store import states
from fqlstream.store.client import Store
from fqlstream.store.naming import event_table
from fqlstream.stream.protocol import FlushRow

_HEADERS: Final = [
    ("content-type", "application/vnd.apache.arrow.stream"),
    ("model", MODEL),
    ("version", VERSION),
    ("rows", str(ARROW_ROWS)),
]
_SETTLED_S: Final = 600.0
_ANSWER_S: Final = 60.0
_LOOK_S: Final = 0.1
#: Events come so much faster than one worker was measured to take them.
_OVERLOAD: Final = 1.25
#: For so long events come, if there are enough of them; after a third of it the second worker is started.
_STEADY_S: Final = 30.0
_ALONE_RATIO: Final = 1 / 3
#: Of all events so many tell how fast one worker is alone, before the steady ones.
_TRIED_RATIO: Final = 0.1
#: What joins under load has more to compute: on a few cores the producer must not be what is measured.
_HEAVY_SEGMENTS: Final = tuple(
    {"kind": "segment", "model": MODEL, "name": f"older_than_{age}", "definition": f"age > {age}"}
    for age in range(20, 65)
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One measurement: partitions of the topic, how many of them get events, and workers."""

    partitions: int
    used: int
    workers: int

    @property
    def figure(self) -> str:
        """What it is called."""
        of = f"{self.used}_of_{self.partitions}" if self.used < self.partitions else str(self.partitions)
        return f"events_per_s_{of}_partitions_{self.workers}_workers"


SETTINGS: Final = (
    Setting(4, 4, 1), Setting(4, 4, 2), Setting(4, 4, 3), Setting(4, 1, 2), Setting(12, 12, 1), Setting(12, 12, 2),
)  # fmt: skip
JOINING: Final = "joining"


@dataclass(frozen=True, slots=True)
class Seen:
    """One look: seconds since the events began, how many were sent, and how many are durable."""

    at_s: float
    sent: int
    durable: int

    @property
    def behind(self) -> int:
        """Events that were sent and are not durable."""
        return self.sent - self.durable


def run(request: Request) -> Report:
    """Measure every setting, or those whose figures were named; then a worker that joins. `checked`: nothing was lost or doubled."""
    figures: dict[str, float] = {}
    checked = True
    workload = Workload(request.events_count)
    records = [value for _, _, value in workload.arrow_records(ARROW_ROWS)]
    for setting in SETTINGS:
        if request.figures and setting.figure not in request.figures:
            continue
        with _course(setting, records, DEFINITIONS) as course:
            figures[setting.figure] = round(course.filled(len(records)))
            checked &= course.is_right()
            figures["stored_bytes_per_event"] = round(course.stored_bytes_per_event(), 1)
        request.say(f"{setting.figure}: {figures[setting.figure]:,.0f}")
    if not request.figures or JOINING in request.figures:
        with _course(SETTINGS[0], records, (*DEFINITIONS, *_HEAVY_SEGMENTS)) as course:
            alone = course.filled(int(len(records) * _TRIED_RATIO))
            seen, joined_s = course.joined(alone * _OVERLOAD)
            figures |= joining_figures(seen, joined_s)
            checked &= course.is_right()
        for each in seen[:: max(1, len(seen) // 40)]:
            request.say(f"{each.at_s:6.1f} s: sent {each.sent:>12,}  durable {each.durable:>12,}  behind {each.behind:>10,}")  # fmt: skip
    return Report("scaling", machine(), checked, figures)


def joining_figures(seen: Sequence[Seen], joined_s: float) -> dict[str, float]:
    """Say what a worker that was started at a time changed: pace and lag before and after, and for how long nothing became durable.

    Lag is in events. The pace after is that from the end of the longest standstill on.
    """
    before = [each for each in seen if each.at_s <= joined_s]
    after = [each for each in seen if each.at_s > joined_s]
    standstill_s, since_s, last = 0.0, joined_s, before[-1].durable if before else 0
    resumed = after[0] if after else before[-1]
    for each in after:
        if each.durable > last:
            if each.at_s - since_s > standstill_s:
                standstill_s, resumed = each.at_s - since_s, each
            since_s, last = each.at_s, each.durable
    caught_up = next((each for each in after if each.at_s >= resumed.at_s and not each.behind), seen[-1])
    return {
        "joining_sent_per_s": round(_pace(seen[0], seen[-1], lambda each: each.sent)),
        "joining_events_per_s_before": round(_pace(before[len(before) // 4], before[-1], lambda each: each.durable)),
        "joining_events_per_s_after": round(_pace(resumed, caught_up, lambda each: each.durable)),
        "joining_behind_when_started": before[-1].behind,
        "joining_behind_most": max(each.behind for each in seen),
        "joining_standstill_ms": round(standstill_s * 1000),
        "joining_caught_up_s": round(caught_up.at_s - joined_s, 1),
    }


def _pace(first: Seen, last: Seen, count: Callable[[Seen], int]) -> float:
    return (count(last) - count(first)) / max(1e-9, last.at_s - first.at_s)


@contextmanager
def _course(setting: Setting, records: Sequence[bytes], definitions: Sequence[Mapping[str, Any]]) -> Iterator[_Course]:
    settings = load()
    settings = settings.model_copy(update={"store": settings.store.model_copy(update={"port": 0})})
    with (
        tempfile.TemporaryDirectory(prefix="fqlstream-scaling-") as directory,
        running_stack(settings, Path(directory), workers=0, progress=Progress(lambda _: None, lambda _: None)) as stack,
        Store.connect(stack.settings.store) as store,
    ):
        course = _Course(stack, Path(directory), store, setting, records)
        try:
            course.prepare(definitions)
            yield course
        finally:
            course.stop()


@dataclass(slots=True)
class _Course:
    """A stack with the workload's model, its workers, and what was sent."""

    stack: Stack
    place: Path
    store: Store
    setting: Setting
    records: Sequence[bytes]
    sent: int = 0
    workers: list[Child] = field(default_factory=list)
    _producer: Producer | None = None
    _failed: list[str] = field(default_factory=list)

    def prepare(self, definitions: Sequence[Mapping[str, Any]]) -> None:
        """Make the partitions, define the model, and start the workers: each with its share."""
        admin = AdminClient(librdkafka_options(self.stack.settings.kafka))
        wanted = {SOURCE_TOPIC: self.setting.partitions}
        plan = topics.plan(admin, topics.load_declarations(), repartition=True, partitions=wanted)
        topics.apply(admin, plan)
        apply(self.stack.settings, read_documents(yaml.safe_dump_all(map(dict, definitions)), "workload"))
        self._producer = Producer(producer_options(self.stack.settings.kafka, linger_ms=5, batch_size=2**20))
        for _ in range(self.setting.workers):
            self.start_worker()
        self._until(lambda: self._shares() == min(self.setting.workers, self.setting.partitions), "shared out")

    def filled(self, count: int) -> float:
        """Fill the log and wait until all is durable; gives events per second."""
        began_s = time.monotonic()
        for _ in range(count):
            self._send()
        self._flush()
        self._until(lambda: self.durable() >= self.sent, "durable")
        return self.sent / (time.monotonic() - began_s)

    def joined(self, events_per_s: float) -> tuple[list[Seen], float]:
        """Send steadily, start a worker in the middle, and go on until all is durable; gives looks, and when it was started."""
        before = self.sent
        steady_s = min(_STEADY_S, (len(self.records) * ARROW_ROWS - before) / events_per_s)
        began_s = time.monotonic()
        seen = [Seen(0.0, before, self.durable())]
        joined_s = 0.0
        while (at_s := time.monotonic() - began_s) < steady_s:
            while self.sent - before < min(at_s, steady_s) * events_per_s and self.has_more:
                self._send()
            if not joined_s and at_s >= steady_s * _ALONE_RATIO:
                self.start_worker()
                joined_s = at_s
            seen.append(Seen(time.monotonic() - began_s, self.sent, self.durable()))
            time.sleep(_LOOK_S)
        self._flush()

        def look() -> bool:
            seen.append(Seen(time.monotonic() - began_s, self.sent, self.durable()))
            return not seen[-1].behind

        self._until(look, "durable")
        return seen, joined_s

    def is_right(self) -> bool:
        """Say whether every event was counted once, and every published number of events is that."""
        counted = sum(row.counters.get("events", 0) for row in self._rows())

        def published() -> int:
            rows = self.store.query_rows(
                "SELECT sum(value) FROM metric_series WHERE model = {model:String} AND version = 'all' "
                "AND metric = 'events' AND segment = '' AND window_s = 3600",
                {"model": MODEL},
            )
            return int(rows[0][0] or 0)

        duplicates = any(row.counters.get("duplicates", 0) for row in self._rows())
        self._until(lambda: published() == self.sent, "published")
        return counted == self.sent and not duplicates

    def stored_bytes_per_event(self) -> float:
        """Say what an event takes on ClickHouse's disk, compressed, before its parts are merged into larger ones."""
        rows = self.store.query_rows(
            "SELECT sum(bytes_on_disk) / sum(rows) FROM system.parts "
            "WHERE active AND database = currentDatabase() AND table = {table:String}",
            {"table": event_table(MODEL)},
        )
        return float(rows[0][0])

    def durable(self) -> int:
        """Count the events that flush rows say are in ClickHouse."""
        return sum(row.counters.get("events", 0) for row in self._rows())

    def _rows(self) -> Sequence[FlushRow]:
        return states.newest_flushes(self.store, SOURCE_TOPIC)

    def _shares(self) -> int:
        """Count the owners of the partitions; 0 while one has none."""
        rows = self._rows()
        return len({row.owner for row in rows}) if len(rows) == self.setting.partitions else 0

    def start_worker(self) -> None:
        """Start one worker more."""
        name = f"worker-{len(self.workers) + 1}"
        environment = {"FQLSTREAM_KAFKA__INSTANCE_ID": f"scaling-{os.getpid()}-{name}", "FQLSTREAM_WORKER__PORT": "0"}
        command = (sys.executable, "-m", "fqlstream.cli", "worker", "--data", str(self.place))
        log = self.place / "logs" / f"{name}.log"
        child = Child(ChildSpec(name, command, log, lambda: True, environment))
        child.start()
        self.workers.append(child)

    def stop(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.stop()

    @property
    def has_more(self) -> bool:
        """Whether there are batches that were not sent."""
        return self.sent < len(self.records) * ARROW_ROWS

    def _send(self) -> None:
        """Send the next batch."""
        number = self.sent // ARROW_ROWS
        assert self._producer is not None  # noqa: S101  # prepare has made it
        while True:
            try:
                self._producer.produce(
                    SOURCE_TOPIC,
                    self.records[number],
                    partition=number % self.setting.used,
                    headers=_HEADERS,
                    on_delivery=self._delivered,
                )
            except BufferError:
                self._producer.poll(0.05)
            else:
                break
        self._producer.poll(0)
        self.sent += ARROW_ROWS

    def _delivered(self, error: object, _: object) -> None:
        if error is not None:
            self._failed.append(str(error))

    def _flush(self) -> None:
        if self._producer is not None and (self._producer.flush(_ANSWER_S) or self._failed):
            raise BrokerError("BEN005", f"not all events reached {SOURCE_TOPIC}: {self._failed or 'no answer'}")

    def _until(self, look: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + _SETTLED_S
        while not look():
            for worker in self.workers:
                if worker.exit_code is not None:
                    raise worker.failure("a worker ended")
            if time.monotonic() > deadline_s:
                raise FqlstreamError("BEN010", f"what was sent was not {what} within {_SETTLED_S:.0f} s", "see the workers' logs")  # fmt: skip
            time.sleep(_LOOK_S)
