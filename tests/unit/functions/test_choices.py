from __future__ import annotations

from typing import Any

import pytest

from fqlstream import evaluate
from fqlstream.events.definitions import Choices, ModelDefinition
from fqlstream.fql.check import check
from fqlstream.functions.choices import Chosen, choose
from fqlstream.functions.confusion import BINARY_ROWS
from fqlstream.functions.example_models import EXAMPLE_MODELS
from fqlstream.settings import FqlSettings

MODEL = EXAMPLE_MODELS["binary"]
ROWS = {name: list(values) for name, values in BINARY_ROWS.items()}


def overriding(**choices: Any) -> ModelDefinition:
    return MODEL.model_copy(update={"choices": Choices(**choices)})


def test_every_choice_is_a_setting_and_overridable() -> None:
    fields = set(Chosen.__dataclass_fields__)
    assert fields <= set(FqlSettings.model_fields)
    # these two are task parameters already
    assert fields - {"threshold", "ranking_top_k"} == set(Choices.model_fields)


def test_a_model_wins_over_the_settings() -> None:
    settings = FqlSettings(calibration_bins=5, threshold=0.9, ranking_top_k=7)
    assert choose(MODEL, settings).calibration_bins == 5
    assert choose(overriding(calibration_bins=3), settings).calibration_bins == 3
    assert choose(MODEL, settings).threshold == 0.5  # of its task_params
    assert choose(EXAMPLE_MODELS["table"], settings).threshold == 0.9
    assert choose(MODEL, settings).ranking_top_k == 7


@pytest.mark.parametrize(
    ("expression", "choices", "default", "chosen"),
    [
        ("expected_calibration_error()", {"calibration_bins": 1}, 0.38, 0.06),
        ("log_loss()", {"probability_epsilon": 0.4}, 0.6494550598779797, 0.6730116670092565),
        ("average(if(fp(), 1, 5))", {"null_condition": "null"}, 26 / 6, 21 / 5),
    ],
)
def test_a_choice_changes_the_value(expression: str, choices: dict[str, Any], default: float, chosen: float) -> None:
    assert evaluate(ROWS, expression, model=MODEL)["value"] == pytest.approx(default, rel=1e-12)
    assert evaluate(ROWS, expression, model=overriding(**choices))["value"] == pytest.approx(chosen, rel=1e-8)


def test_rows_without_a_label_are_no_trap_where_a_null_condition_gives_null() -> None:
    text = "average(if(fp(), 1, 5))"
    assert [item.code for item in check(text, MODEL).warnings] == ["FQL101"]
    assert check(text, overriding(null_condition="null")).warnings == ()
