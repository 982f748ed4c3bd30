"""Bounds, findings and recovery of the parser. What it accepts is in test_grammar.py and tests/conformance."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fqlstream.errors import FqlError, render
from fqlstream.fql.ast import InvalidNode, OperatorNode, postorder
from fqlstream.fql.parse import parse
from fqlstream.settings import FqlSettings

MEGABYTE = 2**20

HOSTILE = {
    "parentheses": lambda n: "(" * (n // 2) + ")" * (n // 2),
    "open": lambda n: "(" * n,
    "closed": lambda n: ")" * n,
    "calls": lambda n: "f(" * (n // 2),
    "minus": lambda n: "-" * n,
    "not": lambda n: "not " * (n // 4),
    "sum": lambda n: "1+" * (n // 2),
    "power": lambda n: "2^" * (n // 2),
    "quotes": lambda n: "'" * n,
    "double quotes": lambda n: '"' * n,
    "curly": lambda n: "‘" * n,
    "curly mixed": lambda n: "‘a“" * (n // 3),
    "digits": lambda n: "9" * n,
    "digits and dots": lambda n: "9." * (n // 2),
    "exponents": lambda n: "1e" * (n // 2),
    "one name": lambda n: "x" * n,
    "names": lambda n: "x " * (n // 2),
    "commas": lambda n: "1," * (n // 2),
    "brackets": lambda n: "[" * n,
    "and": lambda n: "a and " * (n // 6),
    "space": lambda n: " " * n,
    "not closed": lambda n: "f(a, " * (n // 5),
    "backslashes": lambda n: "\\" * n,
    "backticks": lambda n: "`" * n,
    "nothing printable": lambda n: "\x00" * n,
    "string": lambda n: "'" + "a" * (n - 2) + "'",
}  # fmt: skip


def steps(call: Callable[[], Any]) -> int:
    """Count the Python and C calls that something makes: a measure of work that no busy machine can change."""
    count = 0

    def profile(_frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("name", HOSTILE)
def test_work_grows_no_faster_than_the_text(name: str) -> None:
    # limits would end the larger text early: they are lifted where the parser itself can bear it
    limits = FqlSettings(nodes_max=10**9, errors_max=10**9)
    small, large = (HOSTILE[name](size) for size in (4_000, 16_000))
    few = steps(lambda: parse(small, limits))
    many = steps(lambda: parse(large, limits))
    assert many <= 4.5 * few + 500


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_is_answered(name: str) -> None:
    text = HOSTILE[name](MEGABYTE)
    parsed = parse(text)
    assert len(parsed.diagnostics) <= FqlSettings().errors_max
    for item in parsed.diagnostics[:3]:
        render(text, item)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x" * (MEGABYTE + 1), "FQL020"),
        ("(" * 10_000 + "1" + ")" * 10_000, "FQL021"),
        ("not " * 201 + "true", "FQL021"),
        ("^".join("2" * 202), "FQL021"),
        ("+".join("1" * 202), "FQL021"),
        ("abs(" * 201 + "1" + ")" * 201, "FQL021"),
        (" and ".join(["true"] * 10_001), "FQL022"),
        ("1" + "((true))" * 50_000, "FQL022"),
    ],
)
def test_limits_are_errors_with_a_code(text: str, code: str) -> None:
    parsed = parse(text)
    assert [item.code for item in parsed.diagnostics][-1:] == [code]
    assert parsed.node is None
    with pytest.raises(FqlError):
        parsed.require()


@pytest.mark.parametrize(
    "text", ["(" * 200 + "1" + ")" * 200, "not " * 199 + "true", "+".join("1" * 200), " and ".join(["true"] * 5_000)]
)
def test_what_is_within_the_limits_is_accepted(text: str) -> None:
    assert parse(text).diagnostics == ()


def test_limits_are_settings() -> None:
    tight = FqlSettings(characters_max=20, depth_max=8, nodes_max=16)
    assert parse("1" + " " * 20, tight).diagnostics[0].code == "FQL020"
    assert parse("((((((((1))))))))", tight).diagnostics == ()
    assert parse("(((((((((1)))))))))", tight).diagnostics[0].code == "FQL021"
    assert parse("f(1,1,1,1,1,1,1)", tight).diagnostics == ()


def test_a_run_of_and_is_one_node() -> None:
    node = parse("a and b and (c and d) and e").require()
    assert isinstance(node, OperatorNode)
    assert len(node.operands) == 4


@given(st.one_of(st.text(max_size=60), st.text(alphabet="()ab1.,'\"-+*=<>!^% \n‘’“”\\and ornotif", max_size=60)))
@settings(max_examples=500, deadline=None)
@example("'")
@example("\ud800")
@example("'\ud800'")
@example("f(a=)")
@example("(,)")
@example("1e400 + 'a")
def test_any_text_gives_a_tree_or_findings(text: str) -> None:
    parsed = parse(text)
    for item in parsed.diagnostics:
        assert 0 <= item.start <= item.end <= len(text)
        assert item.code.startswith("FQL")
        assert item.message
        render(text, item)
    if parsed.node is None:
        assert parsed.diagnostics
    else:
        invalid = any(isinstance(node, InvalidNode) for node in postorder(parsed.node))
        assert parsed.diagnostics or not invalid
        for node in postorder(parsed.node):
            assert 0 <= node.span.start <= node.span.end <= len(text)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("sum() + * + (1 + ) * f(,) and", ["FQL010"] * 6),
        ("a b + (c d) + f(e g, h i)", ["FQL011"]),
        ("(c d) + f(e g, h i)", ["FQL011", "FQL011", "FQL011"]),
        ("((a) + f(b", ["FQL012", "FQL012"]),
        ("a)) + b)", ["FQL013", "FQL013", "FQL013"]),
    ],
)
def test_errors_are_collected(text: str, codes: list[str]) -> None:
    assert [item.code for item in parse(text).diagnostics] == codes
