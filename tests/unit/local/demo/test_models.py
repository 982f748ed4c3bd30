"""The demo's models against their definitions."""

from __future__ import annotations

import pytest

from fqlstream.events.definitions import MetricDefinition, ModelDefinition, Role, SegmentDefinition
from fqlstream.events.documents import load_definitions
from fqlstream.fql.check import check
from fqlstream.local.demo.models import MODELS, DemoModel


def _defined(model: DemoModel) -> ModelDefinition:
    (found,) = [item for item in load_definitions(model.definitions) if isinstance(item, ModelDefinition)]
    return found


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
class TestDefinitions:
    def test_names_the_columns_of_the_events(self, model: DemoModel) -> None:
        features, _ = model.rows()[0]
        defined = _defined(model)
        assert {column.name for column in defined.columns} == {*features, model.output, model.target}
        assert [column.name for column in defined.role(Role.OUTPUT)] == [model.output]
        assert [column.name for column in defined.role(Role.TARGET)] == [model.target]

    def test_has_metrics_and_segments_to_show(self, model: DemoModel) -> None:
        definitions = load_definitions(model.definitions)
        assert 8 <= sum(isinstance(item, MetricDefinition) for item in definitions) <= 10
        assert 3 <= sum(isinstance(item, SegmentDefinition) for item in definitions) <= 5
        assert all(item.name == model.name for item in definitions if isinstance(item, ModelDefinition))

    def test_spoils_only_columns_that_exist(self, model: DemoModel) -> None:
        names = {column.name for column in _defined(model).columns}
        assert all(spoiled.keys() <= names for spoiled in model.spoiled)

    def test_a_mistaken_label_is_another_label(self, model: DemoModel) -> None:
        assert all(model.mistaken(truth) != truth for _, truth in model.rows())

    def test_expressions_check_without_a_word(self, model: DemoModel) -> None:
        defined = _defined(model)
        for item in load_definitions(model.definitions):
            if isinstance(item, MetricDefinition | SegmentDefinition):
                found = check(item.definition, defined, item.kind)
                assert (*found.errors, *found.warnings) == (), item.name
