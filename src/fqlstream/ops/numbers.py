"""What our processes tell Prometheus: one declared row per number. Exporters, the page of numbers, dashboards' tests read these rows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Kind(StrEnum):
    """How a number moves."""

    COUNTER = "counter"  # up only, from the start of the process
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class NumberRow:
    """One number. `name` is what Prometheus calls it: a counter's ends in `_total`, a unit stands in the name."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Name the series that a scrape has of it."""
        if self.kind is Kind.HISTOGRAM:
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


#: From half a millisecond, an answer out of memory, to half a minute, the longest snapshot that somebody waits for.
_REQUEST_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: From a small batch to a flush that waits for a slow ClickHouse.
_BATCH_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_COUNTER, _GAUGE, _HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

HTTP_REQUESTS: Final = NumberRow("fqlstream_http_requests_total", _COUNTER, "requests", "Requests answered.", ("method", "route", "status"))  # fmt: skip
HTTP_SECONDS: Final = NumberRow("fqlstream_http_request_seconds", _HISTOGRAM, "seconds", "Time from a request's head to the end of its answer.", ("method", "route"), _REQUEST_S)  # fmt: skip
HTTP_RUNNING: Final = NumberRow("fqlstream_http_requests_running", _GAUGE, "requests", "Requests that have no answer yet.")  # fmt: skip
DEFINITIONS_AGE: Final = NumberRow("fqlstream_definitions_read_seconds_ago", _GAUGE, "seconds", "Time since the topic of definitions was last read to its end.")  # fmt: skip

API_NUMBERS: Final = (HTTP_REQUESTS, HTTP_SECONDS, HTTP_RUNNING, DEFINITIONS_AGE)

