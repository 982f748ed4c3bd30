"""The models that the declared examples belong to: the tests run the examples, the reference page prints them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from fqlstream.events.definitions import ModelDefinition


def _model(name: str, task: str, columns: list[dict[str, Any]], **task_params: Any) -> ModelDefinition:
    return ModelDefinition.model_validate({"name": name, "task": task, "columns": columns, "task_params": task_params})


EXAMPLE_MODELS: Final[Mapping[str, ModelDefinition]] = MappingProxyType(
    {
        "table": _model(
            "table",
            "not_set",
            [
                {"name": "x", "type": "float", "min": 0, "max": 10},
                {"name": "y", "type": "float"},
                {"name": "a", "type": "bool"},
                {"name": "b", "type": "bool"},
                {"name": "s", "type": "string"},
            ],
        ),
        "binary": _model(
            "binary",
            "binary_classification",
            [
                {"name": "age", "type": "int"},
                {"name": "score", "type": "float", "role": "output"},
                {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
            ],
            threshold=0.5,
            target_class_order=["no", "yes"],
        ),
        "multiclass": _model(
            "multiclass",
            "multiclass_classification",
            [
                {"name": "p_cat", "type": "float", "role": "output"},
                {"name": "p_dog", "type": "float", "role": "output"},
                {"name": "p_fox", "type": "float", "role": "output"},
                {"name": "animal", "type": "category", "role": "target", "categories": ["cat", "dog", "fox"]},
            ],
            target_class_order=["cat", "dog", "fox"],
        ),
        "regression": _model(
            "regression",
            "regression",
            [
                {"name": "estimate", "type": "float", "role": "output"},
                {"name": "price", "type": "float", "role": "target"},
            ],
        ),
        "ranking": _model(
            "ranking",
            "ranking",
            [
                {"name": "query", "type": "string", "role": "metadata"},
                {"name": "score", "type": "float", "role": "output"},
                {"name": "clicked", "type": "int", "role": "target"},
            ],
            group_by="query",
            top_k=10,
            is_binary_ranking_model=True,
        ),
        "llm": _model("llm", "llm", [{"name": "tokens", "type": "float", "source": "system", "scope": "span"}]),
    }
)
