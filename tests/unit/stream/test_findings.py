"""What an event's envelope names: its kind, its model and version, its time; and what is said of each that is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import DEFINITION, ModelDefinition
from fqlstream.events.refusals import (
    FUTURE_EVENT_AT,
    NO_MODEL,
    PAST_EVENT_AT,
    UNKNOWN_MODEL,
    UNKNOWN_VERSION,
    RefusedError,
)
from fqlstream.settings import StreamSettings
from fqlstream.stream.batches import RowKind, WatermarkMark
from fqlstream.stream.findings import (
    Context,
    Findings,
    Refused,
    UnknownModelError,
    far_times,
    model_version,
    no_time,
    row_kind,
    shown,
    time_fault,
)

SETTINGS = StreamSettings(future_ms_max=1_000, past_ms_max=10_000)
COLUMNS = [
    {"name": "x", "type": "float"},
    {"name": "note", "type": "string", "role": "metadata"},
    {"name": "y", "type": "int", "role": "target"},
]


def model(version: str) -> ModelDefinition:
    return ModelDefinition.model_validate(
        {"name": "churn", "version": version, "task": "regression", "columns": COLUMNS}
    )


KNOWN = Catalogue().with_definition(model("v1")).with_definition(model("v2"))


def test_a_type_names_a_kind_and_none_is_an_inference() -> None:
    assert (row_kind("inference"), row_kind("label"), row_kind(None)) == (
        RowKind.INFERENCE,
        RowKind.LABEL,
        RowKind.INFERENCE,
    )
    for wrong in ("watermark", "Label", "", 1, True, [], {"label": 1}):
        with pytest.raises(RefusedError) as caught:
            row_kind(wrong)
        assert caught.value.refusal.code == "DLQ007"
        assert repr(wrong) in caught.value.reason


def test_no_version_means_the_newest() -> None:
    assert model_version(KNOWN, "churn", None) is KNOWN.models["churn"].versions["v2"]
    assert model_version(KNOWN, "churn", "v1") is KNOWN.models["churn"].versions["v1"]


@pytest.mark.parametrize(
    ("name", "version", "refusal", "may_be_new"),
    [
        (None, None, NO_MODEL, False),
        ("", None, NO_MODEL, False),
        (7, None, NO_MODEL, False),
        ("fraud", None, UNKNOWN_MODEL, True),
        ("fraud", "v1", UNKNOWN_MODEL, True),
        ("churn", "v3", UNKNOWN_VERSION, True),
        ("churn", "", UNKNOWN_VERSION, False),
        ("churn", 1, UNKNOWN_VERSION, False),
    ],
)
def test_what_is_not_defined_is_refused_and_what_may_have_been_defined_just_now_is_named(
    name: Any, version: Any, refusal: Any, may_be_new: bool
) -> None:
    with pytest.raises(RefusedError) as caught:
        model_version(KNOWN, name, version)
    assert caught.value.refusal is refusal
    assert isinstance(caught.value, UnknownModelError) is may_be_new
    if may_be_new:
        assert caught.value.model == name


def test_a_model_with_metrics_and_without_a_version_is_not_defined() -> None:
    metric = {"kind": "metric", "model": "later", "name": "m", "definition": "traffic()"}
    known = KNOWN.with_definition(DEFINITION.validate_python(metric))
    with pytest.raises(UnknownModelError):
        model_version(known, "later", None)


@given(st.integers(0, 30_000), st.integers(0, 30_000))
@example(21_000, 20_000)
@example(21_001, 20_000)
@example(10_000, 20_000)
@example(9_999, 20_000)
def test_a_time_is_held_to_that_of_its_record_one_by_one_and_all_at_once(event_at: int, record_at: int) -> None:
    fault = time_fault(event_at, record_at, SETTINGS)
    if event_at > record_at + 1_000:
        assert fault is not None
        assert fault.refusal is FUTURE_EVENT_AT
    elif event_at < record_at - 10_000:
        assert fault is not None
        assert fault.refusal is PAST_EVENT_AT
    else:
        assert fault is None
    assert far_times(np.array([event_at]), np.array([record_at]), SETTINGS).tolist() == [fault is not None]


def test_a_reason_says_by_how_much() -> None:
    assert "90 s after" in str(time_fault(90_000, 0, SETTINGS))
    assert "3 days before" in str(time_fault(0, 3 * 86_400_000, SETTINGS))
    assert "'soon'" in str(no_time("soon"))


@given(st.text(max_size=200) | st.integers() | st.lists(st.text(), max_size=30))
def test_a_producers_value_takes_up_no_more_than_a_line(value: Any) -> None:
    text = shown(value)
    assert len(text) <= 80
    assert "\n" not in text
    assert text == repr(value) or (text.endswith("…") and repr(value).startswith(text[:-1]))


def test_only_columns_that_somebody_reads_are_decoded() -> None:
    definition = KNOWN.models["churn"].versions["v1"]

    def names(wanted: Any, kind: RowKind) -> list[str]:
        context = Context(KNOWN, SETTINGS, 1_000, wanted)
        return [column.name for column in context.columns_of(definition, kind)]

    assert names(None, RowKind.INFERENCE) == ["x", "note", "y"]
    assert names(None, RowKind.LABEL) == ["note", "y"], "a label has targets and metadata"
    assert names({"churn": {"x", "y"}}, RowKind.INFERENCE) == ["x", "y"]
    assert names({"churn": {"x", "y"}}, RowKind.LABEL) == ["y"]
    assert names({"other": set()}, RowKind.INFERENCE) == ["x", "note", "y"], "of a model that nobody speaks of, all"


def test_parts_of_a_fetch_are_added_up_in_their_order() -> None:
    key, other = ("churn", "v1", RowKind.INFERENCE), ("churn", "v2", RowKind.LABEL)
    first, second, third = (pa.table({"n": [number]}) for number in range(3))
    whole = Findings({key: [first]}, [WatermarkMark("churn", 1, 0)], [Refused(0, NO_MODEL, "a")], {"a"}, {"b"})
    whole.add(
        Findings(
            {key: [second], other: [third]}, [WatermarkMark("churn", 2, 5)], [Refused(5, NO_MODEL, "b")], {"c"}, {"d"}
        )
    )
    assert {of: [table["n"][0].as_py() for table in tables] for of, tables in whole.tables.items()} == {
        key: [0, 1],
        other: [2],
    }
    assert [mark.offset for mark in whole.marks] == [0, 5]
    assert [refused.reason for refused in whole.refused] == ["a", "b"]
    assert (whole.unknown_models, whole.foreign) == ({"a", "c"}, {"b", "d"})
