"""Lag for Prometheus, under the names that users of kafka-lag-exporter know (its README, "Metrics"), and a few of our own.

The page is text over HTTP, or HTTPS. Where it can be reached from another machine it asks for a key, which Prometheus shows when its
scrape configuration says `authorization: {credentials_file: FILE}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fqlstream.listening import TellingServer, listen, may_read, page_config, require_key, take_signals, url_of
from fqlstream.ops.lag.judgement import Status
from fqlstream.ops.lag.report import GroupLag, LagReport, PartitionLag
from fqlstream.settings import LagSettings

Value = float | int | None

_GROUP: Final = ("cluster_name", "group")
_MEMBER: Final = ("cluster_name", "group", "topic", "partition", "member_host", "consumer_id", "client_id")
_LOG: Final = ("cluster_name", "topic", "partition")
_SEVERITY: Final = {Status.OK: 0, Status.WARN: 1, Status.ERR: 2}
#: Prometheus and a person or two.
_REQUESTS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric: name, what it is, its labels. All are gauges."""

    name: str
    help: str
    labels: tuple[str, ...]


#: Of a group's partition: what is read from it.
PARTITION_METRICS: Final[tuple[tuple[MetricRow, Callable[[PartitionLag], Value]], ...]] = (
    (MetricRow("kafka_consumergroup_group_offset", "Next offset that a group reads, as committed.", _MEMBER), lambda each: each.committed),
    (MetricRow("kafka_consumergroup_group_lag", "Offsets between a group's commit and the log's end.", _MEMBER), lambda each: each.lag_records),
    (MetricRow("kafka_consumergroup_group_lag_seconds", "Age of the first record that a group has not read, 0 where there is none.", _MEMBER), lambda each: each.lag_seconds),
    (MetricRow("fqlstream_lag_eta_seconds", "How long until nothing is left, at the pace of the last minutes.", _MEMBER), lambda each: each.eta_seconds),
)  # fmt: skip
#: Of a group.
GROUP_METRICS: Final[tuple[tuple[MetricRow, Callable[[GroupLag], Value]], ...]] = (
    (MetricRow("kafka_consumergroup_group_max_lag", "The largest of a group's lags in offsets.", _GROUP), lambda group: _highest(each.lag_records for each in group.partitions)),
    (MetricRow("kafka_consumergroup_group_max_lag_seconds", "The largest of a group's lags in seconds.", _GROUP), lambda group: group.total.lag_seconds),
    (MetricRow("kafka_consumergroup_group_sum_lag", "All of a group's lags in offsets together.", _GROUP), lambda group: group.total.lag_records),
    (MetricRow("fqlstream_lag_group_status", "0 OK, 1 WARN, 2 ERR.", _GROUP), lambda group: _SEVERITY[group.status]),
    (MetricRow("fqlstream_lag_group_members", "Members of a group.", _GROUP), lambda group: group.member_count),
)  # fmt: skip
TOPIC_LAG: Final = MetricRow("kafka_consumergroup_group_topic_sum_lag", "A group's lags in offsets, of one topic together.", ("cluster_name", "group", "topic"))  # fmt: skip
PARTITION_STATUS: Final = MetricRow("fqlstream_lag_partition_status", "1 for the status that a group's partition has.", (*_MEMBER, "status"))  # fmt: skip
LATEST: Final = MetricRow("kafka_partition_latest_offset", "Next offset that is written to a partition.", _LOG)
EARLIEST: Final = MetricRow("kafka_partition_earliest_offset", "First offset that a partition still has.", _LOG)
POLL_TIME: Final = MetricRow("kafka_consumergroup_poll_time_ms", "How long the last look took.", ("cluster_name",))
UP: Final = MetricRow("fqlstream_lag_up", "Whether the last look succeeded; where it did not, there are no other figures.", ())  # fmt: skip

ROWS: Final = (
    *(row for row, _ in PARTITION_METRICS), *(row for row, _ in GROUP_METRICS), TOPIC_LAG, PARTITION_STATUS, LATEST, EARLIEST, POLL_TIME, UP,
)  # fmt: skip


