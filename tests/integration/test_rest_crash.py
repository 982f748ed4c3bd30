"""API and worker are killed while metrics are written: what was acknowledged is there, once."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.rest_client import PREFIX, RestClient
from tests.running_stack import RunningStack
from tests.waiting import wait_equal, wait_until

from fqlstream.local.joining import read_stack

WRITERS = 4
#: Acknowledged writes of all writers after each of which somebody is killed.
EVERY = 150
DEFINITIONS = """
{kind: pipeline, name: train}
---
{kind: execution, name: crashed, pipeline: train}
---
{kind: experiment, name: digits}
---
{kind: job, name: crashed, experiment: digits}
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[RunningStack]:
    running = RunningStack.start(tmp_path)
    yield running
    running.stop()


class Writer(threading.Thread):
    """Writes until it is told to stop, and remembers what was acknowledged. It tries nothing twice: not knowing is allowed."""

    def __init__(self, url: str, key: str, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"writer-{number}")
        self._url, self._headers, self._number, self._stop_event = url, {"authorization": f"Bearer {key}"}, number, stop
        self.sent: dict[str, set[Any]] = {"pipeline": set(), "list": set(), "job": set()}
        self.acknowledged: dict[str, set[Any]] = {"pipeline": set(), "list": set(), "job": set()}

    def run(self) -> None:
        with httpx.Client(base_url=self._url, headers=self._headers, timeout=30) as client:
            for turn in itertools.count():
                if self._stop_event.is_set():
                    return
                for kind in self.sent:
                    self._write(client, kind, turn)

    def _write(self, client: httpx.Client, kind: str, turn: int) -> None:
        mine = turn * WRITERS + self._number
        if kind == "pipeline":
            token, body = f"m-{mine}", {"execution": "crashed", "name": f"m-{mine}", "value": mine}
        elif kind == "list":
            token, body = mine, {"execution": "crashed", "name": f"list-{self._number}", "values": [mine]}
        else:
            token, body = mine, {"job": 1, "name": "acc", "value": mine, "step": mine}
        self.sent[kind].add(token)
        with suppress(httpx.HTTPError):
            answer = client.post(f"{PREFIX}/recorded/{kind}-metrics", json=body)
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == 200:
                self.acknowledged[kind].add(token)
            return
        self._stop_event.wait(0.05)  # nobody listens for a moment


def test_what_was_acknowledged_is_there_once_whoever_was_killed(stack: RunningStack) -> None:
    with RestClient(stack) as rest:
        rest("POST", "/definitions/yaml", content=DEFINITIONS)
    stop = threading.Event()
    writers = [Writer(stack.api_url, stack.api_key, number, stop) for number in range(WRITERS)]
    for writer in writers:
        writer.start()

    def done() -> int:
        return sum(len(each) for writer in writers for each in writer.acknowledged.values())

    for victim in ("api", "worker", "api", "worker"):
        target = done() + EVERY
        wait_until(lambda target=target: done() >= target, f"writes are acknowledged before the {victim} dies", 120)
        pids = read_stack(stack.data).pids
        pid = pids.api if victim == "api" else pids.workers[0]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    target = done() + EVERY
    wait_until(lambda: done() >= target, "writes are acknowledged again", 120)
    stop.set()
    for writer in writers:
        writer.join()
    _compare(stack, writers)


def _compare(stack: RunningStack, writers: list[Writer]) -> None:
    sent = {kind: set().union(*(writer.sent[kind] for writer in writers)) for kind in writers[0].sent}
    acknowledged = {kind: set().union(*(writer.acknowledged[kind] for writer in writers)) for kind in sent}
    with RestClient(stack) as rest:
        # what another life of the API has acknowledged is not waited for by this one
        wait_equal(lambda: acknowledged["pipeline"] - set(_singles(rest)), set(), "all numbers that were acknowledged")
        singles = _singles(rest)
        assert len(singles) == len(set(singles))
        assert set(singles) <= sent["pipeline"]
        values: list[int] = []
        for number in range(WRITERS):
            key = {"execution": "crashed", "name": f"list-{number}"}
            values += map(int, rest("GET", "/recorded/list-metrics/values", params=key)["items"])
        assert len(values) == len(set(values)), "no value of a list is there twice"
        assert acknowledged["list"] <= set(values) <= sent["list"]
        steps = rest.pages("/recorded/job-metrics/steps", 1_000, job=1, name="acc")
        found = [row["step"] for row in steps]
        assert all(row["step"] == row["value"] for row in steps)
        assert len(found) == len(set(found))
        assert acknowledged["job"] <= set(found) <= sent["job"]


def _singles(rest: RestClient) -> list[str]:
    return [row["name"] for row in rest.pages("/recorded/pipeline-metrics", 1_000, execution="crashed")]