FETCHES: Final = NumberRow("fqlstream_fetches_total", _COUNTER, "batches", "Fetches applied: each is one batch for the engine.", ("topic",))  # fmt: skip
RECORDS: Final = NumberRow("fqlstream_records_total", _COUNTER, "records", "Records of the log applied; a record may be a batch of rows.", ("topic",))  # fmt: skip
FETCHED_BYTES: Final = NumberRow("fqlstream_fetched_bytes_total", _COUNTER, "bytes", "Bytes of the records applied, as fetched.", ("topic",))  # fmt: skip
EVENTS: Final = NumberRow("fqlstream_events_total", _COUNTER, "rows", "Event rows taken in, duplicates included.")  # fmt: skip
LABELS: Final = NumberRow("fqlstream_labels_total", _COUNTER, "rows", "Label rows taken in.")  # fmt: skip
LABELS_JOINED: Final = NumberRow("fqlstream_labels_joined_total", _COUNTER, "rows", "Labels that met their event.")  # fmt: skip
DUPLICATES: Final = NumberRow("fqlstream_duplicates_total", _COUNTER, "rows", "Event rows whose id was seen within the horizon: kept in history, not counted.")  # fmt: skip
LATE: Final = NumberRow("fqlstream_late_rows_total", _COUNTER, "rows", "Event rows of windows that were final: they revise published values.")  # fmt: skip
DELETED: Final = NumberRow("fqlstream_deleted_rows_total", _COUNTER, "rows", "Rows dropped because their event was deleted.")  # fmt: skip
DEAD_LETTERS: Final = NumberRow("fqlstream_dead_letters_total", _COUNTER, "records", "Records refused, by the code of the reason.", ("code",))  # fmt: skip
FLUSHES: Final = NumberRow("fqlstream_flushes_total", _COUNTER, "flushes", "Rounds in which what was applied was made durable.", ("topic",))  # fmt: skip
VALUES: Final = NumberRow("fqlstream_values_total", _COUNTER, "values", "Values published.")  # fmt: skip
TAKEOVERS: Final = NumberRow("fqlstream_takeovers_total", _COUNTER, "takeovers", "Partitions taken over, from others or from earlier processes.", ("topic",))  # fmt: skip
OUTSIDE_FAILURES: Final = NumberRow("fqlstream_outside_failures_total", _COUNTER, "calls", "Calls of ClickHouse or Kafka that failed and were made again.", ("part",))  # fmt: skip
DECODE_SECONDS: Final = NumberRow("fqlstream_decode_seconds", _HISTOGRAM, "seconds", "Bytes of a fetch to Arrow tables.", (), _BATCH_S)  # fmt: skip
EVALUATE_SECONDS: Final = NumberRow("fqlstream_evaluate_seconds", _HISTOGRAM, "seconds", "Tables of a fetch to changed states.", (), _BATCH_S)  # fmt: skip
APPLY_SECONDS: Final = NumberRow("fqlstream_apply_seconds", _HISTOGRAM, "seconds", "A fetch as a whole, from the worker's hands into its memory, waiting for ClickHouse included.", ("topic",), _BATCH_S)  # fmt: skip
FLUSH_SECONDS: Final = NumberRow("fqlstream_flush_seconds", _HISTOGRAM, "seconds", "A flush of all partitions of a topic, from memory to the flush row.", ("topic",), _BATCH_S)  # fmt: skip
PUBLISH_SECONDS: Final = NumberRow("fqlstream_publish_seconds", _HISTOGRAM, "seconds", "A look at one model: windows merged, values published.", (), _BATCH_S)  # fmt: skip
TAKEOVER_SECONDS: Final = NumberRow("fqlstream_takeover_seconds", _HISTOGRAM, "seconds", "Taking a partition over: claim, and memory from history.", ("topic",), _BATCH_S)  # fmt: skip
OUTSIDE_SECONDS: Final = NumberRow("fqlstream_outside_seconds", _HISTOGRAM, "seconds", "One call of ClickHouse or Kafka, by what it was for.", ("what",), _BATCH_S)  # fmt: skip
READY: Final = NumberRow("fqlstream_worker_ready", _GAUGE, "bool", "1 while all that the group assigned is taken over and nothing is in trouble.")  # fmt: skip
PARTITIONS: Final = NumberRow("fqlstream_partitions", _GAUGE, "partitions", "Partitions that this worker holds.", ("topic",))  # fmt: skip
PARTITION_LAG: Final = NumberRow("fqlstream_partition_lag_records", _GAUGE, "records", "Records of the log that are not durable in ClickHouse yet, as the broker last told.", ("topic", "partition"))  # fmt: skip
PANES: Final = NumberRow("fqlstream_panes", _GAUGE, "panes", "Panes in memory, each the states of one slice of time.")  # fmt: skip
PANES_BYTES: Final = NumberRow("fqlstream_panes_bytes", _GAUGE, "bytes", "States of panes in memory, about.")  # fmt: skip
PANES_UNWRITTEN_BYTES: Final = NumberRow("fqlstream_panes_unwritten_bytes", _GAUGE, "bytes", "Those of them that wait for a flush.")  # fmt: skip
BLOCKS: Final = NumberRow("fqlstream_blocks", _GAUGE, "blocks", "Merged panes, hours and days in memory, for publishing.")  # fmt: skip
BLOCKS_BYTES: Final = NumberRow("fqlstream_blocks_bytes", _GAUGE, "bytes", "Bytes of these, about.")  # fmt: skip
RECENT_BYTES: Final = NumberRow("fqlstream_recent_rows_bytes", _GAUGE, "bytes", "Recent rows in memory, for joining labels.")  # fmt: skip
IDS: Final = NumberRow("fqlstream_ids_remembered", _GAUGE, "ids", "Ids of events in memory, for finding duplicates.")  # fmt: skip
LABELS_WAITING: Final = NumberRow("fqlstream_labels_waiting", _GAUGE, "rows", "Labels in memory whose event has not come.")  # fmt: skip
LISTS: Final = NumberRow("fqlstream_lists", _GAUGE, "lists", "Lists of recorded values whose summaries are in memory.")  # fmt: skip
BACKLOG_BYTES: Final = NumberRow("fqlstream_sink_backlog_bytes", _GAUGE, "bytes", "Rows that wait for ClickHouse; at the bound of the settings reading pauses.", ("topic",))  # fmt: skip
QUEUED_BYTES: Final = NumberRow("fqlstream_queued_bytes", _GAUGE, "bytes", "Fetched records that wait to be applied.")  # fmt: skip
FLUSH_AGE: Final = NumberRow("fqlstream_flush_age_seconds", _GAUGE, "seconds", "Time since the last flush ended, while something applied is not durable; else 0.", ("topic",))  # fmt: skip
COMMIT_AGE: Final = NumberRow("fqlstream_commit_age_seconds", _GAUGE, "seconds", "For how long offsets wait that Kafka has not taken; 0 where none wait.")  # fmt: skip
WATERMARK_DELAY: Final = NumberRow("fqlstream_watermark_delay_seconds", _GAUGE, "seconds", "Now minus the watermark of a model, told by the worker that publishes it.", ("model",))  # fmt: skip
OPEN_WINDOWS: Final = NumberRow("fqlstream_open_windows", _GAUGE, "windows", "Windows of a model that are not final.", ("model",))  # fmt: skip
MODELS: Final = NumberRow("fqlstream_models", _GAUGE, "models", "Models that this process knows.")  # fmt: skip
LOOP_DELAY: Final = NumberRow("fqlstream_loop_delay_seconds", _GAUGE, "seconds", "How long the event loop took to answer this scrape.")  # fmt: skip
OUTSIDE_TROUBLE: Final = NumberRow("fqlstream_outside_trouble_seconds", _GAUGE, "seconds", "For how long ClickHouse or Kafka has been in trouble; 0 where it is not.", ("part",))  # fmt: skip
BUILD: Final = NumberRow("fqlstream_build_info", _GAUGE, "bool", "1, with the version of fqlstream that runs.", ("version",))  # fmt: skip

