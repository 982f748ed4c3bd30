from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.events.definitions import MetricDefinition, definition_key, key_of, parse_key

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
