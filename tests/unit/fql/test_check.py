"""The checker's promises. What it says of which expression is in tests/conformance."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fqlstream.errors import FqlError
from fqlstream.events.definitions import ModelDefinition
from fqlstream.fql.check import check
from fqlstream.fql.plan import walk
from fqlstream.functions.example_models import EXAMPLE_MODELS
from fqlstream.functions.expression import Apply, ColumnRef, DType, Expression, Level, Literal
from fqlstream.functions.index import FUNCTION_BY_NAME, KERNELS
from fqlstream.settings import FqlSettings

MODEL = EXAMPLE_MODELS["binary"]
TABLE = EXAMPLE_MODELS["table"]

WORDS = [
    *FUNCTION_BY_NAME, "(", "(", "(", ")", ")", ")", ",", ",", "=", "age", "score", "churned", "\"age\"", "'yes'", "1", "0.5", "true", "null",
    "threshold", "target", "level", "class", "+", "-", "*", "/", "%", "^", "<", "==", "!=", "and", "or", "not", "if(", "sum(", "tp()", "nope",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join),
    st.sampled_from(["metric", "segment", "expression"]),
    st.sampled_from(sorted(EXAMPLE_MODELS)),
)
@settings(max_examples=500, deadline=None)
def test_no_text_raises(text: str, kind: str, model: str) -> None:
    result = check(text, EXAMPLE_MODELS[model], kind)
    assert result.ok == (result.expression is not None) == (not result.errors)
    for item in (*result.errors, *result.warnings):
        assert 0 <= item.start <= item.end <= len(text)
    if result.ok:
        assert result.dtype is not None
        assert result.level is not None
        _assert_well_formed(result.expression, result.dtype)


def _assert_well_formed(expression: Expression | None, dtype: DType) -> None:
    assert expression is not None
    assert expression.dtype is dtype
    for node in walk(expression):
        if isinstance(node, Apply):
            assert node.op in KERNELS
            assert not all(isinstance(arg, Literal) for arg in node.args), "constants are computed beforehand"


def _joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(" ".join)


def _in_parentheses(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return inner.map(lambda text: f"({text})")


def _called(name: str, *args: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*args).map(lambda given: f"{name}({', '.join(given)})")


NUMBER: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["x", "y", "2", "0.5", "pi()"]),
        _joined(_in_parentheses(NUMBER), st.sampled_from("+-*/%^"), _in_parentheses(NUMBER)),
        _in_parentheses(NUMBER).map(lambda text: f"-{text}"),
        _called("if", BOOLEAN, NUMBER, NUMBER),
        _called("length", STRING),
        _called("log", NUMBER),
    )
)
BOOLEAN: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["a", "b", "true", "false"]),
        _joined(_in_parentheses(NUMBER), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), _in_parentheses(NUMBER)),
        _joined(_in_parentheses(STRING), st.sampled_from(["==", "!="]), _in_parentheses(STRING)),
        _joined(_in_parentheses(BOOLEAN), st.sampled_from(["and", "or"]), _in_parentheses(BOOLEAN)),
        _in_parentheses(BOOLEAN).map(lambda text: f"not {text}"),
        _called("is_null", st.one_of(NUMBER, BOOLEAN, STRING)),
        _called("startswith", STRING, STRING),
    )
)
STRING: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["s", "'t'", "''"]),
        _called("if", BOOLEAN, STRING, st.just("null")),
        _called("to_string", st.one_of(NUMBER, BOOLEAN)),
        _called("substring", STRING, NUMBER, NUMBER),
    )
)
TYPED = st.one_of(
    NUMBER.map(lambda text: (text, DType.NUMBER)),
    BOOLEAN.map(lambda text: (text, DType.BOOLEAN)),
    STRING.map(lambda text: (text, DType.STRING)),
)


@given(TYPED)
@settings(max_examples=200, deadline=None)
def test_well_typed_expressions_are_accepted_with_their_type(item: tuple[str, DType]) -> None:
    text, dtype = item
    result = check(text, TABLE)
    assert result.ok, (text, result.errors)
    assert result.dtype is dtype
    assert result.level in {Level.CONST, Level.ROW}
    _assert_well_formed(result.expression, dtype)
    if dtype is DType.NUMBER:
        inside = check(f"sum({text})", TABLE)
        assert inside.level is Level.AGG
        assert check(f"sum(sum({text}))", TABLE).errors[0].code == "FQL051"


def test_one_mistake_is_reported_once_wherever_it_stands() -> None:
    result = check("if(not (foo + 1 > 2), sum(foo) / 2, average(foo)) == 3", TABLE)
    assert [item.code for item in result.errors] == ["FQL030"] * 3


def test_findings_are_bounded() -> None:
    text = " + ".join(["foo"] * 150)
    assert len(check(text, TABLE).errors) == FqlSettings().errors_max


def test_suggestions_stay_cheap_for_wide_models() -> None:
    wide = ModelDefinition.model_validate(
        {"name": "wide", "columns": [{"name": f"feature_{number}", "type": "float"} for number in range(2_000)]}
    )
    result = check(" + ".join(f"featur_{number}" for number in range(90)), wide)
    hints = [item.hint for item in result.errors]
    assert hints[0] == "did you mean feature_0?"
    assert sum("did you mean" in (hint or "") for hint in hints) <= 20


def test_a_long_run_of_or_is_not_deep() -> None:
    text = " or ".join(f"x == {number}" for number in range(2_000))
    expression = check(text, TABLE, "segment").require()
    depth = 0
    level = [expression]
    while level:
        depth += 1
        level = [arg for node in level if isinstance(node, Apply) for arg in node.args]
    assert depth <= 14
    assert hash(expression) == hash(check(text, TABLE, "segment").require())


def test_the_deepest_expression_can_be_hashed_and_printed() -> None:
    text = "x" + " + x" * 199
    expression = check(text, TABLE).require()
    assert len(repr(expression)) > 10_000
    assert hash(expression)


def test_equal_expressions_are_equal_whatever_their_spelling() -> None:
    one = check("f1_score( threshold = 0.5 )", MODEL).require()
    assert one == check("f1_score()", MODEL).require()
    assert check("(x)+(1)", TABLE).require() == check('"x" + 2 / 2', TABLE).require()
    assert check("x + 1", TABLE).require() != check("1 + x", TABLE).require()


def test_require_raises_every_finding() -> None:
    with pytest.raises(FqlError) as caught:
        check("foo + avg(x)", TABLE).require()
    assert [item.code for item in caught.value.diagnostics] == ["FQL030", "FQL014"]
    assert "did you mean" in str(caught.value) or "its columns" in str(caught.value)


def test_the_json_has_the_agreed_keys() -> None:
    answer = check("foo", TABLE).as_dict()
    assert set(answer) == {"ok", "type", "level", "errors", "warnings"}
    errors = answer["errors"]
    assert isinstance(errors, list)
    assert set(errors[0]) == {"code", "message", "start", "end", "hint"}
    assert check("sum(x)", TABLE).as_dict() == {
        "ok": True,
        "type": "Number",
        "level": "agg",
        "errors": [],
        "warnings": [],
    }


def test_columns_keep_their_type() -> None:
    assert check("age", MODEL).require() == ColumnRef("age", MODEL.columns[0].type)
