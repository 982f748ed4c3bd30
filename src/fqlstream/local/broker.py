"""Where the broker comes from: one provider for `up`, `demo` and the tests.

In this order: an address the user gives; an unpacked Apache Kafka (`--kafka-home`, KAFKA_HOME); Docker; Apache Kafka's jars
by Maven; and, only where the caller allows it, the mock broker inside librdkafka. The chosen one is always printed.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from fqlstream.errors import BrokerError, FqlstreamError
from fqlstream.local.jars import find_maven, kafka_jars
from fqlstream.local.java import find_java
from fqlstream.local.kafka_node import HOST, broker_ready, prepare_node
from fqlstream.local.ports import keep_port
from fqlstream.local.processes import Child, ProcessError
from fqlstream.local.progress import SILENT, Progress
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.settings import Settings

Kind = Literal["given", "kafka-home", "docker", "maven", "mock"]

DOCKER_IMAGE: Final = "apache/kafka:4.3.0"
_DOCKER_SOCKETS: Final = ("/var/run/docker.sock", "~/.docker/run/docker.sock", "~/.docker/desktop/docker.sock")
_DOCKER_PROBE_S: Final = 0.5
_GIVEN_ANSWER_S: Final = 10.0
#: Another program can take a port between our look and Kafka's; a second collision in a row is no accident.
_START_TRIES: Final = 3
HINT_INSTALL: Final = (
    "one of these is enough: Maven (mvn) and Java 17 or newer, where `pip install fqlstream[jvm]` brings the Java; "
    "Docker; an unpacked Apache Kafka 4 named by --kafka-home or KAFKA_HOME; a running broker named by FQLSTREAM_KAFKA__BOOTSTRAP"
)


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker that answers. `child` is our own process, where it is one; `stop` ends what we started and nothing else."""

    bootstrap: str
    kind: Kind
    description: str
    stop: Callable[[], None]
    child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The broker's process, if it is ours."""
        return self.child.pid if self.child else None


@dataclass(frozen=True, slots=True)
class _Request:
    settings: Settings
    data: Path
    progress: Progress
    port: int | None


def provide_broker(
    settings: Settings,
    data: Path,
    *,
    progress: Progress = SILENT,
    port: int | None = None,
    mock_allowed: bool = False,
) -> Broker:
    """Find or start a broker that keeps its data under `data`, and wait until it can be produced to.

    `port`: of a fresh directory; None the usual one where it is free, 0 any. Says which broker it is through `progress`.
    Raises BrokerError when there is none to be had, saying what to install.
    """
    request = _Request(settings, data, progress, port)
    if settings.kafka.bootstrap:
        return _announced(request, _given(request))
    home = settings.kafka.home or (Path(os.environ["KAFKA_HOME"]) if os.environ.get("KAFKA_HOME") else None)
    if home is not None:
        return _announced(request, _kafka_home(request, home))
    reasons: list[str] = []
    for start in (_docker, _maven):
        broker = start(request, reasons)
        if broker is not None:
            return _announced(request, broker)
    if mock_allowed:
        progress.line("no real Kafka here: " + "; ".join(reasons))
        return _announced(request, _mock())
    raise BrokerError("KFK010", "no Kafka broker can be had here: " + "; ".join(reasons), HINT_INSTALL)


def _announced(request: _Request, broker: Broker) -> Broker:
    request.progress.line(f"broker: {broker.description} at {broker.bootstrap}")
    return broker


def _nothing() -> None:
    """Leave alone what is not ours."""


def _given(request: _Request) -> Broker:
    kafka = request.settings.kafka
    admin = AdminClient(librdkafka_options(kafka))
    try:
        metadata = admin.list_topics(timeout=_GIVEN_ANSWER_S)
    except KafkaException as error:
        raise BrokerError(
            "KFK003",
            f"no broker answers at {kafka.bootstrap} within {_GIVEN_ANSWER_S:.0f} s: {error.args[0].str()}",
            "check FQLSTREAM_KAFKA__BOOTSTRAP, __SECURITY_PROTOCOL and the SASL and SSL settings",
        ) from error
    count = len(metadata.brokers)
    return Broker(str(kafka.bootstrap), "given", f"yours, {count} node{'s' if count != 1 else ''}", _nothing)


def _kafka_home(request: _Request, home: Path) -> Broker:
    libs = home / "libs"
    if not libs.is_dir():
        raise BrokerError("KFK016", f"{home} is no unpacked Apache Kafka: it has no directory libs", HINT_INSTALL)
    return _run_node(request, libs, "kafka-home", f"from {home}")


