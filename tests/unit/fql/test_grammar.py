"""The hand-written parser against grammar.lark, which a parser generator reads: same texts, same trees."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lark import Lark, Token, Tree
from lark.exceptions import LarkError

from fqlstream.fql.ast import (
    BooleanNode,
    CallNode,
    ColumnNode,
    Node,
    NullNode,
    NumberNode,
    OperatorNode,
    StringNode,
)
from fqlstream.fql.parse import parse

REFERENCE = Lark(files("fqlstream.fql").joinpath("grammar.lark").read_text(), parser="lalr")

_OF_TOKENS = {"comparison", "sum", "product"}


def from_lark(tree: Any) -> Any:
    """Give the reference's tree as nested tuples."""
    match tree:
        case Tree(data="start", children=[inner]):
            return from_lark(inner)
        case Tree(data="or" | "and", children=children):
            return (str(tree.data), *map(from_lark, children))
        case Tree(data="negation", children=[inner]):
            return ("not", from_lark(inner))
        case Tree(data="negative", children=[_, inner]):
            return ("negate", from_lark(inner))
        case Tree(data="power", children=[left, right]):
            return ("^", from_lark(left), from_lark(right))
        case Tree(data=data, children=[first, *rest]) if data in _OF_TOKENS:
            result = from_lark(first)
            for operator, operand in zip(rest[::2], rest[1::2], strict=True):
                result = (str(operator), result, from_lark(operand))
            return result
        case Tree(data="number", children=[token]):
            return float(token)
        case Tree(data="string", children=[token]):
            return ("string", str(token)[1:-1].replace("''", "'"))
        case Tree(data="column", children=[token]):
            return ("column", str(token))
        case Tree(data="quoted", children=[token]):
            return ("column", str(token)[1:-1].replace('""', '"'))
        case Tree(data="true" | "false" | "null"):
            return str(tree.data)
        case Tree(data="call", children=[Tree(children=[name]), *arguments]):
            return ("call", str(name), *(from_lark(item) for item in arguments if item is not None))
        case Tree(data="named", children=[Token() as name, value]):
            return ("named", str(name), from_lark(value))
        case Tree(data="positional", children=[value]):
            return from_lark(value)
    raise AssertionError(tree)


def from_ours(node: Node) -> Any:
    """Give our tree in the same form."""
    match node:
        case OperatorNode(operator=operator, operands=operands):
            return (operator, *map(from_ours, operands))
        case NumberNode(value=value):
            return value
        case StringNode(value=value):
            return ("string", value)
        case BooleanNode(value=value):
            return "true" if value else "false"
        case NullNode():
            return "null"
        case ColumnNode(name=name):
            return ("column", name)
        case CallNode(name=name, arguments=arguments):
            return ("call", name, *(
                ("named", item.name, from_ours(item.value)) if item.name else from_ours(item.value) for item in arguments
            ))  # fmt: skip
    raise AssertionError(node)


def compare(text: str) -> bool:
    """Parse with both; give whether they accept."""
    ours = parse(text)
    try:
        theirs = REFERENCE.parse(text)
    except LarkError:
        assert ours.diagnostics, text
        return False
    assert not ours.diagnostics, (text, ours.diagnostics)
    assert ours.node is not None
    assert from_ours(ours.node) == from_lark(theirs), text
    return True


WORDS = ["1", "2.5", ".5", "1e-3", "'a'", "''", "'it''s'", '"q c"', '"a""b"', "x", "if", "not", "and", "or", "true", "null",
         "(", "(", ")", ")", ",", "=", "+", "-", "-", "*", "/", "%", "^", "<", "<=", "==", "!=", "f(", "if(", "f()", "k=",
         "10.", "3x", "AND", "’", "&&", "[", "\n", "\\*", "!"]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=12), st.sampled_from([" ", "", "\t"]))
@settings(max_examples=800, deadline=None)
@example(["not", "x", "==", "1"], " ")
@example(["2", "^", "-", "1", "^", "2"], "")
@example(["f(", "k=", "k=", "1", ")"], " ")
def test_parser_agrees_with_the_grammar_on_any_words(words: list[str], space: str) -> None:
    compare(space.join(words))


_LEAVES = st.sampled_from(["1", "2.5", "'a'", '"q c"', "x", "true", "null", "f()"])


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from([*"+-*/%^<", "==", " and ", " or ", " and ", " or "]), inner).map("".join),
        inner.map(lambda text: f"-{text}"),
        inner.map(lambda text: f"not {text}"),
        inner.map(lambda text: f"({text})"),
        st.lists(inner, max_size=3).map(lambda args: f"g({', '.join(args)})"),
        inner.map(lambda text: f"f(x, class={text})"),
    )


EXPRESSIONS = st.recursive(_LEAVES, _grown, max_leaves=25)


@given(EXPRESSIONS)
@settings(max_examples=400, deadline=None)
def test_parser_agrees_with_the_grammar_on_expressions(text: str) -> None:
    compare(text)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("-2 ^ 2", ("negate", ("^", 2.0, 2.0))),
        ("2 ^ 3 ^ 2", ("^", 2.0, ("^", 3.0, 2.0))),
        ("2 ^ -1", ("^", 2.0, ("negate", 1.0))),
        ("3 * -100", ("*", 3.0, ("negate", 100.0))),
        ("1 - 2 - 3", ("-", ("-", 1.0, 2.0), 3.0)),
        ('not "col" == 1', ("not", ("==", ("column", "col"), 1.0))),
        ("x or y and not z", ("or", ("column", "x"), ("and", ("column", "y"), ("not", ("column", "z"))))),
        ("1 + 2 * 3 < 4 % 5", ("<", ("+", 1.0, ("*", 2.0, 3.0)), ("%", 4.0, 5.0))),
    ],
)
def test_precedence(text: str, tree: Any) -> None:
    assert compare(text)
    node = parse(text).node
    assert node is not None
    assert from_ours(node) == tree
