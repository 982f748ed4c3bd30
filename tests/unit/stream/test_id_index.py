"""The index against a dictionary, event by event, wherever the batches are cut."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.stream.fingerprints import Fingerprints, fingerprint
from fqlstream.stream.id_index import IdIndex, judge

HORIZON_MS = 200


def prints(numbers: list[int]) -> Fingerprints:
    # few values in the high half: ids collide in the table, as they rarely would in life
    return Fingerprints(np.array([n % 4 for n in numbers], np.uint64), np.array(numbers, np.uint64))


def expected(numbers: list[int], times: list[int], ids_max: int) -> list[bool]:
    counted: dict[int, tuple[int, int]] = {}
    verdicts = []
    for at, (number, time) in enumerate(zip(numbers, times, strict=True)):
        before = counted.get(number)
        duplicate = before is not None and at - before[0] <= ids_max and time - before[1] <= HORIZON_MS
        verdicts.append(duplicate)
        if not duplicate:
            counted[number] = (at, time)
    return verdicts


def run(numbers: list[int], times: list[int], ids_max: int, cuts: list[int]) -> list[bool]:
    index = IdIndex(ids_max)
    verdicts: list[bool] = []
    edges = [0, *sorted({c for c in cuts if c < len(numbers)}), len(numbers)]
    for start, end in pairwise(edges):
        ids, at = prints(numbers[start:end]), np.array(times[start:end], np.int64)
        verdict = judge(index, ids, at, HORIZON_MS)
        kept = ~verdict.duplicate
        index.insert(ids.take(kept), verdict.sequence[kept], at[kept], verdict.sequence[kept])
        index.sequence_next += end - start
        verdicts += verdict.duplicate.tolist()
    return verdicts


@given(
    rows=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), max_size=120),
    ids_max=st.sampled_from([1, 3, 10, 50, 1000]),
    cuts=st.lists(st.integers(1, 119), max_size=12),
)
def test_verdicts_equal_a_dictionary_wherever_batches_are_cut(
    rows: list[tuple[int, int]], ids_max: int, cuts: list[int]
) -> None:
    numbers = [number for number, _ in rows]
    times = np.cumsum([step for _, step in rows]).tolist()
    assert run(numbers, times, ids_max, cuts) == expected(numbers, times, ids_max)


def test_the_newest_row_of_an_id_is_found_and_old_ids_are_forgotten() -> None:
    index = IdIndex(10_000)
    rng = np.random.default_rng(1)
    batches = []
    for number in range(40):
        ids = Fingerprints(
            rng.integers(0, 2**63, 1000).astype(np.uint64), rng.integers(0, 2**63, 1000).astype(np.uint64)
        )
        places = np.arange(number * 1000, (number + 1) * 1000)
        index.insert(ids, places, places, places)
        batches.append((ids, places))
    assert len(index) == 10_000
    for ids, places in batches[-10:]:
        assert (index.find(ids).place == places).all()
    for ids, _ in batches[:-10]:
        assert (index.find(ids).sequence == -1).all()


@given(st.lists(st.text(max_size=40), max_size=60), st.integers(0, 20))
def test_fingerprints_tell_texts_apart_and_do_not_depend_on_the_batch(texts: list[str], cut: int) -> None:
    column = pa.array(texts, pa.string())
    whole = fingerprint(column, "churn")
    pairs = dict(zip(zip(whole.high.tolist(), whole.low.tolist(), strict=True), texts, strict=True))
    assert len(pairs) == len(set(texts))
    part = fingerprint(column.slice(cut), "churn")
    assert part.high.tolist() == whole.high[cut:].tolist()
    other = fingerprint(column, "fraud")
    assert not set(other.high.tolist()) & set(whole.high.tolist())
