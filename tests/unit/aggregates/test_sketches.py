"""Sketches behind river's interface: the checks that river runs on its own, and what each promises."""

from __future__ import annotations

import pickle

import msgspec
import numpy as np
import pytest
from river.checks import common as river_checks
from river.stats import Quantile

from fqlstream.aggregates.sketches import SKETCHES, KllSketch, RiverHistogram, running_quantile, sketch_kind
from fqlstream.errors import SettingsError

KINDS = pytest.mark.parametrize("kind", SKETCHES.values(), ids=SKETCHES.keys())
VALUES = np.random.default_rng(7).standard_normal(5_000)


@KINDS
def test_empty(kind: object) -> None:
    sketch = kind.make()
    assert (sketch.n, sketch.get(), sketch.quantile(0.3), sketch.cdf(1.0)) == (0, None, None, 0.0)
    assert (sketch + kind.make()).n == 0
    assert (sketch + kind.make().update(2.0)).get() == pytest.approx(2.0)


@KINDS
def test_one_by_one_is_all_at_once(kind: object) -> None:
    singly = kind.make()
    for value in VALUES[:150].tolist():
        assert singly.update(value) is singly
    at_once = kind.make().update_many(VALUES[:150])
    assert singly.n == at_once.n == 150
    for q in (0.0, 0.25, 0.5, 1.0):
        assert singly.quantile(q) == at_once.quantile(q)
    assert singly.cdf(0.0) == at_once.cdf(0.0)


@KINDS
def test_quantiles_of_ordinary_data_are_close(kind: object) -> None:
    sketch = kind.make().update_many(VALUES)
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert (sketch.quantile(q) >= VALUES).mean() == pytest.approx(q, abs=0.02)
        assert sketch.cdf(np.quantile(VALUES, q)) == pytest.approx(q, abs=0.02)
    assert sketch.get() == sketch.quantile(0.5)


@KINDS
def test_adding_changes_neither_side(kind: object) -> None:
    left, right = kind.make().update_many(VALUES[:2_000]), kind.make().update_many(VALUES[2_000:])
    before = [pickle.dumps(side.to_data()) for side in (left, right)]
    both = left + right
    assert both.n == len(VALUES)
    assert (both.get() >= VALUES).mean() == pytest.approx(0.5, abs=0.02)
    assert [pickle.dumps(side.to_data()) for side in (left, right)] == before
    assert (left + left).n == 4_000


@KINDS
def test_plain_data_comes_back(kind: object) -> None:
    sketch = kind.make().update_many(VALUES)
    data = msgspec.msgpack.decode(msgspec.msgpack.encode(sketch.to_data()))
    again = kind.decode(data)
    assert again.n == sketch.n
    assert [again.quantile(q) for q in (0, 0.1, 0.5, 1)] == [sketch.quantile(q) for q in (0, 0.1, 0.5, 1)]
    assert len(msgspec.msgpack.encode(sketch.to_data())) <= kind.size * kind.bytes_per_size


@pytest.mark.parametrize(
    "check",
    [
        river_checks.check_repr,
        river_checks.check_str,
        river_checks.check_doc,
        river_checks.check_pickling_supports_roundtrip,
        river_checks.check_clone_same_class,
        river_checks.check_clone_changes_memory_addresses,
        river_checks.check_repr_roundtrips_clone,
        river_checks.check_init_default_params_are_not_mutable,
    ],
    ids=lambda check: check.__name__,
)
def test_rivers_own_checks(check: object) -> None:
    check(KllSketch())
    check(KllSketch(400))


def test_kll_promises_a_rank_error_that_follows_from_k() -> None:
    assert KllSketch().rank_error == pytest.approx(0.0133, abs=1e-4)
    assert KllSketch(400).rank_error < KllSketch(200).rank_error
    assert KllSketch().update_many(VALUES).clone({"k": 400}).k == 400
    assert KllSketch().update_many(VALUES).clone().n == 0
    assert pickle.loads(pickle.dumps(KllSketch().update(3.0))).get() == 3.0  # noqa: S301 (our own bytes)


@pytest.mark.parametrize("seed", range(5))
def test_kll_keeps_its_promise_after_many_merges(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.lognormal(0, 2, 64_000)
    merged = KllSketch()
    for part in np.split(values, 64):
        merged = merged + KllSketch().update_many(part)
    levels = np.linspace(0.01, 0.99, 50)
    off = [abs((values <= merged.quantile(q)).mean() - q) for q in levels]
    # at 99 %, one of fifty may be further off; none by twice as much
    assert sum(error > merged.rank_error for error in off) <= 2
    assert max(off) <= 2 * merged.rank_error


def test_rivers_histogram_promises_nothing() -> None:
    assert RiverHistogram().rank_error is None


def test_one_writer_gets_rivers_running_quantile() -> None:
    running = running_quantile(0.5)
    assert isinstance(running, Quantile)
    for value in VALUES.tolist():
        running.update(value)
    assert running.get() == pytest.approx(np.median(VALUES), abs=0.05)


def test_an_unknown_sketch_names_those_there_are() -> None:
    with pytest.raises(SettingsError, match="no sketch 'kl'") as refused:
        sketch_kind("kl")
    assert refused.value.hint == "choose kll, river_histogram, river_histogram_asinh"


@pytest.mark.parametrize("k", [8, 20, 200, 400])
@pytest.mark.parametrize("count", [1, 63, 1_599, 1_600, 1_601, 4_096, 32_768, 100_003])
def test_a_batch_is_compacted_into_a_sound_sketch(k: int, count: int) -> None:
    values = np.random.default_rng(count).permutation(count).astype(float)
    sketch = KllSketch(k).update_many(values)
    assert sketch.n == count
    assert (sketch.quantile(0.0), sketch.quantile(1.0)) == (0.0, count - 1.0)
    again = KllSketch.from_data(sketch.to_data())
    merged = again + sketch + KllSketch(k).update_many(values[:5])
    assert merged.n == 2 * count + min(count, 5)
    for q in np.linspace(0.01, 0.99, 25):
        assert abs((values <= sketch.quantile(q)).mean() - q) <= 2 * sketch.rank_error + 1 / count
        assert abs(sketch.cdf(np.quantile(values, q)) - q) <= 2 * sketch.rank_error + 1 / count


def test_a_replay_compacts_alike() -> None:
    assert KllSketch().update_many(VALUES).to_data() == KllSketch().update_many(VALUES).to_data()


def test_rising_numbers_are_taken_as_they_are() -> None:
    rising = np.sort(VALUES)
    assert KllSketch().update_rising(rising).to_data() == KllSketch().update_many(VALUES).to_data()
    grown = KllSketch().update_rising(rising).update_rising(rising + 10)
    assert grown.n == 2 * len(VALUES)
    assert grown.quantile(0.5) == pytest.approx(rising[-1], abs=0.5)
