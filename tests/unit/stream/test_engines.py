from __future__ import annotations

import pytest
from tests.unit.stream.one_partition import catalogue, model

from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import DEFINITION
from fqlstream.settings import FqlSettings
from fqlstream.stream.engines import Engines, changed_models, definitions_digest, plan_digest


def other(known: Catalogue) -> Catalogue:
    """Add a model of another name."""
    return known.with_definition(DEFINITION.validate_python({**model(), "name": "n"}))


def with_metric(known: Catalogue, name: str, text: str, revision: int = 1, **fields: str) -> Catalogue:
    document = {"kind": "metric", "model": "m", "name": name, "definition": text, **fields}
    return known.with_definition(DEFINITION.validate_python(document), revision=revision)


def test_engines_of_models_that_did_not_change_are_kept() -> None:
    before = Engines(other(catalogue()), FqlSettings())
    kept, changed = before("n", "v1"), before("m", "v1")
    after = Engines(with_metric(other(catalogue()), "new", "min(x)"), FqlSettings(), before)
    assert after("n", "v1") is kept
    assert after("m", "v1") is not changed
    assert before("m", "v1") is changed, "whoever still uses the old ones finds them"


def test_an_engine_is_made_once_and_not_for_what_is_unknown() -> None:
    engines = Engines(catalogue(), FqlSettings())
    assert engines("m", "v1") is engines("m", "v1")
    with pytest.raises(KeyError):
        engines("m", "v9")
    with pytest.raises(KeyError):
        engines("nobody", "v1")


def test_models_that_differ_are_those_that_came_went_or_changed() -> None:
    one = catalogue()
    assert changed_models(one, catalogue()) == set()
    assert changed_models(one, other(one)) == {"n"}
    assert changed_models(other(one), one) == {"n"}
    assert changed_models(one, with_metric(one, "new", "min(x)")) == {"m"}


def test_what_does_not_fit_a_version_is_left_out_and_named_and_the_rest_is_computed() -> None:
    columns = [column for column in model()["columns"] if column["name"] != "x"]
    known = catalogue(
        model("v1"),
        model("v2", columns=columns),
        metrics={"sum": "sum(x)", "score": "sum(s)"},
        segments={"high": "x > 5"},
    )
    engines = Engines(known, FqlSettings())
    assert [metric.name for metric in engines("m", "v1").plan.metrics] == ["sum", "score"]
    assert [metric.name for metric in engines("m", "v2").plan.metrics] == ["score"]
    assert {(left.kind, left.name) for left in engines.skipped["m", "v2"]} == {("metric", "sum"), ("segment", "high")}
    assert ("m", "v1") not in engines.skipped


def test_states_are_the_same_where_only_what_is_made_of_them_differs() -> None:
    def digest(known: Catalogue) -> str:
        return plan_digest([Engines(known, FqlSettings())("m", "v1").plan])

    one = catalogue(metrics={"sum": "sum(x)"}, segments={})
    assert digest(with_metric(one, "double", "2 * sum(x)")) == digest(one)
    assert digest(with_metric(one, "least", "min(x)")) != digest(one)
    renamed = catalogue(metrics={"total": "sum(x)"}, segments={})
    assert digest(renamed) == digest(one)


def test_values_differ_with_any_definition_and_any_revision() -> None:
    one = catalogue(metrics={"sum": "sum(x)"}, segments={})
    entries = [
        one,
        with_metric(one, "sum", "sum(x) + 0"),
        with_metric(one, "sum", "sum(x)", revision=2),
        with_metric(one, "double", "2 * sum(x)"),
        catalogue(model(windows={"pane": "1m", "sizes": ["4m"]}), metrics={"sum": "sum(x)"}, segments={}),
        catalogue(metrics={"sum": "sum(x)"}, segments={"high": "x > 5"}),
    ]
    digests = [definitions_digest(known.models["m"]) for known in entries]
    assert len(set(digests)) == len(digests)
    assert definitions_digest(catalogue(metrics={"sum": "sum(x)"}, segments={}).models["m"]) == digests[0]
