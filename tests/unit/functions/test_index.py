from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.unit.functions.rows import rows_of

from fqlstream import evaluate
from fqlstream.aggregates.index import AGGREGATORS
from fqlstream.events.definitions import BaselineDefinition
from fqlstream.fql.check import check
from fqlstream.fql.elsewhere import ELSEWHERE
from fqlstream.fql.plan import walk
from fqlstream.functions.example_models import EXAMPLE_MODELS
from fqlstream.functions.expression import Aggregate, AggregateValue, Apply, DType, Level, Literal
from fqlstream.functions.index import FUNCTIONS, KERNELS, OPERATOR_BY_NAME, indexed
from fqlstream.functions.operators import OPERATORS
from fqlstream.functions.spec import Example, FunctionSpec, LevelRule, Nulls, Passing, Takes

SPECS = (*OPERATORS, *FUNCTIONS)
BASELINES = {"training": BaselineDefinition(model="table", name="training", type="static")}
EXAMPLES = [(spec, example) for spec in SPECS for example in spec.examples]

#: FQL's page.
PAGE = set(
    """
if length to_string startswith substring match is_null is_not_null abs exp log log2 log10 sqrt e pi
sum average count min max quantile greatest least
null_violation_count range_violation_count type_violation_count any_violation_count traffic
tp tn fp fn precision recall f1_score fpr auroc geometric_mean expected_calibration_error log_loss calibrated_threshold
accuracy r2 mse mae mape wmape gini
jsd psi map ndcg_mean query_count attribute
""".split()  # noqa: SIM905 (as the page lists them)
)


def test_every_function_of_the_page_is_declared() -> None:
    assert len(SPECS) >= 55
    assert {spec.name for spec in FUNCTIONS} >= PAGE
    assert {"^", "negate", "*", "/", "%", "+", "-", "<", "<=", ">", ">=", "==", "!=", "not", "and", "or"} == set(
        OPERATOR_BY_NAME
    )


def test_a_name_declared_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'sum' is declared twice"):
        indexed([spec for spec in FUNCTIONS if spec.name == "sum"] * 2)


def test_the_index_is_read_only() -> None:
    with pytest.raises(TypeError):
        KERNELS["sum"] = None


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_row_is_complete(spec: FunctionSpec) -> None:
    assert (spec.kernel is not None) or (spec.lower is not None)
    assert spec.examples
    assert spec.summary.endswith(".")
    assert spec.source
    assert spec.error_bound
    for param in spec.params:
        assert param.summary.endswith(".")
        assert param.types
    if spec.kernel is not None:
        assert spec.kernel.clickhouse is not None or spec.kernel.clickhouse_reason
    names = [param.name for param in spec.params]
    assert len(set(names)) == len(names)
    optional = [param.required for param in spec.params if param.passing is not Passing.KEYWORD]
    assert optional == sorted(optional, reverse=True), "what may be left out comes last"


def _lists(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    return {name: list(values) for name, values in columns.items()}


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        return math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-15)
    return found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("spec", "example"), EXAMPLES, ids=lambda item: getattr(item, "call", getattr(item, "name", None))
)
def test_every_example_gives_its_result(spec: FunctionSpec, example: Example) -> None:
    model = EXAMPLE_MODELS[example.model]
    checked = check(example.call, model, baselines=BASELINES)
    assert checked.ok, checked.errors
    if checked.level is Level.CONST:
        assert isinstance(checked.expression, Literal)
        found: Any = checked.expression.value
        assert _same(found, example.result), found
    elif checked.level is Level.ROW:
        assert isinstance(example.result, tuple)
        rows = rows_of(example.call, example.columns, model)
        assert len(rows) == len(example.result)
        assert all(map(_same, rows, example.result)), rows
    else:
        baselines = None if example.baseline is None else {"training": _lists(example.baseline)}
        found = evaluate(_lists(example.columns), example.call, model=model, baselines=baselines)["value"]
        assert _same(found, example.result), found


@pytest.mark.parametrize(
    ("spec", "example"), EXAMPLES, ids=lambda item: getattr(item, "call", getattr(item, "name", None))
)
def test_what_an_example_is_built_of_exists(spec: FunctionSpec, example: Example) -> None:
    expression = check(example.call, EXAMPLE_MODELS[example.model], baselines=BASELINES).require()
    for node in walk(expression):
        match node:
            case Apply(op=op):
                assert op in KERNELS
            case Aggregate(kind=kind, args=args):
                assert len(args) == AGGREGATORS[kind].arguments
            case AggregateValue(aggregate=aggregate, read=read):
                assert read in AGGREGATORS[aggregate.kind].reads
            case _:
                pass


@pytest.mark.parametrize("spec", FUNCTIONS, ids=lambda spec: spec.name)
def test_an_example_has_the_declared_level_and_type(spec: FunctionSpec) -> None:
    for example in spec.examples:
        checked = check(example.call, EXAMPLE_MODELS[example.model], baselines=BASELINES)
        if spec.result != "same" and "==" not in example.call:
            assert checked.dtype is spec.result
        if spec.level is LevelRule.AGGREGATE:
            assert checked.level is Level.AGG
        if spec.level is LevelRule.ROW:
            assert checked.level is Level.ROW


_COLUMN = {DType.NUMBER: "x", DType.BOOLEAN: "b", DType.STRING: "s"}
_LITERAL = {DType.NUMBER: "1", DType.BOOLEAN: "true", DType.STRING: "'a'"}
_NULL_AND_NOT = {"x": [None, 1.0], "b": [None, True], "s": [None, "a"]}


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        (spec, place)
        for spec in SPECS
        if spec.kernel is not None and spec.nulls is Nulls.GIVES_NULL
        for place, param in enumerate(spec.params)
        if param.takes is Takes.VALUE
    ],
    ids=lambda item: getattr(item, "name", str(item)),
)
def test_a_null_argument_gives_null_where_the_row_says_so(spec: FunctionSpec, place: int) -> None:
    kinds = [param.types[0] for param in spec.params]
    args = [_COLUMN[kind] if at == place else _LITERAL[kind] for at, kind in enumerate(kinds)]
    text = f"{spec.name}({', '.join(args)})" if spec.symbol is None else _operator_text(spec, args)
    found = rows_of(text, _NULL_AND_NOT)
    assert found[0] is None
    assert found[1] is not None


def _operator_text(spec: FunctionSpec, args: list[str]) -> str:
    return f"{spec.symbol}{args[0]}" if len(args) == 1 else f" {spec.symbol} ".join(args)


def test_names_from_elsewhere_lead_to_functions_that_exist() -> None:
    models = [*EXAMPLE_MODELS.values()]
    known = {spec.name for spec in FUNCTIONS}
    for name, instead in ELSEWHERE.items():
        assert name not in known
        called = instead.replace("1 - ", "").split("(")[0]
        assert called in known | {"x ^ y", "x % y"}, instead
    assert models
