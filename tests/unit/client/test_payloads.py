from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.event_rules import Dead, Mark, Row, read
from tests.unit.stream.test_decode import CATALOGUE, COLUMNS, NOW, SETTINGS, anything

from fqlstream.client.payloads import event_json, watermark_json
from fqlstream.errors import UsageError

NAMES = [column["name"] for column in COLUMNS]


def sent(columns: dict[str, Any], **options: Any) -> Row | Mark | Dead:
    return read(event_json("inference", "fraud", "r-1", columns, **options), NOW, CATALOGUE, SETTINGS)


def typed(name: str, value: Any) -> tuple[Any, str | None]:
    row = sent({name: value})
    assert isinstance(row, Row)
    verdict = "type" if name in row.type_violations else "range" if name in row.range_violations else None
    return row.columns[name], verdict


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("age", np.int64(41), 41),
        ("age", np.uint8(41), 41),
        ("score", np.float32(0.5), 0.5),
        ("size", Decimal("1.25"), 1.25),
        ("size", float("nan"), None),
        ("size", np.float64("nan"), None),
        ("size", pd.NA, None),
        ("seen", pd.NaT, None),
        ("paid", np.bool_(True), True),
        ("country", np.str_("FR"), "FR"),
        ("embedding", np.array([1, 2], np.float32), [1.0, 2.0]),
        ("embedding", (1, 2.5), [1.0, 2.5]),
        ("seen", dt.datetime.fromtimestamp(NOW / 1000, dt.UTC), NOW),
        ("seen", dt.datetime.fromtimestamp(NOW / 1000, dt.UTC).replace(tzinfo=None), NOW),
        ("seen", pd.Timestamp(NOW, unit="ms"), NOW),
        ("seen", pd.Timestamp(NOW, unit="ms", tz="Europe/Paris"), NOW),
        ("seen", np.datetime64(NOW, "ms"), NOW),
        ("seen", np.datetime64(NOW * 10**6, "ns"), NOW),
    ],
)
def test_values_of_numpy_and_pandas_arrive_as_what_they_are(name: str, value: Any, expected: Any) -> None:
    assert typed(name, value) == (expected, None)


@pytest.mark.parametrize("value", [float("inf"), -np.inf, np.float32("inf")])
def test_an_infinity_arrives_as_one(value: Any) -> None:
    assert typed("score", value) == (None, "range")  # score has bounds
    assert typed("size", value) == (None, None)
    assert typed("embedding", [value, 1.0]) == ([float(value), 1.0], None)


@settings(max_examples=100, deadline=None)
@given(columns=st.dictionaries(st.sampled_from(NAMES), anything, max_size=4))
def test_json_values_arrive_as_the_rules_read_them(columns: dict[str, Any]) -> None:
    text = json.dumps({"model": "fraud", "event_id": "r-1", "columns": columns})
    # Python's own encoder writes what is no JSON
    assert sent(columns) == read(text.replace("Infinity", "1e999").encode(), NOW, CATALOGUE, SETTINGS)


@pytest.mark.parametrize(
    ("event_at", "expected"),
    [
        (None, NOW),
        (NOW - 1, NOW - 1),
        (np.int64(NOW - 1), NOW - 1),
        (dt.datetime.fromtimestamp((NOW - 1) / 1000, dt.UTC), NOW - 1),
        (pd.Timestamp(NOW - 1, unit="ms", tz="Asia/Tokyo"), NOW - 1),
        (np.datetime64(NOW - 1, "ms"), NOW - 1),
        ("2026-11-21T09:59:59.5Z", NOW - 500),
    ],
)
def test_event_times(event_at: Any, expected: int) -> None:
    row = sent({}, event_at=event_at)
    assert isinstance(row, Row)
    assert row.event_at == expected


def test_integer_ids_labels_and_versions() -> None:
    value = event_json("label", "churn", np.int64(7), {"churned": "yes"}, version="v2")
    assert read(value, NOW, CATALOGUE, SETTINGS) == Row(
        "churn", "v2", "label", "7", NOW, {"plan name (x)": None, "churned": "yes"}, (), ()
    )


def test_watermarks() -> None:
    assert read(watermark_json("churn"), NOW, CATALOGUE, SETTINGS) == Mark("churn", NOW)
    assert read(watermark_json("churn", NOW - 5), NOW, CATALOGUE, SETTINGS) == Mark("churn", NOW - 5)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"event_id": ""}, "event_id"),
        ({"event_id": None}, "event_id"),
        ({"event_id": 1.5}, "event_id"),
        ({"event_id": True}, "event_id"),
        ({"model": ""}, "model"),
        ({"event_at": dt.datetime(2026, 11, 21)}, "time zone"),  # noqa: DTZ001  # the mistake that is tested
        ({"event_at": 1.5}, "event_at"),
        ({"columns": {"a": object()}}, "object"),
        ({"columns": {"a": b"bytes"}}, "bytes"),
        ({"columns": {"a": "\ud800"}}, "JSON"),
    ],
)
def test_what_the_engine_would_refuse_is_refused_here(changes: dict[str, Any], part: str) -> None:
    arguments: dict[str, Any] = {"kind": "inference", "model": "churn", "event_id": "r-1", "columns": {}} | changes
    with pytest.raises(UsageError, match=part) as caught:
        event_json(**arguments)
    assert caught.value.code == "SDK004"
