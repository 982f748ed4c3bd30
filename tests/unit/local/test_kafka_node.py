from __future__ import annotations

from pathlib import Path

import pytest

from fqlstream.errors import BrokerError
from fqlstream.local.java import Java
from fqlstream.local.kafka_node import kafka_version, prepare_node
from fqlstream.settings import LocalSettings

JAVA = Java(Path("/bin/false"), 17, "test")


def test_the_version_is_in_the_jars_names(tmp_path: Path) -> None:
    assert kafka_version(tmp_path) is None
    (tmp_path / "kafka-clients-4.3.0.jar").touch()
    assert kafka_version(tmp_path) == (4, 3, 0)


@pytest.mark.parametrize(("jar", "found"), [("kafka-clients-3.9.1.jar", "Kafka 3.9.1"), ("other.jar", "no Kafka")])
def test_an_older_kafka_is_refused(tmp_path: Path, jar: str, found: str) -> None:
    (tmp_path / jar).touch()
    with pytest.raises(BrokerError, match=found) as caught:
        prepare_node(tmp_path, JAVA, tmp_path / "data", LocalSettings())
    assert caught.value.hint == "Kafka 4.0 or newer is needed"


def test_a_format_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "kafka-clients-4.3.0.jar").touch()
    with pytest.raises(BrokerError, match="could not format"):
        prepare_node(tmp_path, JAVA, tmp_path / "data", LocalSettings(), port=0)


def test_a_path_that_kafka_cannot_take_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kafka-clients-4.3.0.jar").touch()
    with pytest.raises(BrokerError, match="has a comma"):
        prepare_node(tmp_path, JAVA, tmp_path / "a,b", LocalSettings(), port=0)
