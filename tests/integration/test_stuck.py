"""A worker that is stuck ends itself, says where, and the next one goes on; a real process each time."""

from __future__ import annotations

import json
import time

import pytest
from confluent_kafka import Producer
from tests.integration.stuck_worker import MARK
from tests.integration.test_crash import TOPIC, lag
from tests.integration.troubled import Troubled
from tests.waiting import wait_until

from fqlstream.app import exit_codes

STUCK_MS = 3_000


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("deadlock", exit_codes.STUCK, "APP001 applying inference-events"),
        ("blocked", exit_codes.STUCK, "APP001 the event loop has not moved"),
        ("publishing", exit_codes.STUCK, "APP001 publishing has not moved"),
        # the code is faulthandler's own: no thread of ours gets a turn
        ("locked", 1, "Timeout (0:00:04.500000)!"),
    ],
)
def test_a_stuck_worker_ends_says_where_and_the_next_one_goes_on(
    troubled: Troubled, kind: str, code: int, said: str
) -> None:
    model = troubled.define()
    worker = troubled.worker("tests.integration.stuck_worker", STUCK=kind, FQLSTREAM_STREAM__STUCK_MS=str(STUCK_MS))
    worker.says("took over inference-events")
    producer = Producer({"bootstrap.servers": troubled.stack.bootstrap, "partitioner": "murmur2_random"})
    now_ms = time.time_ns() // 1_000_000
    for number in range(20):
        name = f"{model}-{number}"
        event = {
            "model": model,
            "event_id": name,
            "columns": {"x": 1.0, "score": 0.5},
            "event_at": now_ms,
            "note": MARK,
        }
        producer.produce(TOPIC, json.dumps(event).encode(), key=name)
    assert producer.flush(30) == 0
    begun = time.monotonic()
    assert worker.process.wait(60) == code, worker.said
    assert time.monotonic() - begun < 45
    assert said in worker.said
    assert "stuck_worker.py" in worker.said, "the stacks name the line"
    troubled.worker()

    def counted() -> int:
        with troubled.store() as store:
            return int(store.query_rows(f"SELECT count() FROM events_{model}")[0][0])

    wait_until(lambda: counted() == 20 and lag(troubled.stack) == 0, "the next worker has read them", 60, saw=counted)
