"""Text to syntax tree: operator precedence with an explicit stack, so that no text can exhaust Python's own.

One step per word, at most a few words looked ahead: linear in the text. After an error the parser goes on behind the next
comma or parenthesis, so that one run reports everything. `grammar.lark` says what is accepted; the tests hold this file to it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from fqlstream.errors import Diagnostic, FqlError
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
)
from fqlstream.fql.lex import Kind, Token, tokens
from fqlstream.settings import FqlSettings

#: How tightly operators bind, loosest first. Undocumented by Fiddler; this order agrees with every example.
_OR, _AND, _NOT, _COMPARE, _ADD, _MULTIPLY, _UNARY, _POWER = range(1, 9)
_PRECEDENCE: Final = {
    "or": _OR,
    "and": _AND,
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), _COMPARE),
    **dict.fromkeys("+-", _ADD),
    **dict.fromkeys("*/%", _MULTIPLY),
    "^": _POWER,
}
#: Words without a part of their own: parentheses, commas, names of arguments, and what is skipped after an error.
_WORDS_PER_NODE: Final = 20
_RUNS: Final = frozenset({"and", "or"})

#: Words of SQL and Python in an operator's place.
_SQL_WORDS: Final = {
    "when": "write if(condition, value1, value2)",
    "then": "write if(condition, value1, value2)",
    "else": "write if(condition, value1, value2)",
    "end": "write if(condition, value1, value2)",
    "if": "write if(condition, value1, value2)",
    "in": "write x == 'a' or x == 'b'",
    "is": "write is_null(x) or is_not_null(x)",
    "like": "write match(x, 'pattern') or startswith(x, 'prefix')",
    "ilike": "write match(x, '(?i)pattern')",
    "between": "write x >= 1 and x <= 2",
    "xor": "write a != b",
    "mod": "write %",
    "div": "write /",
    "where": "write sum(if(condition, x, null)), or define a segment",
    "over": "windows belong to the model, not to the expression",
    "from": "an expression reads the rows of its model",
    "as": "a metric's name stands in its definition",
}
#: Words of SQL that stand before a value.
_SQL_OPENERS: Final = {
    "case": _SQL_WORDS["when"],
    "distinct": "FQL does not count distinct values",
    "select": "an expression is what SQL writes between SELECT and FROM",
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """What came of a text: the tree, with InvalidNode where something was wrong, or None where there was nothing."""

    text: str
    node: Node | None
    diagnostics: tuple[Diagnostic, ...]

    def require(self) -> Node:
        """Give the tree.

        Raises FqlError with every finding where there is one.
        """
        if self.node is None or self.diagnostics:
            raise FqlError(self.text, self.diagnostics)
        return self.node


def parse(text: str, settings: FqlSettings | None = None) -> Parsed:
    """Parse an expression. Never raises for what the text holds; findings are in the order of the text."""
    limits = settings if settings is not None else FqlSettings()
    if len(text) > limits.characters_max:
        message = f"the expression has {len(text)} characters; at most {limits.characters_max} are allowed"
        found = Diagnostic("FQL020", message, limits.characters_max, len(text), "split it into several metrics")
        return Parsed(text, None, (found,))
    parser = _Parser(text, limits)
    try:
        node = parser.run()
    except _LimitError:
        node = None
    found_all = sorted(parser.diagnostics, key=lambda item: (item.start, item.end))
    return Parsed(text, node, tuple(found_all))


class _LimitError(Exception):
    """A limit is reached: there is no use in going on."""


@dataclass(slots=True)
class _Operand:
    node: Node
    depth: int
    start: int  # of the text that it covers, its parentheses included
    end: int


@dataclass(slots=True)
class _Pending:
    """What waits on the stack: an operator for its right side, or an open parenthesis."""

    name: str  # an operator, or ( for a group or call
    precedence: int
    token: Token
    prefix: bool = False
    callee: Token | None = None
    arguments: list[ArgumentNode] = field(default_factory=list)
    depth: int = 0  # of the deepest argument so far
    argument_name: Token | None = None

    @property
    def opens(self) -> bool:
        return self.name == "("


class _Parser:
    def __init__(self, text: str, limits: FqlSettings) -> None:
        self.text = text
        self.limits = limits
        self.diagnostics: list[Diagnostic] = []
        self.source = tokens(text, self.report)
        self.ahead: list[Token] = []
        self.operands: list[_Operand] = []
        self.pending: list[_Pending] = []
        self.nesting = 0
        self.nodes = 0
        self.words = 0

    # ---------------------------------------------------------------------------------------- words and findings

    def peek(self, distance: int = 0) -> Token:
        if len(self.ahead) <= distance:
            self.ahead.extend(islice(self.source, distance + 1 - len(self.ahead)))
        return self.ahead[min(distance, len(self.ahead) - 1)]

    def take(self) -> Token:
        token = self.peek()
        if token.kind is not Kind.END:
            del self.ahead[0]
            self.words += 1
            if self.words > _WORDS_PER_NODE * self.limits.nodes_max:
                message = f"the expression has more than {_WORDS_PER_NODE * self.limits.nodes_max} words"
                self.stop("FQL022", message, token, "split it into several metrics")
        return token

    def report(self, item: Diagnostic) -> None:
        self.diagnostics.append(item)
        if len(self.diagnostics) >= self.limits.errors_max:
            raise _LimitError

    def error(self, code: str, message: str, token: Token, hint: str | None = None) -> None:
        self.report(Diagnostic(code, message, token.start, token.end, hint))

    # ---------------------------------------------------------------------------------------- the two states

    def run(self) -> Node | None:
        if self.peek().kind is Kind.END:
            self.error("FQL018", "the expression is empty", self.peek(), "for example: average(column)")
            return None
        while True:
            self.read_operand()
            if not self.read_operator():
                break
        return self.operands[-1].node

    def read_operand(self) -> None:
        """Read up to and including a value; opens parentheses and prefix operators on the way."""
        while True:
            token = self.peek()
            match token.kind:
                case Kind.OPEN:
                    self.open(self.take())
                    continue
                case Kind.KEYWORD if token.text == "not":
                    self.read_not()
                    continue
                case Kind.OPERATOR if token.text == "-":
                    self.push(_Pending("negate", _UNARY, self.take(), prefix=True))
                    continue
                case Kind.NAME if self.peek(1).kind is Kind.OPEN:
                    self.take()
                    frame = self.open(self.take(), token)
                    if frame.argument_name is not None or self.peek().kind is not Kind.CLOSE:
                        continue
                    self.end_call(frame, token, self.take().end)
                case Kind.NAME if token.text == "if":
                    hint = 'write if(condition, value1, value2); a column of that name is quoted: "if"'
                    self.error("FQL010", "if is a function", self.take(), hint)
                    self.value(InvalidNode(Span(token.start, token.end)), token)
                case Kind.NUMBER | Kind.STRING | Kind.QUOTED | Kind.NAME | Kind.INVALID:
                    self.take()
                    self.value(_leaf(token), token)
                case Kind.KEYWORD if token.text in {"true", "false", "null"}:
                    self.take()
                    self.value(_leaf(token), token)
                case _:
                    self.missing_value(token)
            return

    def read_operator(self) -> bool:
        """Read what may follow a value; False at the end of the text."""
        while True:
            token = self.peek()
            match token.kind:
                case Kind.OPERATOR:
                    self.binary(self.take())
                    return True
                case Kind.KEYWORD if token.text in _RUNS:
                    self.binary(self.take())
                    return True
                case Kind.EQUALS:
                    self.error("FQL007", "= does not compare", token, "write ==")
                    self.take()
                    self.binary(Token(Kind.OPERATOR, "==", token.start, token.end, repaired=True))
                    return True
                case Kind.COMMA:
                    if self.comma(self.take()):
                        return True
                case Kind.CLOSE:
                    self.close(self.take())
                case Kind.END:
                    self.finish()
                    return False
                case _:
                    self.missing_operator(token)

    # ---------------------------------------------------------------------------------------- pushing

    def push(self, item: _Pending) -> None:
        if item.opens or item.prefix:
            self.nesting += 1
            self.check_depth(self.nesting, item.token)
        self.pending.append(item)

    def open(self, token: Token, callee: Token | None = None) -> _Pending:
        frame = _Pending("(", 0, token, callee=callee)
        self.push(frame)
        if callee is not None:
            self.read_argument_name(frame)
        return frame

    def read_argument_name(self, frame: _Pending) -> None:
        name = self.peek()
        if name.kind is Kind.NAME and name.text != "if" and self.peek(1).kind is Kind.EQUALS:
            frame.argument_name = self.take()
            self.take()

    def read_not(self) -> None:
        token = self.take()
        top = self.pending[-1] if self.pending else None
        if top is not None and not top.opens and top.precedence > _NOT:
            self.error(
                "FQL016", "not binds more loosely than what stands before it", token, "put it in parentheses: (not x)"
            )
        self.push(_Pending("not", _NOT, token, prefix=True))

    def value(self, node: Node, token: Token) -> None:
        self.count_node(token)
        self.operands.append(_Operand(node, 1, token.start, token.end))

    def binary(self, token: Token) -> None:
        precedence = _PRECEDENCE[token.text]
        chained = False
        while self.pending:
            top = self.pending[-1]
            if top.opens or top.precedence < precedence:
                break
            if top.precedence == precedence and (token.text in _RUNS or token.text == "^"):
                break  # a run is reduced as a whole; powers from the right
            chained |= top.precedence == precedence == _COMPARE
            self.reduce()
        if chained:
            self.error("FQL015", "comparisons do not chain", token, "write a < b and b < c")
            self.spoil()
        self.pending.append(_Pending(token.text, precedence, token))

    # ---------------------------------------------------------------------------------------- reducing

    def reduce(self) -> None:
        """Make a node of the operator on top of the stack and its operands."""
        top = self.pending.pop()
        taken = 1 if top.prefix else 2
        if top.prefix:
            self.nesting -= 1
        first = top
        if top.name in _RUNS:
            while self.pending and self.pending[-1].name == top.name:
                first = self.pending.pop()
                taken += 1
        operands = self.operands[-taken:]
        del self.operands[-taken:]
        start = top.token.start if top.prefix else operands[0].start
        # a long run becomes a balanced tree, later
        depth = max(item.depth for item in operands) + max(1, (taken - 1).bit_length())
        self.check_depth(depth, top.token)
        self.count_node(top.token)
        node = OperatorNode(
            top.name,
            tuple(item.node for item in operands),
            Span(start, operands[-1].end),
            Span(first.token.start, first.token.end),
        )
        self.operands.append(_Operand(node, depth, start, operands[-1].end))

    def reduce_to_open(self) -> _Pending | None:
        while self.pending and not self.pending[-1].opens:
            self.reduce()
        return self.pending[-1] if self.pending else None

    def end_argument(self, frame: _Pending) -> None:
        operand = self.operands.pop()
        name = frame.argument_name
        span = None if name is None else Span(name.start, name.end)
        frame.arguments.append(ArgumentNode(operand.node, None if name is None else name.text, span))
        frame.depth = max(frame.depth, operand.depth)
        frame.argument_name = None

    def end_call(self, frame: _Pending, callee: Token, end: int) -> None:
        self.pending.pop()
        self.nesting -= 1
        self.count_node(callee)
        self.check_depth(frame.depth + 1, callee)
        span = Span(callee.start, end)
        node = CallNode(callee.text, Span(callee.start, callee.end), tuple(frame.arguments), span)
        self.operands.append(_Operand(node, frame.depth + 1, span.start, end))

    def close(self, token: Token) -> None:
        frame = self.reduce_to_open()
        if frame is None:
            self.error("FQL013", "this ) closes nothing", token, "remove it")
            return
        if frame.callee is not None:
            self.end_argument(frame)
            self.end_call(frame, frame.callee, token.end)
            return
        self.pending.pop()
        self.nesting -= 1
        inside = self.operands[-1]
        inside.start, inside.end = frame.token.start, token.end

    def comma(self, token: Token) -> bool:
        """End an argument; False where there is no call to end one of."""
        frame = self.reduce_to_open()
        if frame is not None and frame.callee is not None:
            self.end_argument(frame)
            self.read_argument_name(frame)
            return True
        number = self.peek().kind is Kind.NUMBER and self.text[token.start - 1].isdigit()
        hint = "numbers have no thousands mark" if number else "a comma stands only between arguments of a function"
        self.error("FQL013", "unexpected comma", token, hint)
        self.skip({Kind.CLOSE})
        self.spoil()
        return False

    def finish(self) -> None:
        frame = self.reduce_to_open()
        while frame is not None:
            self.error("FQL012", "this ( is never closed", frame.token, "add )")
            end = self.peek().end
            if frame.callee is not None:
                self.end_argument(frame)
                self.end_call(frame, frame.callee, end)
            else:
                self.pending.pop()
                self.nesting -= 1
            frame = self.reduce_to_open()

    # ---------------------------------------------------------------------------------------- going on after an error

    def missing_value(self, token: Token) -> None:
        """Report that a value was expected and stand in for it; the word itself stays, unless nothing could follow."""
        if not token.repaired:
            self.error("FQL010", f"expected a value, found {_shown(token)}", token, self.value_hint(token))
        if token.text == "*" and self.peek(1).kind is Kind.CLOSE:
            self.take()
        self.count_node(token)
        self.operands.append(_Operand(InvalidNode(Span(token.start, token.end)), 1, token.start, token.end))

    def value_hint(self, token: Token) -> str | None:
        frame = self.pending[-1] if self.pending else None
        if token.text == "*" and frame is not None and frame.callee is not None:
            return "to count rows write traffic()"
        if frame is not None and frame.name == "%" and not frame.opens:
            return "% is the remainder of a division; for a percentage write x * 100"
        if token.kind is Kind.CLOSE and frame is not None and frame.opens:
            return "remove the comma" if frame.arguments else "put an expression between the parentheses"
        return None

    def missing_operator(self, token: Token) -> None:
        """Report that two values stand side by side, and skip the rest of this argument or group."""
        left = self.operands[-1].node
        hint = _SQL_WORDS.get(token.text.lower()) if token.kind is Kind.NAME else None
        if isinstance(left, ColumnNode) and not left.quoted:
            hint = _SQL_OPENERS.get(left.name.lower(), hint)
        spoiled = isinstance(left, InvalidNode)
        if hint is not None:
            self.error("FQL017", f"expected an operator, found {_shown(token)}", token, hint)
        elif token.kind is Kind.OPEN and isinstance(left, ColumnNode) and left.quoted:
            self.error("FQL011", "a function's name has no quotes", token, f"write {left.name}(...)")
        elif token.kind is not Kind.INVALID and not spoiled:
            self.error("FQL011", f"expected an operator, found {_shown(token)}", token, _operator_hint(token))
        self.skip()
        self.spoil()

    def skip(self, ends: Collection[Kind] = (Kind.COMMA, Kind.CLOSE)) -> None:
        """Go to the comma or parenthesis that ends the present argument or group."""
        depth = 0
        while (token := self.peek()).kind is not Kind.END:
            if depth == 0 and token.kind in ends:
                return
            depth += (token.kind is Kind.OPEN or token.text == "[") - (token.kind is Kind.CLOSE or token.text == "]")
            self.take()

    def spoil(self) -> None:
        """Replace the value on top: the checker is to say nothing about it."""
        top = self.operands[-1]
        top.node = InvalidNode(Span(top.start, top.end))

    # ---------------------------------------------------------------------------------------- limits

    def count_node(self, token: Token) -> None:
        self.nodes += 1
        if self.nodes > self.limits.nodes_max:
            message = f"the expression has more than {self.limits.nodes_max} parts"
            self.stop("FQL022", message, token, "split it into several metrics")

    def check_depth(self, depth: int, token: Token) -> None:
        if depth > self.limits.depth_max:
            message = f"the expression is nested deeper than {self.limits.depth_max} levels"
            self.stop("FQL021", message, token, "group long sums: (a + b) + (c + d) is less deep than a + b + c + d")

    def stop(self, code: str, message: str, token: Token, hint: str) -> None:
        self.diagnostics.append(Diagnostic(code, message, token.start, token.end, hint))
        raise _LimitError


def _leaf(token: Token) -> Node:
    span = Span(token.start, token.end)
    match token.kind:
        case Kind.NUMBER:
            return NumberNode(token.number, span)
        case Kind.STRING:
            return StringNode(token.text, span)
        case Kind.QUOTED:
            return ColumnNode(token.text, span, quoted=True)
        case Kind.NAME:
            return ColumnNode(token.text, span)
        case Kind.KEYWORD:
            return NullNode(span) if token.text == "null" else BooleanNode(token.text == "true", span)
        case _:
            return InvalidNode(span)


def _shown(token: Token) -> str:
    if token.kind is Kind.END:
        return "the end of the expression"
    text = token.text if len(token.text) <= 40 else f"{token.text[:37]}..."
    return {Kind.STRING: f"'{text}'", Kind.QUOTED: f'"{text}"'}.get(token.kind, text)


def _operator_hint(token: Token) -> str | None:
    if token.kind is Kind.KEYWORD and token.text == "not":
        return "write != , or not in front of the whole comparison"
    if token.kind is Kind.OPEN:
        return "write * to multiply"
    return None
