"""The producer of the SDK: events, labels, watermarks and recorded metrics to Kafka, none lost in silence, none sent twice."""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as KafkaProducer

from fqlstream.client.frames import ARROW_CONTENT_TYPE, event_table, frame_table, partition_batches, row_time
from fqlstream.client.kafka_options import producer_options
from fqlstream.client.payloads import (
    event_json,
    job_metric_json,
    list_metric_json,
    pipeline_metric_json,
    watermark_json,
)
from fqlstream.errors import BrokerError, UsageError
from fqlstream.settings import Settings, load

#: Partitions are asked for again after so long: a topic that grew takes labels apart from their events otherwise.
_PARTITIONS_KEPT_S: Final = 300.0
_POLL_S: Final = 0.1
METRIC_EVENTS: Final = "metric-events"
#: Set inside a step of a pipeline.
EXECUTION_VARIABLE: Final = "CRAFT_AI_EXECUTION_ID"
_FAILURES_KEPT: Final = 1_000


@dataclass(frozen=True, slots=True)
class DeliveryFailure:
    """A record that the brokers did not take: what it was, and why."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    reason: str


class DeliveryError(BrokerError):
    """Records did not arrive; `failures` holds them, `count` says how many there were (failures keeps the first ones)."""

    def __init__(
        self, code: str, message: str, hint: str, failures: Sequence[DeliveryFailure] = (), count: int = 0
    ) -> None:
        super().__init__(code, message, hint)
        self.failures = tuple(failures)
        self.count = count or len(self.failures)


class Producer:
    """Sends events of any model from one process. Safe for threads; after a fork each process needs its own.

    Calls return at once: records travel in the background, in order per event_id. A full queue makes the next call wait, and
    raise DeliveryError SDK001 when nothing moves. What the brokers refuse is raised by `flush` and `close` as DeliveryError
    SDK002, or given to `on_error`, from whichever thread calls next.

        with Producer("localhost:9092") as producer:
            producer.log_inference("churn", "r-1", {"age": 41, "score": 0.73})
            producer.log_label("churn", "r-1", {"churned": "yes"})
    """

    def __init__(
        self,
        bootstrap: str | None = None,
        *,
        settings: Settings | None = None,
        topic: str = "inference-events",
        on_error: Callable[[DeliveryFailure], None] | None = None,
    ) -> None:
        settings = settings or load()
        kafka = settings.kafka if bootstrap is None else settings.kafka.model_copy(update={"bootstrap": bootstrap})
        self.topic = topic
        self._settings = settings.client
        self._bootstrap = kafka.bootstrap
        self._record_bytes_max = kafka.record_bytes_max
        self._on_error = on_error
        self._failures: list[DeliveryFailure] = []
        self._failures_count = 0
        self._lock = threading.Lock()
        self._partitions: tuple[int, float] | None = None
        self._closed = False
        self._kafka = KafkaProducer(
            producer_options(
                kafka,
                acks="all",
                linger_ms=self._settings.linger_ms,
                queue_buffering_max_messages=self._settings.queue_records_max,
                queue_buffering_max_kbytes=max(1, self._settings.queue_bytes_max // 1024),
                # only failures come back to Python: a report per record would cost more than the record
                delivery_report_only_error=True,
            )
        )

    def __repr__(self) -> str:
        return f"Producer(bootstrap={self._bootstrap!r}, topic={self.topic!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        # what went wrong in the block is the news; a failed delivery must not hide it
        with suppress(DeliveryError):
            self.close()

    def __len__(self) -> int:
        """Count the records that are still on their way."""
        return len(self._kafka)

    # -- events ----------------------------------------------------------------------------------------------------

    def log_inference(
        self,
        model: str,
        event_id: str | int,
        columns: Mapping[str, Any],
        event_at: Any = None,
        version: str | None = None,
        *,
        key: str | int | None = None,
    ) -> None:
        """Send one prediction. `event_at`: aware datetime, RFC 3339 or Unix milliseconds; None: now.

        `key` keeps events together in one partition: for ranking models the value of group_by; None: the event_id.
        Raises UsageError for an event the engine would refuse, DeliveryError where the queue stays full.
        """
        value = event_json("inference", model, event_id, columns, event_at, version)
        self._send(value, str(event_id if key is None else key).encode())

    def log_label(
        self,
        model: str,
        event_id: str | int,
        columns: Mapping[str, Any],
        event_at: Any = None,
        version: str | None = None,
        *,
        key: str | int | None = None,
    ) -> None:
        """Send the label of an event, its targets (and metadata) in `columns`; a later one replaces it.

        Give the `version` and `key` that the event had. Raises as `log_inference` does.
        """
        value = event_json("label", model, event_id, columns, event_at, version)
        self._send(value, str(event_id if key is None else key).encode())

    def log_inferences(
        self,
        model: str,
        frame: Any,
        *,
        event_id: str = "event_id",
        event_at: str | None = None,
        version: str | None = None,
        key: str | None = None,
    ) -> int:
        """Send a frame of predictions (pandas DataFrame, pyarrow Table) as Arrow batches; gives the number of rows.

        `event_id`, `event_at` and `key` name columns; `event_at` is also found under its own name. One form or the other, an
        event goes to the same partition. Raises UsageError for a frame without usable ids and times, and as `log_inference`.
        """
        return self._log_frame("inference", model, frame, event_id, event_at, version, key)

    def log_labels(
        self,
        model: str,
        frame: Any,
        *,
        event_id: str = "event_id",
        event_at: str | None = None,
        version: str | None = None,
        key: str | None = None,
    ) -> int:
        """Send a frame of labels, as `log_inferences` does with predictions."""
        return self._log_frame("label", model, frame, event_id, event_at, version, key)

    def finish(self, model: str, event_at: Any = None) -> None:
        """Promise that nothing of the model older than `event_at` (None: now) comes any more: windows may become final.

        A watermark event goes to every partition, behind everything sent before.
        """
        value = watermark_json(model, event_at)
        for partition in range(self.partitions_count()):
            self._send(value, None, partition=partition)

    # -- recorded metrics ------------------------------------------------------------------------------------------

    def record_metric_value(
        self, name: str, value: float, *, execution_id: str | int | None = None, at: Any = None
    ) -> list[dict[str, Any]]:
        """Record one number of an execution (None: of the one that CRAFT_AI_EXECUTION_ID names), in place of the one before.

        Gives what was sent, as one row of Craft AI's form; its pipeline and deployment only the registry knows. `at`: aware
        datetime, RFC 3339 or Unix milliseconds; None: now. Raises UsageError SDK008 for what is no number, and as `log_inference`.
        """
        execution_id = _execution(execution_id)
        created_at = dt.datetime.now(dt.UTC) if at is None else at
        self._send(
            pipeline_metric_json(execution_id, name, value, created_at), str(execution_id).encode(), topic=METRIC_EVENTS
        )
        shown = created_at.isoformat() if isinstance(created_at, dt.datetime) else created_at
        unknown = {"deployment_name": None, "pipeline_name": None}
        return [{"name": name, "value": value, "created_at": shown, "execution_id": str(execution_id), **unknown}]

    def record_list_metric_values(
        self, name: str, values: Any, *, execution_id: str | int | None = None, at: Any = None
    ) -> None:
        """Append numbers, or one number, to a list of an execution; as `record_metric_value`.

        Many values travel in several records. One that the list has no room for is a dead letter: earlier ones stay.
        """
        execution_id = _execution(execution_id)
        numbers = values.tolist() if hasattr(values, "tolist") else values
        numbers = numbers if isinstance(numbers, list | tuple) else [numbers]
        for start in range(0, len(numbers), self._settings.batch_rows_max):
            part = numbers[start : start + self._settings.batch_rows_max]
            self._send(list_metric_json(execution_id, name, part, at), str(execution_id).encode(), topic=METRIC_EVENTS)

    def append_metric(self, job_id: str | int, name: str, value: float, step: int = 0, *, at: Any = None) -> None:
        """Record one number of a job at a step, in place of what it had at that step; as `record_metric_value`."""
        self._send(job_metric_json(job_id, name, value, step, at), str(job_id).encode(), topic=METRIC_EVENTS)

    # -- delivery --------------------------------------------------------------------------------------------------

    def partitions_count(self) -> int:
        """Count the topic's partitions. Raises BrokerError where the broker does not answer or has no such topic."""
        if self._partitions is not None and self._partitions[1] > time.monotonic():
            return self._partitions[0]
        hint = "is the broker up, and were the topics made with `fqlstream topics apply`?"
        try:
            described = self._kafka.list_topics(self.topic, timeout=self._settings.queue_wait_s).topics[self.topic]
        except KafkaException as error:
            raise BrokerError("SDK006", f"no answer from {self._bootstrap}: {_reason(error.args[0])}", hint) from None
        if described.error is not None or not described.partitions:
            raise BrokerError("SDK006", f"topic {self.topic}: {_reason(described.error)}", hint)
        self._partitions = len(described.partitions), time.monotonic() + _PARTITIONS_KEPT_S
        return len(described.partitions)

    def poll(self) -> None:
        """Learn of failed deliveries now; every other call does so too."""
        self._kafka.poll(0)

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until every record arrived.

        Raises DeliveryError SDK002 for records that did not since the last flush, SDK003 where some are still on their way
        after `timeout_s` (None: the setting client.flush_wait_s); those stay in the queue.
        """
        wait_s = self._settings.flush_wait_s if timeout_s is None else timeout_s
        left = self._kafka.flush(wait_s)
        with self._lock:
            failures, count = self._failures, self._failures_count
            self._failures, self._failures_count = [], 0
        if count:
            message = f"{count} records did not arrive: {failures[0].reason}"
            raise DeliveryError("SDK002", message, "error.failures holds them: send them again", failures, count)
        if left:
            message = f"{left} records are still on their way to {self._bootstrap} after {wait_s:g} s"
            raise DeliveryError("SDK003", message, "is the broker up? flush again to go on waiting", count=left)

    def close(self, timeout_s: float | None = None) -> None:
        """Flush and end; raises as `flush` does. Closing twice does nothing."""
        if not self._closed:
            self.flush(timeout_s)
            self._closed = True

    # -- inside ----------------------------------------------------------------------------------------------------

    def _log_frame(
        self,
        kind: str,
        model: str,
        frame: Any,
        event_id: str,
        event_at: str | None,
        version: str | None,
        key: str | None,
    ) -> int:
        try:
            table = frame_table(frame)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            # a column of several types: JSON says each value as it is, and the engine tells which are violations
            return self._log_rows(kind, model, frame, event_id, event_at, version, key)
        if event_at is None and "event_at" in table.column_names:
            event_at = "event_at"
        table = event_table(table, event_id, event_at)
        headers = [("content-type", ARROW_CONTENT_TYPE), ("model", model.encode()), ("type", kind.encode())]
        if version is not None:
            headers.append(("version", version.encode()))
        bytes_max = min(self._settings.batch_bytes_max, self._record_bytes_max)
        key = None if key is None or key == event_id else key
        batches = partition_batches(table, self.partitions_count(), self._settings.batch_rows_max, bytes_max, key)
        for batch in batches:
            rows = [("rows", str(batch.rows_count).encode())]
            self._send(batch.value, batch.key, partition=batch.partition, headers=[*headers, *rows])
        return int(table.num_rows)

    def _log_rows(
        self,
        kind: str,
        model: str,
        frame: Any,
        event_id: str,
        event_at: str | None,
        version: str | None,
        key: str | None,
    ) -> int:
        log = self.log_inference if kind == "inference" else self.log_label
        if event_at is None and "event_at" in frame.columns:
            event_at = "event_at"
        reserved = {event_id, event_at}
        for row in frame.to_dict("records"):
            columns = {name: value for name, value in row.items() if name not in reserved}
            at = None if event_at is None else row_time(row[event_at])
            log(model, row[event_id], columns, at, version, key=None if key is None else row[key])
        return len(frame)

    def _send(
        self,
        value: bytes,
        key: bytes | None,
        *,
        partition: int | None = None,
        headers: list[tuple[str, bytes]] | None = None,
        topic: str | None = None,
    ) -> None:
        """Hand a record over, waiting for room in the queue."""
        if self._closed:
            raise UsageError("SDK007", "the producer is closed", "keep one producer for as long as the process sends")
        topic = topic or self.topic
        where = {} if partition is None else {"partition": partition}
        deadline_s = None
        while True:
            try:
                self._kafka.produce(topic, value, key, on_delivery=self._report, headers=headers, **where)
            except BufferError:
                now_s = time.monotonic()
                deadline_s = now_s + self._settings.queue_wait_s if deadline_s is None else deadline_s
                if now_s >= deadline_s:
                    message = (
                        f"the queue of {len(self._kafka)} records did not move for {self._settings.queue_wait_s:g} s"
                    )
                    hint = f"is {self._bootstrap} up? FQLSTREAM_CLIENT__QUEUE_RECORDS_MAX bounds the queue"
                    raise DeliveryError("SDK001", message, hint) from None
                self._kafka.poll(_POLL_S)
            except KafkaException as error:
                # a record too large for any broker is refused at once
                self._fail(DeliveryFailure(topic, partition, key, value, _reason(error.args[0])))
                return
            else:
                self._kafka.poll(0)
                return

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failure = DeliveryFailure(
                message.topic() or self.topic, message.partition(), message.key(), message.value(), _reason(error)
            )
            self._fail(failure)

    def _fail(self, failure: DeliveryFailure) -> None:
        if self._on_error is not None:
            self._on_error(failure)
            return
        with self._lock:
            self._failures_count += 1
            if len(self._failures) < _FAILURES_KEPT:
                self._failures.append(failure)


def _execution(execution_id: str | int | None) -> str | int:
    """Give the execution that is named, or the one that this process runs in, which may change from call to call."""
    found = execution_id if execution_id is not None else os.environ.get(EXECUTION_VARIABLE)
    if not found and found != 0:
        raise UsageError("SDK009", "no execution is named", f"give execution_id, or set {EXECUTION_VARIABLE}")
    return found


def _reason(error: Any) -> str:
    return str(error.str() if isinstance(error, KafkaError) else error)