class Latest(Protocol):
    """Gives the last look; None where it failed: old figures would be taken for new ones."""

    def __call__(self) -> LagReport | None:
        """Give it."""
        ...


class LagCollector:
    """What Prometheus' client asks for metrics."""

    def __init__(self, latest: Latest) -> None:
        self._latest = latest

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give every metric of the last look."""
        report = self._latest()
        up = _family(UP)
        up.add_metric([], float(report is not None))
        yield up
        if report is not None:
            yield from _families(report)


def _families(report: LagReport) -> Iterator[GaugeMetricFamily]:
    groups = [(group, (report.cluster, group.group)) for group in report.groups]
    partitions = [(each, (*labels, *_partition_labels(each))) for group, labels in groups for each in group.partitions]
    for row, of_partition in PARTITION_METRICS:
        yield _filled(row, ((labels, of_partition(each)) for each, labels in partitions))
    for row, of_group in GROUP_METRICS:
        yield _filled(row, ((labels, of_group(group)) for group, labels in groups))
    by_topic = ((group, labels, group.by_topic()) for group, labels in groups)
    yield _filled(
        TOPIC_LAG, (((*labels, topic), total.lag_records) for _, labels, topics in by_topic for topic, total in topics.items())
    )  # fmt: skip
    yield _filled(
        PARTITION_STATUS, (((*labels, each.status), 1) for each, labels in partitions if each.status is not None)
    )
    # several groups read one log
    logs = {(report.cluster, each.topic, str(each.partition)): each for each, _ in partitions}
    yield _filled(LATEST, ((labels, each.end) for labels, each in logs.items()))
    yield _filled(EARLIEST, ((labels, each.start) for labels, each in logs.items()))
    yield _filled(POLL_TIME, [((report.cluster,), round(report.took_s * 1000))])


def _partition_labels(each: PartitionLag) -> tuple[str, ...]:
    return each.topic, str(each.partition), each.host or "", each.member or "", each.client_id or ""


def _filled(row: MetricRow, samples: Any) -> GaugeMetricFamily:
    family = _family(row)
    for labels, value in samples:
        if value is not None:
            family.add_metric(labels, value)
    return family


def _family(row: MetricRow) -> GaugeMetricFamily:
    return GaugeMetricFamily(row.name, row.help, labels=row.labels)


def _highest(values: Iterator[Value]) -> Value:
    return max((value for value in values if value is not None), default=None)


def page(latest: Latest) -> bytes:
    """Give the page as text, as for a file that node_exporter's textfile collector reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LagCollector(latest))
    return generate_latest(registry)


def application(latest: Latest, settings: LagSettings) -> Starlette:
    """Give the routes: /metrics asks for the key if there is one; /health asks for none: 200, or 503 where the last look failed."""

    async def metrics(request: Request) -> Response:
        if not may_read(settings, request.headers.get("authorization", "")):
            return Response("lag.key is asked for: Authorization: Bearer KEY\n", 401, {"www-authenticate": "Bearer"})
        return Response(page(latest), media_type=CONTENT_TYPE_LATEST)

    async def health(_: Request) -> Response:
        return Response("ok\n") if latest() is not None else Response("the last look failed\n", 503)

    return Starlette(routes=[Route("/metrics", metrics), Route("/health", health)])


def serve(latest: Latest, settings: LagSettings, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. `on_ready` is told the address of the page.

    Raises UsageError LAG020 for an address that others reach and no key, LAG021 for one that cannot be had.
    """
    require_key(settings, code="LAG020", what="consumer groups and their lag", variables="FQLSTREAM_LAG__")
    listener = listen(settings.host, settings.port, code="LAG021", who="the exporter")
    address = url_of(settings.host, listener, "https" if settings.certificate_file else "http")
    config = page_config(settings, application(latest, settings), requests_max=_REQUESTS_MAX)
    take_signals()
    TellingServer(config, lambda: on_ready(f"{address}/metrics")).run(sockets=[listener])
