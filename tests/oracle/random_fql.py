"""Random well-typed FQL over random tables, made from the registry: every declared function in every place its row allows."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from fqlstream.events.definitions import Choices, Column, ColumnType, ModelDefinition, Task
from fqlstream.fql.ast import as_written
from fqlstream.functions.expression import DTYPE_OF_COLUMN, DType, Level
from fqlstream.functions.index import FUNCTIONS
from fqlstream.functions.operators import OPERATORS
from fqlstream.functions.spec import FunctionSpec, LevelRule, Parameter, Passing, Takes

NUMBER, BOOLEAN, STRING = DType.NUMBER, DType.BOOLEAN, DType.STRING
CONST, ROW, AGG = Level.CONST, Level.ROW, Level.AGG

NUMBERS: Final = (0.0, 1.0, 2.0, 3.0, 0.5, 0.1, 0.25, 7.0, 10.0, 100.0, 1e-9, 1e6, 1e16, 2.0**53, 1e300, 1e-300, 5e-324)
TEXTS: Final = ("", "a", "ab", "abc", "é", "日本", "😀", "a\nb", "it's", "\\", "A", "no", "yes", "%", "e\u0301")
PATTERNS: Final = (
    "a",
    "^a",
    "b$",
    "a.b",
    "[[:alpha:]]+",
    "",
    "(?i)A",
    "é|日",
    "\\\\",
    "^.$",
    "(a|b)*c?",
    "\\d",
    "[^a]",
)


@dataclass(frozen=True)
class Term:
    """A piece of an expression. `args` go with the keyword they are given by, '' by position; none: `text` is a leaf."""

    text: str
    dtype: DType
    level: Level
    args: tuple[tuple[str, Term], ...] = ()
    spec: FunctionSpec | None = None

    def render(self) -> str:
        if self.spec is None:
            return self.text
        inner = [value.render() for _, value in self.args]
        if self.spec.symbol is None:
            named = [f"{name}={text}" if name else text for (name, _), text in zip(self.args, inner, strict=True)]
            return f"{self.spec.name}({', '.join(named)})"
        return f"({self.spec.symbol}{inner[0]})" if len(inner) == 1 else f"({inner[0]} {self.spec.symbol} {inner[1]})"

    def functions(self) -> Counter[str]:
        found = Counter([self.spec.name] if self.spec else [])
        for _, value in self.args:
            found += value.functions()
        return found

    def depth(self) -> int:
        return 1 + max((value.depth() for _, value in self.args), default=0) if self.spec else 0


def specs_for(task: Task) -> tuple[FunctionSpec, ...]:
    """Give the functions and operators of a task."""
    return tuple(spec for spec in (*OPERATORS, *FUNCTIONS) if task in spec.tasks)


class Expressions:
    """Makes expressions for one model."""

    def __init__(
        self, rng: random.Random, model: ModelDefinition, baselines: Sequence[str], seen: Mapping[str, int]
    ) -> None:
        """`seen` says how often each function was used so far: rarer ones are preferred."""
        self.seen = seen
        self.rng = rng
        self.model = model
        self.baselines = baselines
        self.specs = [spec for spec in specs_for(model.task) if self._possible(spec)]

    def metric(self, spec: FunctionSpec) -> Term:
        """Make an aggregate-level Number or Boolean, of depth 3 or more, that holds a call of this function."""
        while True:
            term = self.call(spec, None, 2)
            wraps = 0
            while term.level is not AGG or wraps < 2:
                term = self._wrapped(term, aggregated=term.level is not AGG and wraps > 2)
                wraps += 1
            if term.dtype is STRING:
                term = self._call_with(self._spec("length"), term, 0)
            if term.depth() >= 3:
                return term

    def segment(self) -> Term:
        """Make a Boolean of rows."""
        return self.value(BOOLEAN, ROW, self.rng.randint(1, 3))

    # ---------------------------------------------------------------------------------------------- values

    def value(self, dtype: DType, level: Level, depth: int) -> Term:
        """Make an expression of a type and level."""
        if level is AGG and (depth <= 0 or (dtype is NUMBER and self.rng.random() < 0.3)):
            number = self.call(self._rarer(self._of_rule(LevelRule.AGGREGATE)), None, max(min(depth, 1), 0))
            if dtype is BOOLEAN:
                return Term("", BOOLEAN, AGG, (("", number), ("", self.constant(NUMBER))), self._spec(">"))
            return number if dtype is NUMBER else Term("", STRING, AGG, (("", number),), self._spec("to_string"))
        if level is not AGG and (depth <= 0 or self.rng.random() < 0.3):
            return self.leaf(dtype, level)
        choices = [spec for spec in self._of_rule(LevelRule.ARGUMENTS) if self._gives(spec, dtype) and spec.params]
        if level is ROW:
            choices += [spec for spec in self._of_rule(LevelRule.ROW) if self._gives(spec, dtype)]
        if level is AGG and dtype is NUMBER:
            choices += self._of_rule(LevelRule.COMBINED)
        return self.call(self._rarer(choices), level, depth - 1, dtype)

    def leaf(self, dtype: DType, level: Level) -> Term:
        columns = [column for column in self.model.columns if DTYPE_OF_COLUMN[column.type] is dtype]
        if level is ROW and columns:
            return self.column(self.rng.choice(columns))
        return self.constant(dtype)

    def column(self, column: Column) -> Term:
        name = as_written(column.name)
        if self.model.task is Task.LLM and self.rng.random() < 0.5:
            spec = self._spec("attribute")
            text = Term(quoted(column.name), STRING, CONST)
            return Term("", DTYPE_OF_COLUMN[column.type], ROW, (("", text),), spec)
        return Term(name, DTYPE_OF_COLUMN[column.type], ROW)

    def constant(self, dtype: DType) -> Term:
        if dtype is BOOLEAN:
            return Term(self.rng.choice(("true", "false")), BOOLEAN, CONST)
        if dtype is STRING:
            return Term(quoted(self.rng.choice(TEXTS)), STRING, CONST)
        if self.rng.random() < 0.1:
            return Term("", NUMBER, CONST, (), self._spec(self.rng.choice(("e", "pi"))))
        number = self.rng.choice(NUMBERS[:10]) if self.rng.random() < 0.8 else self.rng.choice(NUMBERS)
        return Term(written(number), NUMBER, CONST)

    # ---------------------------------------------------------------------------------------------- calls

    def call(self, spec: FunctionSpec, level: Level | None, depth: int, dtype: DType | None = None) -> Term:
        """Make a call; `level` and `dtype` are wanted of a function that takes those of its arguments."""
        level = self._level_of(spec, level)
        same = dtype if dtype is not None else self.rng.choice((NUMBER, BOOLEAN, STRING))
        if spec.result == "same":
            result = same
        else:
            result = spec.result
            same = self.rng.choice([item for item in (NUMBER, BOOLEAN, STRING) if self._fits_same(spec, item)])
        params = [param for param in spec.params if param.required or self.rng.random() < 0.5 or param.name == "class"]
        params = [param for param in params if param.name != "class" or self.model.task is Task.MULTICLASS]
        params += [param for param in params if param.repeats_min for _ in range(self.rng.randint(0, 2))]
        values = [param for param in params if param.takes is Takes.VALUE]
        lead = self.rng.randrange(len(values)) if values else -1
        args = []
        for param in params:
            leads = param.takes is Takes.VALUE and lead == 0
            lead -= param.takes is Takes.VALUE
            args.append((self._passed(param, spec), self._argument(spec, param, level, depth, same, leads=leads)))
        if spec.name == "attribute":
            column = next(c for c in self.model.columns if quoted(c.name) == args[0][1].text)
            result = DTYPE_OF_COLUMN[column.type]
        return _whole(Term("", result, level, tuple(args), spec))

    def _argument(
        self, spec: FunctionSpec, param: Parameter, level: Level, depth: int, same: DType, *, leads: bool
    ) -> Term:
        if param.takes is Takes.COLUMN:
            return Term(as_written(self.rng.choice(self._columns_for(spec, param)).name), NUMBER, ROW)
        if param.takes is Takes.CONSTANT:
            return self._constant_for(spec, param)
        dtype = same if param.same else self.rng.choice([t for t in param.types if t in (NUMBER, BOOLEAN, STRING)])
        of = _inner_level(spec, level)
        if param.null and param is spec.params[-1] and not leads and self.rng.random() < 0.2:
            return Term("null", dtype, CONST)
        if not leads and self.rng.random() < 0.35:
            return self.constant(dtype)
        if of is ROW and len(param.types) > 3 and self.rng.random() < 0.3:
            return self.column(self.rng.choice(self.model.columns))
        return self.value(dtype, of, depth)

    def _wrapped(self, term: Term, *, aggregated: bool) -> Term:
        """Put a term into a call of some function that takes it; of an aggregate, if it is to be aggregated."""
        of = self._of_rule(LevelRule.AGGREGATE) if aggregated else self.specs
        choices = [spec for spec in of if self._takes(spec, term)]
        return self._call_with(self.rng.choice(choices), term, 1)

    def _call_with(self, spec: FunctionSpec, term: Term, depth: int) -> Term:
        level = term.level if spec.level is LevelRule.ARGUMENTS else self._level_of(spec, None)
        if level is CONST:
            level = self.rng.choice((ROW, AGG)) if spec.level is LevelRule.ARGUMENTS else level
        made = self.call(spec, level, depth, term.dtype)
        places = [
            place
            for place, param in enumerate(_params_of(made))
            if param.takes is Takes.VALUE and term.dtype in param.types
        ]
        places = [p for p in places if not _params_of(made)[p].same or made.args[p][1].dtype is term.dtype]
        if not places:
            return self._call_with(spec, term, depth)
        place = self.rng.choice(places)
        args = (*made.args[:place], (made.args[place][0], term), *made.args[place + 1 :])
        return _whole(replace(made, args=args))

    def _takes(self, spec: FunctionSpec, term: Term) -> bool:
        level_fits = {
            LevelRule.ARGUMENTS: True,
            LevelRule.ROW: False,
            LevelRule.AGGREGATE: term.level is not AGG,
            LevelRule.COMBINED: term.level is not ROW,
        }[spec.level]
        return level_fits and any(p.takes is Takes.VALUE and term.dtype in p.types for p in spec.params)

    # ---------------------------------------------------------------------------------------------- what rows say

    def _rarer(self, specs: Sequence[FunctionSpec]) -> FunctionSpec:
        """Draw a few, and take the one that was seen least."""
        return min((self.rng.choice(specs) for _ in range(3)), key=lambda spec: self.seen[spec.name])

    def _of_rule(self, rule: LevelRule) -> list[FunctionSpec]:
        return [spec for spec in self.specs if spec.level is rule]

    def _spec(self, name: str) -> FunctionSpec:
        return next(spec for spec in self.specs if spec.name == name)

    def _gives(self, spec: FunctionSpec, dtype: DType) -> bool:
        if spec.name == "attribute":
            return False  # columns are sometimes written so
        return spec.result == dtype or (spec.result == "same" and any(dtype in param.types for param in spec.params))

    def _fits_same(self, spec: FunctionSpec, dtype: DType) -> bool:
        return all(dtype in param.types for param in spec.params if param.same)

    def _level_of(self, spec: FunctionSpec, wanted: Level | None) -> Level:
        match spec.level:
            case LevelRule.ARGUMENTS:
                return wanted if wanted is not None else self.rng.choice((ROW, ROW, AGG))
            case LevelRule.ROW:
                return ROW
            case _:
                return AGG

    def _passed(self, param: Parameter, spec: FunctionSpec) -> str:
        by_name = param.passing is Passing.KEYWORD or (
            param.passing is Passing.EITHER and spec.params[-1] is param and self.rng.random() < 0.5
        )
        return param.name if by_name else ""

    def _constant_for(self, spec: FunctionSpec, param: Parameter) -> Term:
        order = self.model.task_params.target_class_order or ()
        choices: dict[str, Sequence[str]] = {
            "regex": [quoted(pattern) for pattern in PATTERNS],
            "level": ["0", "0.5", "1", "0.25", "0.9", "0.333", "1/3"],
            "threshold": ["0.5", "0", "1", "0.3", "0.7"],
            "class": [quoted(str(name)) for name in order],
            "baseline": [quoted(name) for name in self.baselines],
            "name": [quoted(column.name) for column in self.model.columns if column.type not in _NO_TYPE],
            "type": ["'user'"],
            "scope": ["'span'"],
        }
        return Term(self.rng.choice(choices[param.name]), param.types[0], CONST)

    def _columns_for(self, spec: FunctionSpec, param: Parameter) -> list[Column]:
        columns = list(self.model.columns)
        if param.name == "target":
            own = [column for column in columns if column.role == "target"]
            return own + [c for c in columns if c.name.startswith("other_target")]
        if spec.name in {"jsd", "psi"}:
            return [column for column in columns if _has_bins(column)]
        return columns

    def _possible(self, spec: FunctionSpec) -> bool:
        return not any(param.name == "baseline" for param in spec.params) or (
            bool(self.baselines) and any(map(_has_bins, self.model.columns))
        )


_NO_TYPE: Final = (ColumnType.TIMESTAMP, ColumnType.VECTOR)


def _params_of(term: Term) -> list[Parameter]:
    """Give the parameter behind each argument of a call."""
    assert term.spec is not None
    by_name = {param.name: param for param in term.spec.params}
    positional = [param for param in term.spec.params if param.passing is not Passing.KEYWORD]
    params = []
    for place, (name, _) in enumerate(term.args):
        params.append(by_name[name] if name else positional[min(place, len(positional) - 1)])
    return params


def _whole(term: Term) -> Term:
    """Give a call the level that its arguments give it."""
    assert term.spec is not None
    if term.spec.level is LevelRule.ARGUMENTS:
        levels = {value.level for _, value in term.args}
        return replace(term, level=AGG if AGG in levels else ROW if ROW in levels else CONST)
    if term.spec.level is LevelRule.COMBINED:
        return replace(term, level=AGG if any(value.level is AGG for _, value in term.args) else CONST)
    return term


def _inner_level(spec: FunctionSpec, level: Level) -> Level:
    return ROW if spec.level is LevelRule.AGGREGATE else level


def _has_bins(column: Column) -> bool:
    if column.type in (ColumnType.INT, ColumnType.FLOAT):
        return column.min is not None and column.max is not None
    return column.type is ColumnType.BOOL or (column.type is ColumnType.CATEGORY and column.categories is not None)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def written(number: float) -> str:
    text = repr(abs(number)).removesuffix(".0")
    return f"(-{text})" if math.copysign(1.0, number) < 0 else text


# ------------------------------------------------------------------------------------------------ models and tables


def _model(task: Task, columns: list[dict[str, Any]], **task_params: Any) -> ModelDefinition:
    base: list[dict[str, Any]] = [
        {"name": "x", "type": "float", "min": -10, "max": 10},
        {"name": "y", "type": "float"},
        {"name": "select", "type": "float", "bins": [-1, 0, 0.5, 3], "min": -1, "max": 3},
        {"name": "i", "type": "int", "min": 0, "max": 100},
        {"name": "r1", "type": "int"},
        {"name": "a", "type": "bool"},
        {"name": "other_flag", "type": "bool"},
        {"name": "s", "type": "string"},
        {"name": "it's `odd`.\\name", "type": "string"},
        {"name": "c", "type": "category", "categories": ["a", "b", "é"]},
        {"name": "seen", "type": "timestamp"},
        {"name": "v", "type": "vector", "n_dimensions": 2},
    ]
    definition = {
        "name": f"m_{task.name.lower()}",
        "task": task,
        "columns": [*base, *columns],
        "task_params": task_params,
    }
    return ModelDefinition.model_validate(definition)


MODELS: Final[tuple[ModelDefinition, ...]] = (
    _model(Task.NOT_SET, []),
    _model(Task.LLM, [{"name": "tokens", "type": "int", "source": "user", "scope": "span"}]),
    _model(
        Task.BINARY,
        [
            {"name": "score", "type": "float", "role": "output"},
            {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
            {"name": "other_target", "type": "category", "role": "metadata"},
        ],
        target_class_order=["no", "yes"],
        threshold=0.3,
    ),
    _model(
        Task.BINARY,
        [
            {"name": "score", "type": "float", "role": "output"},
            {"name": "won", "type": "bool", "role": "target"},
            {"name": "other_target", "type": "bool", "role": "metadata"},
        ],
    ).model_copy(update={"name": "m_f1", "choices": Choices(calibrated_threshold_rule="f1", null_condition="null")}),
    _model(
        Task.MULTICLASS,
        [
            *({"name": f"p_{name}", "type": "float", "role": "output"} for name in ("cat", "dog", "fox")),
            {"name": "animal", "type": "category", "role": "target"},
            {"name": "other_target", "type": "string", "role": "metadata"},
        ],
        target_class_order=["cat", "dog", "fox"],
    ),
    _model(
        Task.REGRESSION,
        [
            {"name": "estimate", "type": "float", "role": "output"},
            {"name": "price", "type": "float", "role": "target"},
            {"name": "other_target", "type": "int", "role": "metadata"},
        ],
    ),
    _model(
        Task.RANKING,
        [
            {"name": "query", "type": "string", "role": "metadata"},
            {"name": "rank_score", "type": "float", "role": "output"},
            {"name": "clicked", "type": "int", "role": "target"},
            {"name": "other_target", "type": "bool", "role": "metadata"},
        ],
        group_by="query",
        top_k=3,
        is_binary_ranking_model=True,
    ),
    _model(
        Task.RANKING,
        [
            {"name": "query", "type": "category", "role": "metadata"},
            {"name": "rank_score", "type": "float", "role": "output"},
            {"name": "grade", "type": "float", "role": "target"},
            {"name": "other_target", "type": "float", "role": "metadata"},
        ],
        group_by="query",
        is_binary_ranking_model=True,
    ),
    _model(
        Task.RANKING,
        [
            {"name": "query", "type": "int", "role": "metadata"},
            {"name": "rank_scores", "type": "vector", "role": "output"},
            {"name": "grades", "type": "vector", "role": "target"},
            {"name": "other_target", "type": "vector", "role": "metadata"},
        ],
        group_by="query",
        top_k=3,
        is_binary_ranking_model=True,
    ),
)

#: Where values come from: ordinary ones, few distinct ones, and everything that breaks arithmetic.
PROFILES: Final = ("tame", "ties", "wild", "nulls")
_TIES: Final = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 0.1)
_WILD: Final = (
    math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-300, 5e-324, -5e-324, 2.0**53, 2.0**53 + 2, -(2.0**60), 1e16, 123456.75, 1e-5, 0.1, 1e22,
)  # fmt: skip
_WILD_ITEMS: Final = (0.0, -0.0, 1.0, -1.0, 1e300, -1e300, 1.5e308, 1e-300, 5e-324, 0.1)
SIZES: Final = (0, 1, 2, 7, 40, 300)


def random_columns(rng: random.Random, model: ModelDefinition, profile: str, rows: int) -> dict[str, list[Any]]:
    """Make a column of raw values for each of a model's, ill-typed ones among them."""
    null_share = {"tame": 0.05, "ties": 0.1, "wild": 0.2, "nulls": 0.9}[profile]

    def values(column: Column) -> Iterator[Any]:
        for _ in range(rows):
            if rng.random() < null_share:
                yield None
            elif profile == "wild" and rng.random() < 0.05:
                yield rng.choice(("ill-typed", 1.5, True, [1.0]))
            else:
                yield _value(rng, column, profile)

    return {column.name: list(values(column)) for column in model.columns}


