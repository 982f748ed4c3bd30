"""What recorded metrics belong to, on a real broker: applied, numbered, followed, deleted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from tests.commands import command, invoke

from fqlstream.cli import definitions as cli
from fqlstream.errors import DefinitionError
from fqlstream.events.documents import read_documents
from fqlstream.ops.definition_log import DefinitionsReader
from fqlstream.ops.definitions import Applied, DefinitionsWriter, apply, delete
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.ops.registry_mirror import RegistryMirror
from fqlstream.settings import Settings
from fqlstream.store.client import Store

PIPELINE = "{kind: pipeline, name: train}\n"
DEPLOYMENT = "{kind: deployment, name: nightly, pipeline: train}\n"
EXECUTION = "{kind: execution, name: e-1, pipeline: train, deployment: nightly}\n"
DIGITS = "{kind: experiment, name: digits}\n"
JOB = "{kind: job, experiment: digits, description: first}\n"


def joined(*documents: str) -> str:
    return "---\n".join(documents)


@pytest.fixture
def metric_events(settings: Settings) -> None:
    from confluent_kafka.admin import AdminClient

    from fqlstream.ops import topics

    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap})
    topics.apply(admin, topics.plan(admin, topics.load_declarations()))


@pytest.fixture
def writer(settings: Settings, topic: str) -> Iterator[DefinitionsWriter]:
    with DefinitionsWriter(settings, topic=topic) as writer:
        yield writer


def given(writer: DefinitionsWriter, *documents: str) -> Applied:
    return writer.apply(read_documents(joined(*documents), "f.yaml"))


def told(applied: Applied) -> list[tuple[str, str, str | int, str]]:
    return [(r.kind, r.name, r.id, r.result) for r in applied.results]


def test_what_is_registered_is_stored_with_numbers_in_the_order_of_the_files(
    writer: DefinitionsWriter, settings: Settings, topic: str
) -> None:
    assert told(given(writer, PIPELINE, DIGITS, DEPLOYMENT, JOB, EXECUTION, JOB)) == [
        ("pipeline", "train", "pipeline/train", "created"),
        ("experiment", "digits", 1, "created"),
        ("deployment", "nightly", "deployment/nightly", "created"),
        ("job", "1", 1, "created"),
        ("execution", "e-1", "execution/e-1", "created"),
        ("job", "2", 2, "created"),
    ]
    again = given(writer, PIPELINE, DIGITS, JOB, EXECUTION)
    assert [row[2:] for row in told(again)] == [
        ("pipeline/train", "unchanged"), (1, "unchanged"), (3, "created"), ("execution/e-1", "unchanged"),
    ]  # fmt: skip
    with DefinitionsReader(settings, topic=topic) as reader:
        assert reader.read_to_end() == ()
    registry = reader.catalogue.registry
    assert registry == again.catalogue.registry
    assert set(registry.executions_by["nightly"]) == {"e-1"}
    assert {entry.definition.id for entry in registry.jobs_of_experiment(1)} == {1, 2, 3}


def test_an_entry_keeps_the_time_of_its_making(writer: DefinitionsWriter) -> None:
    created = given(writer, PIPELINE).catalogue.registry.pipelines["train"]
    changed = given(writer, PIPELINE.replace("train", "train, description: x")).catalogue.registry.pipelines["train"]
    assert changed.created_ms == created.created_ms <= changed.changed_ms
    assert changed.definition.description == "x"


def test_nothing_is_registered_if_anything_is_wrong(writer: DefinitionsWriter) -> None:
    with pytest.raises(DefinitionError, match="job 1: there is no experiment 'digits'"):
        given(writer, PIPELINE, JOB)
    assert told(given(writer, PIPELINE))[0][3] == "created"


def test_two_who_register_at_once_give_no_number_twice(settings: Settings, topic: str) -> None:
    numbers: list[str | int] = []

    def register() -> None:
        for _ in range(3):
            numbers.extend(r.id for r in apply(settings, read_documents(JOB, "f.yaml"), topic=topic).results)

    apply(settings, read_documents(DIGITS, "f.yaml"), topic=topic)
    threads = [threading.Thread(target=register) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers, key=int) == [1, 2, 3, 4, 5, 6]


def test_a_writer_that_was_fenced_reads_what_the_other_wrote(
    writer: DefinitionsWriter, settings: Settings, topic: str
) -> None:
    given(writer, DIGITS, JOB)
    apply(settings, read_documents(JOB, "f.yaml"), topic=topic)
    assert told(given(writer, JOB))[0][2] == 3


def test_a_number_is_never_given_again(
    writer: DefinitionsWriter, settings: Settings, topic: str, metric_events: None
) -> None:
    given(writer, DIGITS, JOB, JOB)
    assert writer.delete("job", "2").keys == ("job/2",)
    with DefinitionsReader(settings, topic=topic) as reader:
        reader.read_to_end()
        stored = [key for key in _keys_without_tombstones(settings, topic) if key.startswith("sequence/")]
        assert stored == ["sequence/job"], "it outlives the tombstone"
        assert reader.catalogue.registry.job_id_last == 2
    assert told(given(writer, JOB))[0][2] == 3


def _keys_without_tombstones(settings: Settings, topic: str) -> list[str]:
    return [key for key, value in _records(settings, topic, 0) if value is not None]


def _records(settings: Settings, topic: str, partition: int, start: int = 0) -> list[tuple[str, bytes | None]]:
    consumer = Consumer({
        **librdkafka_options(settings.kafka), "group.id": "look", "enable.auto.commit": False, "enable.partition.eof": True,
        "isolation.level": "read_committed",
    })  # fmt: skip
    consumer.assign([TopicPartition(topic, partition, start)])
    found = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error() is not None:
            break
        found.append((message.key().decode(), message.value()))
    consumer.close()
    return found


def test_what_holds_others_goes_by_force_and_what_they_recorded_is_forgotten(
    writer: DefinitionsWriter, settings: Settings, metric_events: None
) -> None:
    given(writer, PIPELINE, DEPLOYMENT, EXECUTION)
    with pytest.raises(DefinitionError, match="pipeline 'train' has 1 deployment and 1 execution") as caught:
        writer.delete("pipeline", "train")
    assert caught.value.code == "DEF034"
    gone = writer.delete("pipeline", "train", force=True)
    assert gone.keys == ("execution/e-1", "deployment/nightly", "pipeline/train")
    registry = gone.catalogue.registry
    assert not registry.pipelines
    assert not registry.deployments
    assert not registry.executions
    assert not registry.executions_of
    ((partition, offset),) = gone.forgetting.items()
    key, value = _records(settings, "metric-events", partition, offset)[0]
    assert (key, json.loads(value or b"")) == ("e-1", {"type": "forget", "kind": "execution", "id": "e-1"})


def test_models_do_not_notice_the_registry(writer: DefinitionsWriter, settings: Settings, topic: str) -> None:
    given(writer, "{kind: model, name: m, columns: [{name: x, type: float}]}\n")
    with DefinitionsReader(settings, topic=topic, keeps_registry=False) as reader:
        reader.read_to_end()
        before = reader.catalogue
        given(writer, PIPELINE, DIGITS, JOB)
        reader.read_to_end()
        assert reader.catalogue is before, "a worker adopts nothing"
        assert not before.registry.pipelines


def test_what_is_no_entry_is_refused(settings: Settings, topic: str) -> None:
    producer = Producer(librdkafka_options(settings.kafka))
    for key, value in (
        ("job/1", b'{"kind": "job", "experiment": "digits"}'), ("pipeline/a", b'{"kind": "pipeline", "name": "b"}'),
        ("pipeline/a/b", b'{"kind": "pipeline", "name": "b"}'), ("experiment/x", b'{"kind": "experiment", "name": "x"}'),
        ("sequence/job", b"many"), ("sequence/pipeline", b"1"), ("execution/e", b"{}"),
    ):  # fmt: skip
        producer.produce(topic, key=key, value=value)
    assert producer.flush(20) == 0
    for keeps_registry in (True, False):
        with DefinitionsReader(settings, topic=topic, keeps_registry=keeps_registry) as reader:
            letters = reader.read_to_end()
        assert [letter.offset for letter in letters] == [0, 1, 2, 3, 4, 5, 6], (
            "workers, which keep none of it, tell them"
        )
        assert {letter.code for letter in letters} == {"bad_definition"}


def test_a_hundred_thousand_executions_are_one_place_each(settings: Settings, topic: str) -> None:
    producer = Producer({**librdkafka_options(settings.kafka), "queue.buffering.max.messages": 200_000})
    producer.produce(topic, key="pipeline/train", value=b'{"kind": "pipeline", "name": "train"}')
    for index in range(100_000):
        body = b'{"kind": "execution", "name": "e-%d", "pipeline": "train"}' % index
        producer.produce(topic, key=f"execution/e-{index}", value=body)
    assert producer.flush(60) == 0
    with DefinitionsWriter(settings, topic=topic) as writer:
        writer.apply(read_documents(DIGITS, "f.yaml"))
        started_s = time.process_time()
        for index in range(10):
            text = "{kind: execution, name: new-%d, pipeline: train}" % index  # noqa: UP031  # braces of YAML
            last = writer.apply(read_documents(text, "f.yaml"))
        spent_ms = (time.process_time() - started_s) * 100
    assert len(last.catalogue.registry.executions_of["train"]) == 100_010
    # a walk over all of them takes tens of milliseconds
    assert spent_ms < 20


def test_the_commands(settings: Settings, metric_events: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FQLSTREAM_KAFKA__BOOTSTRAP", str(settings.kafka.bootstrap))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(joined(PIPELINE, DEPLOYMENT, EXECUTION, DIGITS, JOB))
    done = json.loads(invoke(command(cli.apply), "-f", "r.yaml", "--json").stdout)
    assert [row["kind"] for row in done] == ["pipeline", "deployment", "execution", "experiment", "job"]
    job = done[4]["id"]
    assert isinstance(job, int)
    shown = json.loads(invoke(command(cli.get), "job", job, "--json").stdout)
    assert [(row["id"], row["experiment"], row["description"]) for row in shown] == [(job, "digits", "first")]
    assert shown[0]["created_at"].endswith("Z")
    of = json.loads(invoke(command(cli.get), "executions", "--of", "nightly", "--json").stdout)
    assert [row["name"] for row in of] == ["e-1"]
    assert "nightly" in invoke(command(cli.get), "deployments").stdout
    (tmp_path / "again.yaml").write_text(invoke(command(cli.get), "execution", "e-1", "--yaml").stdout)
    assert json.loads(invoke(command(cli.apply), "again.yaml", "--json").stdout)[0]["result"] == "unchanged"
    gone = invoke(command(cli.delete), "experiment", "digits", "--force", "--json")
    assert [row["id"] for row in json.loads(gone.stdout)] == [f"job/{job}", "experiment/digits"]
    with pytest.raises(DefinitionError, match=f"there is no job '{job}'"):
        invoke(command(cli.get), "job", job)
    delete(settings, "pipeline", "train", force=True)


def test_analysts_join_what_is_registered(settings: Settings, topic: str, store: Store, metric_events: None) -> None:
    mirror = RegistryMirror()
    documents = read_documents(joined(PIPELINE, DEPLOYMENT, EXECUTION, DIGITS, JOB), "f.yaml")
    apply(settings, documents, topic=topic, mirror=mirror)
    assert mirror.write(store) == 5
    sql = "SELECT kind, id, name, pipeline, deployment, experiment FROM registry ORDER BY kind"
    assert store.query_rows(sql) == [
        ("deployment", None, "nightly", "train", None, None),
        ("execution", None, "e-1", "train", "nightly", None),
        ("experiment", 1, "digits", None, None, None),
        ("job", 1, None, None, None, "digits"),
        ("pipeline", None, "train", None, None, None),
    ]
    again = RegistryMirror()
    delete(settings, "execution", "e-1", topic=topic, mirror=again)
    assert again.write(store) == 1
    assert store.query_rows("SELECT count() FROM registry WHERE kind = 'execution'") == [(0,)]
