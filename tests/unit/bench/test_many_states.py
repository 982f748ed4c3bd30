"""The recovery benchmark's own judgement: what it sends, what batch says of it, and which published values it calls wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from fqlstream.bench.many_states import (
    METRICS,
    PANE_MS,
    ROWS_PER_PANE,
    SEGMENTS,
    Key,
    Rows,
    Value,
    batch,
    differences,
    partition_of,
    records,
)
from fqlstream.bench.pipeline import PARTITIONS

BEGIN_MS = 1_795_255_200_000  # ten minutes before an hour would do as well
PANES = 3


def rows() -> Rows:
    sent = Rows(BEGIN_MS, np.random.default_rng(1))
    sent.of_panes(PANES)
    sent.anywhere(50, PANES)
    return sent


def published(table: pa.Table) -> dict[Key, Value]:
    return {
        key: Value(right.value, right.rows, right.labelled_rows, right.error_bound)
        for key, right in batch(table).items()
    }


def test_every_pane_has_its_rows_and_one_partition_has_them_all() -> None:
    table = rows().tables[0]
    event_at = table.column("event_at").to_numpy()
    panes, counts = np.unique(event_at // PANE_MS, return_counts=True)
    assert counts.tolist() == [ROWS_PER_PANE] * PANES
    assert panes.tolist() == [BEGIN_MS // PANE_MS + number for number in range(PANES)]
    assert (partition_of(event_at) == panes.repeat(ROWS_PER_PANE) % PARTITIONS).all()


def test_records_hold_every_event_once_in_the_partition_of_its_pane() -> None:
    table = rows().table
    ids = []
    for partition, value in records(table):
        part = pa.ipc.open_stream(value).read_all()
        assert set(partition_of(part.column("event_at").to_numpy())) == {partition}
        ids += part.column("event_id").to_pylist()
    assert sorted(ids) == table.column("event_id").to_pylist()
    assert len(set(ids)) == PANES * ROWS_PER_PANE + 50


def test_batch_says_what_numpy_and_scikit_learn_say() -> None:
    table = rows().table
    found = batch(table)
    data = table.to_pandas()
    hour_ms = BEGIN_MS // 3_600_000 * 3_600_000
    assert len(found) == len(METRICS) * (SEGMENTS + 1) * 2, "an hour and a day"
    for segment, part in (("", data), ("s101", data[data.age >= 101]), ("s100", data[data.age < 300])):
        wanted = {
            "events": len(part),
            "latency_sum": part.latency_ms.sum(),
            "mean_score": part.score.mean(),
            "latency_most": part.latency_ms.max(),
            "latency_p95": np.quantile(part.latency_ms, 0.95),
            "precision": (part.churned[part.score >= 0.5] == "yes").mean(),
            "cost": 10 * ((part.score >= 0.5) & (part.churned == "no")).sum()
            + 200 * ((part.score < 0.5) & (part.churned == "yes")).sum(),
            "auroc": roc_auc_score(part.churned == "yes", part.score),
        }
        for metric, value in wanted.items():
            result = found[metric, segment, hour_ms, 3_600_000]
            assert result.value == pytest.approx(value, rel=1e-12), (metric, segment)
            assert (result.rows, result.labelled_rows) == (len(part), len(part))


def test_what_differs_is_named_and_what_lies_within_its_bound_is_not() -> None:
    table = rows().table
    right, wanted = published(table), batch(table)
    assert differences(right, wanted, table) == []
    key = next(key for key in right if key[:2] == ("latency_sum", "s007"))
    value = right[key]
    for wrong in (
        replace(value, value=value.value + 0.01),
        replace(value, value=None),
        replace(value, rows=value.rows + 1),
        replace(value, labelled_rows=0),
    ):
        (said,) = differences({**right, key: wrong}, wanted, table)
        assert said.startswith(str(key))
    assert len(differences({at: each for at, each in right.items() if at != key}, wanted, table)) == 1
    assert len(differences({**right, (*key[:2], 0, key[3]): value}, wanted, table)) == 1
    assert differences({**right, key: replace(value, value=value.value + 0.01, error_bound=0.02)}, wanted, table) == []


def test_a_sketched_quantile_is_judged_by_rank() -> None:
    table = rows().table
    right, wanted = published(table), batch(table)
    key = next(key for key in right if key[:2] == ("latency_p95", ""))
    near, far = (float(np.quantile(table.column("latency_ms").to_numpy(), level)) for level in (0.94, 0.90))
    assert differences({**right, key: replace(right[key], value=near, error_bound=0.02)}, wanted, table) == []
    assert len(differences({**right, key: replace(right[key], value=far, error_bound=0.02)}, wanted, table)) == 1
