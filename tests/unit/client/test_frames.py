from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from aiokafka.partitioner import DefaultPartitioner
from tests.unit.stream.test_arrow_events import CONTENT_TYPE, fetch
from tests.unit.stream.test_decode import CATALOGUE, NOW, SETTINGS

from fqlstream.client.frames import ARROW_CONTENT_TYPE, Batch, event_table, frame_table, partition_batches
from fqlstream.errors import UsageError
from fqlstream.stream.decode import decode

ROWS = 1_000


def frame(rows: int = ROWS) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "request": [f"r-{row}" for row in range(rows)],
            "at": pd.to_datetime(np.arange(rows) + NOW - rows, unit="ms"),
            "age": np.arange(rows) % 80 + 18,
            "score": np.where(np.arange(rows) % 10 == 0, np.nan, 0.5),
            "country": pd.Categorical(["FR", "DE"] * (rows // 2)),
        }
    )


def batches_of(
    table: pa.Table, partitions: int = 4, rows_max: int = 10_000, bytes_max: int = 2**20, key: str | None = None
) -> list[Batch]:
    return list(partition_batches(table, partitions, rows_max, bytes_max, key))


def test_a_frame_arrives_row_by_row_in_the_partition_of_its_id() -> None:
    batches = batches_of(event_table(frame_table(frame()), "request", "at"), rows_max=100)
    assert ARROW_CONTENT_TYPE == CONTENT_TYPE
    assert len(batches) > 8
    headers = {"content-type": ARROW_CONTENT_TYPE, "model": b"fraud"}
    found = decode(fetch([b.value for b in batches], dict.fromkeys(range(len(batches)), headers)), CATALOGUE, SETTINGS)
    assert not found.dead_letters
    (rows,) = found.rows
    table = rows.table.to_pandas()
    every = list(range(4))
    for offset, part in table.groupby("offset"):
        batch = batches[offset - 10]
        assert batch.rows_count == len(part) <= 100
        assert batch.key.decode() in set(part["event_id"])
        assert {DefaultPartitioner()(name.encode(), every, every) for name in part["event_id"]} == {batch.partition}
        numbers = part["event_id"].str[2:].astype(int)
        assert numbers.is_monotonic_increasing
    sent = frame().set_index("request").loc[table["event_id"]].reset_index()
    assert sorted(table["event_id"]) == sorted(frame()["request"])
    assert (table["event_at"] == sent["at"].astype("datetime64[ms]").astype("int64")).all()
    assert (table["age"] == sent["age"]).all()
    assert table["score"].isna().tolist() == sent["score"].isna().tolist()
    assert table["country"].tolist() == sent["country"].tolist()


@pytest.mark.parametrize("bytes_max", [2_000, 5_000])
def test_no_batch_is_larger_than_allowed_where_rows_differ_in_size(bytes_max: int) -> None:
    texts = ["x" * (10 if row % 100 else 1_500) for row in range(500)]
    table = event_table(pa.table({"event_id": np.arange(500), "plan": texts}), "event_id", None)
    batches = batches_of(table, partitions=3, bytes_max=bytes_max)
    assert sum(batch.rows_count for batch in batches) == 500
    assert all(len(batch.value) <= bytes_max or batch.rows_count == 1 for batch in batches)


def test_a_key_column_keeps_its_rows_together() -> None:
    table = event_table(
        pa.table({"event_id": np.arange(600), "query": [f"q-{row // 30}" for row in range(600)]}), "event_id", None
    )
    batches = batches_of(table, partitions=5, key="query")
    seen: dict[str, int] = {}
    for batch in batches:
        for query in pa.ipc.open_stream(batch.value).read_all()["query"].to_pylist():
            assert seen.setdefault(query, batch.partition) == batch.partition
    assert len(seen) == 20
    assert len(set(seen.values())) > 1


def test_an_empty_frame_is_no_batch() -> None:
    assert batches_of(event_table(frame_table(frame(0)), "request", "at")) == []


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pa.array(["2026-11-21T10:00:00Z", None]), [NOW, None]),
        (pa.array([float(NOW), float("nan")]), [NOW, None]),
        (pa.array([NOW, None]), [NOW, None]),
        (pa.array([20_778, None], pa.int32()).cast(pa.date32()), [20_778 * 86_400_000, None]),
    ],
)
def test_times_of_many_types(times: pa.Array, expected: list[int | None]) -> None:
    table = event_table(pa.table({"id": ["a", "b"], "at": times}), "id", "at")
    column = table["event_at"]
    assert column.cast(pa.timestamp("ms")).cast(pa.int64()).to_pylist() == expected


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ({"id": ["a", None]}, "row 1 has no event id"),
        ({"id": ["", "a"]}, "row 0 has no event id"),
        ({"id": [1.5, 2.5]}, "not text or integers"),
        ({"other": [1]}, "no column 'id'"),
        ({"id": ["a", "b"], "at": ["2026-11-21T10:00:00", "x"]}, "row 0"),
        ({"id": ["a", "b"], "at": [1.0, 1.5]}, "row 1"),
        ({"id": ["a", "b"], "at": [[1], [2]]}, "event times are"),
    ],
)
def test_a_frame_without_usable_ids_or_times_is_refused(columns: dict[str, Any], part: str) -> None:
    table = pa.table(columns)
    with pytest.raises(UsageError, match=part) as caught:
        event_table(table, "id", "at" if "at" in columns else None)
    assert caught.value.code == "SDK005"


def test_what_is_no_frame_is_refused_and_mixed_columns_are_left_to_the_caller() -> None:
    with pytest.raises(UsageError, match="no frame"):
        frame_table([1, 2])
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        frame_table(pd.DataFrame({"id": ["a", "b"], "x": ["one", 2]}))
