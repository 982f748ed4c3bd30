"""One Kafka node, broker and controller in one process, with its data in a directory."""

from __future__ import annotations

import base64
import re
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from fqlstream.errors import BrokerError
from fqlstream.local.java import Java
from fqlstream.local.ports import answers, keep_port
from fqlstream.local.processes import ChildSpec
from fqlstream.settings import LocalSettings

HOST: Final = "127.0.0.1"
_VERSION = re.compile(r"kafka-clients-(\d+)\.(\d+)\.(\d+)[^/]*\.jar")
#: The first version whose servers are configured the way we do it (KRaft only, log4j 2).
VERSION_MIN: Final = (4, 0, 0)
_ANSWER_S = 2.0
#: Takes less than a second; a machine under load needs ten times that.
_FORMAT_S: Final = 120.0

_PROPERTIES = """\
# written at each start by fqlstream
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.quorum.voters=1@{host}:{controller_port}
log.dirs={log_dirs}
# topics are declared in topics/*.yaml: a mistyped name must be an error
auto.create.topics.enable=false
log.message.timestamp.type=CreateTime
num.partitions=1
# one node: internal topics have one replica, and few partitions open fast
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# a local worker needs no three seconds for the others to come
group.initial.rebalance.delay.ms=200
# the default of 128 MiB is a quarter of this heap; these topics have few keys
log.cleaner.dedupe.buffer.size=33554432
"""

# The console is the log file: the supervisor bounds it.
_LOG4J = """\
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %p %c{1}: %m%n
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
# warns at each start that a single controller has nobody to vote with
logger.raft.name=org.apache.kafka.raft
logger.raft.level=ERROR
"""


@dataclass(frozen=True, slots=True)
class KafkaNode:
    """A node that is ready to be started."""

    bootstrap: str
    version: str
    spec: ChildSpec


def kafka_version(libs: Path) -> tuple[int, int, int] | None:
    """Read Kafka's version from the names of its jars; None if there are none."""
    matches = (_VERSION.fullmatch(jar.name) for jar in libs.glob("kafka-clients-*.jar"))
    return next(((int(m[1]), int(m[2]), int(m[3])) for m in matches if m), None)


def prepare_node(libs: Path, java: Java, data: Path, settings: LocalSettings, *, port: int | None = None) -> KafkaNode:
    """Write the node's configuration and, the first time, format its storage under `data`/kafka.

    `port` overrides the usual one of a fresh directory (0: any). Raises BrokerError when formatting fails.
    """
    version = kafka_version(libs)
    if version is None or version < VERSION_MIN:
        found = "no Kafka" if version is None else f"Kafka {'.'.join(map(str, version))}"
        raise BrokerError("KFK013", f"{libs} holds {found}", "Kafka 4.0 or newer is needed")
    home = (data / "kafka").absolute()
    home.mkdir(parents=True, exist_ok=True)
    kafka_port = keep_port(data, "kafka", settings.kafka_port if port is None else port or None)
    controller_port = keep_port(data, "kafka_controller", None)
    properties = home / "server.properties"
    properties.write_text(
        _PROPERTIES.format(
            host=HOST, port=kafka_port, controller_port=controller_port, log_dirs=_escape(str(home / "data"))
        )
    )
    log4j = home / "log4j2.properties"
    log4j.write_text(_LOG4J)
    base = (
        str(java.command),
        f"-Xmx{settings.kafka_heap_mib}m",
        "-XX:+UseG1GC",
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={log4j}",
        "-cp",
        f"{libs.absolute()}/*",
    )
    if not (home / "data" / "meta.properties").exists():
        _format(base, properties)
    cluster_id = _cluster_id(home / "data" / "meta.properties")
    spec = ChildSpec(
        name="kafka",
        command=(*base, "kafka.Kafka", str(properties)),
        log=data / "logs" / "kafka.log",
        ready=lambda: node_ready(kafka_port, cluster_id=cluster_id),
        start_timeout_s=settings.start_timeout_s,
    )
    return KafkaNode(f"{HOST}:{kafka_port}", ".".join(map(str, version)), spec)


def _escape(text: str) -> str:
    # a backslash starts an escape in Java's property files, a comma the next directory
    if "," in text:
        raise BrokerError(
            "KFK014",
            f"Kafka cannot keep its data in {text}: the path has a comma",
            "choose another --data: Kafka reads a comma as the start of a second directory",
        )
    return text.replace("\\", "\\\\")


def _format(base: tuple[str, ...], properties: Path) -> None:
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # a leading dash would read as an option
    command = [*base, "kafka.tools.StorageTool", "format", "-t", cluster_id.replace("-", "_"), "-c", str(properties)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FORMAT_S, check=False)  # noqa: S603  # our Java
    except subprocess.TimeoutExpired:
        raise BrokerError(
            "KFK015",
            f"Kafka did not format its storage directory within {_FORMAT_S:.0f} s",
            "try again on a machine with less to do",
        ) from None
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()[-12:]
        raise BrokerError(
            "KFK015",
            "Kafka could not format its storage directory:\n" + "\n".join(f"  | {line}" for line in lines),
            "is the disk full, or the directory not writable?",
        )


def _cluster_id(meta: Path) -> str:
    found = re.search(r"^cluster\.id=(\S+)$", meta.read_text(), re.MULTILINE)
    if found is None:
        raise BrokerError("KFK026", f"{meta} names no cluster", "the directory is no Kafka storage: use another one")
    return found[1]


def node_ready(port: int, host: str = HOST, *, cluster_id: str | None = None) -> bool:
    """Say whether the node can be produced to: its controller would place a topic, and every partition has a leader.

    With `cluster_id`, only that cluster will do: another stack may have taken the port between our look and our start.
    """
    # asked first, as librdkafka would log each refused connection
    if not answers(host, port):
        return False
    return broker_ready(f"{host}:{port}", cluster_id=cluster_id)


def broker_ready(bootstrap: str, *, cluster_id: str | None = None, **options: object) -> bool:
    """Say whether brokers (of that cluster) answer, an unfenced one among them, and every partition has a leader."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, **options})
    try:
        metadata = admin.list_topics(timeout=_ANSWER_S)
        if cluster_id is not None and metadata.cluster_id != cluster_id:
            return False
        if any(p.leader < 0 for topic in metadata.topics.values() for p in topic.partitions.values()):
            return False
        # only asked, not done: the controller runs the whole placement, and refuses while no broker is registered
        probe = NewTopic("fqlstream-ready", num_partitions=1, replication_factor=1)
        futures = admin.create_topics([probe], validate_only=True, request_timeout=_ANSWER_S)
        futures["fqlstream-ready"].result(_ANSWER_S * 2)
    except (KafkaException, TimeoutError):
        return False
    return True
