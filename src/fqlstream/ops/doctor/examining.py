"""Looks at everything a deployment consists of, one check after the other; changes nothing."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPException
from typing import Final

from confluent_kafka.admin import AdminClient

from fqlstream.clock import SystemClock
from fqlstream.errors import FqlstreamError
from fqlstream.events.catalogue import Catalogue
from fqlstream.ops import topics
from fqlstream.ops.code_metric_status import present_runners, statuses
from fqlstream.ops.definition_log import DefinitionsReader
from fqlstream.ops.doctor import judging
from fqlstream.ops.doctor.findings import DoctorReport, Finding, Severity
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.ops.lag.observing import look
from fqlstream.ops.topics import TopicHealth
from fqlstream.settings import Settings
from fqlstream.store import diagnosis, migrations, states
from fqlstream.store import values as stored_values
from fqlstream.store.client import Store
from fqlstream.store.deletions import now_ms as store_now_ms
from fqlstream.stream.protocol import FlushRow
from fqlstream.stream.watermarks import model_watermark

_SOURCES: Final = ("inference-events", "metric-events")
_EVENTS: Final = "inference-events"
_CLOCK_LOOKS: Final = 3
#: Definitions are read to their end within a second; a topic that gives nothing must not hold the page up.
_DEFINITIONS_S: Final = 10.0
_ANSWER_BYTES_MAX: Final = 2**20
_BROKER, _STORE = "broker", "store"


@dataclass
class Look:
    """What is looked at, each part asked for once. `urls` are health routes of workers and the API by their names."""

    settings: Settings
    urls: Mapping[str, str] = field(default_factory=dict)
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    wait: Callable[[float], None] = time.sleep

    @cached_property
    def admin(self) -> AdminClient:
        """Kafka."""
        return AdminClient(librdkafka_options(self.settings.kafka))

    @cached_property
    def store(self) -> Store:
        """ClickHouse."""
        return Store.connect(self.settings.store)

    @cached_property
    def declared(self) -> tuple[topics.TopicDeclaration, ...]:
        """The topics that should be there."""
        return topics.load_declarations()

    @cached_property
    def topics(self) -> Mapping[str, TopicHealth]:
        """The topics that are there."""
        found = topics.health(self.admin, [declared.name for declared in self.declared])
        return {each.topic: each for each in found}

    @cached_property
    def catalogue(self) -> Catalogue:
        """What is defined."""
        reader = DefinitionsReader(self.settings, keeps_registry=False)
        try:
            reader.read_to_end(_DEFINITIONS_S)
            return reader.catalogue
        finally:
            reader.close()

    def flushed(self, topic: str) -> Sequence[FlushRow]:
        """Give how far every partition is durable."""
        return states.newest_flushes(self.store, topic)

    def close(self) -> None:
        """Close what was opened."""
        if "store" in self.__dict__:
            self.store.close()


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, what it needs to answer, and how it looks."""

    name: str
    needs: frozenset[str]
    run: Callable[[Look], Iterable[Finding]]


def examine(look_at: Look, checks: Sequence[Check] | None = None) -> DoctorReport:
    """Run every check. One that fails is a finding, and those that need what does not answer are not run."""
    began_s = time.monotonic()
    findings: list[Finding] = []
    away: set[str] = set()
    checks = CHECKS if checks is None else checks
    for check in checks:
        if missing := check.needs & away:
            findings.append(Finding(check.name, Severity.NOTE, f"not looked at: {', '.join(sorted(missing))} does not answer"))  # fmt: skip
            continue
        try:
            findings += check.run(look_at)
        except FqlstreamError as error:
            away |= {check.name} & {_BROKER, _STORE}
            findings.append(Finding(check.name, Severity.ERROR, f"{error.code} {error.message}", error.hint))
        except Exception as error:  # whatever it is: the other checks are wanted now
            away |= {check.name} & {_BROKER, _STORE}
            what = f"it could not be looked at: {type(error).__name__}: {error}"
            findings.append(Finding(check.name, Severity.ERROR, what, "what it names is in the way; if that is nothing of yours, tell fqlstream's maintainers"))  # fmt: skip
    look_at.close()
    return DoctorReport(tuple(findings), time.monotonic() - began_s)


