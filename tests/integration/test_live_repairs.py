"""Repairs of the whole range, again and again, while events and labels flow and a worker is killed: finals equal the batch answer."""

from __future__ import annotations

import json
import threading

from tests.commands import command, invoke
from tests.integration import test_crash, test_delete_events
from tests.integration.flows import Flow
from tests.integration.test_delete_events import Traffic
from tests.waiting import wait_until

from fqlstream.cli.repair import repair

stack = test_crash.stack
flow = test_delete_events.flow
REPAIRS = 4


def test_repairs_under_traffic_change_nothing_that_is_right(flow: Flow) -> None:
    traffic = Traffic(flow, 7)
    first = traffic.events(150)
    stop = threading.Event()

    def send() -> None:
        """Send events, late ones among them, and labels again: corrections, in either partition."""
        while not stop.wait(0.1):
            traffic.events(2)
            traffic.label(str(traffic.numbers.choice(first)))

    sending = threading.Thread(target=send)
    sending.start()
    try:
        traffic.sender.flush()
        wait_until(lambda: traffic.stored(first) > 100, "some are stored", 60)
        for number in range(REPAIRS):
            options = ["--json", "--data", flow.stack.data, *(["--no-wait"] if number % 2 else [])]
            done = invoke(command(repair), traffic.name, *options)
            assert done.exit_code == 0, done.output
            assert json.loads(done.stdout)["panes"] > 0
            if number == 1:  # while requests wait
                flow.stack.workers[-1].kill()
                flow.stack.workers[-1].wait(10)
                flow.stack.start_worker()
    finally:
        stop.set()
        sending.join()
    traffic.finals()


def test_a_repair_of_nothing_new_publishes_nothing(flow: Flow) -> None:
    traffic = Traffic(flow, 8)
    traffic.events(60)
    traffic.finals()
    before = sorted(flow.values(traffic.name), key=str)
    done = invoke(command(repair), traffic.name, "--json", "--data", flow.stack.data)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["done"]
    assert sorted(flow.values(traffic.name), key=str) == before
