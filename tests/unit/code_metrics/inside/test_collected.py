from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from fqlstream.code_metrics.inside.collected import CollectedRows, MissingColumnError, as_array

ROWS = CollectedRows([(1, "a", 0.5), (None, "b", 1.5)], ["age", "first name", "score"])


def test_rows_stay_a_list() -> None:
    assert isinstance(ROWS, list)
    assert ROWS == [(1, "a", 0.5), (None, "b", 1.5)]


def test_columns_are_arrays_by_name() -> None:
    assert np.average(ROWS.columns.score) == 1.0
    assert list(ROWS.columns["first name"]) == ["a", "b"]
    assert list(ROWS.columns) == ["age", "first name", "score"]
    assert len(ROWS.columns) == 3
    assert "age" in ROWS.columns


def test_a_null_among_numbers_is_nan() -> None:
    np.testing.assert_array_equal(ROWS.columns.age, [1.0, np.nan])


def test_a_column_that_is_not_there_is_said_so_either_way() -> None:
    with pytest.raises(MissingColumnError, match="there is no column 'nope'"):
        _ = ROWS.columns.nope
    with pytest.raises(KeyError):
        _ = ROWS.columns["nope"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "i"),
        ([1, None], "f"),
        ([Decimal("1.5"), None], "f"),
        ([True, False], "b"),
        ([True, None], "O"),
        (["a", None], "O"),
        ([], "O"),
        ([None], "O"),
        ([[1, 2], [3, 4]], "O"),
    ],
)
def test_arrays_have_the_kind_of_their_values(values: list[object], kind: str) -> None:
    array = as_array(list(values))
    assert array.dtype.kind == kind
    assert array.shape == (len(values),)
