"""Syntax tree to typed expression: names, types, levels, arguments. Every finding is collected; nothing is raised.

What is wrong becomes "unknown" and is passed upwards in silence, so that one mistake is reported once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from fqlstream.errors import Diagnostic, FqlError
from fqlstream.events.definitions import BaselineDefinition, ModelDefinition, Task
from fqlstream.fql.ast import (
    ArgumentNode,
    BooleanNode,
    CallNode,
    ColumnNode,
    InvalidNode,
    Node,
    NullNode,
    NumberNode,
    OperatorNode,
    Span,
    StringNode,
    as_written,
    children,
    postorder,
)
from fqlstream.fql.elsewhere import ELSEWHERE
from fqlstream.fql.parse import parse
from fqlstream.fql.traps import find_traps
from fqlstream.functions.choices import choose
from fqlstream.functions.expression import Apply, ColumnRef, DType, Expression, Level
from fqlstream.functions.expression import Literal as LiteralNode
from fqlstream.functions.fold import fold
from fqlstream.functions.index import FUNCTION_BY_NAME, OPERATOR_BY_NAME
from fqlstream.functions.nearest import did_you_mean
from fqlstream.functions.spec import (
    Call,
    CallError,
    CallWarning,
    FunctionSpec,
    LeftOut,
    LevelRule,
    Parameter,
    Passing,
    Takes,
    lower_call,
)
from fqlstream.settings import FqlSettings

Use = Literal["metric", "segment", "expression"]

_NO_FQL_TYPE: Final = frozenset({DType.TIMESTAMP, DType.VECTOR})
#: Suggestions for one expression: similarity is dear, and no one needs more.
_SUGGESTIONS_MAX: Final = 20
_SHOWN_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What is known about an expression. `expression` is None unless `ok`; type and level may be known nevertheless."""

    text: str
    ok: bool
    dtype: DType | None
    level: Level | None
    errors: tuple[Diagnostic, ...]
    warnings: tuple[Diagnostic, ...]
    expression: Expression | None
    left_out: tuple[LeftOut, ...] = ()

    def require(self) -> Expression:
        """Give the typed expression.

        Raises FqlError with every error where there is one.
        """
        if self.expression is None:
            raise FqlError(self.text, self.errors)
        return self.expression

    def as_dict(self) -> dict[str, object]:
        """Give the JSON contract."""
        return {
            "ok": self.ok,
            "type": None if self.dtype is None else self.dtype.value,
            "level": None if self.level is None else self.level.value,
            "errors": [item.as_dict() for item in self.errors],
            "warnings": [item.as_dict() for item in self.warnings],
        }


def check(
    text: str,
    model: ModelDefinition,
    kind: Use = "expression",
    *,
    baselines: Mapping[str, BaselineDefinition] | None = None,
    settings: FqlSettings | None = None,
) -> CheckResult:
    """Check an expression against a model and what it is to be used for. Never raises for what the text holds."""
    limits = settings if settings is not None else FqlSettings()
    parsed = parse(text, limits)
    if parsed.node is None:
        return CheckResult(text, False, None, None, parsed.diagnostics, (), None)
    checker = _Checker(text, model, baselines or {}, limits, list(parsed.diagnostics))
    try:
        typed = checker.run(parsed.node)
        checker.check_use(typed, parsed.node, kind)
        unlabelled = choose(model, limits).null_condition == "else"
        checker.warnings.extend(find_traps(parsed.node, model, kind, unlabelled=unlabelled))
    except _EnoughError:
        typed = _UNKNOWN
    errors = tuple(sorted(checker.errors, key=_place))
    known = typed.expression
    return CheckResult(
        text=text,
        ok=not errors,
        dtype=None if known is None or known.dtype in _NO_FQL_TYPE else known.dtype,
        level=None if known is None else typed.level,
        errors=errors,
        warnings=tuple(sorted(checker.warnings, key=_place)),
        expression=None if errors else known,
        left_out=tuple(dict.fromkeys(checker.left_out)),
    )


def _place(item: Diagnostic) -> tuple[int, int]:
    return item.start, item.end


class _EnoughError(Exception):
    """So many errors were found that no one would read more."""


