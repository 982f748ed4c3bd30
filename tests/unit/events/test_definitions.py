from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fqlstream.events.definitions import DEFINITION, MetricDefinition, definition_key, key_of, parse_key

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
