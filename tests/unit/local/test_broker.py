from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any, Self

import pytest

from fqlstream.errors import BrokerError
from fqlstream.local import broker as module
from fqlstream.local.broker import docker_answers, provide_broker
from fqlstream.local.ports import find_free_port
from fqlstream.local.progress import Progress
from fqlstream.settings import KafkaSettings, Settings


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "docker_answers", lambda: False)
    monkeypatch.setattr(module, "find_java", lambda: (None, "Java 17 or newer: no java on the PATH"))
    monkeypatch.delenv("KAFKA_HOME", raising=False)


def test_where_nothing_can_be_had_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(BrokerError) as caught:
        provide_broker(Settings(), tmp_path)
    assert "no Docker engine answers" in caught.value.message
    assert "no java on the PATH" in caught.value.message
    for way in ("Maven (mvn) and Java 17", "fqlstream[jvm]", "Docker", "--kafka-home", "FQLSTREAM_KAFKA__BOOTSTRAP"):
        assert way in str(caught.value.hint)


def test_only_who_allows_it_gets_the_mock_and_is_warned(tmp_path: Path) -> None:
    said: list[str] = []
    broker = provide_broker(Settings(), tmp_path, mock_allowed=True, progress=Progress(line=said.append))
    try:
        host, _, port = broker.bootstrap.partition(":")
        with socket.create_connection((host, int(port)), timeout=5):
            pass
    finally:
        broker.stop()
    assert broker.kind == "mock"
    assert "no real Kafka here" in said[0]
    assert "MOCK" in said[1]


def test_an_address_that_does_not_answer_is_an_error_and_no_reason_to_start_another(tmp_path: Path) -> None:
    settings = Settings(kafka=KafkaSettings(bootstrap=f"127.0.0.1:{find_free_port()}"))
    module_wait = 1.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_GIVEN_ANSWER_S", module_wait)
        with pytest.raises(BrokerError, match="no broker answers at 127") as caught:
            provide_broker(settings, tmp_path, mock_allowed=True)
    assert "FQLSTREAM_KAFKA__BOOTSTRAP" in str(caught.value.hint)


@pytest.mark.parametrize("by_environment", [True, False])
def test_a_kafka_home_that_is_none_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    settings = Settings()
    if by_environment:
        monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    else:
        settings = Settings(kafka=KafkaSettings(home=tmp_path))
    with pytest.raises(BrokerError, match="no unpacked Apache Kafka"):
        provide_broker(settings, tmp_path)


class TestDocker:
    def test_an_engine_is_one_that_answers_a_ping(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "d.sock"
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        assert not docker_answers()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            answers = [b"HTTP/1.0 500 no\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\nOK"]
            thread = threading.Thread(target=lambda: [_answer(server, text) for text in answers])
            thread.start()
            assert not docker_answers()
            assert docker_answers()
            thread.join()

    def test_the_container_is_one_node_that_is_reached_where_it_says(self, tmp_path: Path) -> None:
        container = module._container(FakeContainer, tmp_path, 19092)
        assert container.image == module.DOCKER_IMAGE
        assert container.ports == {9092: 19092}
        assert container.env["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://127.0.0.1:19092"
        assert container.env["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
        again = module._container(FakeContainer, tmp_path, 19093)
        assert again.volumes == container.volumes, "a directory keeps its data"
        assert module._container(FakeContainer, tmp_path / "other", 19092).volumes != container.volumes


class FakeContainer:
    """Takes down what testcontainers' DockerContainer would be told."""

    def __init__(self, image: str) -> None:
        self.image = image
        self.ports: dict[int, int] = {}
        self.env: dict[str, str] = {}
        self.volumes: list[tuple[Any, ...]] = []

    def with_bind_ports(self, container: int, host: int) -> Self:
        self.ports[container] = host
        return self

    def with_env(self, name: str, value: str) -> Self:
        self.env[name] = value
        return self

    def with_volume_mapping(self, *mapping: Any) -> Self:
        self.volumes.append(mapping)
        return self


def _answer(server: socket.socket, text: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(text)
