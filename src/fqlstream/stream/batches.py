"""The values that travel through the engine: a fetch in, decoded rows out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import pyarrow as pa

from fqlstream.stream.protocol import RepairNeed

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Fetch:
    """One whole fetch of one partition. The sequences have one entry per record, in offset order.

    `headers` holds only records that have any, by their index. `next_offset` is the offset after the last one read,
    control records included: what a commit of this fetch commits. `start` is where the fetch before it ended, -1 where
    that is not known: nothing lies between `start` and the first record.
    """

    topic: str
    partition: int
    offsets: np.ndarray  # int64
    record_at_ms: np.ndarray  # int64
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Mapping[int, Headers]
    next_offset: int
    bytes_count: int = 0
    start: int = -1

    def __len__(self) -> int:
        return len(self.values)

    def part(self, start: int, end: int) -> Fetch:
        """Give the records from one index up to another; what follows the last record belongs to the last part."""
        return Fetch(
            self.topic,
            self.partition,
            self.offsets[start:end],
            self.record_at_ms[start:end],
            self.keys[start:end],
            self.values[start:end],
            {index - start: headers for index, headers in self.headers.items() if start <= index < end},
            self.next_offset if end == len(self) else int(self.offsets[end]),
        )


class RowKind(StrEnum):
    """What an event says."""

    INFERENCE = "inference"
    LABEL = "label"


@dataclass(frozen=True, slots=True)
class Rows:
    """Decoded rows of one model version and kind, in (offset, row) order.

    `table` columns: offset int64, row int32, record_at int64 (Unix ms), event_at int64 (Unix ms), event_id string, then the
    model's columns by name in the types of `arrow_schema(model, kind)` (a label: only targets and metadata), then
    `_type_violations` and `_range_violations` list<string>, the names of the columns with such a violation.
    """

    model: str
    version: str
    kind: RowKind
    table: pa.Table


@dataclass(frozen=True, slots=True)
class WatermarkMark:
    """A producer's promise: nothing of the model older than this comes in this partition."""

    model: str
    event_at_ms: int
    offset: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What was refused: original bytes, a stable code, a reason a person can act on, and where it came from.

    `row` is "0" for a JSON record and the comma-separated row numbers for a batch. `headers` are the record's own: with key,
    value, partition and time they make it the same record again.
    """

    code: str
    reason: str
    topic: str
    partition: int
    offset: int
    row: str
    key: bytes | None
    value: bytes | None
    record_at_ms: int
    content_type: str | None = None
    headers: Headers = ()

    @classmethod
    def of(
        cls,
        fetch: Fetch,
        at: int,
        code: str,
        reason: str,
        content_type: str | None,
        rows: tuple[str, bytes] | None = None,
    ) -> DeadLetter:
        """Set a record of a fetch aside; `rows` are the numbers and bytes of those rows of a batch that are refused alone."""
        headers = tuple(fetch.headers.get(at, ()))
        if rows is not None:
            count = str(rows[0].count(",") + 1).encode()
            headers = tuple((name, count if name == "rows" else value) for name, value in headers)
        return cls(
            code,
            reason,
            fetch.topic,
            fetch.partition,
            int(fetch.offsets[at]),
            "0" if rows is None else rows[0],
            fetch.keys[at],
            fetch.values[at] if rows is None else rows[1],
            int(fetch.record_at_ms[at]),
            content_type,
            headers,
        )

    @property
    def origin(self) -> str:
        """`topic[partition]@offset`."""
        return f"{self.topic}[{self.partition}]@{self.offset}"


@dataclass(frozen=True, slots=True)
class StoredEvents:
    """Events that history knows by their ids.

    `tables` gives, per model version, the partition's own rows with the targets they have at an offset. `elsewhere` are the
    panes of other partitions that hold such events, `elsewhere_ids` the events' ids.
    """

    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    elsewhere: Sequence[RepairNeed] = ()
    elsewhere_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Decoded:
    """Everything a fetch held.

    `unknown_models` names models that the catalogue lacked, or whose version (their records are dead letters here), and
    `foreign` models whose events may hold columns that it lacks (left out of the rows): a newer catalogue may know them.
    """

    rows: tuple[Rows, ...] = ()
    watermarks: tuple[WatermarkMark, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()
    unknown_models: frozenset[str] = field(default_factory=frozenset)
    foreign: frozenset[str] = field(default_factory=frozenset)
