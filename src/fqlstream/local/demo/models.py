"""The demo's two models: river's data sets, a river model each, and what goes wrong with their events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

from river import datasets, linear_model, preprocessing

#: A row of a data set: its features and its truth, both as an event carries them.
Row = tuple[Mapping[str, Any], Any]


class Predictor(Protocol):
    """A model that learns one row at a time."""

    def predict(self, columns: Mapping[str, Any]) -> float:
        """Give the model's output for a row."""
        ...

    def learn(self, columns: Mapping[str, Any], truth: Any) -> None:
        """Learn from one row."""
        ...


@dataclass(frozen=True, slots=True)
class DemoModel:
    """One model of the demo.

    `label_delay` bounds after how many further events a label arrives. `spoiled` are column values that replace good ones
    in dirty events. `mistaken` gives the wrong label that is later corrected.
    """

    name: str
    rows: Callable[[], Sequence[Row]]
    predictor: Callable[[], Predictor]
    output: str
    target: str
    label_delay: tuple[int, int]
    spoiled: tuple[Mapping[str, Any], ...]
    mistaken: Callable[[Any], Any]

    @property
    def definitions(self) -> Path:
        """Where the model, its metrics and its segments are declared."""
        return Path(__file__).with_name(f"{self.name}.yaml")


class PhishingPredictor:
    """Logistic regression on scaled features."""

    def __init__(self) -> None:
        self._model = preprocessing.StandardScaler() | linear_model.LogisticRegression()

    def predict(self, columns: Mapping[str, Any]) -> float:
        """Give the probability of phishing."""
        return float(self._model.predict_proba_one(dict(columns))[True])

    def learn(self, columns: Mapping[str, Any], truth: Any) -> None:
        """Learn from one page."""
        self._model.learn_one(dict(columns), truth == "phishing")


class ChickPredictor:
    """Linear regression on age, its square, and growth per diet."""

    def __init__(self) -> None:
        self._model = preprocessing.StandardScaler() | linear_model.LinearRegression(intercept_lr=0.1)

    def predict(self, columns: Mapping[str, Any]) -> float:
        """Give the weight in grams."""
        return float(self._model.predict_one(_growth(columns)))

    def learn(self, columns: Mapping[str, Any], truth: Any) -> None:
        """Learn from one weighing."""
        self._model.learn_one(_growth(columns), truth)


def _growth(columns: Mapping[str, Any]) -> dict[str, float]:
    age = float(columns["age_days"])
    return {"age": age, "age^2": age * age, **{f"age on {diet}": age * (columns["diet"] == diet) for diet in "1234"}}


def _phishing_rows() -> Sequence[Row]:
    return [(features, "phishing" if truth else "legitimate") for features, truth in datasets.Phishing()]


def _chick_rows() -> Sequence[Row]:
    return [
        ({"age_days": features["time"], "diet": str(features["diet"]), "chick": features["chick"]}, float(weight))
        for features, weight in datasets.ChickWeights()
    ]


def _other_verdict(truth: str) -> str:
    return "legitimate" if truth == "phishing" else "phishing"


def _slipped_digit(weight: float) -> float:
    """Weigh a chick at ten times its weight, as a slipped decimal point does."""
    return weight * 10


PHISHING: Final = DemoModel(
    name="phishing",
    rows=_phishing_rows,
    predictor=PhishingPredictor,
    output="score",
    target="verdict",
    label_delay=(50, 400),
    spoiled=({"age_of_domain": "unknown"}, {"https": 7.5}, {"age_of_domain": None}),
    mistaken=_other_verdict,
)
CHICKS: Final = DemoModel(
    name="chicks",
    rows=_chick_rows,
    predictor=ChickPredictor,
    output="predicted_g",
    target="weight_g",
    label_delay=(30, 200),
    spoiled=({"age_days": 400}, {"diet": "corn"}, {"chick": "the brown one"}),
    mistaken=_slipped_digit,
)
MODELS: Final[Mapping[str, DemoModel]] = MappingProxyType({model.name: model for model in (PHISHING, CHICKS)})
