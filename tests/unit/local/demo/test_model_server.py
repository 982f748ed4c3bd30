"""A model server between its traffic and the SDK."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from fqlstream.local.demo import model_server
from fqlstream.local.demo.model_server import Assignment, serve
from fqlstream.local.demo.models import CHICKS
from fqlstream.local.demo.traffic import Broken, Inference, Label, spread, traffic
from fqlstream.settings import KafkaSettings, Settings

ASSIGNMENT = Assignment(CHICKS, "r", seed=7, start_ms=0, end_ms=1_000_000, per_second=0.0, finish_ms=2_000_000)


class _Kafka:
    """Both producers: the SDK's and the one for broken records; writes down what they are told."""

    topic = "inference-events"

    def __init__(self, calls: list[tuple[Any, ...]], stop_after: int, stopping: threading.Event) -> None:
        self.calls, self.stop_after, self.stopping = calls, stop_after, stopping

    def __call__(self, *_: object, **__: object) -> _Kafka:
        return self

    def __enter__(self) -> _Kafka:
        return self

    def __exit__(self, *_: object) -> None:
        self._note("close")

    def log_inference(self, model: str, event_id: str, columns: object, event_at: int | None = None) -> None:
        self._note("inference", event_id, event_at)

    def log_label(self, model: str, event_id: str, columns: object) -> None:
        self._note("label", event_id)

    def produce(self, topic: str, value: bytes, key: bytes) -> None:
        self._note("broken", value)

    def flush(self) -> int:
        self._note("flush")
        return 0

    def finish(self, model: str, event_at: int) -> None:
        self._note("finish", model, event_at)

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        if len(self.calls) == self.stop_after:
            self.stopping.set()


def _serve(
    monkeypatch: pytest.MonkeyPatch, assignment: Assignment, stop_after: int = -1
) -> tuple[model_server.Sent, list[tuple[Any, ...]]]:
    calls: list[tuple[Any, ...]] = []
    stopping = threading.Event()
    kafka = _Kafka(calls, stop_after, stopping)
    monkeypatch.setattr(model_server, "Producer", kafka)
    monkeypatch.setattr(model_server, "RawProducer", kafka)
    settings = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"))
    return serve(assignment, settings, stopping), calls


def test_everything_is_sent_in_order_and_finished_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, calls = _serve(monkeypatch, ASSIGNMENT)
    expected: list[tuple[Any, ...]] = []
    for message in traffic(CHICKS, spread(CHICKS.rows(), 0, 1_000_000), seed=7, run="r"):
        match message:
            case Inference():
                expected.append(("inference", message.event_id, message.at_ms))
            case Label():
                expected.append(("label", message.event_id))
            case Broken():
                expected.append(("broken", message.value))
    # a watermark must not overtake an event: everything has arrived before it is sent
    assert calls == [*expected, ("flush",), ("flush",), ("finish", "chicks", 2_000_000), ("close",)]
    kinds = [call[0] for call in expected]
    assert (sent.predictions + sent.repeated, sent.labels, sent.broken) == tuple(
        kinds.count(kind) for kind in ("inference", "label", "broken")
    )
    assert str(sent).startswith("578 predictions")


def test_a_live_server_goes_on_with_the_present_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    live = replace(ASSIGNMENT, per_second=1e6, finish_ms=None)
    sent, calls = _serve(monkeypatch, live, stop_after=2_000)
    assert sent.predictions > 578
    times = [call[2] for call in calls if call[0] == "inference"]
    assert times[0] == 0
    assert times[-1] is None
    assert [call[0] for call in calls[-3:]] == ["flush", "flush", "close"]


def test_one_that_is_stopped_promises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, calls = _serve(monkeypatch, ASSIGNMENT, stop_after=100)
    assert sent.predictions < 578
    assert "finish" not in {call[0] for call in calls}


def test_a_directory_without_a_stack_is_an_error_in_words(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    arguments = ["phishing", "--data", str(tmp_path), "--run", "r", "--start-ms", "0", "--end-ms", "1"]
    assert model_server.main(arguments) == 2
    assert "no stack runs" in capsys.readouterr().err