def _broker(look_at: Look) -> Iterator[Finding]:
    began_s = time.monotonic()
    count = topics.brokers_count(look_at.admin, look_at.settings.doctor.ask_wait_s)
    ms = (time.monotonic() - began_s) * 1000
    words = f"{count} broker{'s' if count > 1 else ''} at {look_at.settings.kafka.bootstrap}, answered in {ms:.0f} ms"
    yield Finding(_BROKER, Severity.OK, words, facts={"brokers": count, "answered_ms": round(ms, 1)})


def _topics(look_at: Look) -> Iterator[Finding]:
    yield from judging.of_declarations(topics.plan(look_at.admin, look_at.declared))
    yield from judging.of_replicas(list(look_at.topics.values()))


def _store(look_at: Look) -> Iterator[Finding]:
    began_s = time.monotonic()
    version = diagnosis.version(look_at.store)
    ms = (time.monotonic() - began_s) * 1000
    words = f"ClickHouse {version} at {look_at.store.name}, answered in {ms:.0f} ms"
    yield Finding(_STORE, Severity.OK, words, facts={"version": version, "answered_ms": round(ms, 1)})


def _schema(look_at: Look) -> Iterator[Finding]:
    yield from judging.of_migrations(migrations.pending(look_at.store))


def _clock(look_at: Look) -> Iterator[Finding]:
    """Ask ClickHouse's time some times: it lies between asking and answer, and the quickest answer tells most."""
    best: tuple[float, float] | None = None
    for _ in range(_CLOCK_LOOKS):
        asked_ms = look_at.now_ms()
        began_s = time.monotonic()
        there_ms = store_now_ms(look_at.store)
        half_ms = (time.monotonic() - began_s) * 500
        if best is None or half_ms < best[1]:
            best = there_ms - (asked_ms + half_ms), half_ms
    if best is not None:
        ahead_ms = diagnosis.workers_ahead_ms(look_at.store)
        yield from judging.of_clocks(*best, ahead_ms, look_at.settings.doctor)


def _log(look_at: Look) -> Iterator[Finding]:
    for name in _SOURCES:
        if (topic := look_at.topics.get(name)) is not None:
            yield from judging.of_logs(look_at.flushed(name), topic, topics.log_ranges(look_at.admin, topic))


def _group(look_at: Look) -> Iterator[Finding]:
    settings = look_at.settings
    for group in look(settings.kafka, settings.lag, [settings.kafka.group], with_rows=False).groups:
        yield from judging.of_group(group, settings.doctor)


def _windows(look_at: Look) -> Iterable[Finding]:
    found = _windows_now(look_at)
    if any(finding.severity is Severity.ERROR for finding in found):
        look_at.wait(look_at.settings.doctor.publish_again_ms / 1000)
        return _windows_now(look_at)
    return found


def _windows_now(look_at: Look) -> list[Finding]:
    settings = look_at.settings
    models = diagnosis.published_models(look_at.store)
    spans = {each.model: stored_values.open_windows(look_at.store, each.model) for each in models}
    rows, now_ms = look_at.flushed(_EVENTS), look_at.now_ms()
    topic = look_at.topics.get(_EVENTS)
    partitions_count = len(rows) if topic is None else topic.partitions
    counted_ms = {
        each.model: model_watermark(
            each.model, rows, partitions_count, now_ms, settings.stream.idle_ms, each.watermark_ms
        )
        for each in models
    }
    return list(judging.of_windows(models, rows, counted_ms, spans, look_at.catalogue, now_ms, settings.doctor))


def _rows(look_at: Look) -> Iterator[Finding]:
    yield from judging.of_rows(look_at.flushed(_EVENTS))


def _letters(look_at: Look) -> Iterator[Finding]:
    now_ms, limits = look_at.now_ms(), look_at.settings.doctor
    yield from judging.of_letters(diagnosis.refused_since(look_at.store, now_ms - limits.letters_ms), now_ms, limits)


def _requests(look_at: Look) -> Iterator[Finding]:
    now_ms, limits = look_at.now_ms(), look_at.settings.doctor
    yield from judging.of_requests("panes to rebuild", diagnosis.waiting_repairs(look_at.store), now_ms, limits)
    yield from judging.of_requests("deletions of events", diagnosis.waiting_deletions(look_at.store), now_ms, limits)


