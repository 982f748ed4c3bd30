from __future__ import annotations

import pytest

from fqlstream.events.definitions import ColumnType, Role
from fqlstream.store.model_tables import StoredColumn, common_type, value_sql

INT, FLOAT, BOOL, TEXT, CATEGORY, TIME, VECTOR = (
    ColumnType.INT, ColumnType.FLOAT, ColumnType.BOOL, ColumnType.STRING, ColumnType.CATEGORY, ColumnType.TIMESTAMP, ColumnType.VECTOR,
)  # fmt: skip


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([INT], INT), ([VECTOR, VECTOR], VECTOR), ([INT, FLOAT], FLOAT), ([BOOL, INT], FLOAT), ([TEXT, CATEGORY], TEXT),
        ([INT, TEXT], TEXT), ([TIME, INT], TEXT), ([VECTOR, INT], TEXT),
    ],
)  # fmt: skip
def test_a_view_s_column_holds_what_all_versions_hold(types: list[ColumnType], expected: ColumnType) -> None:
    assert common_type(types) is expected


def test_a_value_is_taken_from_whichever_form_is_set() -> None:
    forms = [StoredColumn("a", INT, Role.INPUT), StoredColumn("a", TEXT, Role.INPUT)]

    assert value_sql(forms[:1], INT, "e.") == "e.`a:int`"
    assert value_sql(forms, TEXT) == "coalesce(`a:string`, accurateCastOrNull(`a:int`, 'String'))"
    assert value_sql([], INT) == "NULL"
    assert value_sql([], VECTOR) == "[]"
