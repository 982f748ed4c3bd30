"""A runner of code metrics: follows definitions and requests, begins what is due in its partitions, and keeps what runs alive.

Kafka's consumer group gives each partition of code-metric-tasks to one runner; a metric belongs to the partition that its id falls
into. One thread, `run`'s, decides and reads Kafka; runs are in threads of their own, and what they know is in ClickHouse at once.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa
from confluent_kafka import Consumer, KafkaException, TopicPartition

from fqlstream.client.partitioning import partitions_of
from fqlstream.clock import Clock
from fqlstream.code_metrics.failures import CHECK, MACHINE
from fqlstream.code_metrics.request import CodeMetricsRefusedError, Layer
from fqlstream.errors import BrokerError, FqlstreamError, StoreError
from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.definitions import CodeMetricDefinition
from fqlstream.ops.code_metric_definitions import find_code_metric
from fqlstream.ops.code_metric_tasks import TOPIC, Dataset, code_hash, training_baseline
from fqlstream.ops.definition_log import DefinitionsReader
from fqlstream.ops.kafka_errors import NO_SUCH_TOPIC
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.runner import schedule
from fqlstream.runner.execution import Asked, Execution, Finished, PoolPort, complete_values
from fqlstream.runner.keeping import Kept, ended_run, ended_task, given_up, next_step
from fqlstream.runner.ownership import Ownership
from fqlstream.runner.requests import Request, RequestBook
from fqlstream.settings import Settings
from fqlstream.store import code_metric_rows as rows
from fqlstream.store.client import Store
from fqlstream.store.code_metric_frames import ALL
from fqlstream.store.code_metric_rows import RUNNING, RUNS_PER_EPOCH, WAITING, Report, RunnerRow, RunRow, TaskRow
from fqlstream.store.snapshots import Range
from fqlstream.store.states import changed_panes, newest_flushes

log = logging.getLogger("fqlstream.runner")

_SOURCE: Final = "inference-events"
_POLL_S: Final = 0.1
#: What is wrong outside is said so often.
_SAID_EVERY_S: Final = 30.0
_ASK_S: Final = 5.0
#: A row that says that this runner is there is written so often.
_SEEN_EVERY_MS: Final = 10_000
#: A request that waits for its place says so this often within the time after which it is taken for lost.
_WAITING_PART: Final = 4
#: What is wrong with the rows themselves: it is the same at every try.
_LASTING: Final = frozenset({"STO040"})


class SandboxPort(PoolPort, Protocol):
    """What runs code, with what it says of itself."""

    def layers(self) -> tuple[Layer, ...]:
        """Report each layer of the sandbox."""
        ...

    def warm(self) -> None:
        """Make ready what the next run needs."""
        ...

    def close(self) -> None:
        """End everything."""
        ...


@dataclass(frozen=True, slots=True)
class _Work:
    """What is to be run: `begin` says so durably and gives the row, `execute` runs it to its end."""

    metric_id: str
    begin: Callable[[], Kept[Any]]
    execute: Callable[[Kept[Any]], None]
    request: Request | None = None


@dataclass(slots=True)
class _Present:
    """What the runner last knew of the sandbox."""

    layers: tuple[Layer, ...] = ()
    refusal: FqlstreamError | None = None
    is_warm: bool = False
    written_ms: int = 0


@dataclass(slots=True)
class _Places:
    """Runs under way, by metric: no metric runs twice at once in one process."""

    places_max: int
    kept: dict[str, Kept[Any] | None] = field(default_factory=dict)
    requests: dict[str, Request | None] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, metric_id: str, request: Request | None) -> bool:
        with self.lock:
            if not self._is_free(metric_id):
                return False
            self.kept[metric_id], self.requests[metric_id] = None, request
            return True

    def is_free(self, metric_id: str) -> bool:
        with self.lock:
            return self._is_free(metric_id)

    def _is_free(self, metric_id: str) -> bool:
        return metric_id not in self.kept and len(self.kept) < self.places_max

    def taken(self) -> set[str]:
        with self.lock:
            return set(self.kept)

    def is_running(self, request: Request) -> bool:
        with self.lock:
            return self.requests.get(request.task.metric_id) is request

    def put(self, metric_id: str, row: Kept[Any]) -> None:
        with self.lock:
            self.kept[metric_id] = row

    def free(self, metric_id: str) -> None:
        with self.lock:
            self.kept.pop(metric_id, None)
            self.requests.pop(metric_id, None)

    def rows(self) -> list[Kept[Any]]:
        with self.lock:
            return [row for row in self.kept.values() if row is not None]


class _Claims:
    """Claims in ClickHouse."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def claim(self, partition: int, epoch: int, owner: str) -> None:
        rows.claim_partition(self._store, partition, epoch, owner, self._clock.now_ms())

    def owners(self, partition: int) -> dict[str, int]:
        return rows.partition_owners(self._store, partition)


