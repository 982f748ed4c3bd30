"""A worker's routes, asked as Prometheus and an orchestrator ask."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr
from tests.waiting import wait_until

from fqlstream import listening
from fqlstream.app.observed import Health, PartitionsHeld, health_of
from fqlstream.app.retries import Trouble
from fqlstream.app.serving import Served, asked_in, require_key
from fqlstream.errors import UsageError
from fqlstream.settings import WorkerSettings

FINE = health_of({"events": PartitionsHeld(4, 4)}, (), ("flushing", 0.25), 10.0)
AWAY = health_of({}, (Trouble("Kafka", 3.25, 7, ("definitions",)),), None, 10.0)
STUCK = health_of({}, (), ("publishing", 99.0), 10.0)


@dataclass
class Observed:
    said: Health = FINE
    text: bytes | None = b"fqlstream_panes 3\n"
    asked: list[str] = field(default_factory=list)

    def health(self) -> Health:
        return self.said

    async def metrics(self) -> bytes:
        if self.text is None:
            raise TimeoutError
        return self.text


@contextmanager
def served(observed: Observed, **settings: object) -> Iterator[str]:
    server = Served(WorkerSettings(port=0, **settings), observed)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def ask(url: str, key: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={} if key is None else {"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_worker_tells_its_numbers_and_whether_it_works() -> None:
    observed = Observed()
    with served(observed) as url:
        assert ask(f"{url}/metrics") == (200, "fqlstream_panes 3\n")
        status, text = ask(f"{url}/health")
        assert status == 200
        assert json.loads(text) == {
            "status": "ok",
            "partitions": {"events": {"assigned": 4, "taken": 4}},
            "trouble": [],
            "slowest": {"what": "flushing", "for_s": 0.2},
        }
        observed.said = AWAY
        assert (ask(f"{url}/health/ready")[0], ask(f"{url}/health/live")[0]) == (503, 200)
        waiting = {"part": "Kafka", "for_s": 3.2, "failures": 7, "waiting": ["definitions"]}
        assert json.loads(ask(f"{url}/health/ready")[1])["trouble"] == [waiting]
        observed.said = STUCK
        assert ask(f"{url}/health/live")[0] == 503
        observed.text = None
        assert ask(f"{url}/metrics")[0] == 503


def test_numbers_are_told_to_who_has_the_key_and_health_to_everybody() -> None:
    key = "let me in, please"
    with served(Observed(), key=SecretStr(key)) as url:
        assert [ask(f"{url}/metrics", given)[0] for given in (None, "", "let me", key)] == [401, 401, 401, 200]
        assert ask(f"{url}/health")[0] == 200


def test_off_loopback_a_key_is_needed_unless_it_is_said_that_nobody_is_asked() -> None:
    with pytest.raises(UsageError, match="APP020"):
        require_key(WorkerSettings(host="0.0.0.0"))
    require_key(WorkerSettings(host="0.0.0.0", key=SecretStr("k" * 16)))
    require_key(WorkerSettings(host="0.0.0.0", auth=False))


@pytest.mark.parametrize("key", ["", "k" * 15])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_key_that_nobody_filled_in_lets_nobody_in(host: str, key: str) -> None:
    with pytest.raises(UsageError, match="FQLSTREAM_WORKER__KEY has fewer than 16 characters") as refused:
        Served(WorkerSettings(host=host, port=0, key=SecretStr(key)), Observed())
    assert refused.value.code == "APP020"
    require_key(WorkerSettings(host=host, key=SecretStr(key), auth=False))


def test_connections_that_ask_nothing_keep_no_probe_from_its_answer() -> None:
    with served(Observed(), requests_max=2) as url, ExitStack() as held:
        for _ in range(40):
            held.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))))
        assert [ask(f"{url}/{path}")[0] for path in ("health/live", "health", "metrics")] == [200] * 3


@pytest.mark.parametrize(
    "sent", [b"", b"GET /health HTTP/1.1\r\nHost:", b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\nGET"]
)
def test_who_asks_nothing_or_never_ends_is_hung_up_on(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_SILENT_S", 0.1)
    monkeypatch.setattr(listening, "_HEAD_S", 0.1)
    with served(Observed()) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as connection:
            connection.sendall(sent)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200" if sent.endswith(b"\nGET") else b"")


def test_more_scrapes_than_are_answered_at_once_are_told_so_and_probes_are_not() -> None:
    may_go_on = threading.Event()

    @dataclass
    class Slow(Observed):
        async def metrics(self) -> bytes:
            self.asked.append("metrics")
            await asyncio.to_thread(may_go_on.wait, 60)
            return b""

    observed = Slow()
    with served(observed, requests_max=1) as url, ThreadPoolExecutor(1) as other:
        first = other.submit(ask, f"{url}/metrics")
        try:
            wait_until(lambda: observed.asked, "somebody is being answered")
            assert ask(f"{url}/metrics") == (503, "too many ask at once\n")
            assert ask(f"{url}/health/live")[0] == 200
        finally:
            may_go_on.set()
        assert first.result(60)[0] == 200
        assert ask(f"{url}/metrics")[0] == 200


def test_a_port_that_is_taken_is_no_reason_not_to_work() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = Served(WorkerSettings(port=port), Observed())
        try:
            assert not server.url.endswith(f":{port}")
        finally:
            server.stop()


def test_a_loop_that_does_not_turn_is_not_waited_for() -> None:
    async def ask_stopped() -> None:
        stopped = asyncio.new_event_loop()
        try:
            with pytest.raises(TimeoutError):
                await asked_in(stopped, 0.01, lambda: b"")
        finally:
            stopped.close()
        with pytest.raises(TimeoutError):
            await asked_in(stopped, 0.01, lambda: b"")

    asyncio.run(ask_stopped())


def test_a_port_in_use_is_given_way_to_unless_somebody_is_told_to_look_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        served = Served(WorkerSettings(port=port), Observed())
        assert served.url != f"http://127.0.0.1:{port}"
        served.stop()
        with pytest.raises(UsageError, match=f"APP021 metrics cannot listen on 127.0.0.1:{port}") as refused:
            Served(WorkerSettings(port=port, port_gives_way=False), Observed())
        assert refused.value.hint == "give another port with FQLSTREAM_WORKER__PORT, or 0 for a free one"
