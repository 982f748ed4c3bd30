"""`fqlstream bench recovery`: how long a worker takes to go on after its predecessor was killed, and how much memory it needs.

For each size a stack of its own is given events until its store holds so many states, written by a real worker, which is then
killed. A second worker takes over: figures are its time to the first event applied, its memory, and how long a late event
takes from the log into the published value of its window, while no pane is in memory. Then late events touch panes at random
over the whole range, and the worker is killed once more in the middle of others. After each step every value of every window
is compared with batch.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa
import yaml
from confluent_kafka import Producer

from fqlstream.bench import Report, Request, machine, many_states
from fqlstream.bench.many_states import MODEL, PANE_MS, SEGMENTS, SKETCHED_FROM, Key, Rows, Value
from fqlstream.bench.observed_worker import Observed, read
from fqlstream.bench.pipeline import SOURCE_TOPIC
from fqlstream.errors import BrokerError, FqlstreamError
from fqlstream.events.documents import read_documents
from fqlstream.local.processes import Child, ChildSpec
from fqlstream.local.progress import Progress
from fqlstream.local.stack import Stack, running_stack
from fqlstream.ops.definitions import apply
from fqlstream.ops.kafka_options import producer_options
from fqlstream.settings import load
from fqlstream.store import states
from fqlstream.store.client import Store

T = TypeVar("T")

#: How many states, and what figures call it.
SIZES: Final[Mapping[int, str]] = MappingProxyType({10_000: "10k", 100_000: "100k", 1_000_000: "1m"})
#: At most so many late events come one after the other; so many together; so many are those among which the worker is killed.
#: Of few panes they are fewer: one for five panes, four a pane, forty a pane.
_PROBES: Final = 20
_LATE: Final = 2_000
_KILLED: Final = 20_000
#: While states are built, their windows need not be published three times a second.
_BUILD_FLUSH_MS: Final = "5000"
_NOTHING_ELSE: Final[Mapping[str, str]] = MappingProxyType({})
_ANSWER_S: Final = 60.0
_SETTLED_S: Final = 1_800.0
_LOOK_S: Final = 0.02
_TOOK_OVER: Final = re.compile(r"took over \S+ at offset \d+ as epoch \d+ in ([\d.]+) s")
_HEADERS: Final = [("content-type", "application/vnd.apache.arrow.stream"), ("model", MODEL), ("version", "v1")]


def run(request: Request) -> Report:
    """Measure every size up to as many states as there shall be events. `checked`: no value differed from batch."""
    figures: dict[str, float] = {}
    checked = True
    for count, name in _sizes(request.events_count).items():
        found, wrong = _measure(count, request)
        for line in wrong[:10]:
            request.say(f"wrong: {line}")
        checked &= not wrong
        figures |= {f"{figure}_{name}": value for figure, value in found.items()}
    return Report("recovery", machine(), checked, figures)


def _sizes(states_max: int) -> Mapping[int, str]:
    return {count: name for count, name in SIZES.items() if count <= states_max} or {states_max: str(states_max)}


def _measure(count: int, request: Request) -> tuple[dict[str, float], list[str]]:
    panes = max(1, count // SEGMENTS)
    settings = load()
    settings = settings.model_copy(update={"store": settings.store.model_copy(update={"port": 0})})
    progress = Progress(line=lambda _: None, status=lambda _: None)
    with (
        tempfile.TemporaryDirectory(prefix="fqlstream-recovery-") as directory,
        running_stack(settings, Path(directory), workers=0, progress=progress) as stack,
        Store.connect(stack.settings.store) as store,
    ):
        begin_ms = (time.time_ns() // 1_000_000 // PANE_MS - panes - 120) * PANE_MS
        course = _Course(stack, Path(directory), store, panes, Rows(begin_ms, np.random.default_rng(7)), request)
        try:
            return course.run(), course.wrong
        finally:
            course.stop()


@dataclass(slots=True)
class _Course:
    """One size: a stack, what was sent to it, and its one worker."""

    stack: Stack
    place: Path
    store: Store
    panes: int
    rows: Rows
    request: Request
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    sent: int = 0
    worker: Child | None = None
    started_at_s: float = 0.0
    workers: int = 0

    def run(self) -> dict[str, float]:
        """Do everything in turn; gives the figures."""
        documents = yaml.safe_dump_all(many_states.definitions())
        apply(self.stack.settings, read_documents(documents, "states"))
        self._build()
        self._recover()
        self._touch_cold_panes()
        self._touch_many()
        self._kill_amid()
        return {name: round(value, 3) for name, value in self.figures.items()}

    # -- acts

    def _build(self) -> None:
        begun_s = time.monotonic()
        self._start({"FQLSTREAM_STREAM__FLUSH_MS": _BUILD_FLUSH_MS})
        self._send(self.rows.of_panes(self.panes))
        self._settle()
        self.figures["states"] = self._states()
        self.figures["built_s"] = time.monotonic() - begun_s
        self._check("built")
        self._kill()
        on_disk, raw = self._stored_bytes()
        self.figures |= {"stored_mib": on_disk / 2**20, "encoded_mib": raw / 2**20}

    def _recover(self) -> None:
        """One event is in the log when the worker starts: it is applied, and says that the takeover is over."""
        self._send(self.rows.anywhere(1, self.panes))
        self._start()
        first = self._until(lambda: next((o for o in self._observed() if self._has_applied(o)), None), "applied")
        self.figures["recovery_s"] = first.at_s - self.started_at_s
        log = self._log().read_text(errors="replace")
        self.figures["takeover_s"] = max(float(found) for found in _TOOK_OVER.findall(log))
        self._settle()
        self.figures["published_s"] = time.time() - self.started_at_s
        self._note("at_rest")
        self._check("taken over")

    def _touch_cold_panes(self) -> None:
        """Send single late events; each is about a pane that nothing has touched since the takeover."""
        waits = []
        for _ in range(max(1, min(_PROBES, self.panes // 5))):
            event = self.rows.anywhere(1, self.panes)
            start_ms = int(event.column("event_at")[0].as_py()) // many_states.WINDOWS_MS[0] * many_states.WINDOWS_MS[0]
            before = self._events_of(start_ms)
            sent_s = time.monotonic()
            self._send(event)
            self._until(partial(self._has_more, start_ms, before), "published")
            waits.append((time.monotonic() - sent_s) * 1_000)
        self.figures |= {"late_to_published_ms": statistics.median(waits), "late_to_published_worst_ms": max(waits)}

    def _has_more(self, start_ms: int, rows: int) -> bool | None:
        return self._events_of(start_ms) > rows or None

    def _touch_many(self) -> None:
        begun_s = time.monotonic()
        self._send(self.rows.anywhere(min(_LATE, 4 * self.panes), self.panes))
        self._settle()
        self.figures["late_events_s"] = time.monotonic() - begun_s
        self._note("after_late")
        self._check("late events")

    def _kill_amid(self) -> None:
        late = self.rows.anywhere(min(_KILLED, 40 * self.panes), self.panes)
        half = len(late) // 2
        self._send(late.slice(0, half))
        time.sleep(1.0)
        self._kill()
        self._send(late.slice(half))
        self._start()
        self._until(lambda: next((o for o in self._observed() if self._has_applied(o)), None), "caught up")
        self.figures["caught_up_s"] = time.time() - self.started_at_s
        self._settle()
        self._note("after_kill")
        self._check("killed")

    # -- the worker

    def _start(self, others: Mapping[str, str] = _NOTHING_ELSE) -> None:
        self.workers += 1
        environment = {
            "FQLSTREAM_KAFKA__INSTANCE_ID": f"recovery-{os.getpid()}",
            "FQLSTREAM_FQL__QUANTILE_VALUES_MAX": str(SKETCHED_FROM),
            **others,
        }
        command = (sys.executable, "-m", "fqlstream.bench.observed_worker", str(self.place))
        self.worker = Child(ChildSpec("worker", command, self._log(), lambda: True, environment))
        self.started_at_s = time.time()
        self.worker.start()

    def _kill(self) -> None:
        if self.worker is not None and self.worker.pid is not None:
            os.kill(self.worker.pid, signal.SIGKILL)
            self.worker.stop()

    def stop(self) -> None:
        """End the worker."""
        self._kill()

    def _log(self) -> Path:
        return self.place / "logs" / f"observed-{self.workers}.log"

    def _observed(self) -> list[Observed]:
        return read(self._log(), self.started_at_s)

    def _has_applied(self, seen: Observed) -> bool:
        return seen.applied >= self.sent

    def _note(self, when: str) -> None:
        last = self._until(lambda: next(reversed(self._observed()), None), "observed")
        self.figures |= {
            f"rss_mib_{when}": last.rss_max_bytes / 2**20,
            f"panes_{when}": last.panes,
            f"panes_mib_{when}": last.panes_bytes / 2**20,
            f"blocks_{when}": last.blocks,
            f"blocks_mib_{when}": last.blocks_bytes / 2**20,
        }

    # -- events and values

    def _send(self, table: pa.Table) -> None:
        producer = Producer(producer_options(self.stack.settings.kafka, linger_ms=5))
        failed: list[str] = []

        def delivered(error: object, _: object) -> None:
            if error is not None:
                failed.append(str(error))

        for partition, value in many_states.records(table):
            producer.produce(SOURCE_TOPIC, value, partition=partition, headers=_HEADERS, on_delivery=delivered)
            self.sent += 1
            producer.poll(0)
        if producer.flush(_ANSWER_S) or failed:
            raise BrokerError(
                "BEN005", f"not all events reached {SOURCE_TOPIC}: {failed[0] if failed else 'no answer'}"
            )

    def _settle(self) -> None:
        """Wait until everything that was sent is durable and published."""

        def settled() -> bool | None:
            rows = states.newest_flushes(self.store, SOURCE_TOPIC)
            published = states.read_published(self.store, MODEL)
            durable = sum(row.fence + 1 for row in rows) >= self.sent
            vector = {row.partition: row.version.number for row in rows}
            return (durable and published is not None and published.vector == vector) or None

        self._until(settled, "published")

    def _until(self, look: Callable[[], T | None], what: str) -> T:
        deadline_s = time.monotonic() + _SETTLED_S
        while time.monotonic() < deadline_s:
            found = look()
            if found is not None:
                return found
            if self.worker is not None and self.worker.exit_code is not None:
                raise self.worker.failure("the worker ended")
            time.sleep(_LOOK_S)
        raise FqlstreamError(
            "BEN008", f"what was sent was not {what} within {_SETTLED_S:.0f} s", "see the worker's log"
        )

    def _events_of(self, start_ms: int) -> int:
        rows = self.store.query_rows(
            "SELECT max(rows) FROM metric_series WHERE model = {model:String} AND version = 'all' AND metric = 'events' "
            "AND segment = '' AND window_s = 3600 AND toUnixTimestamp64Milli(window_start) = {start:Int64}",
            {"model": MODEL, "start": start_ms},
        )
        return int(rows[0][0])

    def _check(self, when: str) -> None:
        rows = self.store.query_rows(
            "SELECT metric, segment, toUnixTimestamp64Milli(window_start), window_s * 1000, value, rows, labelled_rows, "
            "error_bound FROM metric_series WHERE model = {model:String} AND version = 'all'",
            {"model": MODEL},
        )
        published: dict[Key, Value] = {tuple(row[:4]): Value(*row[4:]) for row in rows}
        table = self.rows.table
        wrong = many_states.differences(published, many_states.batch(table), table)
        self.wrong += [f"{when}: {line}" for line in wrong]
        self.request.say(f"{self.panes * SEGMENTS} states, {when}: {len(published)} values, {len(wrong)} wrong")

    def _states(self) -> int:
        rows = self.store.query_rows(
            "SELECT uniqExact(partition, pane_start) FROM states WHERE model = {model:String}", {"model": MODEL}
        )
        return int(rows[0][0]) * SEGMENTS

    def _stored_bytes(self) -> tuple[int, int]:
        rows = self.store.query_rows(
            "SELECT sum(bytes_on_disk), sum(data_uncompressed_bytes) FROM system.parts "
            "WHERE active AND database = currentDatabase() AND table = 'states'"
        )
        return int(rows[0][0]), int(rows[0][1])