class Runner:
    """One process that runs code metrics. `run` returns when `stop` was called."""

    def __init__(self, settings: Settings, store: Store, pool: SandboxPort, clock: Clock) -> None:
        self._settings = settings
        self._limits = settings.runner
        self._store = store
        self._pool = pool
        self._clock = clock
        self.owner = f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder = settings.runner.directory or settings.data / "code-metrics"
        self._execution = Execution(store, pool, settings, clock, Path(folder))
        self._ownership = Ownership(self.owner, _Claims(store, clock))
        self._requests = RequestBook()
        self._places = _Places(settings.code_metrics.runs_at_once)
        self._stopping = threading.Event()
        self._threads = ThreadPoolExecutor(settings.code_metrics.runs_at_once, "code-metric")
        self._preparing = ThreadPoolExecutor(1, "sandbox")
        self._present = _Present()
        self._claimless: set[int] = set()  # partitions that Kafka gave us and that we have not claimed yet
        self._partitions_count = 0
        self._committed: dict[int, int] = {}
        self._looked_late_ms: dict[str, int] = {}
        self._known_from_ms: dict[str, int] = {}  # by metric, the oldest of its periods that matter
        self._waiting_ms: dict[Request, int] = {}  # requests without a place, and when that was last said
        self._said_s: dict[str, float] = {}
        self._prepared_for: bool | None = None

    def stop(self) -> None:
        """Begin nothing more, and end what runs: it is begun again by whoever comes next. From any thread."""
        self._stopping.set()

    def run(self) -> None:
        """Work until it is told to stop. What is away is waited for."""
        consumer = Consumer(
            librdkafka_options(
                self._settings.kafka,
                group_id=self._limits.group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                session_timeout_ms=self._settings.kafka.session_timeout_ms,
            )
        )
        try:
            with DefinitionsReader(self._settings, keeps_registry=False) as reader:
                consumer.subscribe([TOPIC], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
                log.info("runner %s begins", self.owner)
                look_at_s = 0.0
                while not self._stopping.is_set():
                    self._receive(consumer)
                    if self._clock.monotonic_s() >= look_at_s:
                        look_at_s = self._clock.monotonic_s() + self._limits.look_ms / 1000
                        self._try("looking what is due", lambda: self._look(consumer, reader))
                    for row in self._places.rows():
                        row.beat(self._limits.heartbeat_ms)
                    self._commit(consumer)
        finally:
            self._stopping.set()
            self._pool.close()
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._preparing.shutdown(wait=True, cancel_futures=True)
            self._try("committing", lambda: self._commit(consumer))
            consumer.close()

    # -- Kafka -----------------------------------------------------------------------------------------------------

    def _assigned(self, _consumer: Consumer, given: Sequence[TopicPartition]) -> None:
        self._claimless.update(place.partition for place in given)
        for place in given:
            self._requests.take(place.partition)

    def _revoked(self, _consumer: Consumer, taken: Sequence[TopicPartition]) -> None:
        # what runs goes on, and shows it: whoever has the partition now waits for its end, or for its silence
        for place in taken:
            self._claimless.discard(place.partition)
            self._ownership.leave(place.partition)
            self._requests.leave(place.partition)
            self._committed.pop(place.partition, None)

    def _receive(self, consumer: Consumer) -> None:
        message = consumer.poll(_POLL_S)
        if message is None:
            return
        if (error := message.error()) is None:
            self._requests.add(message.partition(), message.offset(), message.value())
        elif error.code() in NO_SUCH_TOPIC:
            self._say("Kafka", f"the topic {TOPIC} does not exist; make it: fqlstream topics apply")
        else:
            self._say("Kafka", error.str())

    def _commit(self, consumer: Consumer) -> None:
        moved = {at: offset for at, offset in self._requests.offsets().items() if self._committed.get(at) != offset}
        if not moved:
            return
        try:
            places = [TopicPartition(TOPIC, at, offset) for at, offset in moved.items()]
            consumer.commit(offsets=places, asynchronous=True)
        except KafkaException as error:
            self._say("committing", str(error.args[0]))
        else:
            self._committed.update(moved)

    # -- what is due -----------------------------------------------------------------------------------------------

    def _look(self, consumer: Consumer, reader: DefinitionsReader) -> None:
        """Do once what is to be done: take partitions over, begin what was asked for, then what is due."""
        reader.poll()
        if self._claimless:
            found = consumer.list_topics(TOPIC, timeout=_ASK_S).topics[TOPIC]
            self._partitions_count = len(found.partitions)
            for partition in sorted(self._claimless):
                self._ownership.take(partition)
                self._claimless.discard(partition)
        self._prepare(reader.catalogue)
        self._show_presence()
        for work in self._asked_for(reader.catalogue):
            self._begin(work)
        for work in self._scheduled(reader.catalogue):
            self._begin(work)

    def _prepare(self, catalogue: Catalogue) -> None:
        """See what the sandbox can do here; once there is a code metric, make one ready. Spark starts for nothing else."""
        is_wanted = any(entry.code_metrics for entry in catalogue.models.values())
        if self._prepared_for in (True, is_wanted):
            return
        self._prepared_for = is_wanted
        self._preparing.submit(self._look_at_sandbox, is_wanted=is_wanted)

    def _look_at_sandbox(self, *, is_wanted: bool) -> None:
        try:
            self._present.layers = self._pool.layers()
            if is_wanted:
                self._pool.warm()
            self._present.refusal = None
        except FqlstreamError as error:
            self._present.refusal = error
            log.warning("no code metric runs here: %s", error)
        except Exception:  # whatever it is, the next look tries again, and requests are answered meanwhile
            log.exception("the sandbox could not be made ready")
        self._present.written_ms = 0

    def _show_presence(self) -> None:
        now_ms = self._clock.now_ms()
        if now_ms - self._present.written_ms < _SEEN_EVERY_MS:
            return
        present, refusal = self._present, self._present.refusal
        row = RunnerRow(
            self.owner,
            os.uname().nodename,
            self._settings.code_metrics.engine,
            tuple(layer.name for layer in present.layers if layer.active),
            tuple(f"{layer.name}: {layer.detail}" for layer in present.layers if not layer.active),
            refusal.code if refusal is not None else "",
            str(refusal.message) if refusal is not None else "",
            tuple(sorted(self._ownership.epochs)),
            now_ms,
        )
        rows.write_runner(self._store, row)
        self._present.written_ms = now_ms

    def _partition_of(self, metric_id: str) -> int:
        return int(partitions_of(pa.array([metric_id]), self._partitions_count)[0])

    # -- what was asked for ----------------------------------------------------------------------------------------

    def _asked_for(self, catalogue: Catalogue) -> Iterator[_Work]:
        mine = [request for request in self._requests.open() if request.partition in self._ownership.epochs]
        self._waiting_ms = {request: self._waiting_ms[request] for request in mine if request in self._waiting_ms}
        for request in mine:
            is_free = self._places.is_free(request.task.metric_id)
            if self._places.is_running(request) or not (is_free or self._is_silent(request)):
                continue
            task = request.task
            row = rows.newest_task(self._store, task.metric_id, task.dataset_id, task.code_hash, task.attempt)
            if row is None or row.is_final:
                self._requests.close(request)
            elif row.is_begun and self._clock.now_ms() - row.updated_at_ms < self._limits.lost_ms:
                continue  # of another process: it is under way
            elif is_free:
                yield self._request_work(request, row, catalogue)
            else:
                self._show_waiting(request, row)

    def _is_silent(self, request: Request) -> bool:
        """Say whether whoever asked has to be told again that a request waits for its place, long before it is taken for lost."""
        return self._clock.now_ms() - self._waiting_ms.get(request, 0) >= self._limits.silent_ms // _WAITING_PART

    def _show_waiting(self, request: Request, row: TaskRow) -> None:
        now_ms = self._clock.now_ms()
        rows.write_task(self._store, replace(next_step(row), report=Report(stage=WAITING), updated_at_ms=now_ms))
        self._waiting_ms[request] = now_ms

    def _request_work(self, request: Request, row: TaskRow, catalogue: Catalogue) -> _Work:
        def begin() -> Kept[TaskRow]:
            first = replace(row, report=Report(stage="taken up"))
            kept = Kept(first, lambda each: rows.write_task(self._store, each), next_step, self._clock, self._stopping)
            kept.begin()
            return kept

        def execute(kept: Kept[TaskRow]) -> None:
            try:
                asked = self._question(row, catalogue)
                finished = self._execution.run(asked, kept.tell)
            except FqlstreamError as error:
                if not self._stopping.is_set():
                    kept.end(ended_task(_refused(error, kept.row.report), (), ALL, is_success=False))
                return
            if self._stopping.is_set() and not finished.is_success:
                return  # ended with this process: whoever comes next begins it again
            version = asked.version or ALL
            kept.end(ended_task(finished.report, finished.values, version, is_success=finished.is_success))

        return _Work(request.task.metric_id, begin, execute, request)

    def _question(self, row: TaskRow, catalogue: Catalogue) -> Asked:
        """Say what a task asks. Raises FqlstreamError for what is not there any more."""
        metric = find_code_metric(catalogue.models, row.metric_id)
        if metric is None:
            raise FqlstreamError("CMR003", "the metric was deleted meanwhile")
        if code_hash(metric) != row.code_hash:
            raise FqlstreamError("CMR004", "the metric was changed meanwhile", "validate it again")
        entry = catalogue.models[metric.model]
        at_ms = rows.watermarks(self._store, [metric.model]).get(metric.model, self._clock.now_ms())
        if not row.dataset_id:
            period = schedule.period_ms(entry, self._limits)
            return Asked(metric, entry, Range(*schedule.data_range(metric, schedule.last_end(at_ms, period))))
        dataset = Dataset.parse(row.dataset_id)
        if dataset.model != metric.model or dataset.version not in entry.versions:
            raise FqlstreamError("CMR005", f"model {metric.model!r} has no version {dataset.version!r} any more")
        if dataset.stage == "training":
            baseline = training_baseline(entry)
            if baseline is None:
                raise FqlstreamError("CMR006", f"model {metric.model!r} has no static baseline with stored rows")
            return Asked(metric, entry, Range(*(baseline.range_ms or (None, None))), dataset.version)
        start_ms, end_ms = schedule.data_range(metric, at_ms + 1)
        # without a period of its own, a metric is tried on all that is there
        return Asked(metric, entry, Range(start_ms, end_ms if metric.period is not None else None), dataset.version)

    # -- periods ---------------------------------------------------------------------------------------------------

    def _scheduled(self, catalogue: Catalogue) -> Iterator[_Work]:
        """Give what is due, the oldest periods first, of metrics that nothing runs of here."""
        busy = self._places.taken()  # before their rows are read, which may end in between
        mine: list[tuple[CodeMetricDefinition, ModelEntry]] = [
            (metric, entry)
            for entry in catalogue.models.values()
            for metric in entry.code_metrics.values()
            if metric.id is not None
            and metric.id not in busy
            and self._partitions_count
            and self._partition_of(metric.id) in self._ownership.epochs
        ]
        if not mine:
            return
        ids = [metric.id or "" for metric, _ in mine]
        known = self._known_runs(ids)
        watermarks = rows.watermarks(self._store, sorted({entry.name for _, entry in mine}))
        vector = {row.partition: row.version.number for row in newest_flushes(self._store, _SOURCE)}
        found: list[tuple[schedule.Due, CodeMetricDefinition, ModelEntry]] = []
        for metric, entry in mine:
            due = self._due(metric, entry, known[metric.id or ""], watermarks.get(entry.name), vector)
            if due is not None:
                found.append((due, metric, entry))
        for due, metric, entry in sorted(found, key=lambda each: (each[0].period_end_ms, each[1].id)):
            yield self._period_work(due, metric, entry, vector)

    def _known_runs(self, metric_ids: Sequence[str]) -> dict[str, list[RunRow]]:
        """Give the runs of the periods that matter, without their reports. Periods older than those matter never again."""
        each_max = max(self._limits.catch_up_periods_max, self._limits.late_periods_max) + 1
        found = rows.newest_runs_since(self._store, metric_ids, self._known_from_ms, each_max=each_max)
        self._known_from_ms |= {metric_id: runs[-1].period_end_ms for metric_id, runs in found.items() if runs}
        return found

    def _due(
        self,
        metric: CodeMetricDefinition,
        entry: ModelEntry,
        known: Sequence[RunRow],
        watermark_ms: int | None,
        vector: Mapping[int, int],
    ) -> schedule.Due | None:
        metric_id, now_ms = metric.id or "", self._clock.now_ms()
        period = schedule.period_ms(entry, self._limits)
        inputs = schedule.inputs_hash(metric, entry)
        look = schedule.outlook(metric_id, inputs, known, watermark_ms, period, now_ms, self.owner, self._limits)
        if look.due is not None or look.waits_for is not None:
            return look.due
        if now_ms - self._looked_late_ms.get(metric_id, 0) < self._limits.late_wait_ms:
            return None
        self._looked_late_ms[metric_id] = now_ms
        for run in schedule.late_runs(known, vector, now_ms, self._limits):
            after = {partition: run.vector.get(partition, -1) for partition in vector}
            starts = {key.start_ms for key in changed_panes(self._store, entry.name, after)}
            if schedule.is_late(run, starts):
                return schedule.Due(run.period_end_ms, "late")
        return None

    def _period_work(
        self, due: schedule.Due, metric: CodeMetricDefinition, entry: ModelEntry, vector: Mapping[int, int]
    ) -> _Work:
        metric_id = metric.id or ""
        within = schedule.data_range(metric, due.period_end_ms)

        def begin() -> Kept[RunRow]:
            partition, now_ms = self._partition_of(metric_id), self._clock.now_ms()
            if self._ownership.is_forgotten(partition):
                self._ownership.leave(partition)
                raise BrokerError(
                    "CMR007", f"another runner has taken partition {partition} of {TOPIC}", retryable=True
                )
            number = self._ownership.numbers_of(partition, RUNS_PER_EPOCH)
            first = RunRow(
                metric_id, due.period_end_ms, 0, self.owner, metric.model, metric.name, schedule.inputs_hash(metric, entry), *within,
                dict(vector), RUNNING, Report(), due.tries, now_ms, now_ms,
            )  # fmt: skip
            kept = Kept(
                first, self._write_run, lambda row: replace(row, run_version=number()), self._clock, self._stopping
            )
            kept.begin()
            ends_at = datetime.fromtimestamp(due.period_end_ms / 1000, UTC).isoformat()
            log.info("%s of %s: the period that ends at %s begins (%s)", metric.name, metric.model, ends_at, due.reason)
            return kept

        def execute(kept: Kept[RunRow]) -> None:
            try:
                finished = self._execution.run(Asked(metric, entry, Range(*within)), kept.tell)
            except (StoreError, BrokerError, CodeMetricsRefusedError) as error:
                if error.code in _LASTING:
                    self._end_run(kept, Finished(_refused(error, kept.row.report), ()))
                    return
                kept.end(given_up(error.code, error.message, is_failure=not self._stopping.is_set()))
                return
            self._end_run(kept, finished)

        return _Work(metric_id, begin, execute)

    def _end_run(self, kept: Kept[RunRow], finished: Finished) -> None:
        if self._stopping.is_set() and not finished.is_success:
            kept.end(given_up("CMR008", "the runner was stopped", is_failure=False))
            return
        report = finished.report
        if report.code in {CHECK, MACHINE} and kept.row.tries < self._limits.tries_max:
            # a busy machine keeps a check from its end as deeply nested code does, and anybody may have filled its memory
            kept.end(given_up(report.code, report.error, is_failure=True))
            return
        kept.end(
            ended_run(report, is_success=finished.is_success, now_ms=self._clock.now_ms()),
            lambda row: self._write_values(row, finished),
        )
        log.info("%s of %s: %s", kept.row.metric, kept.row.model, report.code or "computed")

    def _write_values(self, row: RunRow, finished: Finished) -> None:
        """Write a value, or that there is none, for every part of this run and of those before it of the same period."""
        known = rows.known_parts(self._store, row.metric_id, row.period_end_ms)
        values = complete_values(finished.values, (*finished.parts, *known))
        rows.write_values(self._store, row, values, kept_ms=self._limits.kept_ms)

    def _write_run(self, row: RunRow) -> None:
        rows.write_run(self._store, row, kept_ms=self._limits.kept_ms)

    # -- running ---------------------------------------------------------------------------------------------------

    def _begin(self, work: _Work) -> None:
        """Begin it if there is a place; else it is found again at the next look."""
        if self._stopping.is_set() or not self._places.take(work.metric_id, work.request):
            return
        try:
            kept = work.begin()
        except FqlstreamError:
            self._places.free(work.metric_id)
            raise
        self._places.put(work.metric_id, kept)
        self._threads.submit(self._run, work, kept)

    def _run(self, work: _Work, kept: Kept[Any]) -> None:
        try:
            work.execute(kept)
        except Exception as error:  # one run's fault must not end the others, and its row must say that it failed
            log.exception("a run failed in a way that nobody foresaw")
            try:
                self._end_unforeseen(kept, error)
            except Exception:  # as above
                log.exception("nor could its end be written: it is begun again later")
        finally:
            if work.request is not None and kept.is_over:
                self._requests.close(work.request)
            self._places.free(work.metric_id)

    def _end_unforeseen(self, kept: Kept[Any], error: Exception) -> None:
        message = f"the runner failed in a way that nobody foresaw ({type(error).__name__}); its log has more"
        # what was reported up to here may be what could not be written
        report = Report(code="CMR009", error=message)
        if isinstance(kept.row, RunRow):
            give_up = given_up(report.code, report.error, is_failure=True)
            kept.end(lambda row: give_up(replace(row, report=report)))
        else:
            kept.end(ended_task(report, (), ALL, is_success=False))

    def _try(self, what: str, do: Callable[[], None]) -> None:
        """Do something that needs Kafka or ClickHouse; where they are away it is done at the next look."""
        try:
            do()
        except FqlstreamError as error:
            self._say(what, error.message)
        except KafkaException as error:
            self._say(what, str(error.args[0]))

    def _say(self, what: str, why: str) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._said_s.get(what, float("-inf")) >= _SAID_EVERY_S:
            self._said_s[what] = now_s
            log.warning("%s: %s", what, why)


def _refused(error: FqlstreamError, report: Report) -> Report:
    return replace(report, code=error.code, error=error.message, hint=error.hint or "")