WORKER_NUMBERS: Final = (
    FETCHES, RECORDS, FETCHED_BYTES, EVENTS, LABELS, LABELS_JOINED, DUPLICATES, LATE, DELETED, DEAD_LETTERS, FLUSHES, VALUES,
    TAKEOVERS, OUTSIDE_FAILURES, DECODE_SECONDS, EVALUATE_SECONDS, APPLY_SECONDS, FLUSH_SECONDS, PUBLISH_SECONDS, TAKEOVER_SECONDS,
    OUTSIDE_SECONDS, READY, PARTITIONS, PARTITION_LAG, PANES, PANES_BYTES, PANES_UNWRITTEN_BYTES, BLOCKS, BLOCKS_BYTES, RECENT_BYTES,
    IDS, LABELS_WAITING, LISTS, BACKLOG_BYTES, QUEUED_BYTES, FLUSH_AGE, COMMIT_AGE, WATERMARK_DELAY, OPEN_WINDOWS, MODELS, LOOP_DELAY,
    OUTSIDE_TROUBLE, BUILD,
)  # fmt: skip

# of `fqlstream lag --prometheus`: names and labels as in the README of kafka-lag-exporter, whose dashboards go on working
_GROUP: Final = ("cluster_name", "group")
_MEMBER: Final = (*_GROUP, "topic", "partition", "member_host", "consumer_id", "client_id")
_LOG: Final = ("cluster_name", "topic", "partition")

LAG_OFFSET: Final = NumberRow("kafka_consumergroup_group_offset", _GAUGE, "records", "Next offset that a group reads, as committed.", _MEMBER)  # fmt: skip
LAG_RECORDS: Final = NumberRow("kafka_consumergroup_group_lag", _GAUGE, "records", "Offsets between a group's commit and the log's end.", _MEMBER)  # fmt: skip
LAG_SECONDS: Final = NumberRow("kafka_consumergroup_group_lag_seconds", _GAUGE, "seconds", "Age of the first record that a group has not read, 0 where there is none.", _MEMBER)  # fmt: skip
LAG_MAX_RECORDS: Final = NumberRow("kafka_consumergroup_group_max_lag", _GAUGE, "records", "The largest lag of a group's partitions.", _GROUP)  # fmt: skip
LAG_MAX_SECONDS: Final = NumberRow("kafka_consumergroup_group_max_lag_seconds", _GAUGE, "seconds", "The oldest first record of a group's partitions.", _GROUP)  # fmt: skip
LAG_SUM_RECORDS: Final = NumberRow("kafka_consumergroup_group_sum_lag", _GAUGE, "records", "The lags of a group's partitions together.", _GROUP)  # fmt: skip
LAG_TOPIC_RECORDS: Final = NumberRow("kafka_consumergroup_group_topic_sum_lag", _GAUGE, "records", "Those of one topic together.", (*_GROUP, "topic"))  # fmt: skip
LOG_END: Final = NumberRow("kafka_partition_latest_offset", _GAUGE, "records", "Next offset that is written to a partition.", _LOG)  # fmt: skip
LOG_START: Final = NumberRow("kafka_partition_earliest_offset", _GAUGE, "records", "First offset that a partition still has.", _LOG)  # fmt: skip
LAG_POLL_TIME: Final = NumberRow("kafka_consumergroup_poll_time_ms", _GAUGE, "milliseconds", "How long the last look took.", ("cluster_name",))  # fmt: skip
LAG_ETA: Final = NumberRow("fqlstream_lag_eta_seconds", _GAUGE, "seconds", "How long until nothing is left, at the pace of the last minutes.", _MEMBER)  # fmt: skip
LAG_GROUP_STATUS: Final = NumberRow("fqlstream_lag_group_status", _GAUGE, "status", "0 OK, 1 WARN, 2 ERR.", _GROUP)  # fmt: skip
LAG_GROUP_MEMBERS: Final = NumberRow("fqlstream_lag_group_members", _GAUGE, "members", "Members of a group.", _GROUP)  # fmt: skip
LAG_PARTITION_STATUS: Final = NumberRow("fqlstream_lag_partition_status", _GAUGE, "bool", "1 for the status that a group's partition has.", (*_MEMBER, "status"))  # fmt: skip
LAG_UP: Final = NumberRow("fqlstream_lag_up", _GAUGE, "bool", "1 where the last look succeeded; where it did not, there are no other figures.")  # fmt: skip

LAG_NUMBERS: Final = (
    LAG_OFFSET, LAG_RECORDS, LAG_SECONDS, LAG_MAX_RECORDS, LAG_MAX_SECONDS, LAG_SUM_RECORDS, LAG_TOPIC_RECORDS, LOG_END, LOG_START,
    LAG_POLL_TIME, LAG_ETA, LAG_GROUP_STATUS, LAG_GROUP_MEMBERS, LAG_PARTITION_STATUS, LAG_UP,
)  # fmt: skip


def counter(row: NumberRow, registry: CollectorRegistry) -> Counter:
    """Make a counter of a row."""
    return Counter(row.name.removesuffix("_total"), row.help, row.labels, registry=registry)


def gauge(row: NumberRow, registry: CollectorRegistry) -> Gauge:
    """Make a gauge of a row."""
    return Gauge(row.name, row.help, row.labels, registry=registry)


def histogram(row: NumberRow, registry: CollectorRegistry) -> Histogram:
    """Make a histogram of a row."""
    return Histogram(row.name, row.help, row.labels, buckets=row.buckets, registry=registry)
