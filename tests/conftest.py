"""What the suites share: one real broker and one real store for the whole session."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tests.store_process import StoreProcess

from fqlstream.local.broker import Broker, provide_broker
from fqlstream.settings import KafkaSettings, load
from fqlstream.store import migrations
from fqlstream.store.client import Store

# Brokers of tests live for seconds: compiling them as if for days takes two thirds as much processor time again. Read by `java`.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

# A test machine may be busy: what hangs is caught by pytest's own timeout. CI draws the same examples every time, so that a
# change is judged by what it changes; everybody else draws new ones, and so finds what nobody has thought of.
settings.register_profile("fqlstream", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("fqlstream")

#: Suites whose modules wait much or take long; the many short modules of the others then fill what is left.
_FIRST = ("escapes", "integration", "simulation", "oracle")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take long, each suite in the order that it was shuffled into: none is left to the end alone."""
    tests = Path(__file__).parent

    def turn(item: pytest.Item) -> int:
        suite = item.path.relative_to(tests).parts[0] if item.path.is_relative_to(tests) else ""
        return _FIRST.index(suite) if suite in _FIRST else len(_FIRST)

    items.sort(key=turn)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real broker; tests fail, never skip, where there is none (FQLSTREAM_ALLOW_MOCK=1 settles for less)."""
    data: Path = tmp_path_factory.mktemp("kafka")
    broker = provide_broker(load(), data, port=0, mock_allowed=os.environ.get("FQLSTREAM_ALLOW_MOCK") == "1")
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def kafka_settings(kafka: Broker) -> KafkaSettings:
    """How to reach the session's broker."""
    return load().kafka.model_copy(update={"bootstrap": kafka.bootstrap})


@pytest.fixture
def make_topic(kafka_settings: KafkaSettings) -> Callable[..., str]:
    """Make a topic with a name of its own; `config` are Kafka's topic settings."""
    from confluent_kafka.admin import AdminClient, NewTopic

    def make(partitions: int = 1, config: dict[str, str] | None = None, prefix: str = "t") -> str:
        name = f"{prefix}-{uuid.uuid4().hex[:12]}"
        admin = AdminClient({"bootstrap.servers": kafka_settings.bootstrap})
        new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config or {})
        admin.create_topics([new])[name].result(20)
        return name

    return make


@pytest.fixture(scope="session")
def store_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    """The embedded store as a process of its own, on a free port and a directory of its own."""
    process = StoreProcess.start(tmp_path_factory.mktemp("store"))
    yield process
    process.stop()


@pytest.fixture
def store(store_process: StoreProcess) -> Iterator[Store]:
    """A client of a fresh database with every table of the schema."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with store_process.connect() as admin:
        admin.command(f"CREATE DATABASE {name}")
        with store_process.connect(name) as client:
            migrations.apply(client)
            yield client
        admin.command(f"DROP DATABASE {name}")
