"""Names and constants written for ClickHouse, read back by ClickHouse."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fqlstream.fql.sql_text import constant, identifier, number_literal, text_literal
from fqlstream.functions.expression import DType, Literal
from fqlstream.store.embedded.memory import MemoryTables

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text(
    st.sampled_from("'\"`\\{}%:;-/*\n\t\0bnx0"), max_size=8
)


@pytest.fixture(scope="module")
def engine() -> Iterator[MemoryTables]:
    with MemoryTables() as tables:
        yield tables


def answer(engine: MemoryTables, sql: str) -> object:
    (value,) = engine.query_arrow(f"SELECT {sql}").column(0).to_pylist()
    return value


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_a_text_comes_back(engine: MemoryTables, text: str) -> None:
    # its bytes: what SQL shows of a text with a zero in it is another matter
    assert answer(engine, f"hex({text_literal(text)})") == text.encode().hex().upper()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS.filter(lambda text: text and "\0" not in text))
def test_a_name_is_one_name_whatever_stands_in_it(engine: MemoryTables, text: str) -> None:
    table = engine.query_arrow(f"SELECT 7 AS {identifier(text)}")
    assert (table.column_names, table.column(0).to_pylist()) == ([text], [7])
    assert answer(engine, f"{identifier(text)} + 1 FROM (SELECT 7 AS {identifier(text)})") == 8


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_the_same_double_to_its_last_bit(engine: MemoryTables, value: float) -> None:
    (bits,) = struct.unpack("<Q", struct.pack("<d", value))
    assert answer(engine, f"reinterpretAsUInt64({number_literal(value)})") == bits


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 2.0**53 + 2, 1e22])
def test_a_whole_number_is_a_double_too(engine: MemoryTables, value: float) -> None:
    assert answer(engine, f"toTypeName({number_literal(value)})") == "Float64"
    assert answer(engine, f"1 -{number_literal(value)}") == 1 - value, "a minus before it is no comment"


def test_constants_have_the_type_that_fql_gives_them(engine: MemoryTables) -> None:
    for literal, kind, value in (
        (Literal(None, DType.NUMBER), "Nullable(Float64)", None),
        (Literal(None, DType.BOOLEAN), "Nullable(Bool)", None),
        (Literal(None, DType.STRING), "Nullable(String)", None),
        (Literal(True, DType.BOOLEAN), "Bool", True),
        (Literal(False, DType.BOOLEAN), "Bool", False),
        (Literal("it's", DType.STRING), "String", "it's"),
        (Literal(1.0, DType.NUMBER), "Float64", 1.0),
    ):
        assert answer(engine, f"toTypeName({constant(literal)})") == kind
        assert answer(engine, constant(literal)) == value
    assert math.copysign(1, float(number_literal(-0.0).strip("()"))) == -1
