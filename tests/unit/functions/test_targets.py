"""The decision rule: which column is the truth, which value is positive."""

from __future__ import annotations

from typing import Any

import pytest

from fqlstream import evaluate
from fqlstream.events.definitions import ModelDefinition
from fqlstream.fql.check import check


def binary(target: dict[str, Any], **params: Any) -> ModelDefinition:
    columns = [{"name": "score", "type": "float", "role": "output"}, {"name": "y", "role": "target", **target}]
    return ModelDefinition.model_validate(
        {"name": "m", "task": "binary_classification", "columns": columns, "task_params": params}
    )


@pytest.mark.parametrize(
    ("target", "params", "values", "positives"),
    [
        ({"type": "bool"}, {}, [True, False, None], 1),
        ({"type": "bool"}, {"target_class_order": [True, False]}, [True, False, False, None], 2),
        ({"type": "bool"}, {"target_class_order": ["false", "true"]}, [True, False, False, None], 1),
        ({"type": "int"}, {}, [0, 1, 1, 2, None], 2),
        ({"type": "int", "min": 1, "max": 2}, {}, [1, 2, 2, 0], 2),
        ({"type": "int", "categories": [3, 7]}, {}, [3, 7, 1], 1),
        ({"type": "float"}, {"target_class_order": [1, 0]}, [0.0, 1.0, 0.0], 2),
        ({"type": "string"}, {"target_class_order": ["no", "yes"]}, ["yes", "no", "Yes", ""], 1),
        ({"type": "category", "categories": [0, 1]}, {"target_class_order": [0, 1]}, [0, 1, 1], 2),
    ],
)
def test_positive_class(target: dict[str, Any], params: dict[str, Any], values: list[Any], positives: int) -> None:
    columns = {"y": values, "score": [1.0] * len(values)}
    found = evaluate(columns, "sum(if(tp(), 1, 0))", model=binary(target, **params))["value"]
    assert found == positives


@pytest.mark.parametrize(
    ("target", "params", "hint"),
    [
        ({"type": "string"}, {}, "target_class_order"),
        ({"type": "int", "min": 1, "max": 1}, {}, "target_class_order"),
        ({"type": "int"}, {"target_class_order": ["no", "yes"]}, None),
        ({"type": "bool"}, {"target_class_order": ["no", "yes"]}, None),
        ({"type": "string"}, {"target_class_order": ["a", "b", "c"]}, None),
        ({"type": "string"}, {"target_class_order": ["a", "a"]}, None),
        ({"type": "timestamp"}, {}, "target_class_order"),
    ],
)
def test_a_target_whose_classes_are_not_known_is_refused(
    target: dict[str, Any], params: dict[str, Any], hint: str | None
) -> None:
    errors = check("precision()", binary(target, **params)).errors
    assert [item.code for item in errors] == ["FQL061"]
    assert hint is None or hint in (errors[0].hint or "")


def test_the_threshold_is_the_calls_then_the_models() -> None:
    columns = {"y": [True, True, True], "score": [0.2, 0.5, 0.9]}
    assert evaluate(columns, "recall()", model=binary({"type": "bool"}))["value"] == pytest.approx(2 / 3)
    assert evaluate(columns, "recall()", model=binary({"type": "bool"}, threshold=0.6))["value"] == pytest.approx(1 / 3)
    assert evaluate(columns, "recall(threshold=0.1)", model=binary({"type": "bool"}, threshold=0.6))["value"] == 1.0


def test_another_column_may_stand_for_the_target() -> None:
    model = ModelDefinition.model_validate(
        {
            "name": "m",
            "task": "binary_classification",
            "columns": [
                {"name": "score", "type": "float", "role": "output"},
                {"name": "y", "type": "bool", "role": "target"},
                {"name": "z", "type": "bool"},
            ],
        }
    )
    columns = {"score": [0.9, 0.9], "y": [True, True], "z": [True, False]}
    assert evaluate(columns, "precision(target=z)", model=model)["value"] == 0.5


@pytest.mark.parametrize("outputs", [[], ["string"], ["float", "float"]])
def test_a_score_is_one_numeric_output(outputs: list[str]) -> None:
    columns = [{"name": f"o{place}", "type": kind, "role": "output"} for place, kind in enumerate(outputs)]
    model = ModelDefinition.model_validate(
        {
            "name": "m",
            "task": "binary_classification",
            "columns": [*columns, {"name": "y", "type": "bool", "role": "target"}],
        }
    )
    assert [item.code for item in check("precision()", model).errors] == ["FQL061"]
