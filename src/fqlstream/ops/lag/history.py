"""Samples of lag on their way to ClickHouse and back: what the window and the drawings of `lag --since` are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fqlstream.ops.lag.judgement import Sample
from fqlstream.ops.lag.places import Place
from fqlstream.ops.lag.report import LagReport
from fqlstream.store.client import Store
from fqlstream.store.lag_history import LagRow, read_samples, write_samples

Key = tuple[str, Place]


class LagHistory:
    """Keeps samples in a store. Raises StoreError wherever that does not answer, or lacks the table (`fqlstream schema apply`)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self, cluster: str, groups: Sequence[str], since_ms: int) -> dict[Key, list[Sample]]:
        """Give the samples of groups from a time on (Unix ms), the oldest first."""
        found: dict[Key, list[Sample]] = {}
        for row in read_samples(self._store, cluster, groups, since_ms):
            key = row.consumer_group, Place(row.topic, row.partition)
            found.setdefault(key, []).append(Sample(row.at, row.committed, row.log_end, row.is_left, row.is_held))
        return found

    def save(self, report: LagReport, samples: Mapping[Key, Sample]) -> None:
        """Store what a look has seen of partitions with a commit."""
        rows = [
            LagRow(
                report.cluster, group.group, each.topic, each.partition, sample.at_ms, sample.committed, sample.end,
                sample.lag_records, each.lag_rows, each.lag_seconds, sample.is_left, sample.is_held, str(each.status),
            )
            for group in report.groups
            for each in group.partitions
            if (sample := samples.get((group.group, Place(each.topic, each.partition)))) is not None
        ]  # fmt: skip
        if rows:
            write_samples(self._store, rows)
