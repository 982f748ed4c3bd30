"""Expressions as straight-line programs over arrays: every distinct node is one register, computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.events.columns import RANGE_VIOLATIONS, TYPE_VIOLATIONS
from fqlstream.fql.fast_forms import TextWords, fast_form, text_words
from fqlstream.functions.expression import AggregateValue, Apply, ColumnRef, DType, Expression, Literal
from fqlstream.functions.index import KERNELS

ARROW_TYPE_OF: Final[Mapping[DType, pa.DataType]] = {
    DType.NUMBER: pa.float64(),
    DType.BOOLEAN: pa.bool_(),
    DType.STRING: pa.string(),
    DType.TIMESTAMP: pa.timestamp("ms", tz="UTC"),
    DType.VECTOR: pa.list_(pa.float64()),
}
_VIOLATION_COLUMNS: Final[Mapping[str, str]] = {"type_violation": TYPE_VIOLATIONS, "range_violation": RANGE_VIOLATIONS}


@dataclass(frozen=True, slots=True)
class Violation:
    """Whether a column has a violation: read from one of the two list columns."""

    lists: str
    column: str


@dataclass(frozen=True, slots=True)
class Step:
    """A kernel, or a faster form of it, over earlier registers (by number) and constants."""

    kernel: Callable[..., pa.Array]
    inputs: tuple[int | pa.Scalar, ...]


#: What a register holds: a column, a violation, a number read from states, a constant, or a function's result.
Source = ColumnRef | Violation | AggregateValue | Literal | Step
#: What a register is known by.
Key = Expression | Violation | TextWords


@dataclass(frozen=True, slots=True)
class Program:
    """Registers in an order in which each needs only earlier ones, and which of them are asked for."""

    sources: tuple[Source, ...]
    wanted: tuple[int, ...]  # registers that any root needs, in order

    @property
    def columns(self) -> frozenset[str]:
        """Table columns that the program reads."""
        found = set()
        for register in self.wanted:
            match self.sources[register]:
                case ColumnRef(name=name) | Violation(lists=name):
                    found.add(name)
                case _:
                    pass
        return frozenset(found)

    def run(self, rows: int, load: Callable[[ColumnRef | Violation | AggregateValue], pa.Array]) -> list[Any]:
        """Give the value of every wanted register (None elsewhere): arrays of `rows` entries; `load` gives the leaves."""
        leaves = {
            register: load(source)
            for register in self.wanted
            if isinstance(source := self.sources[register], (ColumnRef, Violation, AggregateValue))
        }
        return self.run_from(rows, leaves)

    def run_from(self, rows: int, leaves: Mapping[int, pa.Array]) -> list[Any]:
        """Give the same, out of the leaves' registers."""
        registers: list[Any] = [None] * len(self.sources)
        for register in self.wanted:
            source = self.sources[register]
            if isinstance(source, Step):
                inputs = [registers[item] if isinstance(item, int) else item for item in source.inputs]
                registers[register] = source.kernel(*inputs)
            elif isinstance(source, Literal):
                registers[register] = pa.repeat(scalar_of(source), rows)
            else:
                registers[register] = leaves[register]
        return registers


class ProgramBuilder:
    """Numbers distinct expressions; afterwards gives programs for any set of them."""

    def __init__(self) -> None:
        self._register: dict[Key, int] = {}
        self._sources: list[Source] = []

    def add(self, expression: Expression) -> int:
        """Give the register of an expression, making it and what it needs where they are new."""
        known = self._register.get(expression)
        if known is not None:
            return known
        source: Source = self._step(expression) if isinstance(expression, Apply) else expression
        return self._new(expression, source)

    def program(self, roots: Iterable[int]) -> Program:
        """Give the program that computes these registers."""
        wanted: set[int] = set()
        stack = list(roots)
        while stack:
            register = stack.pop()
            if register in wanted:
                continue
            wanted.add(register)
            source = self._sources[register]
            if isinstance(source, Step):
                stack.extend(item for item in source.inputs if isinstance(item, int))
        return Program(tuple(self._sources), tuple(sorted(wanted)))

    def _new(self, key: Key, source: Source) -> int:
        self._sources.append(source)
        self._register[key] = len(self._sources) - 1
        return self._register[key]

    def _step(self, node: Apply) -> Step:
        form = fast_form(node)
        if form is not None:
            run, items = form
            return Step(run, tuple(item if isinstance(item, pa.Scalar) else self._input(item) for item in items))
        kernel = KERNELS[node.op]
        if kernel.reads_violations:
            return Step(kernel.arrow, (self._violation(node),))
        inputs = [scalar_of(arg) if isinstance(arg, Literal) else self.add(arg) for arg in node.args]
        if not any(isinstance(item, int) for item in inputs):
            # a kernel needs one array to know how many rows there are
            inputs[0] = self.add(node.args[0])
        return Step(kernel.arrow, tuple(inputs))

    def _input(self, item: Expression | TextWords) -> int:
        if not isinstance(item, TextWords):
            return self.add(item)
        known = self._register.get(item)
        return self._new(item, Step(text_words, (self.add(item.column),))) if known is None else known

    def _violation(self, node: Apply) -> int:
        column = node.args[0]
        if not isinstance(column, ColumnRef):
            message = f"{node.op} reads a column, not {column!r}"
            raise TypeError(message)
        violation = Violation(_VIOLATION_COLUMNS[node.op], column.name)
        known = self._register.get(violation)
        return self._new(violation, violation) if known is None else known


def scalar_of(literal: Literal) -> pa.Scalar:
    """Give a constant as Arrow's scalar of its type."""
    return pa.scalar(literal.value, ARROW_TYPE_OF[literal.dtype])


def column_of(table: pa.Table, name: str) -> pa.Array:
    """Give a column as one array; raises KeyError where the table lacks it."""
    chunks = table.column(name)
    return chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()


def load_row(table: pa.Table) -> Callable[[ColumnRef | Violation | AggregateValue], pa.Array]:
    """Give the leaves of row expressions out of a table."""

    def load(leaf: ColumnRef | Violation | AggregateValue) -> pa.Array:
        match leaf:
            case ColumnRef(name=name):
                return column_of(table, name)
            case Violation(lists=lists, column=column):
                return marks_of(column_of(table, lists), column)
            case AggregateValue():
                message = "a row expression cannot read an aggregate"
                raise TypeError(message)

    return load


def marks_of(lists: pa.ListArray, column: str) -> pa.BooleanArray:
    """Tell in which rows a list of column names holds this one."""
    marks = np.zeros(len(lists), dtype=np.bool_)
    names = lists.flatten()
    if len(names):
        rows = np.repeat(np.arange(len(lists)), pc.fill_null(pc.list_value_length(lists), 0).to_numpy())
        marks[rows[np.asarray(pc.equal(names, column).to_numpy(zero_copy_only=False), dtype=np.bool_)]] = True
    return pa.array(marks)
