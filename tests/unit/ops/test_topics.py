from __future__ import annotations

from pathlib import Path

import pytest

from fqlstream.errors import FqlstreamError
from fqlstream.ops.topics import load_declarations
from fqlstream.settings import KafkaSettings

VALID = """\
name: t
owner: me
why: because
key: none
value: [bytes]
partitions: 1
replication: 1
cleanup: delete
record_bytes_max: 1048576
timestamp: CreateTime
"""


def test_the_topics_are_declared_with_reasons() -> None:
    declared = {topic.name: topic for topic in load_declarations()}
    assert set(declared) == {
        "inference-events", "metric-events", "definitions", "pane-updates", "record-verdicts", "metric-values", "dead-letters",
        "code-metric-tasks",
    }  # fmt: skip
    assert {name for name, topic in declared.items() if topic.source} == {"inference-events", "metric-events"}
    assert {name for name, topic in declared.items() if topic.cleanup == "compact"} == {"definitions"}
    assert declared["definitions"].partitions == 1, "definitions refer to each other, so their order counts"
    assert all(topic.why and topic.owner and topic.value for topic in declared.values())


def test_every_record_of_a_source_topic_fits_into_a_dead_letter() -> None:
    declared = {topic.name: topic for topic in load_declarations()}
    largest = max(topic.record_bytes_max for topic in declared.values() if topic.source)
    assert declared["dead-letters"].record_bytes_max >= largest + 2**20
    assert largest == KafkaSettings().record_bytes_max


@pytest.mark.parametrize(
    ("replicas", "in_sync"), [(1, "1"), (2, "1"), (3, "2")]
)  # one may be away, and none of what was acknowledged is lost with it
def test_one_replica_may_be_away(replicas: int, in_sync: str) -> None:
    assert load_declarations()[0].config(replicas)["min.insync.replicas"] == in_sync


def test_a_wrong_declaration_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(VALID.replace("cleanup: delete", "cleanup: never"))
    with pytest.raises(FqlstreamError, match=r"t\.yaml:8 .*cleanup"):
        load_declarations(tmp_path)
    (tmp_path / "t.yaml").write_text(VALID + "retension: 1h\n")
    with pytest.raises(FqlstreamError, match=r"t\.yaml:11 .*retension"):
        load_declarations(tmp_path)


def test_a_directory_without_declarations_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FqlstreamError, match="no topic is declared"):
        load_declarations(tmp_path)
