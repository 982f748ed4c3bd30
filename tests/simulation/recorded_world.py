"""A world in memory for the record agent's production code: a log, a store, owners that are stopped between any two steps.

Every call to a port lets somebody else go first, before it has had its effect and after. An owner that is not let on for long is a
paused one: when it goes on, its successor has long been at work. Everything is drawn from one seed.
"""

from __future__ import annotations

import json
import math
import random
import types
from collections.abc import Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fqlstream.aggregates.running import RunningSummary
from fqlstream.events.refusals import LIST_FULL
from fqlstream.settings import RecordSettings
from fqlstream.stream.batches import DeadLetter, Fetch
from fqlstream.stream.protocol import FLUSHES_PER_EPOCH, FlushRow, Version
from fqlstream.stream.record_delivery import (
    RecordOwner,
    RecordPorts,
    Verdict,
    flush_recorded,
    take_over_recorded,
)
from fqlstream.stream.recorded import (
    ForgetRow,
    JobRow,
    Limits,
    ListKey,
    ListRow,
    ListState,
    Needs,
    PipelineRow,
    Refused,
    Row,
    Summary,
)

TOPIC = "metric-events"
PARTITION = 0
LIST_VALUES_MAX = 12


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Let somebody else go first."""
    yield


class Mutex:
    """A lock for coroutines that are driven by hand."""

    def __init__(self) -> None:
        self.held = False

    async def __aenter__(self) -> None:
        while self.held:
            await turn()
        self.held = True

    async def __aexit__(self, *_: object) -> None:
        self.held = False


@dataclass
class Replacing:
    """A ReplacingMergeTree: of the rows of one key the one with the highest version, of equal ones the last."""

    rows: dict[Any, tuple[int, bool, Any]] = field(default_factory=dict)

    def put(self, key: Any, version: int, row: Any, *, is_forgotten: bool = False) -> None:
        if key not in self.rows or self.rows[key][0] <= version:
            self.rows[key] = (version, is_forgotten, row)

    def visible(self) -> dict[Any, Any]:
        return {key: row for key, (_, is_forgotten, row) in self.rows.items() if not is_forgotten}


@dataclass
class World:
    """Log and store; what survives every death."""

    log: list[bytes]
    flushes: dict[tuple[int, str], FlushRow] = field(default_factory=dict)
    pipeline: Replacing = field(default_factory=Replacing)
    lists: Replacing = field(default_factory=Replacing)
    jobs: Replacing = field(default_factory=Replacing)
    summaries: Replacing = field(default_factory=Replacing)
    letters: dict[int, tuple[str, str]] = field(default_factory=dict)
    sent_letters: list[int] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    committed: int = 0
    complaints: list[str] = field(default_factory=list)
    wanted: Any = None  # the model's answer, for what is told to be readable

    def now_ms(self) -> int:
        return 1_795_255_200_000

    def monotonic_s(self) -> float:
        return 0.0

    # -- flush rows

    async def newest_flush(self, topic: str, partition: int) -> FlushRow | None:
        await turn()
        newest = max(self.flushes.values(), key=lambda row: (row.version, row.owner), default=None)
        await turn()
        return newest

    async def newest_flushes(self, topic: str) -> Sequence[FlushRow]:
        newest = await self.newest_flush(topic, PARTITION)
        return [] if newest is None else [newest]

    async def owners_from(self, topic: str, partition: int, epoch: int) -> Mapping[str, int]:
        await turn()
        found = {row.owner: row.version.epoch for row in self.flushes.values() if row.version.epoch >= epoch}
        await turn()
        return found

    async def write_flushes(self, rows: Sequence[FlushRow]) -> None:
        await turn()
        for row in rows:
            key = (row.version.epoch, row.owner)
            if key not in self.flushes or self.flushes[key].version <= row.version:
                self.flushes[key] = row
        await turn()

    # -- rows

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        await turn()
        for letter in letters:
            self.letters[letter.offset] = (letter.code, letter.reason)
        await turn()

    async def write_recorded(self, rows: Mapping[int, Sequence[Row]]) -> None:
        for kind in (ListRow, PipelineRow, JobRow):
            await turn()
            for row in rows.get(PARTITION, ()):
                if isinstance(row, kind):
                    self._put(row)
        await turn()

    def _put(self, row: Row) -> None:
        match row:
            case PipelineRow():
                self.pipeline.put((row.execution_id, row.name), row.offset, row.value)
            case JobRow():
                self.jobs.put((row.job_id, row.name, row.step), row.offset, row.value)
            case ListRow():
                self.lists.put((row.execution_id, row.name, row.offset), row.offset, row)

    async def forget_recorded(self, partition: int, forgotten: Sequence[ForgetRow]) -> None:
        for row in forgotten:
            for table in (self.pipeline, self.lists) if row.kind == "execution" else (self.jobs,):
                await turn()
                for key, (version, is_forgotten, _) in list(table.rows.items()):
                    if key[0] == row.id and version < row.offset and not is_forgotten:
                        table.put(key, row.offset, None, is_forgotten=True)
        await turn()

    async def write_summaries(self, summaries: Mapping[int, tuple[Version, Sequence[Summary]]]) -> None:
        await turn()
        version, found = summaries.get(PARTITION, (Version(0, 0), ()))
        for one in found:
            self.summaries.put((one.execution_id, one.name), version.number, one)
        await turn()

    async def read_lists(self, partition: int, needs: Needs) -> Mapping[ListKey, ListState]:
        await turn()
        found = {}
        for (execution, name), (version, _, one) in self.summaries.rows.items():
            key = ListKey(execution, name)
            if key not in needs.lists and execution not in needs.executions:
                continue
            if one.is_forgotten:
                found[key] = ListState.empty(one.fence, is_forgotten=True, epoch=version // FLUSHES_PER_EPOCH)
                continue
            rows = [row for row in self.rows_of(key) if row.offset <= one.fence]
            values = [value for row in rows for value in row.values.tolist()]
            summary = RunningSummary.decode(one.state, values)
            epoch = version // FLUSHES_PER_EPOCH
            found[key] = ListState(summary, one.fence, one.created_us, one.updated_us, epoch=epoch)
        await turn()
        return found

    def rows_of(self, key: ListKey) -> list[ListRow]:
        found = [
            row
            for (execution, name, _), row in self.lists.visible().items()
            if (execution, name) == (key.execution_id, key.name)
        ]
        return sorted(found, key=lambda row: row.start)

    async def refused_from(self, partition: int, offset: int) -> Mapping[int, Refused]:
        await turn()
        found = {at: Refused(0, code, reason) for at, (code, reason) in self.letters.items() if at >= offset}
        await turn()
        return found

    # -- Kafka

    async def topic_id(self, topic: str) -> str:
        return "id"

    async def offset_range(self, topic: str, partition: int) -> tuple[int, int]:
        return 0, len(self.log)

    async def send_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        await turn()
        self.sent_letters += [letter.offset for letter in letters]
        await turn()

    def send_verdict(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        # what is said to be readable is there at this very moment, or was replaced by what came later
        for offset, outcome in enumerate(self.wanted.outcomes[: verdict.readable + 1]):
            self._see_readable(offset, outcome)

    def _see_readable(self, offset: int, outcome: Any) -> None:
        match outcome:
            case Refused():
                is_there = offset in self.letters
            case ("list", execution, name):
                is_there = (execution, name, offset) in self.lists.rows
            case ("pipeline", *key):
                is_there = self.pipeline.rows.get(tuple(key), (-1,))[0] >= offset
            case ("job", *key):
                is_there = self.jobs.rows.get(tuple(key), (-1,))[0] >= offset
            case _:
                is_there = True
        if not is_there:
            self.complaints.append(f"offset {offset} is told to be readable, and is not: {outcome}")

    def acknowledge(self, topic: str, partition: int, next_offset: int) -> None:
        self.committed = max(self.committed, next_offset)


@dataclass(eq=False)
class Worker:
    """One process that holds the partition, or thinks so."""

    name: str
    world: World
    draw: random.Random
    limits: Limits
    running: list[Coroutine[Any, Any, None]] = field(default_factory=list)
    owner: RecordOwner | None = None

    def start(self) -> None:
        self.running = [self._live()]

    async def _live(self) -> None:
        ports = RecordPorts(self.world, self.world, self.world, self.limits)
        self.owner = await take_over_recorded(TOPIC, PARTITION, self.name, ports, Mutex())
        self.running += [self._read(self.owner), self._flush(self.owner, ports)]

    async def _read(self, owner: RecordOwner) -> None:
        while owner.state.next_offset < len(self.world.log) and not owner.superseded:
            await turn()
            # now and then somebody goes back: what was read is given again
            start = max(0, owner.state.next_offset - self.draw.choice((0, 0, 0, 2)))
            end = min(len(self.world.log), owner.state.next_offset + self.draw.randint(1, 9))
            async with owner.lock:
                await owner.apply(fetch_of(self.world.log, start, end))

    async def _flush(self, owner: RecordOwner, ports: RecordPorts) -> None:
        while True:  # once at least: a predecessor's commit may be missing
            await turn()
            await flush_recorded([owner], ports)
            if owner.superseded or owner.flushed_offset == len(self.world.log):
                return

    def step(self) -> None:
        """Let one of its tasks go on."""
        task = self.draw.choice(self.running)
        try:
            task.send(None)
        except StopIteration:
            self.running.remove(task)

    def die(self) -> None:
        for task in self.running:
            task.close()
        self.running = []


def fetch_of(log: Sequence[bytes], start: int, end: int) -> Fetch:
    count = end - start
    times = np.full(count, 1_795_255_200_000, np.int64)
    return Fetch(
        TOPIC, PARTITION, np.arange(start, end), times, [None] * count, list(log[start:end]), {}, end, start=start
    )


# ---- what should come of a log, by the rules alone --------------------------------------------------------------------


@dataclass
class Model:
    """What a log comes to, one record after the other; knows nothing of fetches, fences and owners."""

    pipeline: dict[tuple[str, str], float] = field(default_factory=dict)
    jobs: dict[tuple[str, str, int], float] = field(default_factory=dict)
    lists: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    outcomes: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, log: Sequence[bytes]) -> Model:
        model = cls()
        for value in log:
            model.outcomes.append(model._take(value))
        return model

    def _take(self, value: bytes) -> Any:
        try:
            event = json.loads(value)
        except ValueError:
            return Refused(0, "DLQ005", "")
        match event["type"]:
            case "pipeline_metric":
                self.pipeline[event["id"], event["name"]] = event["value"]
                return ("pipeline", event["id"], event["name"])
            case "job_metric":
                self.jobs[event["id"], event["name"], event["step"]] = event["value"]
                return ("job", event["id"], event["name"], event["step"])
            case "forget":
                tables = (self.pipeline, self.lists) if event["kind"] == "execution" else (self.jobs,)
                for table in tables:
                    for key in [key for key in table if key[0] == event["id"]]:
                        del table[key]
                return ("forget",)
            case _:
                known = self.lists.get((event["id"], event["name"]), [])
                if len(known) + len(event["values"]) > LIST_VALUES_MAX:
                    return Refused(0, LIST_FULL.code, "", len(known))
                self.lists[event["id"], event["name"]] = known + event["values"]
                return ("list", event["id"], event["name"])


def drawn_log(draw: random.Random) -> list[bytes]:
    """Draw records of few executions, lists and jobs, so that they meet: limits, forgetting, replacing, broken ones."""
    log: list[dict[str, Any]] = []
    for number in range(draw.randint(5, 60)):
        who = draw.choice(("a", "b"))
        kind = draw.choices(("list", "pipeline", "job", "forget", "broken"), (10, 3, 3, 1, 1))[0]
        name = draw.choice(("x", "y", "z"))
        match kind:
            case "list":
                values = [number + share / 8 for share in range(draw.randint(1, 5))]
                log.append({"type": "list_metric", "id": who, "name": name, "values": values})
            case "pipeline":
                log.append({"type": "pipeline_metric", "id": who, "name": name, "value": number})
            case "job":
                step = draw.randint(-1, 2)
                log.append({"type": "job_metric", "id": who, "name": name, "value": number, "step": step})
            case "forget":
                log.append({"type": "forget", "kind": draw.choice(("execution", "job")), "id": who})
            case "broken":
                log.append({})
    return [json.dumps(event).encode() if event else b"{" for event in log]


def simulate(seed: int) -> World:
    """Run a history: owners that come, sleep, wake and die, then one that lives. Raises AssertionError for what is wrong."""
    draw = random.Random(seed)
    world = World(drawn_log(draw))
    world.wanted = Model.of(world.log)
    # few lists in memory, so that they come and go; few deaths, so that many sleep and wake
    limits = Limits(RecordSettings(list_values_max=LIST_VALUES_MAX, lists_max=draw.choice((1, 1, 3))))
    deaths, patience = draw.choice((0.0, 0.5)), draw.choice((0, 1, 2))
    workers: list[Worker] = []
    for number in range(draw.randint(0, 5)):
        workers.append(worker := Worker(f"w{number}", world, draw, limits))
        worker.start()
        for _ in range(draw.choice((3, 30, 200))):
            live = [one for one in workers if one.running]
            if live:
                draw.choice([*[live[-1]] * patience, draw.choice(live)]).step()
        if draw.random() < deaths:
            draw.choice(workers).die()
    workers.append(last := Worker("last", world, draw, limits))
    last.start()
    for _ in range(100_000):
        live = [one for one in workers if one.running]
        if not live:
            break
        draw.choice([last, draw.choice(live)] if last.running else live).step()
    assert not last.running, "it does not come to its end"
    judge(world)
    return world


def judge(world: World) -> None:
    """Hold what is stored and what was told against the model."""
    wanted: Model = world.wanted
    assert not world.complaints, world.complaints[0]
    assert world.pipeline.visible() == wanted.pipeline
    assert world.jobs.visible() == wanted.jobs
    stored: dict[tuple[str, str], list[float]] = {}
    for execution, name, _ in sorted(world.lists.visible()):
        rows = world.rows_of(ListKey(execution, name))
        assert [row.start for row in rows] == [sum(len(r.values) for r in rows[:at]) for at in range(len(rows))]
        stored[execution, name] = [value for row in rows for value in row.values.tolist()]
    assert stored == wanted.lists
    refused = {offset: one for offset, one in enumerate(wanted.outcomes) if isinstance(one, Refused)}
    assert {offset: code for offset, (code, _) in world.letters.items()} == {
        at: one.code for at, one in refused.items()
    }
    assert set(world.sent_letters) == refused.keys()
    for verdict in world.verdicts:
        told = {offset: one.code for offset, one in verdict.refused.items()}
        assert told == {at: one.code for at, one in refused.items() if verdict.first <= at <= verdict.applied}, verdict
    assert world.committed == len(world.log)
    _judge_summaries(world, wanted)


def _judge_summaries(world: World, wanted: Model) -> None:
    left = {key: one for key, (_, _, one) in world.summaries.rows.items() if not one.is_forgotten}
    assert left.keys() == wanted.lists.keys()
    for key, values in wanted.lists.items():
        whole = RunningSummary()
        whole.learn(values)
        one = left[key]
        assert (one.count, one.mean, one.variance, one.min, one.max) == (
            len(values), whole.mean, whole.variance, min(values), max(values)
        )  # fmt: skip
        assert one.quantiles == {str(rank): value for rank, value in whole.quantiles().items()}
        assert math.isfinite(one.mean or 0.0)
