"""Asking for runs of code metrics: datasets, and the requests that a runner takes up from the topic code-metric-tasks.

A request is a row in ClickHouse first, then a record: whoever holds the metric's partition finds the row. The row says how far
the run is and what became of it. The same question while one is under way is that one; a final answer is given once, and
whoever asks after that starts anew.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Self

from confluent_kafka import KafkaException, Producer

from fqlstream.clock import Clock
from fqlstream.errors import BrokerError, UsageError
from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.definitions import BaselineDefinition, CodeMetricDefinition, key_of
from fqlstream.events.payloads import CodeMetricTask
from fqlstream.ops.kafka_options import producer_options
from fqlstream.settings import KafkaSettings, RunnerSettings
from fqlstream.store import code_metric_rows as rows
from fqlstream.store.client import Store
from fqlstream.store.code_metric_rows import FAILED, PENDING, STEP_DELIVERED, STEP_FINAL, Report, TaskRow

TOPIC: Final = "code-metric-tasks"
#: A record without an answer for so long is sent again: it may never have been sent.
_RESEND_MS: Final = 10_000
_SEND_S: Final = 10.0

Stage = Literal["serving", "training"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows of one version of a model: its stored history (serving), or the time of its static baseline (training)."""

    stage: Stage
    model: str
    version: str

    @property
    def id(self) -> str:
        """Its name in requests."""
        return key_of(self.stage, self.model, self.version)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an id. Raises UsageError CMR001 for what is none."""
        parts = tuple(part.replace("%2F", "/").replace("%25", "%") for part in text.split("/"))
        if len(parts) == 3 and all(parts) and key_of(*parts) == text:
            match parts[0]:
                case "serving" | "training" as stage:
                    return cls(stage, parts[1], parts[2])
        raise UsageError(
            "CMR001", f"{text!r} is no id of a dataset", "take one from model-versions: serving_dataset.id"
        )


def training_baseline(entry: ModelEntry) -> BaselineDefinition | None:
    """Give the static baseline whose rows are stored: the first by name. Of one that came as a file only counts are kept."""
    found = (entry.baselines[name] for name in sorted(entry.baselines))
    return next((baseline for baseline in found if baseline.range_ms is not None), None)


def code_hash(metric: CodeMetricDefinition) -> str:
    """Name what a metric computes: its code and its period."""
    period = metric.period.model_dump_json() if metric.period is not None else ""
    return hashlib.blake2b(f"{period}\0{metric.code}".encode(), digest_size=16).hexdigest()


class TaskSender:
    """Sends records of tasks, each durable when the call returns. From any thread; connects with the first one."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._producer: Producer | None = None

    def send(self, task: CodeMetricTask) -> None:
        """Write a record. Raises BrokerError CMR002 where Kafka does not take it in time."""
        told: list[Any] = []
        with self._lock:
            producer = self._producer = self._producer or Producer(
                producer_options(self._settings, acks="all", message_timeout_ms=int(_SEND_S * 1000))
            )
            try:
                producer.produce(
                    TOPIC,
                    key=task.metric_id.encode(),
                    value=task.model_dump_json().encode(),
                    on_delivery=lambda error, _: told.append(error),
                )
                producer.flush(_SEND_S + 1)
            except KafkaException as error:
                told.append(error.args[0])
            if told != [None]:
                self._producer = None  # a client that has failed for good is not asked again
                why = told[0].str() if told and told[0] is not None else "no answer"
                raise BrokerError(
                    "CMR002",
                    f"a run could not be asked for: {why}",
                    "is Kafka up, and does the topic code-metric-tasks exist? `fqlstream topics apply` makes it",
                    retryable=True,
                )


@dataclass(slots=True)
class CodeMetricRequests:
    """Asks for validations and runs, and gives how they stand. Calls block; from any thread."""

    store: Store
    sender: TaskSender
    settings: RunnerSettings
    clock: Clock
    _sent_ms: dict[tuple[str, str, str, int], int] = field(default_factory=dict)

    def ask(self, metric: CodeMetricDefinition, dataset_id: str = "") -> TaskRow:
        """Give how the run over a dataset stands, or, without one, that of the newest period; where none is under way it is asked for.

        A final state is given once. Raises StoreError, BrokerError.
        """
        found = rows.newest_task(self.store, metric.id or "", dataset_id, code_hash(metric))
        if found is None or found.is_delivered:
            return self._begin(metric, dataset_id, 1 if found is None else found.attempt + 1)
        if found.is_final:
            return self.deliver(found)
        now_ms = self.clock.now_ms()
        if now_ms - found.updated_at_ms > self.settings.silent_ms:
            return self.deliver(
                replace(found, state=FAILED, step=STEP_FINAL, report=_nobody(found.report, self.settings))
            )
        if not found.report.stage and now_ms - self._sent_ms.get(_key(found), found.requested_at_ms) > _RESEND_MS:
            self._send(found)
        return found

    def look(self, task: TaskRow) -> TaskRow:
        """Give how a task stands now, without taking its final state from whoever asks next."""
        return rows.newest_task(self.store, task.metric_id, task.dataset_id, task.code_hash, task.attempt) or task

    def _begin(self, metric: CodeMetricDefinition, dataset_id: str, attempt: int) -> TaskRow:
        now_ms = self.clock.now_ms()
        task = TaskRow(
            metric.id or "", dataset_id, code_hash(metric), attempt, 0, metric.model, metric.name, PENDING, Report(), now_ms, now_ms,
        )  # fmt: skip
        rows.write_task(self.store, task)
        self._send(task)
        return task

    def _send(self, task: TaskRow) -> None:
        self.sender.send(
            CodeMetricTask(
                type="validate" if task.dataset_id else "run",
                metric_id=task.metric_id,
                dataset_id=task.dataset_id,
                code_hash=task.code_hash,
                attempt=task.attempt,
            )
        )
        now_ms = self.clock.now_ms()
        # whoever asked may never ask again; after this time the answer is another one
        for key, sent_ms in list(self._sent_ms.items()):
            if now_ms - sent_ms > self.settings.silent_ms:
                self._sent_ms.pop(key, None)
        self._sent_ms[_key(task)] = now_ms

    def deliver(self, task: TaskRow) -> TaskRow:
        """Note that whoever asked has had the final state."""
        self._sent_ms.pop(_key(task), None)
        delivered = replace(task, step=STEP_DELIVERED, is_delivered=True)
        rows.write_task(self.store, delivered)
        return delivered


def _key(task: TaskRow) -> tuple[str, str, str, int]:
    return task.metric_id, task.dataset_id, task.code_hash, task.attempt


def _nobody(report: Report, settings: RunnerSettings) -> Report:
    return replace(
        report,
        code="CMR010",
        error=f"no runner has worked on it for {settings.silent_ms / 1000:.0f} s",
        hint="start one: fqlstream code-metrics serve; /health names those that run",
    )