@dataclass(frozen=True, slots=True)
class _Typed:
    """What is known of a node. `expression` None: nothing, as it or something below it is wrong; or it is the bare null."""

    expression: Expression | None
    level: Level = Level.CONST
    is_null: bool = False

    @property
    def wrong(self) -> bool:
        return self.expression is None and not self.is_null


_UNKNOWN: Final = _Typed(None)
_NULL: Final = _Typed(None, is_null=True)


_Argument = tuple[Parameter, Node, _Typed]


@dataclass(slots=True)
class _Bound:
    """Arguments by their parameters."""

    by_name: dict[str, _Argument] = field(default_factory=dict)
    repeated: list[_Argument] = field(default_factory=list)

    @property
    def all(self) -> list[_Argument]:
        return [*self.by_name.values(), *self.repeated]


class _Checker:
    def __init__(
        self,
        text: str,
        model: ModelDefinition,
        baselines: Mapping[str, BaselineDefinition],
        limits: FqlSettings,
        errors: list[Diagnostic],
    ) -> None:
        self.text = text
        self.model = model
        self.columns = {column.name: column for column in model.columns}
        self.baselines = baselines
        self.limits = limits
        self.errors = errors
        self.warnings: list[Diagnostic] = []
        self.left_out: list[LeftOut] = []
        self.suggestions = 0

    # ---------------------------------------------------------------------------------------- findings

    def error(self, code: str, message: str, span: Span, hint: str | None = None) -> _Typed:
        self.errors.append(Diagnostic(code, message, span.start, span.end, hint))
        if len(self.errors) >= self.limits.errors_max:
            raise _EnoughError
        return _UNKNOWN

    def suggest(self, name: str, known: Sequence[str]) -> str | None:
        self.suggestions += 1
        return did_you_mean(name, known) if self.suggestions <= _SUGGESTIONS_MAX else None

    def shown(self, node: Node, otherwise: str = "x") -> str:
        """Give a node's own text for a hint, where it is short."""
        text = self.text[node.span.start : node.span.end]
        return text if len(text) <= _SHOWN_MAX and "\n" not in text else otherwise

    # ---------------------------------------------------------------------------------------- nodes

    def run(self, root: Node) -> _Typed:
        done: list[_Typed] = []
        for node in postorder(root):
            count = len(children(node))
            below = done[len(done) - count :]
            del done[len(done) - count :]
            done.append(self.visit(node, below))
        return done[-1]

    def visit(self, node: Node, below: list[_Typed]) -> _Typed:
        match node:
            case NumberNode(value=value):
                return _Typed(LiteralNode(value, DType.NUMBER))
            case StringNode(value=text):
                return _Typed(LiteralNode(text, DType.STRING))
            case BooleanNode(value=truth):
                return _Typed(LiteralNode(truth, DType.BOOLEAN))
            case NullNode():
                return _NULL
            case ColumnNode():
                return self.column(node)
            case OperatorNode():
                return self.operator(node, below)
            case CallNode():
                return self.call(node, below)
            case _:
                return _UNKNOWN

    def column(self, node: ColumnNode) -> _Typed:
        column = self.columns.get(node.name)
        if column is not None:
            return _Typed(ColumnRef(column.name, column.type), Level.ROW)
        near = self.suggest(node.name, list(self.columns))
        if near is not None:
            hint = f"did you mean {as_written(near)}?"
        elif not node.quoted and node.name in FUNCTION_BY_NAME:
            hint = f"a function is called with parentheses: {node.name}()"
        elif node.quoted:
            hint = f"a String has single quotes: '{node.name[:_SHOWN_MAX]}'"
        else:
            hint = _columns_hint(list(self.columns))
        shown = node.name if len(node.name) <= _SHOWN_MAX else f"{node.name[:_SHOWN_MAX]}..."
        return self.error("FQL030", f"Column {shown} not found in model {self.model.name}", node.span, hint)

    def operator(self, node: OperatorNode, below: list[_Typed]) -> _Typed:
        spec = OPERATOR_BY_NAME[node.operator]
        # a run of `and` or `or` has more operands than its row has parameters, all alike
        params = spec.params if len(spec.params) == len(below) else (spec.params[0],) * len(below)
        args = list(zip(params, node.operands, below, strict=True))
        if not self.types_fit(spec, args, node.operator_span):
            return _UNKNOWN
        level = self.common_level(spec, args, node.operator_span)
        if level is None:
            return _UNKNOWN
        operands = [typed.expression for _, _, typed in args if typed.expression is not None]
        return _Typed(_joined(spec, operands), level)

    # ---------------------------------------------------------------------------------------- calls

    def call(self, node: CallNode, below: list[_Typed]) -> _Typed:
        spec = FUNCTION_BY_NAME.get(node.name)
        if spec is None:
            return self.unknown_function(node)
        if self.model.task not in spec.tasks:
            self.wrong_task(node, spec)
        bound = self.bind(node, spec, below)
        if bound is None or self.model.task not in spec.tasks:
            return _UNKNOWN
        args = bound.all
        if not self.types_fit(spec, args, node.name_span, node.name):
            return _UNKNOWN
        places_fit = [self.place_fits(param, value, typed, node) for param, value, typed in args]
        level = self.common_level(spec, args, node.name_span, node)
        if level is None or not all(places_fit):
            return _UNKNOWN
        return self.lowered(node, spec, args, level)

    def unknown_function(self, node: CallNode) -> _Typed:
        lower = node.name.lower()
        near = self.suggest(node.name, list(FUNCTION_BY_NAME))
        if lower in ELSEWHERE:
            hint: str | None = f"write {ELSEWHERE[lower]}"
        elif near is not None:
            hint = f"did you mean {near}?"
        elif node.name in self.columns:
            hint = f"{node.name} is a column: it takes no parentheses"
        else:
            hint = "`fqlstream fql functions` lists all"
        shown = node.name if len(node.name) <= _SHOWN_MAX else f"{node.name[:_SHOWN_MAX]}..."
        return self.error("FQL014", f'unknown function "{shown}"', node.name_span, hint)

    def wrong_task(self, node: CallNode, spec: FunctionSpec) -> None:
        task = self.model.task
        if task is Task.LLM:
            hint = "use the attribute() function with aggregate functions instead"
        else:
            hint = f"it is for {', '.join(item.value for item in spec.tasks)}"
        message = f"{spec.name}() does not exist for models of task {task.value}"
        self.error("FQL060", message, node.name_span, hint)

    def bind(self, node: CallNode, spec: FunctionSpec, below: list[_Typed]) -> _Bound | None:
        """Give each argument its parameter; None where the call does not fit."""
        before = len(self.errors)
        bound = _Bound()
        positional = [param for param in spec.params if param.passing is not Passing.KEYWORD]
        position = 0
        for argument, typed in zip(node.arguments, below, strict=True):
            if argument.name is not None:
                self.bind_named(argument, typed, spec, bound)
            elif position < len(positional):
                param = positional[position]
                if param.repeats_min:
                    bound.repeated.append((param, argument.value, typed))
                else:
                    position += 1
                    self.bind_once(param, argument.value, typed, bound)
            else:
                if not isinstance(argument.value, InvalidNode):
                    self.too_many(node, spec, argument, len(positional))
                return None
        if len(self.errors) == before:
            self.check_missing(node, spec, bound)
        return bound if len(self.errors) == before else None

    def bind_once(self, param: Parameter, value: Node, typed: _Typed, bound: _Bound) -> None:
        if param.name in bound.by_name:
            self.error("FQL043", f"{param.name} is given twice", value.span)
        bound.by_name[param.name] = (param, value, typed)

    def bind_named(self, argument: ArgumentNode, typed: _Typed, spec: FunctionSpec, bound: _Bound) -> None:
        name, span = argument.name or "", argument.name_span or argument.value.span
        param = next((item for item in spec.params if item.name == name), None)
        if param is None:
            named = [item.name for item in spec.params if item.passing is not Passing.POSITION]
            near = self.suggest(name, named) if named else None
            if name in self.columns:
                hint: str | None = f"to compare write {name} == {self.shown(argument.value, '...')}"
            elif near is not None:
                hint = f"did you mean {near}=?"
            else:
                hint = f"it is {spec.signature}"
            self.error("FQL042", f"{spec.name}() has no argument {name}", span, hint)
        elif param.passing is Passing.POSITION:
            hint = f"write {spec.name}({', '.join(item.name for item in spec.params)})"
            self.error("FQL044", f"{spec.name}() takes {name} by position, without its name", span, hint)
        else:
            self.bind_once(param, argument.value, typed, bound)

    def too_many(self, node: CallNode, spec: FunctionSpec, argument: ArgumentNode, positions: int) -> None:
        named = [param.name for param in spec.params if param.passing is Passing.KEYWORD]
        count = len(node.arguments)
        if named:
            is_column = isinstance(argument.value, ColumnNode)
            fits = [param.name for param in spec.params if (param.takes is not Takes.CONSTANT) == is_column] or named
            hint = f"write {fits[0]}={self.shown(argument.value, '...')}"
            message = f"{spec.name}() takes {' and '.join(named)} by name"
            self.error("FQL044", message, argument.value.span, hint)
            return
        hints = {
            "max": "the larger of several aggregates is greatest(a, b)",
            "min": "the smaller of several aggregates is least(a, b)",
        }
        takes = "no arguments" if not positions else f"{positions} argument{'s' if positions > 1 else ''}"
        hint = hints.get(spec.name, f"it is {spec.signature}")
        self.error("FQL041", f"{spec.name}() takes {takes}, not {count}", argument.value.span, hint)

    def check_missing(self, node: CallNode, spec: FunctionSpec, bound: _Bound) -> None:
        missing = [
            param.name
            for param in spec.params
            if (param.repeats_min > len(bound.repeated))
            or (param.required and not param.repeats_min and param.name not in bound.by_name)
        ]
        if missing:
            self.error(
                "FQL040", f"{spec.name}() lacks {' and '.join(missing)}", node.name_span, f"it is {spec.signature}"
            )

    def place_fits(self, param: Parameter, value: Node, typed: _Typed, node: CallNode) -> bool:
        """Check what only some arguments are: constants, columns."""
        if param.takes is Takes.COLUMN and not isinstance(typed.expression, ColumnRef):
            self.error(
                "FQL046", f"{param.name} of {node.name}() is a column, not an expression", value.span, "name one column"
            )
            return False
        if param.takes is Takes.CONSTANT and typed.level is not Level.CONST:
            self.error(
                "FQL045", f"{param.name} of {node.name}() is a constant", value.span, "it must be the same for all rows"
            )
            return False
        return True

    def lowered(self, node: CallNode, spec: FunctionSpec, args: list[_Argument], level: Level) -> _Typed:
        known = [(param, typed.expression) for param, _, typed in args if typed.expression is not None]
        arguments = {param.name: expression for param, expression in known if not param.repeats_min}
        repeated = tuple(expression for param, expression in known if param.repeats_min)
        call = Call(spec, self.model, arguments, repeated, self.baselines, settings=self.limits)
        spans = {param.name: value.span for param, value, _ in args}
        try:
            expression = fold(lower_call(call))
        except CallError as error:
            span = spans.get(error.parameter or "", node.name_span)
            return self.error(error.code, error.message, span, error.hint)
        self.left_out.extend(call.left_out)
        for item in call.warnings:
            self.warn(item, spans.get(item.parameter or "", node.name_span))
        return _Typed(expression, level)

    def warn(self, item: CallWarning, span: Span) -> None:
        self.warnings.append(Diagnostic(item.code, item.message, span.start, span.end, item.hint, "warning"))

    # ---------------------------------------------------------------------------------------- types

    def types_fit(self, spec: FunctionSpec, args: list[_Argument], span: Span, name: str | None = None) -> bool:
        """Check types; gives nulls the type of their neighbours, in `args` itself."""
        fits = True
        for index, (param, value, typed) in enumerate(args):
            if typed.is_null:
                fits &= self.null_fits(spec, param, value, args, index)
            elif typed.expression is not None and typed.expression.dtype not in param.types:
                fits = False
                self.wrong_type(spec, param, value, typed.expression, name)
            fits &= not typed.wrong
        return fits and self.same_types(spec, args, span)

    def null_fits(self, spec: FunctionSpec, param: Parameter, value: Node, args: list[_Argument], index: int) -> bool:
        others = [(node, typed) for at, (_, node, typed) in enumerate(args) if at != index]
        if param.null:
            twins = [typed for item, _, typed in args if item.same and not typed.is_null]
            if not twins:
                if index == len(args) - 1:
                    self.error("FQL033", "one of the two values has to say what type null is", value.span)
                return False
            if twins[0].expression is None:
                return False
            args[index] = (param, value, _Typed(LiteralNode(None, twins[0].expression.dtype)))
            return True
        if spec.name in {"==", "!="} and len(others) == 1:
            word = "is_null" if spec.name == "==" else "is_not_null"
            self.error(
                "FQL033", "nothing equals null, not even null", value.span, f"write {word}({self.shown(others[0][0])})"
            )
        else:
            self.error("FQL033", "null stands only as a value of if()", value.span, "test for it with is_null(x)")
        return False

    def wrong_type(
        self, spec: FunctionSpec, param: Parameter, value: Node, given: Expression, name: str | None
    ) -> None:
        place = f"{param.name} of {name}()" if name is not None else f"each side of {spec.name}"
        if spec.symbol is not None and len(spec.params) == 1:
            place = f"what stands behind {spec.symbol.strip()}"
        wanted = " or ".join(param.types)
        if given.dtype in _NO_FQL_TYPE:
            kind = given.type.value if isinstance(given, ColumnRef) else given.dtype.lower()
            hint = "such columns serve is_null(), is_not_null(), count() and the violation counts"
            self.error("FQL034", f"a column of type {kind} has no value in FQL", value.span, hint)
            return
        message = f"{place} must be a {wanted}, not a {given.dtype}"
        self.error("FQL031", message, value.span, self.type_hint(spec, param, value, given))

    def type_hint(self, spec: FunctionSpec, param: Parameter, value: Node, given: Expression) -> str | None:
        if DType.NUMBER in param.types and given.dtype is DType.BOOLEAN:
            return f"write if({self.shown(value, 'condition')}, 1, 0)"
        if isinstance(value, StringNode) and value.value in self.columns:
            return f"a column has double quotes or none: {as_written(value.value)}"
        if spec.name == "+" and given.dtype is DType.STRING:
            return "+ does not join Strings"
        if isinstance(value, StringNode) and DType.NUMBER in param.types:
            return "a number has no quotes"
        if DType.STRING in param.types and param.takes is not Takes.CONSTANT:
            return f"write to_string({self.shown(value)})"
        if isinstance(value, NumberNode) and DType.STRING in param.types:
            return f"write '{self.shown(value)}'"
        if DType.BOOLEAN in param.types:
            return (
                f"compare it: {self.shown(value)} > 0"
                if given.dtype is DType.NUMBER
                else f"compare it: {self.shown(value)} == 'a'"
            )
        return None

    def same_types(self, spec: FunctionSpec, args: list[_Argument], span: Span) -> bool:
        same = [(node, typed.expression) for param, node, typed in args if param.same and typed.expression is not None]
        if len(same) < 2 or same[0][1].dtype is same[1][1].dtype:
            return True
        (left, a), (right, b) = same[0], same[1]
        if spec.symbol is None:
            message = f"both values of {spec.name}() must be of one type; they are {a.dtype} and {b.dtype}"
        else:
            message = f"{spec.name} compares values of one type; here are {a.dtype} and {b.dtype}"
        self.error("FQL032", message, span, self.same_hint(left, a, right, b))
        return False

    def same_hint(self, left: Node, a: Expression, right: Node, b: Expression) -> str | None:
        sides = ((left, b), (right, a))
        for node, other in sides:
            match node, other.dtype:
                case NumberNode(), DType.STRING:
                    return f"numbers in a category or text are Strings: write '{self.shown(node)}'"
                case NumberNode(value=0.0 | 1.0 as value), DType.BOOLEAN:
                    return f"write {'true' if value else 'false'}"
                case StringNode(value=text), DType.BOOLEAN if text.lower() in {"true", "false"}:
                    return f"write {text.lower()} without quotes"
                case StringNode(value=text), DType.NUMBER if _is_number(text):
                    return f"a number has no quotes: write {text}"
        return next(
            (f"write to_string({self.shown(node)})" for node, other in sides if other.dtype is DType.STRING), None
        )

    # ---------------------------------------------------------------------------------------- levels

    def common_level(
        self, spec: FunctionSpec, args: list[_Argument], span: Span, node: CallNode | None = None
    ) -> Level | None:
        """Give the level of a call, by its row's rule; None where the levels of its arguments do not go together."""
        levels = [(value, typed.level) for _, value, typed in args]
        row = next((value for value, level in levels if level is Level.ROW), None)
        agg = next((value for value, level in levels if level is Level.AGG), None)
        match spec.level:
            case LevelRule.ROW:
                return Level.ROW
            case LevelRule.AGGREGATE:
                if agg is None:
                    return Level.AGG
                message = f"{spec.name}() aggregates rows; its argument is an aggregate already"
                self.error("FQL051", message, agg.span, f"write {self.shown(agg, 'the aggregate')} alone")
                return None
            case LevelRule.COMBINED:
                if row is None:
                    return Level.AGG if agg is not None else Level.CONST
                x = self.shown(row)
                name = "max" if spec.name == "greatest" else "min"
                sign = ">" if spec.name == "greatest" else "<"
                hint = f"aggregate it first: {name}({x}); of two columns write if(a {sign} b, a, b)"
                self.error("FQL052", f"{spec.name}() compares aggregates; this is a value per row", row.span, hint)
                return None
            case LevelRule.ARGUMENTS:
                if row is None:
                    return Level.AGG if agg is not None else Level.CONST
                if agg is None:
                    return Level.ROW
                where = spec.name if node is None else f"{spec.name}()"
                message = f"{where} mixes a value per row ({self.shown(row, 'one')}) with an aggregate ({self.shown(agg, 'another')})"
                self.error("FQL050", message, span, f"aggregate the row's value as well: average({self.shown(row)})")
                return None

    # ---------------------------------------------------------------------------------------- use

    def check_use(self, typed: _Typed, root: Node, kind: Use) -> None:
        """Check what a whole metric, segment or expression may be."""
        if typed.is_null:
            self.error("FQL033", "null alone has no type", root.span)
        expression = typed.expression
        if expression is None:
            return
        if expression.dtype in _NO_FQL_TYPE:
            hint = "such columns serve is_null(), is_not_null(), count() and the violation counts"
            self.error("FQL034", "a column of type timestamp or vector has no value in FQL", root.span, hint)
        elif kind == "metric":
            self.check_metric(typed.level, expression.dtype, root)
        elif kind == "segment":
            self.check_segment(typed.level, expression.dtype, root)

    def check_metric(self, level: Level, dtype: DType, root: Node) -> None:
        shown = self.shown(root)
        if level is Level.CONST:
            self.error(
                "FQL070",
                "a metric aggregates rows; this is a constant",
                root.span,
                "use an aggregate, such as average(x)",
            )
        elif level is Level.ROW:
            hint = {
                DType.NUMBER: f"write average({shown})",
                DType.BOOLEAN: f"write average(if({shown}, 1, 0)), or make it a segment",
            }.get(dtype, f"write count({shown})")
            self.error("FQL070", "a metric is an aggregate; this has a value per row", root.span, hint)
        elif dtype is DType.STRING:
            self.error("FQL071", "a metric is a Number or Boolean; this is a String", root.span)

    def check_segment(self, level: Level, dtype: DType, root: Node) -> None:
        if level is Level.AGG:
            self.error(
                "FQL072",
                "a segment says yes or no for each row; this is an aggregate",
                root.span,
                "leave the aggregate out",
            )
        elif dtype is not DType.BOOLEAN:
            test = "> 0" if dtype is DType.NUMBER else "== 'a'"
            hint = f"compare it: {self.shown(root)} {test}"
            self.error("FQL072", f"a segment is a Boolean for each row; this is a {dtype}", root.span, hint)


def _joined(spec: FunctionSpec, operands: Sequence[Expression]) -> Expression:
    """Apply an operator; a run of `and` or `or` as a balanced tree, which is the same and not deep."""
    dtype = spec.result if spec.result != "same" else operands[0].dtype
    if len(operands) <= len(spec.params):
        return fold(Apply(spec.name, tuple(operands), dtype))
    middle = (len(operands) + 1) // 2
    return fold(Apply(spec.name, (_joined_run(spec, operands[:middle]), _joined_run(spec, operands[middle:])), dtype))


def _joined_run(spec: FunctionSpec, operands: Sequence[Expression]) -> Expression:
    return operands[0] if len(operands) == 1 else _joined(spec, operands)


def _is_number(text: str) -> bool:
    node = parse(text).node if len(text) <= _SHOWN_MAX else None
    return isinstance(node, NumberNode)


def _columns_hint(names: list[str]) -> str:
    if not names:
        return "the model has no columns"
    listed = ", ".join(map(as_written, names[:8]))
    return f"its columns: {listed}{', ...' if len(names) > 8 else ''}"
