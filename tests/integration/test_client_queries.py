"""The query client against the embedded store, which answers as ClickHouse does."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator

import pandas as pd
import pytest
from tests.store_process import StoreProcess

from fqlstream.client import QueryClient
from fqlstream.client.queries import VALUE_COLUMNS
from fqlstream.errors import StoreError, UsageError
from fqlstream.store.client import Store
from fqlstream.store.values import COLUMNS, write_values
from fqlstream.stream.protocol import MetricValue

HOUR_MS = 3_600_000
START_MS = 1_795_255_200_000 // HOUR_MS * HOUR_MS
DAY_MS = 24 * HOUR_MS


def value(hour: int, number: float | None, version: int = 1, **changes: object) -> MetricValue:
    usual: dict[str, object] = {
        "model": "churn",
        "version": "all",
        "metric": "cost",
        "segment": "",
        "window_start_ms": START_MS + hour * HOUR_MS,
        "window_end_ms": START_MS + (hour + 1) * HOUR_MS,
        "value": number,
        "rows": 10,
        "labelled_rows": 5,
        "exact": True,
        "error_bound": None,
        "status": "early",
        "value_version": version,
        "definition_revision": 1,
        "updated_at_ms": START_MS + 2 * HOUR_MS,
    }
    return MetricValue(**(usual | changes))


@pytest.fixture
def client(store: Store, store_process: StoreProcess) -> Iterator[QueryClient]:
    values = [
        value(0, 1.0),
        value(0, 1.5, version=2, status="final"),
        value(2, None),
        value(1, 2.0),
        value(3, 9.0, segment='it\'s "old"'),
        value(3, 8.0, metric="other"),
        value(0, 7.0, window_end_ms=START_MS + DAY_MS),
        value(0, 6.0, version=1, model="fraud"),
    ]
    write_values(store, values, retention_ms=400 * DAY_MS)
    database = store.query_rows("SELECT currentDatabase()")[0][0]
    with QueryClient(f"{store_process.url}/{database}", password=store_process.key) as open_client:
        yield open_client


def test_the_newest_value_of_every_window_oldest_first(client: QueryClient) -> None:
    frame = client.values("churn", "cost")
    assert tuple(frame.columns) == VALUE_COLUMNS == COLUMNS
    assert frame["value"].tolist()[:2] == [1.5, 2.0]
    assert math.isnan(frame["value"].tolist()[2])
    assert frame["status"].tolist() == ["final", "early", "early"]
    assert frame["window_start"].tolist() == [
        pd.Timestamp(START_MS + hour * HOUR_MS, unit="ms", tz="UTC") for hour in range(3)
    ]


def test_segments_windows_and_ranges(client: QueryClient) -> None:
    assert client.values("churn", "cost", 'it\'s "old"')["value"].tolist() == [9.0]
    assert client.values("churn", "cost", window="1d")["value"].tolist() == [7.0]
    assert client.values("churn", "cost", version="v1").empty
    first = dt.datetime.fromtimestamp(START_MS / 1000, dt.UTC)
    second = first + dt.timedelta(hours=1)
    assert client.values("churn", "cost", start=second)["value"].tolist()[0] == 2.0
    assert client.values("churn", "cost", end=second)["value"].tolist() == [1.5]
    assert client.values("churn", "cost", start=first.isoformat(), end=second.replace(tzinfo=None))[
        "value"
    ].tolist() == [1.5]


def test_latest(client: QueryClient) -> None:
    frame = client.latest()
    assert len(frame) == 5  # per model, metric, segment and window size
    churn = client.latest("churn", "cost").set_index(["segment", "window_s"])["value"]
    assert churn['it\'s "old"', 3600] == 9.0
    assert churn["", 86_400] == 7.0
    assert math.isnan(churn["", 3600])


def test_any_query_with_parameters_and_clickhouses_own_errors(client: QueryClient) -> None:
    assert client.query("SELECT {n:UInt8} + 1 AS m", {"n": 4})["m"].tolist() == [5]
    with pytest.raises(StoreError, match="no_such_table") as caught:
        client.query("SELECT * FROM no_such_table")
    assert caught.value.code == "SDK011"


def test_usage(store_process: StoreProcess) -> None:
    with pytest.raises(StoreError, match="127") as caught:
        QueryClient("http://127.0.0.1:1")
    assert (caught.value.code, caught.value.retryable) == ("SDK012", True)
    for url in ("localhost:8123", "clickhouse://x"):
        with pytest.raises(UsageError):
            QueryClient(url)
    with QueryClient(store_process.url, password=store_process.key) as client:
        with pytest.raises(UsageError, match="window"):
            client.values("a", "b", window="60")
        with pytest.raises(UsageError, match="no time"):
            client.values("a", "b", start="yesterday")
        assert store_process.key not in repr(client)
