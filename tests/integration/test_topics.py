from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from tests.commands import invoke
from tests.waiting import wait_equal

from fqlstream.cli.topics import app
from fqlstream.errors import SettingsError, UsageError
from fqlstream.ops.kafka_options import librdkafka_options, producer_options
from fqlstream.ops.topics import (
    Action,
    LogRange,
    TopicDeclaration,
    TopicReport,
    apply,
    health,
    load_declarations,
    log_ranges,
    plan,
)
from fqlstream.settings import KafkaSettings


@pytest.fixture
def admin(kafka_settings: KafkaSettings) -> AdminClient:
    return AdminClient(librdkafka_options(kafka_settings))


def declare(**changes: object) -> TopicDeclaration:
    base: dict[str, object] = {
        "name": f"declared-{uuid.uuid4().hex[:10]}", "owner": "tests", "why": "tests", "key": "none", "value": ["bytes"], "partitions": 2,
        "replication": 3, "cleanup": "delete", "retention": "1h", "record_bytes_max": 2_000_000, "timestamp": "CreateTime",
    }  # fmt: skip
    return TopicDeclaration.model_validate(base | changes)


def actions(report: TopicReport) -> dict[str, Action]:
    return {difference.setting: difference.action for difference in report.differences}


def topic_config(admin: AdminClient, topic: str) -> dict[str, str]:
    (future,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    return {name: entry.value for name, entry in future.result(20).items()}


def test_a_missing_topic_is_made_as_declared_once(admin: AdminClient) -> None:
    declared = declare(settings={"segment.ms": "600000"})
    planned = plan(admin, [declared])
    assert set(actions(planned).values()) == {Action.CREATE}
    assert declared.name not in admin.list_topics(timeout=10).topics, "a plan changes nothing"

    assert apply(admin, planned).applied
    made = admin.list_topics(timeout=10).topics[declared.name].partitions
    assert [len(made), *(len(partition.replicas) for partition in made.values())] == [2, 1, 1]
    config = topic_config(admin, declared.name)
    wanted = {
        "retention.ms": "3600000",
        "max.message.bytes": "2000000",
        "cleanup.policy": "delete",
        "segment.ms": "600000",
    }
    assert {name: config[name] for name in wanted} == wanted
    assert plan(admin, [declared]).differences == ()
    # a plan that somebody else has applied meanwhile
    assert apply(admin, planned).applied


def test_settings_that_differ_are_set_and_others_left_alone(admin: AdminClient) -> None:
    declared = declare(settings={"segment.ms": "600000"})
    apply(admin, plan(admin, [declared]))
    changed = declared.model_copy(update={"retention_ms": 7_200_000, "settings": {}})
    report = plan(admin, [changed])
    assert [(d.setting, d.declared, d.actual, d.action) for d in report.differences] == [
        ("retention.ms", "7200000", "3600000", Action.SET),
        ("segment.ms", "none", "600000", Action.KEPT),
    ]
    apply(admin, report)
    config = topic_config(admin, declared.name)
    assert (config["retention.ms"], config["segment.ms"]) == ("7200000", "600000")


def test_a_topic_grows_and_never_shrinks(admin: AdminClient) -> None:
    declared = declare()
    apply(admin, plan(admin, [declared]))
    grown = declared.model_copy(update={"partitions": 3})
    apply(admin, plan(admin, [grown]))
    assert len(admin.list_topics(timeout=10).topics[declared.name].partitions) == 3
    report = plan(admin, [declared])
    assert actions(report) == {"partitions": Action.KEPT}
    assert report.pending == report.refused == ()


def test_a_source_topic_grows_only_when_told(admin: AdminClient) -> None:
    declared = declare(source=True)
    apply(admin, plan(admin, [declared]))
    grown = declared.model_copy(update={"partitions": 4})
    report = plan(admin, [grown])
    assert actions(report) == {"partitions": Action.REFUSED}
    assert "label" in report.refused[0].note
    apply(admin, report)
    assert len(admin.list_topics(timeout=10).topics[declared.name].partitions) == 2
    apply(admin, plan(admin, [grown], repartition=True))
    assert len(admin.list_topics(timeout=10).topics[declared.name].partitions) == 4


def test_what_somebody_set_is_told_and_what_loses_records_needs_a_person(admin: AdminClient) -> None:
    declared = declare()
    apply(admin, plan(admin, [declared]))
    wanted = {"retention.bytes": "1000000", "compression.type": "zstd"}
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in wanted.items()]
    resource = ConfigResource(ResourceType.TOPIC, declared.name, incremental_configs=entries)
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(20)
    wait_equal(
        lambda: actions(plan(admin, [declared])),
        {"retention.bytes": Action.REFUSED, "compression.type": Action.KEPT},
        "what differs",
        20,
    )
    kept = declared.model_copy(update={"settings": {"retention.bytes": "1000000"}})
    assert actions(plan(admin, [kept])) == {"compression.type": Action.KEPT}