def _value(rng: random.Random, column: Column, profile: str) -> Any:
    match column.type:
        case ColumnType.FLOAT if column.name == "grade" or (column.name == "other_target" and profile == "wild"):
            return _number(rng, profile)
        case ColumnType.FLOAT if column.role == "output" or "target" in column.name:
            return (
                rng.choice((0.0, 0.25, 0.5, 1.0))
                if profile == "ties"
                else rng.choice((rng.random(), rng.uniform(-1, 2)))
            )
        case ColumnType.FLOAT:
            return _number(rng, profile)
        case ColumnType.INT if column.name == "r1" and profile == "wild":
            return rng.choice((2**53 + 1, -(2**62), 2**63 - 1, 7, 0))
        case ColumnType.INT if column.role == "target" or column.name in {"other_target", "query"}:
            return rng.randint(0, 2)
        case ColumnType.INT:
            return rng.randint(-3, 120)
        case ColumnType.BOOL:
            return rng.random() < 0.5
        case ColumnType.STRING | ColumnType.CATEGORY:
            known = {
                "churned": ("no", "yes"),
                "animal": ("cat", "dog", "fox"),
                "other_target": ("no", "yes", "cat", "fox"),
            }
            return rng.choice((*known.get(column.name, TEXTS), *(TEXTS if rng.random() < 0.1 else ())))
        case ColumnType.TIMESTAMP:
            return rng.randint(0, 2_000_000_000_000)
        case ColumnType.VECTOR:
            size = rng.choice((0, 1, 2, 2, 2, 5))
            if profile == "wild" and rng.random() < 0.3:
                return [rng.choice(_WILD_ITEMS) for _ in range(size)]
            return [float(rng.randint(0, 2)) / 2 for _ in range(size)]


def _number(rng: random.Random, profile: str) -> float:
    if profile == "ties":
        return rng.choice(_TIES)
    if profile == "wild" and rng.random() < 0.4:
        return rng.choice(_WILD)
    return rng.choice(
        (rng.gauss(0, 3), rng.lognormvariate(0, 2), float(rng.randint(-5, 5)), round(rng.uniform(-20, 20), 2))
    )
