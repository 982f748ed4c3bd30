"""The report of a look: partitions and groups as they are shown, exported and answered as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from fqlstream.ops.lag.judgement import Status, group_status

#: Keys of a partition in the JSON contract, in its order.
PARTITION_KEYS: Final = (
    "topic", "partition", "committed", "end", "lag_records", "lag_rows", "lag_seconds", "status", "member", "client_id", "host",
    "eta_seconds",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition of a group. None: not known, as all that depends on a commit is where there is none.

    `lag_records` counts offsets, holes and markers too, as Kafka's own tool does; `lag_rows` the rows of the records that a reader would
    still get; `lag_seconds` the age of the first of them. `why` says the status in words; `start` is the log's first offset.
    """

    topic: str
    partition: int
    committed: int | None
    start: int | None
    end: int | None
    lag_records: int | None
    lag_rows: int | None
    lag_seconds: float | None
    status: Status | None
    why: str
    member: str | None = None
    client_id: str | None = None
    host: str | None = None
    in_per_s: float | None = None
    out_per_s: float | None = None
    eta_seconds: float | None = None

    @property
    def is_lagging(self) -> bool:
        """Say whether there is anything to see: something is left to read, or somebody should look."""
        return self.status not in (Status.OK, None) or bool(self.lag_seconds) or bool(self.lag_rows)

    def document(self) -> dict[str, Any]:
        """Give the keys of the JSON contract."""
        return {key: getattr(self, key) for key in PARTITION_KEYS}


@dataclass(frozen=True, slots=True)
class Totals:
    """Several partitions together: sums, but for `lag_seconds`, the oldest, and `eta_seconds`, the longest. None: nothing is known."""

    partitions: int
    lag_records: int | None
    lag_rows: int | None
    lag_seconds: float | None
    in_per_s: float | None
    out_per_s: float | None
    eta_seconds: float | None
    status: Status


@dataclass(frozen=True, slots=True)
class GroupLag:
    """One group. `state` is Kafka's word for it. `hidden` partitions are not shown, but count in all that is said of the group."""

    group: str
    state: str
    member_count: int
    partitions: tuple[PartitionLag, ...]
    hidden: tuple[PartitionLag, ...] = ()

    @property
    def all_partitions(self) -> tuple[PartitionLag, ...]:
        """Those that are shown, and those that are not."""
        return self.partitions + self.hidden

    @property
    def total(self) -> Totals:
        """All its partitions together."""
        return totals(self.all_partitions)

    @property
    def status(self) -> Status:
        """OK, WARN or ERR."""
        return group_status([each.status for each in self.all_partitions])

    def by_topic(self) -> dict[str, Totals]:
        """Its partitions together, topic by topic."""
        return _grouped(self.all_partitions, lambda each: each.topic)

    def by_member(self) -> dict[str, Totals]:
        """Its partitions together, member by member; the empty name holds what nobody does."""
        return _grouped(self.all_partitions, lambda each: each.member or "")


@dataclass(frozen=True, slots=True)
class LagReport:
    """One look at some groups, at a time (Unix ms) of this machine's clock; `took_s` is how long it took.

    `left_out`: what may be missing, so that nobody takes it for fine; `notes`: what went wrong without changing the figures.
    """

    at_ms: int
    cluster: str
    groups: tuple[GroupLag, ...]
    took_s: float
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """All that is to be said beside the figures."""
        return self.left_out + self.notes

    def document(self) -> dict[str, Any]:
        """Give the JSON contract of `fqlstream lag`."""
        return {
            "groups": [
                {
                    "group": group.group,
                    "status": group.status,
                    "lag_records": group.total.lag_records,
                    "partitions": [each.document() for each in group.partitions],
                }
                for group in self.groups
            ]
        }

    def only_lagging(self) -> LagReport:
        """Hide partitions with nothing to see; every group stays."""
        return replace(self, groups=tuple(_only_lagging(group) for group in self.groups))


def _only_lagging(group: GroupLag) -> GroupLag:
    shown = tuple(each for each in group.all_partitions if each.is_lagging)
    return replace(group, partitions=shown, hidden=tuple(each for each in group.all_partitions if not each.is_lagging))


def totals(partitions: Sequence[PartitionLag]) -> Totals:
    """Take partitions together. What is not known of one is left out of a sum, but for rows: a sum of some would be taken for all."""
    counted = [each for each in partitions if each.committed is not None]
    rows = [each.lag_rows for each in counted]
    etas = [each.eta_seconds for each in counted]
    return Totals(
        len(partitions),
        _sum(each.lag_records for each in counted),
        None if None in rows else _sum(rows),
        max((each.lag_seconds for each in counted if each.lag_seconds is not None), default=None),
        _sum(each.in_per_s for each in counted),
        _sum(each.out_per_s for each in counted),
        None if None in etas else max((eta for eta in etas if eta is not None), default=None),
        group_status([each.status for each in partitions]),
    )


def _sum(values: Iterable[Any]) -> Any:
    """Add up what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _grouped(partitions: Sequence[PartitionLag], name: Callable[[PartitionLag], str]) -> dict[str, Totals]:
    groups: dict[str, list[PartitionLag]] = {}
    for each in partitions:
        groups.setdefault(name(each), []).append(each)
    return {key: totals(each) for key, each in sorted(groups.items())}
