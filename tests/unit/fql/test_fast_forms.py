"""Every faster form against the kernel that it stands for, on any column: nulls, empty texts, slices, types."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.events.definitions import ColumnType
from fqlstream.fql.fast_forms import TextWords, fast_form, text_words
from fqlstream.functions.expression import Apply, ColumnRef, DType, Expression, Literal
from fqlstream.functions.index import KERNELS

TEXT = ColumnRef("s", ColumnType.CATEGORY)
WHOLE = ColumnRef("n", ColumnType.INT)
FLAG = ColumnRef("b", ColumnType.BOOL)


def text(value: str | None) -> Literal:
    return Literal(value, DType.STRING)


def number(value: float | None) -> Literal:
    return Literal(value, DType.NUMBER)


def both_ways(node: Apply, column: pa.Array) -> tuple[list[Any], list[Any]]:
    """Compute a node by its fast form and by its kernel."""
    form = fast_form(node)
    assert form is not None
    run, items = form
    inputs = [
        text_words(column) if isinstance(item, TextWords) else item if isinstance(item, pa.Scalar) else column
        for item in items
    ]
    scalars = {DType.NUMBER: pa.float64(), DType.STRING: pa.string(), DType.BOOLEAN: pa.bool_()}
    plain = [pa.scalar(arg.value, scalars[arg.dtype]) if isinstance(arg, Literal) else column for arg in node.args]
    fast, slow = run(*inputs), KERNELS[node.op].arrow(*plain)
    assert fast.type == slow.type
    assert fast.validate(full=True) is None
    return fast.to_pylist(), slow.to_pylist()


TEXTS = st.lists(
    st.one_of(
        st.none(),
        st.sampled_from(["", "a", "FR", "FR\0", "abcd1", "abcd2", "abcd", "twelve bytes", "thirteen byte", "日本"]),
        st.text(max_size=14),
    )
)
SHORT = st.one_of(st.sampled_from(["", "a", "FR", "abcd1", "abcd", "twelve bytes", "日本"]), st.text(max_size=3))


@given(TEXTS, SHORT, st.sampled_from(["==", "!="]), st.integers(0, 9))
def test_texts_are_compared_as_their_kernel_does(values: list[str | None], wanted: str, op: str, start: int) -> None:
    for array in (pa.array(values, pa.string()), pa.array(["x", *values, "y"], pa.string()).slice(1, len(values))):
        node = Apply(op, (TEXT, text(wanted)), DType.BOOLEAN)
        fast, slow = both_ways(node, array.slice(start))
        assert fast == slow


@pytest.mark.parametrize("wanted", ["", "a", "abcd", "abcde", "abcdefghijkl"])
def test_a_text_is_told_from_its_neighbours(wanted: str) -> None:
    values = ["abcdefghijkl"[:size] + end for size in range(13) for end in ("", "x", "\0")]
    fast, slow = both_ways(Apply("==", (TEXT, text(wanted)), DType.BOOLEAN), pa.array(values))
    assert fast == slow
    assert sum(fast) == 1


@given(TEXTS, st.lists(SHORT, min_size=1, max_size=4), st.integers(0, 9))
def test_classes_are_placed_as_their_kernel_does(values: list[str | None], classes: list[str], start: int) -> None:
    node = Apply("class_index", (TEXT, *map(text, classes)), DType.NUMBER)
    fast, slow = both_ways(node, pa.array(values, pa.string()).slice(start))
    assert fast == slow


@given(
    st.lists(st.one_of(st.none(), st.integers(-(2**53), 2**53))),
    st.integers(-(2**52), 2**52),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
)
def test_integers_are_compared_as_their_kernel_does(values: list[int | None], wanted: int, op: str) -> None:
    fast, slow = both_ways(Apply(op, (WHOLE, number(float(wanted))), DType.BOOLEAN), pa.array(values, pa.int64()))
    assert fast == slow


@given(st.lists(st.one_of(st.none(), st.booleans())), st.floats(-9, 9), st.floats(-9, 9), st.integers(0, 9))
def test_constants_are_chosen_as_their_kernel_does(
    values: list[bool | None], yes: float, no: float, start: int
) -> None:
    node = Apply("if", (FLAG, number(yes), number(no)), DType.NUMBER)
    fast, slow = both_ways(node, pa.array(values, pa.bool_()).slice(start))
    assert fast == slow


@pytest.mark.parametrize(
    "node",
    [
        Apply("==", (TEXT, text("thirteen byte")), DType.BOOLEAN),
        Apply("==", (TEXT, text(None)), DType.BOOLEAN),
        Apply("==", (TEXT, ColumnRef("t", ColumnType.STRING)), DType.BOOLEAN),
        Apply("<", (WHOLE, number(1.5)), DType.BOOLEAN),
        Apply("<", (WHOLE, number(2.0**60)), DType.BOOLEAN),
        Apply("<", (ColumnRef("x", ColumnType.FLOAT), number(1.0)), DType.BOOLEAN),
        Apply("if", (FLAG, number(None), number(1.0)), DType.NUMBER),
        Apply("if", (FLAG, text("a"), text("b")), DType.STRING),
        Apply("if", (Literal(True, DType.BOOLEAN), number(2.0), number(1.0)), DType.NUMBER),
        Apply("class_index", (WHOLE, number(0.0), number(1.0)), DType.NUMBER),
        Apply("+", (WHOLE, number(1.0)), DType.NUMBER),
    ],
    ids=repr,
)
def test_other_nodes_keep_their_kernel(node: Apply) -> None:
    assert fast_form(node) is None


def test_a_slice_costs_only_its_own_rows() -> None:
    array = pa.array(["x" * 100] * 1_000 + ["ab", None, ""] + ["y" * 100] * 1_000).slice(1_000, 3)
    texts = text_words(array)
    assert texts.words.shape == (3, 2)
    assert texts.valid is not None
    assert texts.valid.tolist() == [True, False, True]


def test_other_kinds_of_text_are_read() -> None:
    node: Expression = Apply("==", (TEXT, text("ab")), DType.BOOLEAN)
    form = fast_form(node)
    assert form is not None
    for kind in (pa.large_string(), pa.string_view()):
        assert form[0](text_words(pa.array(["ab", None, "c"], kind))).to_pylist() == [True, None, False]
