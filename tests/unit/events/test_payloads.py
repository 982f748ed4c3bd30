from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from tests.unit.stream.test_decode import DEAD, FINE, encoded

from fqlstream.app.kafka_log import value_payload
from fqlstream.events.payloads import METRIC_EVENT, InferenceEvent, LabelEvent, MetricValuePayload, WatermarkEvent
from fqlstream.stream.protocol import MetricValue

#: What a schema can tell: the catalogue, the clock, the bytes and the form of a time are the decoder's to judge.
BY_FORM = {"DLQ006", "DLQ007", "DLQ008", "DLQ011", "DLQ012"}
EVENTS = {"inference": InferenceEvent, "label": LabelEvent, "watermark": WatermarkEvent}


def accepts(value: bytes) -> bool:
    try:
        event = json.loads(value)
        kind = event.get("type") if isinstance(event, dict) else None
        payload = EVENTS.get("inference" if kind is None else kind) if not isinstance(kind, int) else None
        if payload is None:
            return False
        payload.model_validate(event)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("value", [case[1] for case in FINE], ids=[case[0] for case in FINE])
def test_what_the_decoder_counts_has_the_form_of_its_schema(value: Any) -> None:
    assert accepts(value if isinstance(value, bytes) else encoded(value))


@pytest.mark.parametrize("value", [value for code, value in DEAD if code in BY_FORM and value and len(value) < 2_000])
def test_what_the_decoder_refuses_for_its_form_has_not_the_form_of_a_schema(value: bytes) -> None:
    assert not accepts(value)


@pytest.mark.parametrize(
    ("event", "fits"),
    [
        ({"type": "pipeline_metric", "id": "e-1", "name": "test-loss", "value": 0.1}, True),
        ({"type": "pipeline_metric", "id": "e-1", "name": "1onx", "value": "NaN", "at": "2026-11-21T10:00:00Z"}, True),
        ({"type": "pipeline_metric", "id": "e-1", "name": "x", "value": "0.1"}, False),
        ({"type": "pipeline_metric", "id": "e-1", "name": "x", "value": True}, False),
        ({"type": "list_metric", "id": "e-1", "name": "x", "values": [1, 2.5, "-Infinity"]}, True),
        ({"type": "list_metric", "id": "e-1", "name": "x", "values": [[1]]}, False),
        ({"type": "job_metric", "id": 7, "name": "ACCURACY", "value": 1, "step": -3}, True),
        ({"type": "job_metric", "id": 7, "name": "a-b", "value": 1}, False),
        ({"type": "job_metric", "id": 7, "name": "_", "value": 1}, False),
        ({"type": "job_metric", "id": 7, "name": "a", "value": 1, "step": 2**63}, False),
        ({"type": "metric", "id": 7, "name": "a", "value": 1}, False),
    ],
)
def test_metric_events(event: dict[str, Any], *, fits: bool) -> None:
    try:
        METRIC_EVENT.validate_python(event)
    except ValidationError:
        assert not fits
    else:
        assert fits


def test_a_published_value_has_the_form_of_its_schema_and_no_key_more() -> None:
    value = MetricValue(
        "churn", "all", "cost", "", 0, 3_600_000, None, 5, 3, False, 0.0133, "early", 7, 1, 1_700_000_000_123
    )
    payload = json.loads(json.dumps(value_payload(value)))
    assert payload.keys() == MetricValuePayload.model_fields.keys()
    read = MetricValuePayload.model_validate_json(json.dumps(payload))
    assert read.updated_at.isoformat() == "2023-11-14T22:13:20.123000+00:00"
    assert read.window_s == 3600
