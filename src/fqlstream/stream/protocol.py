"""The rows that carry the delivery protocol: flush rows, state records, published values.

A version is the pair (epoch, flush): the epoch counts owners of a partition, the flush counts that owner's flushes.
Rows are absolute, so writing one twice or late changes nothing: the newest version wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fqlstream.fql.plan import Lane

#: In `FlushRow.idle`: the partition was read to its end, so models without rows in it do not wait for it.
CAUGHT_UP = "*"
#: Flush numbers of one epoch stay below this, so that epoch * FLUSHES_PER_EPOCH + flush orders like (epoch, flush).
FLUSHES_PER_EPOCH = 2**32


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Who wrote a row and in which flush; orders rows of one partition."""

    epoch: int
    flush: int

    @property
    def number(self) -> int:
        """One integer in the same order."""
        return self.epoch * FLUSHES_PER_EPOCH + self.flush


@dataclass(frozen=True, slots=True, order=True)
class PaneKey:
    """One pane of one model version; `start_ms` is its first millisecond, UTC."""

    model: str
    version: str
    start_ms: int


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What is known of a record that may have ended owners of a partition; offsets are inclusive.

    `deaths` counts owners that ended without leaving in order: since the fence moved last or, where one offset is suspected,
    while they applied that record alone. `suspects` holds the record, if any does. `trying` is what the writer of the row is
    about to apply alone. `has_left`: the writer may give the partition up and has written what it had.
    """

    deaths: int = 0
    suspects: tuple[int, int] | None = None
    trying: tuple[int, int] | None = None
    has_left: bool = False


@dataclass(frozen=True, slots=True)
class FlushRow:
    """What an owner of a partition says it has durably written.

    `fences` gives per lane the last offset its states contain (-1: none). `watermarks` gives per lane and model the highest
    event time seen up to that fence. `idle` names models that no longer hold back time. `panes` are those this flush touched.
    `adopted` gives per model a digest of what its open panes are computed under.
    """

    topic: str
    partition: int
    version: Version
    owner: str
    topic_id: str
    fences: Mapping[Lane, int]
    watermarks: Mapping[Lane, Mapping[str, int]]
    idle: frozenset[str] = frozenset()
    panes: tuple[PaneKey, ...] = ()
    written_at_ms: int = 0
    counters: Mapping[str, int] = field(default_factory=dict)
    adopted: Mapping[str, str] = field(default_factory=dict)
    suspicion: Suspicion = Suspicion()

    @property
    def fence(self) -> int:
        """The last offset that every lane's states contain."""
        return min(self.fences.values())


@dataclass(frozen=True, slots=True)
class StateRecord:
    """All cells of one lane of one pane of one partition, encoded; `fence` is the last offset they contain."""

    pane: PaneKey
    partition: int
    lane: Lane
    version: Version
    fence: int
    cells: bytes


@dataclass(frozen=True, slots=True, order=True)
class RepairNeed:
    """A pane that its partition's owner shall rebuild from history, once it has applied an offset (-1: at once)."""

    partition: int
    pane: PaneKey
    applied_offset: int = -1


@dataclass(frozen=True, slots=True)
class Published:
    """What a model's finaliser remembers: up to which flush of each partition it has published, under which watermark.

    `definitions` is a digest of the definitions that the values were published under.
    """

    vector: Mapping[int, int] = field(default_factory=dict)
    watermark_ms: int | None = None
    definitions: str = ""

    @property
    def value_version(self) -> int:
        """The version of values published at this point: a sum of terms that only grow."""
        return sum(self.vector.values())


@dataclass(frozen=True, slots=True)
class MetricValue:
    """One published value of one window; the columns of `metric_values` (times in Unix ms)."""

    model: str
    version: str
    metric: str
    segment: str
    window_start_ms: int
    window_end_ms: int
    value: float | None
    rows: int
    labelled_rows: int
    exact: bool
    error_bound: float | None
    status: str  # early, final, revised
    value_version: int
    definition_revision: int
    updated_at_ms: int
