"""One partition of one model, in memory: records in, and what its owner makes of them out.

The store and the log are those of the simulation, but every step happens at once, is written down by its name, and may be the
one before which the process ends.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tests.simulation.world import TOPIC, MemoryStore, World

from fqlstream.clock import ManualClock
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import DEFINITION
from fqlstream.settings import FqlSettings, StreamSettings
from fqlstream.stream.batches import DeadLetter, Decoded, Fetch
from fqlstream.stream.decode import decode
from fqlstream.stream.delivery import Owner, Ports, flush, take_over
from fqlstream.stream.engines import Engines
from fqlstream.stream.panes import LANES
from fqlstream.stream.partition import PartitionState
from fqlstream.stream.protocol import FlushRow, PaneKey

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
#: A whole day, so that a time is easily told from its window.
START_MS = 20_000 * 24 * HOUR_MS
#: When records are written: after every event of these tests.
RECORD_MS = START_MS + 30 * MINUTE_MS
METRICS = {
    "traffic": "traffic()",
    "sum": "sum(x)",
    "most": "max(x)",
    "cost": "average(if(fn(), -40, if(fp(), -400, 250)))",
    "best_hit": "max(if(tp(), s, 0))",
    "unlabelled": "sum(if(is_null(y), 1, 0))",
}
SEGMENTS = {"high": "x >= 5", "wrong": "fp() or fn()"}


def model(version: str = "v1", **changes: Any) -> dict[str, Any]:
    """Give the document of a binary model: x an input, s its score, y what turned out."""
    return {
        "kind": "model",
        "name": "m",
        "version": version,
        "task": "binary_classification",
        "columns": [
            {"name": "x", "type": "float"},
            {"name": "s", "type": "float", "role": "output"},
            {"name": "y", "type": "int", "role": "target"},
        ],
        "task_params": {"threshold": 0.5, "target_class_order": [0, 1]},
        "windows": {"pane": "1m", "sizes": ["2m"], "lateness": "1m"},
        **changes,
    }


def catalogue(
    *models: dict[str, Any], metrics: Mapping[str, str] = METRICS, segments: Mapping[str, str] = SEGMENTS
) -> Catalogue:
    """Give the catalogue of one model, in these versions, with metrics and segments."""
    known = Catalogue()
    for document in models or (model(),):
        known = known.with_definition(DEFINITION.validate_python(document))
    for kind, of in (("metric", metrics), ("segment", segments)):
        for name, text in of.items():
            document = {"kind": kind, "model": "m", "name": name, "definition": text}
            known = known.with_definition(DEFINITION.validate_python(document))
    return known


# -- records -------------------------------------------------------------------------------------------------------------


def event(event_id: str, minute: float = 0, x: float | None = 1.0, **fields: Any) -> bytes:
    """Write an inference event; fields of single letters are columns."""
    columns = {"x": x, **{name: fields.pop(name) for name in ("s", "y") if name in fields}}
    at = round(START_MS + minute * MINUTE_MS)
    return json.dumps({"model": "m", "event_id": event_id, "event_at": at, "columns": columns, **fields}).encode()


def label(event_id: str, y: int | None, **fields: Any) -> bytes:
    """Write a label."""
    return json.dumps({"type": "label", "model": "m", "event_id": event_id, "columns": {"y": y}, **fields}).encode()


def mark(minute: float) -> bytes:
    """Write a watermark event."""
    return json.dumps({"type": "watermark", "model": "m", "event_at": round(START_MS + minute * MINUTE_MS)}).encode()


def fetch(first: int, *values: bytes, next_offset: int | None = None, partition: int = 0) -> Fetch:
    """Give a fetch of records that stand side by side from an offset on."""
    count = len(values)
    return Fetch(
        TOPIC, partition, np.arange(first, first + count, dtype=np.int64), np.full(count, RECORD_MS, np.int64),
        [None] * count, list(values), {}, first + count if next_offset is None else next_offset,
    )  # fmt: skip


# -- what a state holds --------------------------------------------------------------------------------------------------


def pane(minute: int, version: str = "v1") -> PaneKey:
    """Name a pane."""
    return PaneKey("m", version, START_MS + minute * MINUTE_MS)


def reading(state: PartitionState, minute: int | None = None, segment: str = "") -> dict[str, float | None]:
    """Read every metric over one pane, or over all of them."""
    keys = [key for key in state.panes.held if minute is None or key == pane(minute, key.version)]
    engine = state.engine_of("m", keys[0].version) if keys else state.engine_of("m", "v1")
    cells = {lane: engine.merge_all(lane, [state.panes.held[key].cells[lane] for key in keys]) for lane in LANES}
    return {result.metric: result.value for result in engine.results(cells) if result.segment == segment}


# -- the world -----------------------------------------------------------------------------------------------------------


class EndedError(Exception):
    """The process has ended."""


@dataclass
class PromptWorld(World):
    """A world in which nobody waits. `ends_before` is the number of the step that is not taken any more, or its name."""

    taken: list[str] = field(default_factory=list)
    ends_before: int | str | None = None

    async def step(self, actor: Any, name: str) -> None:
        self.take(name)

    def take(self, name: str) -> None:
        """Take a step, or end before it."""
        if name == self.ends_before or len(self.taken) == self.ends_before:
            raise EndedError(name)
        self.taken.append(name)


@dataclass
class Log:
    """Kafka, as the protocol sees it: offsets there are, what was sent, what was acknowledged."""

    world: PromptWorld
    topic: str = "t-1"
    begin: int = 0
    end: int = 1_000
    partitions: int = 1
    letters: list[DeadLetter] = field(default_factory=list)
    notices: list[FlushRow] = field(default_factory=list)
    acknowledged: list[tuple[int, int]] = field(default_factory=list)

    async def topic_id(self, topic: str) -> str:
        return self.topic

    async def offset_range(self, topic: str, partition: int) -> tuple[int, int]:
        return self.begin, self.end

    async def send_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        await self.world.step(self, "send dead letters")
        self.letters += letters

    async def send_notices(self, rows: Sequence[FlushRow]) -> None:
        await self.world.step(self, "send notices")
        self.notices += rows

    def acknowledge(self, topic: str, partition: int, next_offset: int) -> None:
        self.world.take("acknowledge")
        self.acknowledged.append((partition, next_offset))

    async def partitions_count(self, topic: str) -> int:
        return self.partitions


class PoisonError(Exception):
    """What a record that nobody thought of makes the decoder raise."""


def decode_or_fail(fetched: Fetch, known: Catalogue, settings: StreamSettings) -> Decoded:
    """The production decoder, with a weakness."""
    if any(value is not None and b"poison" in value for value in fetched.values):
        raise PoisonError("a record that nobody thought of")
    return decode(fetched, known, settings)


@dataclass
class Place:
    """Where owners live: what survives them, and how to become one."""

    world: PromptWorld
    log: Log
    clock: ManualClock
    ports: Ports
    engines: Engines

    async def take(self, owner: str = "a", partition: int = 0) -> Owner:
        """Take the partition over."""
        known = self.world.catalogue
        return await take_over(TOPIC, partition, owner, known, self.engines, self.ports, asyncio.Lock())

    async def apply(self, owner: Owner, first: int, *values: bytes) -> None:
        """Apply a fetch that ends the log."""
        await owner.apply(fetch(first, *values, partition=owner.partition), caught_up=True, is_known=True)

    async def flush(self, *owners: Owner, labels: bool = True) -> list[str]:
        """Flush both lanes; gives the steps that were taken."""
        before = len(self.world.taken)
        await flush(owners, self.ports, labels=labels)
        return self.world.taken[before:]


def place(known: Catalogue | None = None, **settings: Any) -> Place:
    """Make a world, empty."""
    clock = ManualClock(RECORD_MS)
    known = catalogue() if known is None else known
    world = PromptWorld(known, 1, clock)
    log = Log(world)
    store = MemoryStore(world, log)
    ports = Ports(store, log, clock, decode_or_fail, StreamSettings(**settings))
    return Place(world, log, clock, ports, Engines(known, FqlSettings()))


def in_a_loop(test: Callable[[], Any]) -> Callable[[], None]:
    """Run a test that waits."""

    def run() -> None:
        asyncio.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def stored(there: Place, minute: int | None = None, segment: str = "") -> dict[str, float | None]:
    """Read every metric out of the states in the store."""
    engine = there.engines("m", "v1")
    cells = {lane: engine.init(lane) for lane in LANES}
    for (key, _, lane), record in there.world.states.items():
        if minute is None or key == pane(minute):
            cells[lane] = engine.merge(lane, cells[lane], engine.decode(lane, record.cells)[0])
    return {result.metric: result.value for result in engine.results(cells) if result.segment == segment}
