from __future__ import annotations

from fqlstream.ops.lag.judgement import Status
from fqlstream.ops.lag.report import PARTITION_KEYS, GroupLag, LagReport, PartitionLag, totals


def lagging(topic: str = "t", partition: int = 0, records: int | None = 5, **changes: object) -> PartitionLag:
    known: dict[str, object] = {
        "committed": None if records is None else 10, "start": 0, "end": 20, "lag_records": records, "lag_rows": records,
        "lag_seconds": None if records is None else float(records), "status": Status.OK, "why": "because", **changes,
    }  # fmt: skip
    return PartitionLag(topic=topic, partition=partition, **known)


def test_the_keys_are_those_of_the_contract() -> None:
    assert PARTITION_KEYS == (
        "topic", "partition", "committed", "end", "lag_records", "lag_rows", "lag_seconds", "status", "member", "client_id", "host",
        "eta_seconds",
    )  # fmt: skip
    report = LagReport(0, "c", (GroupLag("g", "Stable", 1, (lagging(),)),), 0.1)
    (group,) = report.document()["groups"]
    assert list(group) == ["group", "status", "lag_records", "partitions"]
    assert tuple(group["partitions"][0]) == PARTITION_KEYS


def test_totals_add_up_what_is_known() -> None:
    total = totals([
        lagging(records=5, in_per_s=1.0, out_per_s=2.0, eta_seconds=5.0),
        lagging(records=7, lag_rows=70, status=Status.WARN, in_per_s=3.0, eta_seconds=1.0),
        lagging(records=None, status=None),
    ])  # fmt: skip
    assert (total.partitions, total.lag_records, total.lag_rows, total.lag_seconds) == (3, 12, 75, 7.0)
    assert (total.in_per_s, total.out_per_s, total.eta_seconds, total.status) == (4.0, 2.0, 5.0, Status.WARN)


def test_rows_of_some_are_not_taken_for_rows_of_all() -> None:
    assert totals([lagging(records=5), lagging(records=7, lag_rows=None)]).lag_rows is None
    assert totals([lagging(records=None)]).lag_records is None
    assert totals([lagging(eta_seconds=1.0), lagging(eta_seconds=None)]).eta_seconds is None


def test_partitions_are_added_up_by_topic_and_by_member() -> None:
    group = GroupLag("g", "Stable", 1, (
        lagging("a", 0, 1, member="m"), lagging("a", 1, 2, member="m"), lagging("b", 0, 4), lagging("b", 1, None),
    ))  # fmt: skip
    assert {name: total.lag_records for name, total in group.by_topic().items()} == {"a": 3, "b": 4}
    assert {name: (total.partitions, total.lag_records) for name, total in group.by_member().items()} == {
        "m": (2, 3), "": (2, 4),
    }  # fmt: skip


def test_what_is_hidden_counts_all_the_same() -> None:
    caught_up = lagging("t", 1, 0)
    stuck = lagging("t", 2, 0, status=Status.ERR)
    report = LagReport(0, "c", (GroupLag("g", "Stable", 1, (lagging(), caught_up, stuck)),), 0.1)
    (shown,) = report.only_lagging().groups
    assert [each.partition for each in shown.partitions] == [0, 2]
    assert (shown.total, shown.status) == (report.groups[0].total, Status.ERR)
    assert report.only_lagging().only_lagging() == report.only_lagging()
