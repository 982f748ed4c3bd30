from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from tests.running_stack import RunningStack, environment_of_free_ports
from tests.waiting import wait_until

from fqlstream.errors import UsageError
from fqlstream.local.joining import join
from fqlstream.local.ports import answers, kept_port
from fqlstream.ops.kafka_options import librdkafka_options, producer_options
from fqlstream.settings import Settings, load
from fqlstream.store.client import Store

STOP_S = 30.0
RESTART_S = 120.0


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def parts(stack: RunningStack) -> dict[str, Any]:
    """Read what the stack's file says of it."""
    content: dict[str, Any] = json.loads((stack.data / "stack.json").read_text())
    return content


def pids_of(stack: RunningStack) -> list[int]:
    pids = parts(stack)["pids"]
    return [
        pid for pid in (pids["broker"], pids["store"], pids["api"], pids["runner"], *pids["workers"]) if pid is not None
    ]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., RunningStack]]:
    started: list[RunningStack] = []

    def start(*arguments: str) -> RunningStack:
        environment = environment_of_free_ports() | {"FQLSTREAM_LOCAL__RUNNERS": "1"}
        started.append(RunningStack.start(tmp_path, *arguments, environment=environment))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def send(settings: Settings, count: int) -> None:
    producer = Producer(producer_options(settings.kafka))
    for number in range(count):
        producer.produce("inference-events", value=str(number).encode(), partition=0)
    assert producer.flush(20) == 0


def read(settings: Settings, count: int) -> list[bytes]:
    consumer = Consumer(librdkafka_options(settings.kafka, group_id="test", enable_auto_commit=False))
    consumer.assign([TopicPartition("inference-events", 0, 0)])
    deadline = time.monotonic() + 30
    values: list[bytes] = []
    while len(values) < count:
        assert time.monotonic() < deadline
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            values.append(message.value())
    consumer.close()
    return values


@contextmanager
def other_server(port: int) -> Iterator[None]:
    """Take a port as soon as it can be had."""

    def listening() -> socket.socket | None:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            return None

    taken = wait_until(listening, "the port")
    assert taken is not None
    with taken:
        yield


def members(settings: Settings) -> set[str]:
    admin = AdminClient(librdkafka_options(settings.kafka))
    group = settings.kafka.group
    return {member.member_id for member in admin.describe_consumer_groups([group])[group].result(10).members}


def test_a_stack_comes_up_heals_stops_and_goes_on_with_its_data(up: Callable[..., RunningStack]) -> None:
    first = up("--workers", "1")
    assert first.said == parts(first)
    assert first.said["api_key"] == (first.data / "api.key").read_text().strip()
    assert all(runs(pid) for pid in pids_of(first))
    assert len(pids_of(first)) == 5

    again = subprocess.run(
        [sys.executable, "-m", "fqlstream.cli", "up", "--data", str(first.data)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 2
    assert f"a stack already runs in {first.data}" in again.stderr

    joined = join(first.data, load())
    before = members(joined)
    assert len(before) == 1
    send(joined, 5)
    with Store.connect(joined.store) as store:
        store.command("CREATE TABLE kept (n UInt32) ENGINE = MergeTree ORDER BY n")
        store.command("INSERT INTO kept VALUES (42)")

    (worker,) = first.said["pids"]["workers"]
    port = kept_port(first.data, "worker-1")
    assert answers("127.0.0.1", port)
    os.kill(worker, signal.SIGKILL)
    with other_server(port):
        wait_until(lambda: parts(first)["pids"]["workers"] not in ([], [worker]), "a worker in its place", RESTART_S)
        wait_until(
            lambda: (
                kept_port(first.data, "worker-1") != port and answers("127.0.0.1", kept_port(first.data, "worker-1"))
            ),
            "its numbers on another port, as its own is taken",
            RESTART_S,
        )

    killed = members(joined)
    pids = pids_of(first)
    began = time.monotonic()
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(STOP_S) == 0
    assert time.monotonic() - began < STOP_S
    assert [pid for pid in pids if runs(pid)] == []
    assert not (first.data / "stack.json").exists()
    with pytest.raises(UsageError, match="no stack runs"):
        join(first.data, load())

    second = up("--workers", "1")
    # the group still holds the place of the worker that was stopped: ready is who has taken it since
    now = members(joined)
    assert len(now) == 1
    assert now.isdisjoint(before | killed), "ready before its worker had joined"
    assert {name: second.said[name] for name in ("bootstrap", "store_url", "store_key")} == {
        name: first.said[name] for name in ("bootstrap", "store_url", "store_key")
    }
    assert len(second.said["pids"]["workers"]) == 1
    joined = join(second.data, load())
    assert read(joined, 5) == [b"0", b"1", b"2", b"3", b"4"]
    with Store.connect(joined.store) as store:
        assert store.query_rows("SELECT n FROM kept") == [(42,)]

    pids = pids_of(second)
    second.process.kill()
    wait_until(lambda: not any(runs(pid) for pid in pids), "the end of a killed stack's children", 15)