def test_leaders_and_the_range_of_a_log_are_told(admin: AdminClient, kafka_settings: KafkaSettings) -> None:
    declared = declare()
    apply(admin, plan(admin, [declared]))
    (found,) = health(admin, [declared.name, "no-such-topic"])
    assert (found.topic, found.partitions, found.leaderless, found.under_replicated) == (declared.name, 2, (), ())
    assert len(found.topic_id) == 22
    producer = Producer(producer_options(kafka_settings))
    producer.produce(declared.name, b"1", partition=1)
    assert producer.flush(20) == 0
    assert log_ranges(admin, found) == {0: LogRange(0, 0), 1: LogRange(0, 1)}


def test_the_declared_topics_can_be_applied_and_take_large_records(
    admin: AdminClient, kafka_settings: KafkaSettings
) -> None:
    declarations = load_declarations()
    apply(admin, plan(admin, declarations))
    assert plan(admin, declarations).differences == ()

    refused: list[KafkaError | None] = []
    producer = Producer(producer_options(kafka_settings, compression_type="none"))
    for mebibytes in (15, 16.5):
        producer.produce(
            "inference-events", bytes(int(mebibytes * 2**20)), on_delivery=lambda error, _: refused.append(error)
        )
        assert producer.flush(60) == 0
    assert refused[0] is None
    assert refused[1] is not None
    assert refused[1].code() == KafkaError.MSG_SIZE_TOO_LARGE
    with pytest.raises(KafkaException, match="too large"):
        producer.produce("inference-events", bytes(20 * 2**20))


def test_the_command_plans_applies_and_checks(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FQLSTREAM_KAFKA__BOOTSTRAP", str(kafka_settings.bootstrap))
    monkeypatch.chdir(tmp_path)
    declared = declare(source=True).model_dump(mode="json", by_alias=True)
    directory = tmp_path / "topics"
    directory.mkdir()
    (directory / "t.yaml").write_text(json.dumps(declared))

    assert invoke(app, "check", "--topics", directory).exit_code == 1
    planned = invoke(app, "plan", "--topics", directory, "--json")
    assert planned.exit_code == 0
    assert {d["action"] for d in json.loads(planned.stdout)["differences"]} == {"create"}
    assert invoke(app, "apply", "--topics", directory).exit_code == 0
    checked = invoke(app, "check", "--topics", directory)
    assert (checked.exit_code, checked.stdout) == (0, "1 topics are as declared\n")

    (directory / "t.yaml").write_text(json.dumps(declared | {"partitions": 5}))
    refused = invoke(app, "plan", "--topics", directory)
    assert refused.exit_code == 1
    assert "--repartition" in refused.stderr
    assert invoke(app, "apply", "--topics", directory).exit_code == 1
    left = invoke(app, "apply", "--topics", directory, "--leave-refused")
    assert (left.exit_code, "--repartition" in left.stderr) == (0, True), "a deployment goes on, and says what it left"
    assert invoke(app, "apply", "--topics", directory, "--repartition").exit_code == 0
    assert invoke(app, "check", "--topics", directory).exit_code == 0

    more = f"{declared['name']}=6"
    assert invoke(app, "check", "--topics", directory, "--partitions", more).exit_code == 1
    assert invoke(app, "apply", "--topics", directory, "--partitions", more, "--repartition").exit_code == 0
    assert invoke(app, "check", "--topics", directory, "--partitions", more).exit_code == 0
    assert invoke(app, "check", "--topics", directory).exit_code == 0, "more than declared is somebody's own choice"
    with pytest.raises(SettingsError, match="TOP006"):
        invoke(app, "plan", "--topics", directory, "--partitions", "other=6")
    with pytest.raises(UsageError, match="CLI041"):
        invoke(app, "plan", "--topics", directory, "--partitions", "other")
