from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fqlstream.events.definitions import (
    CODE_BYTES_MAX,
    DEFINITION,
    CodeMetricDefinition,
    MetricDefinition,
    Period,
    definition_key,
    key_of,
    parse_key,
)

NAMES = st.text(alphabet="ab/%2F5", min_size=1, max_size=8)


@given(kind=st.sampled_from(["metric", "model"]), model=NAMES, name=NAMES)
def test_keys_name_one_definition_whatever_its_name(kind: str, model: str, name: str) -> None:
    assert parse_key(key_of(kind, model, name)) == (kind, model, name)


def test_plain_names_stay_readable() -> None:
    metric = MetricDefinition(model="churn", name="my cool metric", definition="count()")
    assert definition_key(metric) == "metric/churn/my cool metric"


@pytest.mark.parametrize("key", ["", "metric", "metric/m", "metric/m/a/b", "metric//a", "metric/m/%41"])
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="no key of a definition"):
        parse_key(key)


@pytest.mark.parametrize("text", ["\ud800", "x" * (2**20 + 1)])
@pytest.mark.parametrize(
    "document",
    [
        {"kind": "metric", "model": "m", "name": "n", "definition": "COUNT(*)", "description": None},
        {"kind": "metric", "model": "m", "name": "n", "definition": None},
        {"kind": "pipeline", "name": "p", "description": None},
        {"kind": "model", "name": "m", "columns": [{"name": "a", "type": "category", "categories": ["b", None]}]},
    ],
)
def test_a_text_that_cannot_be_written_or_has_no_end_is_refused(document: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError):
        DEFINITION.validate_python(_with(document, text))


def _with(given: Any, text: str) -> Any:
    """Put a text where None stands."""
    if isinstance(given, dict):
        return {name: _with(value, text) for name, value in given.items()}
    if isinstance(given, list):
        return [_with(value, text) for value in given]
    return text if given is None else given


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "its code, or names a file"),
        ({"code": " \n"}, "code: there is none"),
        ({"code": "#" * (CODE_BYTES_MAX + 1)}, "65537 bytes"),
        ({"code": "1", "period": "7"}, "no duration"),
        ({"code": "1", "period": {}}, "a period is a length"),
        ({"code": "1", "period": {"start": "2026-01-01T00:00:00Z"}}, "a period is a length"),
        ({"code": "1", "period": {"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}}, "is not after"),
        ({"code": "1", "name": "x" * 256}, "255"),
    ],
)
def test_a_code_metric_that_makes_no_sense_is_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        CodeMetricDefinition.model_validate({"model": "m", "name": "n", **given})


def test_a_period_is_the_last_so_many_or_a_fixed_range() -> None:
    day = 86_400_000
    assert Period.model_validate("7d").range_before(10 * day) == (3 * day, 10 * day)
    fixed = Period.model_validate({"start": "1970-01-02T00:00:00Z", "end": "1970-01-03T00:00:00Z"})
    assert fixed.range_before(10 * day) == (day, 2 * day)
