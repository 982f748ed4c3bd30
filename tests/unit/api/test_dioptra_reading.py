"""Bodies of the Dioptra client: what is read out of any of them, and that nothing else ever comes of one."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.api.dioptra_reading import GivenMetric, echoed, read_credentials, read_metric
from fqlstream.api.problems import ApiError


def read(**fields: Any) -> GivenMetric:
    return read_metric(json.dumps({"name": "loss", "value": 1, **fields}).encode(), name_characters_max=256)


def wrong(**fields: Any) -> dict[str, list[str]]:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert caught.value.problem.status == 400
    return {name: list(words) for name, words in caught.value.problem.fields.items()}


def test_what_is_left_out_is_step_nought_now() -> None:
    assert read() == GivenMetric("loss", 1.0, 0, None)
    assert read(timestamp=None).at is None


def test_a_time_without_an_offset_is_utc_wherever_the_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        _check_times()
    finally:
        monkeypatch.undo()
        time.tzset()


def _check_times() -> None:
    expected = datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC)
    assert read(timestamp="2026-01-02T03:04:05.000600").at == expected
    assert read(timestamp="2026-01-02T05:04:05.000600+02:00").at == expected
    assert read(timestamp="2026-01-02T03:04:05.000600Z").at == expected


@pytest.mark.parametrize("value", [True, None, [], {}, "", "x", "1_0", "0x1", "1e", "+", "nan(1)"])
def test_what_is_no_number_is_told(value: Any) -> None:
    assert list(wrong(value=value)) == ["value"]


@pytest.mark.parametrize("step", [True, None, [], "", "x", "1.0", "1_0", math.inf, math.nan, 2**63, -(2**63) - 1, 1e30])
def test_what_is_no_step_is_told(step: Any) -> None:
    assert list(wrong(step=step)) == ["step"]


@pytest.mark.parametrize("name", ["_", "1a", "a-b", "", "a\n", "\u017f", "x" * 257, 1, None])
def test_what_is_no_name_is_told(name: Any) -> None:
    assert list(wrong(name=name)) == ["name"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=2)
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["name", "value", "step", "timestamp", "more"]), ANYTHING))
def test_any_object_is_a_metric_or_refused_by_field(fields: dict[str, Any]) -> None:
    refused: ApiError | None = None
    try:
        metric = read_metric(json.dumps(fields).encode(), name_characters_max=256)
    except ApiError as error:
        refused = error
    if refused is not None:
        assert (refused.problem.status, bool(refused.problem.fields)) == (400, True)
        return
    assert isinstance(metric.value, float)
    assert -(2**63) <= metric.step < 2**63
    assert metric.at is None or metric.at.tzinfo is UTC


@given(st.binary(max_size=30))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for read_body in (read_credentials, lambda data: read_metric(data, name_characters_max=256)):
        with pytest.raises(ApiError):
            read_body(body)


def test_a_login_is_two_texts() -> None:
    assert read_credentials(b'{"username": "ada", "password": "x"}') == ("ada", "x")


@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), (4.0, 4.0)])
def test_what_json_lacks_is_told_by_its_word(value: float, shown: Any) -> None:
    assert echoed(value) == shown
