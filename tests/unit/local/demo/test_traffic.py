"""What a model server of the demo sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, mean_absolute_error

from fqlstream.local.demo.models import CHICKS, MODELS, PHISHING, DemoModel
from fqlstream.local.demo.traffic import (
    BROKEN_EVERY,
    CORRECTED,
    REPEATED,
    SPOILED,
    UNLABELLED,
    Broken,
    Inference,
    Label,
    Message,
    endless,
    spread,
    traffic,
)

HOUR_MS = 3_600_000


def _messages(model: DemoModel, seed: int = 7) -> list[Message]:
    return list(traffic(model, spread(model.rows(), 0, 12 * HOUR_MS), seed=seed, run="r"))


def _firsts(messages: list[Message]) -> list[Inference]:
    return [message for message in messages if isinstance(message, Inference) and not message.repeated]


def _last_labels(messages: list[Message]) -> dict[str, Mapping[str, Any]]:
    return {message.event_id: message.columns for message in messages if isinstance(message, Label)}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
class TestTraffic:
    def test_repeats_itself_for_a_seed_and_only_for_it(self, model: DemoModel) -> None:
        assert _messages(model) == _messages(model)
        assert _messages(model) != _messages(model, seed=8)

    def test_asks_about_every_row_once_in_order(self, model: DemoModel) -> None:
        rows = [features for features, _ in model.rows()]
        firsts = _firsts(_messages(model))
        unspoiled = [
            (event, row) for event, row in zip(firsts, rows, strict=True) if row.items() <= event.columns.items()
        ]
        assert len({event.event_id for event in firsts}) == len(rows)
        assert len(unspoiled) > (1 - 2 * SPOILED) * len(rows)

    def test_ends_with_the_data_sets_truth(self, model: DemoModel) -> None:
        messages = _messages(model)
        labels = _last_labels(messages)
        for event, (_, truth) in zip(_firsts(messages), model.rows(), strict=True):
            assert labels.get(event.event_id, {model.target: truth}) == {model.target: truth}

    def test_labels_come_after_their_event_within_the_delay(self, model: DemoModel) -> None:
        asked: dict[str, int] = {}
        delays: dict[str, int] = {}
        for message in _messages(model):
            if isinstance(message, Inference) and not message.repeated:
                asked[message.event_id] = len(asked)
            elif isinstance(message, Label):
                delays.setdefault(message.event_id, len(asked) - asked[message.event_id])
        shortest, longest = model.label_delay
        in_time = [delay for event_id, delay in delays.items() if asked[event_id] + longest < len(asked)]
        assert min(in_time) >= shortest
        assert max(in_time) <= longest

    def test_things_go_wrong_as_often_as_declared(self, model: DemoModel) -> None:
        messages = _messages(model)
        count = len(_firsts(messages))
        labels = [message for message in messages if isinstance(message, Label)]
        labelled = len(_last_labels(messages))
        for found, share in (
            (count - labelled, UNLABELLED),
            (len(labels) - labelled, CORRECTED * (1 - UNLABELLED)),
            (sum(isinstance(message, Inference) for message in messages) - count, REPEATED),
        ):
            # five standard deviations of a binomial count
            assert abs(found - share * count) <= 5 * np.sqrt(count * share * (1 - share))
        assert sum(isinstance(message, Broken) for message in messages) == round(count / BROKEN_EVERY)

    def test_repeats_are_what_was_sent_before(self, model: DemoModel) -> None:
        seen: dict[str, Inference] = {}
        repeats = 0
        for message in _messages(model):
            if isinstance(message, Inference) and message.repeated:
                assert replace(message, repeated=False) == seen[message.event_id]
                repeats += 1
            elif isinstance(message, Inference):
                seen[message.event_id] = message
        assert repeats


def test_phishing_is_learnt_within_the_day() -> None:
    messages = _messages(PHISHING)
    labels = _last_labels(messages)
    labelled = [event for event in _firsts(messages) if event.event_id in labels]
    truth = [labels[event.event_id]["verdict"] == "phishing" for event in labelled]
    said = [event.columns["score"] >= 0.5 for event in labelled]
    third = len(labelled) // 3
    assert accuracy_score(truth[-third:], said[-third:]) > 0.87
    assert accuracy_score(truth[-third:], said[-third:]) > accuracy_score(truth[:third], said[:third]) + 0.1


def test_chicks_are_predicted_better_than_by_their_mean() -> None:
    messages = _messages(CHICKS)
    labels = _last_labels(messages)
    labelled = [event for event in _firsts(messages) if event.event_id in labels]
    weights = [labels[event.event_id]["weight_g"] for event in labelled]
    mae = mean_absolute_error(weights, [event.columns["predicted_g"] for event in labelled])
    assert mae < mean_absolute_error(weights, np.full(len(weights), np.mean(weights))) * 0.7


@dataclass
class _Witness:
    """Writes down what it is asked and taught."""

    calls: list[tuple[str, object]] = field(default_factory=list)

    def predict(self, columns: Mapping[str, Any]) -> float:
        self.calls.append(("asked", columns["n"]))
        return 0.5

    def learn(self, columns: Mapping[str, Any], truth: Any) -> None:
        self.calls.append(("taught", (columns["n"], truth)))


def test_a_model_predicts_first_and_learns_each_truth_once_when_its_label_is_sent() -> None:
    witness = _Witness()
    rows = [({"n": n}, f"truth {n}") for n in range(500)]
    model = replace(
        PHISHING,
        rows=lambda: rows,
        predictor=lambda: witness,
        spoiled=({"n": -1},),
        label_delay=(3, 60),
        mistaken=lambda _: "mistake",
    )
    sent: list[tuple[str, object]] = []
    for message in _messages(model):
        if isinstance(message, Inference) and not message.repeated:
            sent.append(("asked", int(message.event_id[2:])))
        elif isinstance(message, Label) and message.columns["verdict"] != "mistake":
            number = int(message.event_id[2:])
            sent.append(("taught", (number, message.columns["verdict"])))
    assert witness.calls == sent
    assert ("taught", (4, "truth 4")) in sent or ("taught", (5, "truth 5")) in sent


def test_spread_covers_the_time_evenly() -> None:
    at = [timed.at_ms for timed in spread([({}, 1)] * 4, 1000, 2000)]
    assert at == [1000, 1250, 1500, 1750]


def test_endless_goes_on_with_every_row_in_other_orders() -> None:
    rows = [({"n": n}, n) for n in range(20)]
    passes = [timed.row[1] for timed in islice(endless(rows, 3), 60)]
    assert [sorted(passes[at : at + 20]) for at in (0, 20, 40)] == [list(range(20))] * 3
    assert len({tuple(passes[at : at + 20]) for at in (0, 20, 40)}) == 3
