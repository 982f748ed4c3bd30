from __future__ import annotations

import numpy as np
import pyarrow as pa
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as kafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.client.partitioning import murmur2, partitions_of

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(keys=st.lists(texts, max_size=30), start=st.integers(0, 5))
def test_hashes_are_those_of_another_implementation(keys: list[str], start: int) -> None:
    expected = [kafka_murmur2(key.encode()) & 0xFFFFFFFF for key in keys]
    assert murmur2(pa.array(keys, pa.string())).tolist() == expected
    assert murmur2(pa.array(keys, pa.string())[start:]).tolist() == expected[start:]


def test_keys_of_one_length_are_hashed_as_alone() -> None:
    keys = [f"request-{number:06}" for number in range(2_000)]
    assert murmur2(pa.array(keys)).tolist() == [kafka_murmur2(key.encode()) & 0xFFFFFFFF for key in keys]


def test_partitions_are_those_of_kafkas_default_partitioner() -> None:
    keys = [f"r-{number}" for number in range(3_000)]
    every = list(range(12))
    expected = [DefaultPartitioner()(key.encode(), every, every) for key in keys]
    found = partitions_of(pa.array(keys), 12)
    assert found.tolist() == expected
    assert np.bincount(found, minlength=12).min() > 150