def _maven(request: _Request, reasons: list[str]) -> Broker | None:
    java, looked = find_java()
    if java is None:
        reasons.append(f"Maven's jars: no {looked}")
        return None
    if find_maven() is None:
        reasons.append(f"Maven's jars: {looked} is there, but mvn is not on the PATH")
        return None
    try:
        libs = kafka_jars(java, request.progress)
    except BrokerError as error:
        reasons.append(f"Maven's jars: {error.message}")
        return None
    return _run_node(request, libs, "maven", "resolved by Maven")


def _run_node(request: _Request, libs: Path, kind: Literal["kafka-home", "maven"], origin: str) -> Broker:
    java, looked = find_java()
    if java is None:
        raise BrokerError("KFK017", f"Kafka is there, but no {looked}", HINT_INSTALL)
    for attempt in range(_START_TRIES):
        request.progress.status("starting Kafka")
        node = prepare_node(libs, java, request.data, request.settings.local, port=request.port)
        child = Child(node.spec)
        child.start()
        try:
            child.wait_ready()
        except ProcessError as error:
            child.stop()
            if "Address already in use" not in error.message or attempt == _START_TRIES - 1:
                raise BrokerError("KFK018", error.message) from error
            continue
        except BaseException:
            child.stop()
            raise
        description = f"Apache Kafka {node.version} {origin}, on Java {java.version} ({java.source})"
        return Broker(node.bootstrap, kind, description, child.stop, child)
    raise AssertionError  # the last attempt returned or raised


def docker_answers() -> bool:
    """Ask for a Docker engine; an answer or none within a second, without loading any client library."""
    host = os.environ.get("DOCKER_HOST", "")
    if host.startswith(("tcp://", "ssh://", "http://", "https://")):
        return True  # the user says so; the client will find out
    paths = [host.removeprefix("unix://")] if host else [str(Path(path).expanduser()) for path in _DOCKER_SOCKETS]
    return any(_pings(path) for path in paths)


def _pings(path: str) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_DOCKER_PROBE_S)
            connection.connect(path)
            connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


def _docker(request: _Request, reasons: list[str]) -> Broker | None:
    if not docker_answers():
        reasons.append("no Docker engine answers")
        return None
    try:
        from testcontainers.core.container import DockerContainer
    except ImportError:
        reasons.append("Docker answers, but testcontainers is not installed (pip install fqlstream[docker])")
        return None
    preferred = request.settings.local.kafka_port if request.port is None else request.port or None
    port = keep_port(request.data, "kafka", preferred)
    request.progress.status(f"starting {DOCKER_IMAGE} in Docker")
    container = _container(DockerContainer, request.data, port)
    try:
        container.start()
        _await_bootstrap(f"{HOST}:{port}", request.settings.local.start_timeout_s, container)
    except FqlstreamError:
        container.stop()
        raise
    except Exception as error:  # testcontainers and the Docker client have no common base
        reasons.append(f"Docker: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
        return None
    return Broker(f"{HOST}:{port}", "docker", f"{DOCKER_IMAGE} in Docker", container.stop)


def _container(make: Callable[[str], Any], data: Path, port: int) -> Any:
    """Describe the container: one node, its data in a volume that belongs to this data directory."""
    identity = hashlib.sha256(str(data.absolute()).encode()).hexdigest()
    environment = {
        "CLUSTER_ID": identity[:22],
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "PLAINTEXT://0.0.0.0:9092,CONTROLLER://localhost:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{HOST}:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "8",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "200",
    }
    container = make(DOCKER_IMAGE).with_bind_ports(9092, port)
    for name, value in environment.items():
        container = container.with_env(name, value)
    return container.with_volume_mapping(f"fqlstream-{identity[:16]}", "/var/lib/kafka/data", "rw")


def _await_bootstrap(bootstrap: str, timeout_s: float, container: Any) -> None:
    deadline = time.monotonic() + timeout_s
    while not broker_ready(bootstrap):
        if time.monotonic() > deadline:
            lines = b"".join(container.get_logs()).decode(errors="replace").splitlines()[-12:]
            raise BrokerError(
                "KFK019",
                f"Kafka in Docker was not ready after {timeout_s:.0f} s; its last lines:\n"
                + "\n".join(f"  | {line}" for line in lines),
            )
        time.sleep(0.2)


def _mock() -> Broker:
    """Run librdkafka's mock cluster inside this process."""
    owner = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0})
    brokers = owner.list_topics(timeout=_GIVEN_ANSWER_S).brokers.values()
    address = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def stop() -> None:
        owner.flush(1.0)  # keeps the producer, and with it the mock cluster, alive until here

    description = "librdkafka's MOCK broker, which keeps only the last 5 MiB of a partition and nothing after its end"
    return Broker(address, "mock", description, stop)
