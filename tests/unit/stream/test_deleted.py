from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.stream.deleted import DeletedIds, deleted_rows, without_deleted
from fqlstream.stream.fingerprints import Fingerprints, fingerprint


@given(st.sets(st.text(min_size=1, max_size=8), max_size=50), st.lists(st.text(min_size=1, max_size=8), max_size=50))
def test_ids_are_found_whatever_their_order(gone: set[str], asked: list[str]) -> None:
    deleted = DeletedIds.of(fingerprint(pa.array(sorted(gone), pa.string()), "m"))
    found = deleted.holds(fingerprint(pa.array([*asked, *gone], pa.string()), "m"))
    assert found.tolist() == [text in gone for text in [*asked, *gone]]


def test_both_words_of_a_fingerprint_count() -> None:
    deleted = DeletedIds.of(Fingerprints(np.array([7, 3], np.uint64), np.array([1, 2], np.uint64)))
    asked = Fingerprints(np.array([3, 3, 7, 8], np.uint64), np.array([2, 1, 1, 1], np.uint64))
    assert deleted.holds(asked).tolist() == [True, False, True, False]


def test_only_the_model_that_was_named_loses_rows() -> None:
    table = pa.table({"event_id": ["a", "b", "a"], "x": [1, 2, 3]})
    deleted = {"m": DeletedIds.of(fingerprint(pa.array(["a"]), "m"))}
    assert without_deleted(deleted, "m", table).column("x").to_pylist() == [2]
    assert without_deleted(deleted, "other", table) is table
    assert deleted_rows(deleted, "m", table.slice(1, 1)) is None
    assert deleted_rows(deleted, "m", table.slice(0, 0)) is None
