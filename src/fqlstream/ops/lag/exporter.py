"""Lag for Prometheus, under the names that users of kafka-lag-exporter know (its README, "Metrics"), and a few of our own.

The page is text over HTTP, or HTTPS. Where it can be reached from another machine it asks for a key, which Prometheus shows when its
scrape configuration says `authorization: {credentials_file: FILE}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fqlstream.listening import TellingServer, listen, may_read, page_config, require_key, take_signals, url_of
from fqlstream.ops import numbers
from fqlstream.ops.lag.judgement import Status
from fqlstream.ops.lag.report import GroupLag, LagReport, PartitionLag
from fqlstream.ops.numbers import NumberRow
from fqlstream.settings import LagSettings

Value = float | int | None
#: Gives the last look; None where it failed: old figures would be taken for new ones.
Latest = Callable[[], LagReport | None]

_SEVERITY: Final = {Status.OK: 0, Status.WARN: 1, Status.ERR: 2}
#: Of a group's partition: what is read from it.
_OF_PARTITIONS: Final[tuple[tuple[NumberRow, Callable[[PartitionLag], Value]], ...]] = (
    (numbers.LAG_OFFSET, lambda each: each.committed),
    (numbers.LAG_RECORDS, lambda each: each.lag_records),
    (numbers.LAG_SECONDS, lambda each: each.lag_seconds),
    (numbers.LAG_ETA, lambda each: each.eta_seconds),
)
#: Of a group.
_OF_GROUPS: Final[tuple[tuple[NumberRow, Callable[[GroupLag], Value]], ...]] = (
    (numbers.LAG_MAX_RECORDS, lambda group: _highest(each.lag_records for each in group.partitions)),
    (numbers.LAG_MAX_SECONDS, lambda group: group.total.lag_seconds),
    (numbers.LAG_SUM_RECORDS, lambda group: group.total.lag_records),
    (numbers.LAG_GROUP_STATUS, lambda group: _SEVERITY[group.status]),
    (numbers.LAG_GROUP_MEMBERS, lambda group: group.member_count),
)


class LagCollector:
    """What Prometheus' client asks for metrics."""

    def __init__(self, latest: Latest) -> None:
        self._latest = latest

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give every metric of the last look."""
        report = self._latest()
        up = _family(numbers.LAG_UP)
        up.add_metric([], float(report is not None))
        yield up
        if report is not None:
            yield from _families(report)


def _families(report: LagReport) -> Iterator[GaugeMetricFamily]:
    groups = [(group, (report.cluster, group.group)) for group in report.groups]
    partitions = [(each, (*labels, *_partition_labels(each))) for group, labels in groups for each in group.partitions]
    for row, of_partition in _OF_PARTITIONS:
        yield _filled(row, ((labels, of_partition(each)) for each, labels in partitions))
    for row, of_group in _OF_GROUPS:
        yield _filled(row, ((labels, of_group(group)) for group, labels in groups))
    by_topic = ((group, labels, group.by_topic()) for group, labels in groups)
    yield _filled(
        numbers.LAG_TOPIC_RECORDS, (((*labels, topic), total.lag_records) for _, labels, topics in by_topic for topic, total in topics.items())
    )  # fmt: skip
    yield _filled(
        numbers.LAG_PARTITION_STATUS,
        (((*labels, each.status), 1) for each, labels in partitions if each.status is not None),
    )
    # several groups read one log
    logs = {(report.cluster, each.topic, str(each.partition)): each for each, _ in partitions}
    yield _filled(numbers.LOG_END, ((labels, each.end) for labels, each in logs.items()))
    yield _filled(numbers.LOG_START, ((labels, each.start) for labels, each in logs.items()))
    yield _filled(numbers.LAG_POLL_TIME, [((report.cluster,), round(report.took_s * 1000))])


def _partition_labels(each: PartitionLag) -> tuple[str, ...]:
    return each.topic, str(each.partition), each.host or "", each.member or "", each.client_id or ""


def _filled(row: NumberRow, samples: Any) -> GaugeMetricFamily:
    family = _family(row)
    for labels, value in samples:
        if value is not None:
            family.add_metric(labels, value)
    return family


def _family(row: NumberRow) -> GaugeMetricFamily:
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
    config = page_config(settings, application(latest, settings))
    take_signals()
    TellingServer(config, lambda: on_ready(f"{address}/metrics")).run(sockets=[listener])
