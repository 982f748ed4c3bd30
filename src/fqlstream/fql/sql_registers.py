"""Expressions as SQL: short ones are written where they are used, long or shared ones get a name in an earlier step.

A kernel's SQL may repeat its arguments, and every repetition of a repetition doubles the text and ClickHouse's own analysis of
it. So what would grow becomes a column of a step, and steps are subqueries in a row: each reads the columns of the one before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fqlstream.errors import FqlstreamError
from fqlstream.fql.sql_text import constant, text_literal
from fqlstream.functions.expression import AggregateValue, Apply, ColumnRef, Expression, Literal
from fqlstream.functions.index import KERNELS
from fqlstream.functions.sql_lambdas import FINITE, LAMBDAS

#: ClickHouse analyses an expression as a tree: so many leaves in one column take it milliseconds.
_LEAVES_MAX: Final = 64
#: Longer texts are named once they are used twice, or where a kernel repeats them oftener than people can read.
_SHORT: Final = 48
_REPEATS_MAX: Final = 3
_QUOTED: Final = r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`"
_ATOM: Final = re.compile(rf"[\w.]+|{_QUOTED}", re.DOTALL)
_OPENING: Final = re.compile(r"(?:[A-Za-z_]\w*)?\(")
_PIECE: Final = re.compile(rf"{_QUOTED}|[()]", re.DOTALL)


class SqlFormError(FqlstreamError):
    """Something that has no exact form in ClickHouse's SQL."""


@dataclass(frozen=True, slots=True)
class Sql:
    """SQL of an expression: `step` is the first one whose columns it may read, `leaves` what ClickHouse makes of it.

    `unchecked` is the same without the check that makes NULL of infinities and NaN, where the text is such a check.
    """

    text: str
    step: int = 0
    leaves: int = 1
    unchecked: str | None = None

    @property
    def operand(self) -> str:
        """The text as it may stand beside any operator."""
        return self.text if _is_closed(self.text) else f"({self.text})"

    @property
    def without_check(self) -> Sql:
        """The same for a reader that makes NULL of it anyway."""
        return self if self.unchecked is None else Sql(self.unchecked, self.step, self.leaves // 2)


#: How a leaf is written: a column, or a number read from aggregates.
Leaf = Callable[[ColumnRef | AggregateValue], Sql]


@dataclass(slots=True)
class Registers:
    """The expressions of one level, rows or windows, as SQL."""

    leaf: Leaf
    prefix: str
    uses: Mapping[Expression, int]
    steps: list[list[tuple[str, str]]] = field(default_factory=list)
    _known: dict[Expression, Sql] = field(default_factory=dict)
    _count: int = 0

    def sql(self, expression: Expression) -> Sql:
        """Give an expression's SQL, over the columns of its step."""
        stack: list[tuple[Expression, bool]] = [(expression, False)]
        while stack:
            node, ready = stack.pop()
            if node in self._known:
                continue
            if isinstance(node, Apply) and not ready and not KERNELS[node.op].reads_violations:
                stack.append((node, True))
                stack.extend((arg, False) for arg in node.args)
            else:
                self._known[node] = self._settled(node, self._written(node))
        return self._known[expression]

    def named(self, expression: Expression) -> Sql:
        """Give the SQL of an expression as something that is cheap to repeat: a name, or a constant."""
        found = self.sql(expression)
        if isinstance(expression, Literal) or _ATOM.fullmatch(found.text):
            return found
        self._known[expression] = self.name(found)
        return self._known[expression]

    def name(self, found: Sql) -> Sql:
        """Make SQL a column of a step."""
        self._count += 1
        name = f"{self.prefix}{self._count}"
        while len(self.steps) <= found.step:
            self.steps.append([])
        self.steps[found.step].append((name, found.text))
        return Sql(name, found.step + 1)

    def _written(self, node: Expression) -> Sql:
        match node:
            case Literal():
                return Sql(constant(node))
            case ColumnRef() | AggregateValue():
                return self.leaf(node)
            case Apply():
                return self._applied(node)

    def _applied(self, node: Apply) -> Sql:
        kernel = KERNELS[node.op]
        form = kernel.clickhouse_for(node.args[0].dtype if node.args else None)
        if form is None:
            raise SqlFormError(
                "FQL080",
                f"{node.op} has no exact form in ClickHouse's SQL: {kernel.clickhouse_reason}",
                "the other engine computes it: `fqlstream fql eval --engine arrow`, or a metric that is streamed",
            )
        if kernel.reads_violations:
            return Sql(form(text_literal(_column(node).name)))
        found = self.call(form, node.args, kernel.passes_undefined)
        if not kernel.undefined_is_null:
            return found
        if found.leaves > _LEAVES_MAX:
            found = self.name(found)
        return Sql(f"{FINITE}({found.text})", found.step, 2 * found.leaves, found.text)

    def call(self, form: Callable[..., str], args: Sequence[Expression], passes_undefined: Sequence[int] = ()) -> Sql:
        """Write what `form` makes of expressions; one that it repeats, and that is not short, is named first.

        Arguments at the places `passes_undefined` need not be checked before the whole is.
        """
        repeats = _repeats(form, len(args))
        found = []
        for place, (arg, count) in enumerate(zip(args, repeats, strict=True)):
            sql = self.sql(arg)
            if place in passes_undefined:
                sql = sql.without_check
            if count > 1 and (count > _REPEATS_MAX or len(sql.text) > _SHORT):
                sql = self.named(arg)
            found.append(sql)
        text = form(*(sql.operand for sql in found))
        leaves = 1 + sum(sql.leaves * count for sql, count in zip(found, repeats, strict=True))
        leaves += _LEAVES_MAX * any(f"{name}(" in text for name in LAMBDAS if name != FINITE)
        return Sql(text, max((sql.step for sql in found), default=0), leaves)

    def _settled(self, node: Expression, found: Sql) -> Sql:
        is_shared = self.uses.get(node, 0) > 1 and len(found.text) > _SHORT
        if found.leaves > _LEAVES_MAX or is_shared:
            return self.name(found)
        return found


def count_uses(roots: Iterable[Expression]) -> dict[Expression, int]:
    """Count how many distinct expressions read each one; a root is read from outside, too."""
    uses: dict[Expression, int] = {}
    stack = list(roots)
    while stack:
        node = stack.pop()
        uses[node] = uses.get(node, 0) + 1
        if uses[node] == 1 and isinstance(node, Apply):
            stack.extend(node.args)
    return uses


def _repeats(form: Callable[..., str], count: int) -> list[int]:
    """Count how often a kernel's SQL repeats each argument."""
    marks = [f"\0{place}\0" for place in range(count)]
    text = form(*marks)
    return [text.count(mark) for mark in marks]


def _column(node: Apply) -> ColumnRef:
    column = node.args[0]
    if not isinstance(column, ColumnRef):
        message = f"{node.op} reads a column, not {column!r}"
        raise TypeError(message)
    return column


def _is_closed(text: str) -> bool:
    """Whether a text is one name, one constant or one call."""
    opening = _OPENING.match(text)
    if opening is None:
        return _ATOM.fullmatch(text) is not None
    depth = 0
    for piece in _PIECE.finditer(text, opening.end() - 1):
        depth += (piece[0] == "(") - (piece[0] == ")")
        if depth == 0:
            return piece.end() == len(text)
    return False
