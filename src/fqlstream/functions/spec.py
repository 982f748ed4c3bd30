"""What is declared about a function: one row each, which parser, checker, compilers, command line, docs and tests read.

A row is implemented by a `Kernel` (arrays in, array out, and the same as ClickHouse SQL) or by a `lower` function that
builds the call out of other rows and primitive aggregates. Kernels work for rows and for per-window values alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

import pyarrow as pa

from fqlstream.events.definitions import BaselineDefinition, ModelDefinition, Task
from fqlstream.functions.choices import Chosen, choose
from fqlstream.functions.expression import Apply, ColumnRef, DType, Expression
from fqlstream.functions.expression import Literal as LiteralNode
from fqlstream.settings import FqlSettings


class Passing(StrEnum):
    """How an argument may be given."""

    POSITION = "position"
    KEYWORD = "keyword"
    EITHER = "either"


class Takes(StrEnum):
    """What may stand in an argument's place."""

    VALUE = "value"
    CONSTANT = "constant"
    COLUMN = "column"


class LevelRule(StrEnum):
    """Which level a call has, given its arguments'."""

    ARGUMENTS = "arguments"  # the level of its arguments; row and aggregate do not mix
    ROW = "row"  # a value per row, whatever its arguments
    AGGREGATE = "aggregate"  # reads rows or constants, gives one value
    COMBINED = "combined"  # reads aggregates or constants, gives one value


class Nulls(StrEnum):
    """What a null argument does."""

    GIVES_NULL = "a null argument gives null"
    OWN = "see the summary"
    SKIPPED = "rows with a null argument are left out"


NUMBER: Final = (DType.NUMBER,)
BOOLEAN: Final = (DType.BOOLEAN,)
STRING: Final = (DType.STRING,)
VALUES: Final = (DType.NUMBER, DType.BOOLEAN, DType.STRING)
ANY: Final = (DType.NUMBER, DType.BOOLEAN, DType.STRING, DType.TIMESTAMP, DType.VECTOR)

#: Tasks that have built-in metric functions at all.
ML_TASKS: Final = (Task.BINARY, Task.MULTICLASS, Task.REGRESSION, Task.RANKING, Task.NOT_SET)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a function."""

    name: str
    types: tuple[DType, ...]
    summary: str
    passing: Passing = Passing.POSITION
    takes: Takes = Takes.VALUE
    required: bool = True
    same: bool = False  # of one type with the other parameters that say so
    null: bool = False  # whether the literal null may stand here
    repeats_min: int = 0  # above 0: the last parameter, given at least so many times


@dataclass(frozen=True, slots=True)
class Example:
    """A call that the tests run and the reference page prints.

    `columns` is the input, `result` the value (of a row-level call: one per row). `model` names the one of the example
    models that the columns belong to.
    """

    call: str
    result: float | bool | str | tuple[float | bool | str | None, ...] | None
    columns: Mapping[str, tuple[float | bool | str | None, ...]] = field(default_factory=dict)
    model: str = "table"  # a name of EXAMPLE_MODELS
    baseline: Mapping[str, tuple[float | bool | str | None, ...]] | None = None  # rows of the baseline 'training'


@dataclass(frozen=True, slots=True)
class Kernel:
    """A function of arrays of one length.

    `arrow` gets a `pa.Scalar` for a literal and a `pa.Array` for everything else, at least one of them; it gives an array:
    Number as float64, Boolean as bool, String as utf8. Arrays may have any length, 0 included. `clickhouse` gets SQL
    that is cheap to repeat (a name or a literal) and gives SQL, which may call the lambdas of `sql_lambdas`; where
    `undefined_is_null`, the compiler turns its infinities and NaN into NULL.
    """

    name: str
    arrow: Callable[..., pa.Array]
    clickhouse: Callable[..., str] | None
    clickhouse_reason: str = ""  # why there is no SQL
    nulls: Nulls = Nulls.GIVES_NULL
    undefined_is_null: bool = False
    passes_undefined: tuple[int, ...] = ()  # arguments whose infinities and NaN always make its value one of them
    reads_violations: bool = False  # its column argument arrives as Booleans: where the column has that violation
    #: SQL for a first argument of a type where that differs: cheaper, or the only right one.
    clickhouse_by_type: Mapping[DType, Callable[..., str]] = field(default_factory=dict)

    def clickhouse_for(self, dtype: DType | None) -> Callable[..., str] | None:
        """Give the SQL form for a first argument of a type; None where there is none at all."""
        form = None if dtype is None else self.clickhouse_by_type.get(dtype)
        return self.clickhouse if form is None else form


class CallError(Exception):
    """A call that its model cannot answer; the checker makes a diagnostic of it, placed at `parameter` or the name."""

    def __init__(self, code: str, message: str, hint: str | None = None, parameter: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class CallWarning:
    """Something the caller should know; same fields as an error."""

    code: str
    message: str
    hint: str | None = None
    parameter: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows that a function leaves out though nothing in them is null: what they are, and an aggregate that counts them."""

    function: str
    what: str
    count: Expression


