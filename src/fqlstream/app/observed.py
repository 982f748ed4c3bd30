"""What a worker tells of itself when somebody asks: whether it does its work, and its gauges."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from typing import Protocol

from fqlstream.app.ledger import Held, Ledger
from fqlstream.app.numbers import Reading
from fqlstream.app.retries import Trouble
from fqlstream.app.transport import Progress
from fqlstream.ops import numbers as rows
from fqlstream.stream.delivery import Owner
from fqlstream.stream.finalise import FinalMemory, ModelFinaliser
from fqlstream.stream.record_delivery import RecordOwner


class Status(StrEnum):
    """Whether a worker does its work."""

    OK = "ok"
    STARTING = "starting"  # no assignment yet, or partitions that are being taken over
    TROUBLE = "trouble"  # it waits for ClickHouse or Kafka; nothing is lost
    STUCK = "stuck"  # something in it has not moved for so long that it is about to be ended


@dataclass(frozen=True, slots=True)
class PartitionsHeld:
    """Partitions of one topic: those that the group assigned, and those of them that are taken over."""

    assigned: int
    taken: int


@dataclass(frozen=True, slots=True)
class Health:
    """One look. `slowest` is what has to move and has not for longest, with the seconds."""

    status: Status
    partitions: Mapping[str, PartitionsHeld]
    trouble: Sequence[Trouble]
    slowest: tuple[str, float] | None

    @property
    def is_ready(self) -> bool:
        """Whether it does all that it is there for."""
        return self.status is Status.OK

    @property
    def is_live(self) -> bool:
        """Whether there is no use in starting it again: being away is the fault of something else."""
        return self.status is not Status.STUCK


def health_of(
    partitions: Mapping[str, PartitionsHeld] | None,
    trouble: Sequence[Trouble],
    slowest: tuple[str, float] | None,
    stuck_s: float,
) -> Health:
    """Judge a worker; `partitions` is None before its first assignment."""
    held = partitions or {}
    if slowest is not None and slowest[1] > stuck_s:
        status = Status.STUCK
    elif trouble:
        status = Status.TROUBLE
    elif partitions is None or any(each.taken < each.assigned for each in held.values()):
        status = Status.STARTING
    else:
        status = Status.OK
    return Health(status, held, trouble, slowest)


def held_partitions(ledger: Ledger) -> Mapping[str, PartitionsHeld] | None:
    """Count the partitions of a worker; None before its first assignment."""
    if ledger.generation is None:
        return None
    found: dict[str, PartitionsHeld] = {}
    for held in ledger.all_held():
        topic = held.partition.topic
        before = found.get(topic, PartitionsHeld(0, 0))
        found[topic] = PartitionsHeld(before.assigned + 1, before.taken + (held.position is not None))
    return found


class Source(Protocol):
    """What is asked of the transport."""

    @property
    def ledger(self) -> Ledger:
        """The partitions and what is on its way to them."""
        ...

    @property
    def commit_age_s(self) -> float:
        """For how long offsets wait to be committed."""
        ...

    def progress(self, held: Held) -> Progress | None:
        """Say how far a log reaches, as the broker last told."""
        ...


def readings_of_source(source: Source, durable: Mapping[tuple[str, int], int]) -> Iterator[Reading]:
    """Read the gauges of a worker's transport; `durable` gives the offsets below which all is in ClickHouse."""
    yield rows.QUEUED_BYTES, source.ledger.queued_bytes, ()
    yield rows.COMMIT_AGE, source.commit_age_s, ()
    for topic, held in (held_partitions(source.ledger) or {}).items():
        yield rows.PARTITIONS, held.assigned, (topic,)
    for held_one in source.ledger.all_held():
        topic, partition = held_one.partition
        progress, flushed = source.progress(held_one), durable.get((topic, partition))
        if progress is not None and flushed is not None:
            yield rows.PARTITION_LAG, max(0, progress.log_end - flushed), (topic, str(partition))


def readings_of_owners(topic: str, owners: Sequence[Owner], flushed_s: float) -> Iterator[Reading]:
    """Read the gauges of the partitions whose events are counted; `flushed_s`: when the last flush ended (monotonic)."""
    states = [owner.state for owner in owners]
    yield rows.PANES, sum(len(state.panes.held) for state in states), ()
    yield rows.PANES_BYTES, sum(state.panes.bytes_count for state in states), ()
    yield rows.PANES_UNWRITTEN_BYTES, sum(state.panes.unwritten_bytes() for state in states), ()
    yield rows.RECENT_BYTES, sum(state.recent.bytes_count for state in states), ()
    yield rows.IDS, sum(len(state.index) for state in states), ()
    yield rows.LABELS_WAITING, sum(len(room) for state in states for room in state.waiting.values()), ()
    yield from _readings_of_flushes(topic, owners, flushed_s)


def readings_of_record_owners(topic: str, owners: Sequence[RecordOwner], flushed_s: float) -> Iterator[Reading]:
    """Read the gauges of the partitions of recorded metrics."""
    yield rows.LISTS, sum(len(owner.state.lists) for owner in owners), ()
    yield from _readings_of_flushes(topic, owners, flushed_s)


def _readings_of_flushes(
    topic: str, owners: Sequence[Owner] | Sequence[RecordOwner], flushed_s: float
) -> Iterator[Reading]:
    waits = any(owner.state.next_offset > owner.flushed_offset for owner in owners)
    yield rows.BACKLOG_BYTES, sum(owner.unwritten_bytes for owner in owners), (topic,)
    yield rows.FLUSH_AGE, time.monotonic() - flushed_s if waits else 0.0, (topic,)


def readings_of_publishing(
    finalisers: Mapping[str, ModelFinaliser], memory: FinalMemory, now_ms: int, models_max: int
) -> Iterator[Reading]:
    """Read the gauges of what this worker publishes: of so many models, those whose time is furthest behind."""
    yield rows.BLOCKS, len(memory.blocks), ()
    yield rows.BLOCKS_BYTES, memory.blocks.weight, ()
    known = [
        (finaliser.published.watermark_ms, model, len(finaliser.open))
        for model, finaliser in finalisers.items()
        if finaliser.published is not None and finaliser.published.watermark_ms is not None
    ]
    for watermark_ms, model, open_count in sorted(known)[:models_max]:
        yield rows.WATERMARK_DELAY, (now_ms - watermark_ms) / 1000, (model,)
        yield rows.OPEN_WINDOWS, open_count, (model,)


def readings_of_process(models_count: int, health: Health, loop_delay_s: float) -> Iterator[Reading]:
    """Read the gauges of the process as a whole."""
    yield rows.BUILD, 1, (version("fqlstream"),)
    yield rows.READY, int(health.is_ready), ()
    yield rows.MODELS, models_count, ()
    yield rows.LOOP_DELAY, loop_delay_s, ()
    trouble = {each.part: each.for_s for each in health.trouble}
    for part in sorted({"ClickHouse", "Kafka", *trouble}):
        yield rows.OUTSIDE_TROUBLE, trouble.get(part, 0.0), (part,)
