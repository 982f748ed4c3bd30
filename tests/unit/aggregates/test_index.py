"""The table of kinds: every row makes an aggregator that does what the row says, within the bytes that it says."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from fqlstream.aggregates.index import AGGREGATORS, AggregatorKind, make_aggregator
from fqlstream.aggregates.protocol import Additive, Aggregator, OfNumbers
from fqlstream.settings import FqlSettings

SETTINGS = FqlSettings()
PARAMS = {"histogram": {"edges": tuple(float(i) for i in range(11))}}
RANDOM = np.random.default_rng(11)
WIDE = np.ldexp(RANDOM.standard_normal(20_000), RANDOM.integers(-1_070, 1_000, 20_000))
KINDS = pytest.mark.parametrize("row", AGGREGATORS.values(), ids=AGGREGATORS.keys())


def arguments(row: AggregatorKind, numbers: np.ndarray) -> tuple[pa.Array, ...]:
    if row.kind == "count_true":
        return (pa.array(numbers > 0),)
    if row.kind == "score_pairs":
        return pa.array(numbers), pa.array(numbers > 0)
    if row.kind == "queries":
        return (pa.array([f"q-{i % 500}" for i in range(len(numbers))]), pa.array(numbers), pa.array(numbers))
    return (pa.array(numbers),) * row.arguments


def made(row: AggregatorKind) -> Aggregator[Any]:
    return make_aggregator(row.kind, PARAMS.get(row.kind, {}), SETTINGS)


@KINDS
def test_a_row_makes_its_kind(row: AggregatorKind) -> None:
    aggregator = made(row)
    assert aggregator.kind == row.kind
    assert aggregator.state_version >= 1
    assert aggregator.retractable
    assert row.summary
    state = aggregator.update(aggregator.init(), arguments(row, np.array([1.0, 2.0, 2.0])))
    for name in row.reads:
        reading = aggregator.read(state, name, {"level": 0.5, "index": 1.0, "top_k": 2.0})
        assert reading.value is None or np.isfinite(reading.value)


@KINDS
@pytest.mark.parametrize("numbers", [WIDE, RANDOM.random(20_000), RANDOM.integers(0, 400, 20_000).astype(float)])
def test_states_stay_within_their_bytes(row: AggregatorKind, numbers: np.ndarray) -> None:
    aggregator = made(row)
    state = aggregator.init()
    bound = row.state_bytes_max(PARAMS.get(row.kind, {}), SETTINGS)
    for part in np.split(numbers, 8):
        state = aggregator.merge(state, aggregator.update(aggregator.init(), arguments(row, part)))
        assert len(msgspec.msgpack.encode(aggregator.encode(state))) <= bound


def test_the_engine_knows_what_can_be_taken_together() -> None:
    additive = {kind for kind, row in AGGREGATORS.items() if isinstance(made(row), Additive)}
    of_numbers = {kind for kind, row in AGGREGATORS.items() if isinstance(made(row), OfNumbers)}
    assert additive == {"count_true", "count", "sum", "histogram", "moments"}
    assert of_numbers == {"min", "max", "quantile"}


def test_an_unknown_kind_is_a_bug() -> None:
    with pytest.raises(KeyError):
        make_aggregator("median", {}, SETTINGS)
    with pytest.raises(TypeError):
        make_aggregator("histogram", {"edges": "wide"}, SETTINGS)
