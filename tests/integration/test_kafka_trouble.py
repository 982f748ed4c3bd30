"""Kafka goes away, loses topics, loses records, comes back older: workers wait where that helps, and say what to do where it does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.test_crash import go, lag
from tests.integration.troubled import Troubled, troubled_stack
from tests.waiting import pause, wait_until

EVENTS = 3_000


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubled]:
    with troubled_stack(tmp_path_factory.mktemp("troubled")) as parts:
        yield parts


@pytest.fixture
def troubled(parts: Troubled) -> Iterator[Troubled]:
    parts.renew()
    yield parts
    parts.stack.stop_workers()


def test_kafka_away_beyond_every_time_out_is_waited_out_and_said_in_a_few_lines(troubled: Troubled) -> None:
    worker = troubled.worker(FQLSTREAM_KAFKA__REQUEST_TIMEOUT_MS="3000", FQLSTREAM_KAFKA__DELIVERY_TIMEOUT_MS="3000")

    def trouble() -> None:
        worker.says("took over inference-events")
        wait_until(lambda: lag(troubled.stack) == 0, "something is counted")
        troubled.kill_broker()
        worker.says("Kafka is in trouble", 20)
        pause(8)  # beyond the session, which is 6 s, and the other two
        troubled.start_broker()
        worker.says("Kafka works again")

    go(troubled.stack, 11, trouble, events=EVENTS)
    assert worker.alive
    assert worker.count("Kafka is in trouble") == 1
    assert worker.said.count("\n") < 80, worker.said
