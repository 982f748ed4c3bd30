"""What FQL's documentation leaves open: the settings' answers, or a model's own where it gives one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fqlstream.events.definitions import ModelDefinition
from fqlstream.settings import FqlSettings


@dataclass(frozen=True, slots=True)
class Chosen:
    """One answer each; the settings of the same names say what they mean."""

    threshold: float
    calibration_bins: int
    probability_epsilon: float
    calibrated_threshold_rule: Literal["youden", "f1"]
    drift_bins: int
    psi_increment: float
    ranking_top_k: int
    null_condition: Literal["else", "null"]


def choose(model: ModelDefinition, settings: FqlSettings) -> Chosen:
    """Give the answers that hold for a model."""
    own, params = model.choices, model.task_params
    return Chosen(
        threshold=settings.threshold if params.threshold is None else params.threshold,
        calibration_bins=_first(own.calibration_bins, settings.calibration_bins),
        probability_epsilon=settings.probability_epsilon
        if own.probability_epsilon is None
        else own.probability_epsilon,
        calibrated_threshold_rule=settings.calibrated_threshold_rule
        if own.calibrated_threshold_rule is None
        else own.calibrated_threshold_rule,
        drift_bins=_first(own.drift_bins, settings.drift_bins),
        psi_increment=settings.psi_increment if own.psi_increment is None else own.psi_increment,
        ranking_top_k=_first(params.top_k, settings.ranking_top_k),
        null_condition=settings.null_condition if own.null_condition is None else own.null_condition,
    )


def _first(own: int | None, default: int) -> int:
    return default if own is None else own