def _code_metrics(look_at: Look) -> Iterator[Finding]:
    metrics = [each for model in look_at.catalogue.models.values() for each in model.code_metrics.values()]
    if metrics:
        found = statuses(look_at.store, metrics)
        yield from judging.of_code_metrics(found, present_runners(look_at.store, SystemClock()))


def _tables(look_at: Look) -> Iterator[Finding]:
    yield from judging.of_tables(
        diagnosis.fullest_partitions(look_at.store),
        diagnosis.failing_mutations(look_at.store),
        diagnosis.broken_parts(look_at.store),
        diagnosis.readonly_replicas(look_at.store),
        look_at.settings.doctor,
    )


def _store_disks(look_at: Look) -> Iterator[Finding]:
    found = [
        diagnosis.Disk(f"ClickHouse's disk {disk.name}", disk.free, disk.total)
        for disk in diagnosis.disks(look_at.store)
    ]
    yield from judging.of_disks(found, look_at.settings.doctor)


def _local_disk(look_at: Look) -> Iterator[Finding]:
    """Look at the disk of a stack on this machine. Kafka tells nobody how full its brokers' disks are but its own metrics."""
    data = look_at.settings.data
    if data.exists():
        usage = shutil.disk_usage(data)
        yield from judging.of_disks([diagnosis.Disk(str(data), usage.free, usage.total)], look_at.settings.doctor)


def _processes(look_at: Look) -> Iterator[Finding]:
    for name, url in look_at.urls.items():
        status, what = _asked(url, look_at.settings.doctor.ask_wait_s)
        if status is Severity.OK:
            yield Finding("processes", status, f"{name} at {url}: {what}")
        else:
            yield Finding("processes", status, f"{name} at {url}: {what}", "see its log; a supervisor should restart what is dead")  # fmt: skip


def _asked(url: str, wait_s: float) -> tuple[Severity, str]:
    """Ask a health route; gives how bad the answer is, and the answer."""
    if not url.startswith(("http://", "https://")):
        return Severity.WARN, "no address of a web server"
    # a proxy of the environment knows nothing of these addresses
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=wait_s) as answer:
            body = answer.read(_ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        with error:
            return Severity.ERROR, _status_in(error.read(_ANSWER_BYTES_MAX)) or f"HTTP {error.code}"
    except (OSError, ValueError, HTTPException) as error:
        return Severity.ERROR, f"no answer: {error}"
    return Severity.OK, _status_in(body) or "answers"


def _status_in(body: bytes) -> str:
    """Give what a health route says in a few words."""
    try:
        told = json.loads(body)
        trouble = [f"{each['part']} for {each['for_s']} s" for each in told.get("trouble", ())]
        away = [name for name, each in told.get("dependencies", {}).items() if each["status"] != "ok"]
    except (ValueError, TypeError, KeyError, AttributeError):
        return ""
    more = ", ".join([*trouble, *away])
    return f"{told.get('status', '?')}{f' ({more})' if more else ''}"


_KAFKA: Final = frozenset({_BROKER})
_CLICKHOUSE: Final = frozenset({_STORE})

CHECKS: Final[tuple[Check, ...]] = (
    Check(_BROKER, frozenset(), _broker),
    Check("topics", _KAFKA, _topics),
    Check(_STORE, frozenset(), _store),
    Check("schema", _CLICKHOUSE, _schema),
    Check("clock", _CLICKHOUSE, _clock),
    Check("log", _KAFKA | _CLICKHOUSE, _log),
    Check("group", _KAFKA, _group),
    Check("windows", _KAFKA | _CLICKHOUSE, _windows),
    Check("rows", _CLICKHOUSE, _rows),
    Check("dead letters", _CLICKHOUSE, _letters),
    Check("requests", _CLICKHOUSE, _requests),
    Check("code metrics", _KAFKA | _CLICKHOUSE, _code_metrics),
    Check("tables", _CLICKHOUSE, _tables),
    Check("disk", _CLICKHOUSE, _store_disks),
    Check("disk", frozenset(), _local_disk),
    Check("processes", frozenset(), _processes),
)