@dataclass(frozen=True, slots=True)
class Call:
    """What a lowering sees: the checked arguments by parameter name and the model they belong to."""

    spec: FunctionSpec
    model: ModelDefinition
    arguments: Mapping[str, Expression]
    repeated: tuple[Expression, ...] = ()
    baselines: Mapping[str, BaselineDefinition] = field(default_factory=dict)
    warnings: list[CallWarning] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    settings: FqlSettings = field(default_factory=FqlSettings)

    @property
    def chosen(self) -> Chosen:
        """What the documentation leaves open, as it holds for this model."""
        return choose(self.model, self.settings)

    def __getitem__(self, name: str) -> Expression:
        return self.arguments[name]

    def column(self, name: str) -> ColumnRef | None:
        """Give a column argument, None where it was left out."""
        value = self.arguments.get(name)
        return value if isinstance(value, ColumnRef) else None

    def required_column(self, name: str) -> ColumnRef:
        """Give a column argument that cannot be left out."""
        value = self.arguments[name]
        if not isinstance(value, ColumnRef):
            message = f"{self.spec.name}: the checker let something pass for column {name}: {value!r}"
            raise TypeError(message)
        return value

    def constant(self, name: str) -> float | bool | str | None:
        """Give a constant argument's value, None where it was left out."""
        value = self.arguments.get(name)
        return value.value if isinstance(value, LiteralNode) else None

    def number(self, name: str) -> float | None:
        """Give a constant Number, None where it was left out."""
        value = self.constant(name)
        return value if isinstance(value, float) else None


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """One function or operator."""

    name: str
    params: tuple[Parameter, ...]
    level: LevelRule
    result: DType | Literal["same"]  # "same": that of its `same` parameters, or of the column it names
    summary: str
    nulls: Nulls
    examples: tuple[Example, ...]
    source: str  # where the definition comes from: documented, or chosen here and why
    tasks: tuple[Task, ...] = tuple(Task)
    kernel: Kernel | None = None
    lower: Callable[[Call], Expression] | None = None
    error_bound: str = "exact"
    since: str = "0.1"
    symbol: str | None = None  # of an operator: how it is written

    @property
    def signature(self) -> str:
        """`quantile(x: Number, level=Number?)`; `?` marks what may be left out."""
        if self.symbol is not None:
            names = [param.name for param in self.params]
            return f"{self.symbol}{names[0]}" if len(names) == 1 else f"{names[0]} {self.symbol} {names[1]}"
        return f"{self.name}({', '.join(map(_parameter_text, self.params))})"

    @property
    def gives(self) -> str:
        """The type of its value."""
        return "Any" if self.result == "same" else self.result.value


def _parameter_text(param: Parameter) -> str:
    types = "Any" if len(param.types) >= len(VALUES) else " or ".join(param.types)
    mark = "" if param.required else "?"
    mark = ", ..." if param.repeats_min else mark
    return f"{param.name}={types}{mark}" if param.passing is Passing.KEYWORD else f"{param.name}: {types}{mark}"


def lower_call(call: Call) -> Expression:
    """Give a call as an expression: by its own lowering, else its kernel applied to its arguments in order."""
    if call.spec.lower is not None:
        return call.spec.lower(call)
    args = tuple(call.arguments[param.name] for param in call.spec.params if param.name in call.arguments)
    return Apply(call.spec.name, args + call.repeated, result_type(call.spec, args))


def result_type(spec: FunctionSpec, args: Collection[Expression]) -> DType:
    """Give the type of a call's value."""
    if spec.result != "same":
        return spec.result
    return next(arg.dtype for param, arg in zip(spec.params, args, strict=False) if param.same)
