from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from tests.commands import command, invoke

from fqlstream.cli import definitions as cli
from fqlstream.errors import BrokerError, DefinitionError, UsageError
from fqlstream.events.documents import read_documents
from fqlstream.ops.definition_log import DefinitionsReader, read_catalogue
from fqlstream.ops.definition_mirror import mirror, prepare_store
from fqlstream.ops.definitions import Applied, apply, delete
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.settings import FqlSettings, KafkaSettings, Settings
from fqlstream.store.client import Store

MODEL = """\
kind: model
name: churn
version: {version}
task: binary_classification
columns:
  - {{name: age, type: {age}, role: input, min: 18, max: 100}}
  - {{name: score, type: float, role: output}}
  - {{name: churned, type: category, role: target, categories: ["no", "yes"]}}
{more}
"""
COST = '{kind: metric, model: churn, name: cost, definition: "%s"}\n'
SENIORS = '{kind: segment, model: churn, name: seniors, definition: "age >= 60"}\n'


def model(version: str = "v1", age: str = "int", more: str = "") -> str:
    return MODEL.format(version=version, age=age, more=more)


def joined(*documents: str) -> str:
    return "---\n".join(documents)


@pytest.fixture
def applied(settings: Settings, topic: str) -> Callable[..., Applied]:
    return lambda text: apply(settings, read_documents(text, "f.yaml"), topic=topic)


@pytest.fixture
def reader(settings: Settings, topic: str) -> Iterator[DefinitionsReader]:
    with DefinitionsReader(settings, topic=topic) as reader:
        yield reader


def results(applied: Applied) -> list[str]:
    return [result.result for result in applied.results]


def send(settings: Settings, topic: str, *records: tuple[str, bytes]) -> None:
    # without idempotence: asking for a producer id takes longer than sending
    producer = Producer(librdkafka_options(settings.kafka))
    for key, value in records:
        producer.produce(topic, key=key, value=value)
    assert producer.flush(20) == 0


def test_what_was_applied_is_stored_and_read(applied: Callable[..., Applied], reader: DefinitionsReader) -> None:
    done = applied(joined(model(), COST % "sum(age)", SENIORS))
    assert [(r.kind, r.name, r.id, r.result) for r in done.results] == [
        ("model", "churn", "model/churn/v1", "created"),
        ("metric", "cost", "metric/churn/cost", "created"),
        ("segment", "seniors", "segment/churn/seniors", "created"),
    ]
    assert reader.read_to_end() == ()
    churn = reader.catalogue.models["churn"]
    assert (list(churn.versions), churn.metrics["cost"].definition, list(churn.segments)) == (
        ["v1"],
        "sum(age)",
        ["seniors"],
    )
    assert done.catalogue.models == reader.catalogue.models


def test_applying_again_changes_nothing_and_a_new_text_is_a_new_revision(
    applied: Callable[..., Applied], reader: DefinitionsReader
) -> None:
    applied(joined(model(), COST % "sum(age)"))
    assert results(applied(joined(model(), COST % "sum(age)"))) == ["unchanged", "unchanged"]
    reader.read_to_end()
    before = reader.catalogue
    assert before.models["churn"].revisions == {"cost": 1}
    assert results(applied(COST % "sum(score)")) == ["changed"]
    assert results(
        applied('{kind: metric, model: churn, name: cost, definition: "sum(score)", description: "Euros"}')
    ) == ["changed"]
    reader.read_to_end()
    assert reader.catalogue.models["churn"].revisions == {"cost": 2}, "a description is no other number"
    assert before.models["churn"].metrics["cost"].definition == "sum(age)", "catalogues are values"


def test_models_that_did_not_change_stay_the_same_object(
    applied: Callable[..., Applied], reader: DefinitionsReader
) -> None:
    other = model().replace("churn\n", "other\n")
    applied(joined(model(), other))
    reader.read_to_end()
    kept = reader.catalogue.models["churn"]
    applied(COST.replace("churn", "other") % "sum(age)")
    reader.read_to_end()
    assert reader.catalogue.models["churn"] is kept
    assert list(reader.catalogue.models["other"].metrics) == ["cost"]


def test_the_newest_version_is_the_one_defined_last_for_the_first_time(
    applied: Callable[..., Applied], settings: Settings, topic: str
) -> None:
    applied(joined(model("v1"), model("v2")))
    applied(model("v1", more="  - {name: country, type: string}"))  # moves v1 behind v2 in the log
    with DefinitionsReader(settings, topic=topic) as fresh:
        fresh.read_to_end()
    newest = fresh.catalogue.models["churn"].newest
    assert newest is not None
    assert newest.version == "v2"


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        (model(age="float"), "f.yaml:6 (document 1): column 'age' changes its type from int to float; make it a new version"),
        (model().replace("role: input", "role: target"), "changes its role from input to target"),
        (model().replace("  - {name: score, type: float, role: output}\n", ""), "column 'score' is gone"),
        (model(more="windows: {pane: 5m}"), "f.yaml:9 (document 1): the pane changes from 1m to 5m"),
        (COST % "sum(aeg)", "f.yaml:1 (document 1): metric 'cost', under model version 'v1'"),
        (SENIORS.replace("age >= 60", "sum(age)"), "segment 'seniors'"),
        (COST.replace("churn", "chrun") % "sum(age)", "model 'chrun' is not defined (defined: churn)"),
        (joined(COST % "sum(age)", COST % "sum(score)"), "metric 'cost' is also defined at f.yaml:1 (document 1)"),
        (model("v2", age="string"), "metric 'total', which stands already, under model version 'v2'"),
        ("kind: metrc\n", "f.yaml:1 (document 1): unknown kind 'metrc'"),
    ],
)  # fmt: skip
def test_nothing_is_published_if_anything_is_wrong(
    applied: Callable[..., Applied], reader: DefinitionsReader, changed: str, part: str
) -> None:
    applied(joined(model(), COST.replace("cost", "total") % "sum(age)"))
    reader.read_to_end()
    before = reader.catalogue.position
    good = '{kind: segment, model: churn, name: good, definition: "age > 1"}\n'
    with pytest.raises(DefinitionError) as caught:
        applied(joined(changed, good))
    assert part in caught.value.message
    reader.read_to_end()
    assert reader.catalogue.position == before


def test_a_column_may_be_added_and_used_in_one_call(applied: Callable[..., Applied]) -> None:
    applied(model())
    done = applied(joined(model(more="  - {name: income, type: float}"), COST % "sum(income)"))
    assert results(done) == ["changed", "created"]


def test_limits_are_kept(settings: Settings, topic: str) -> None:
    small = settings.model_copy(update={"fql": FqlSettings(metrics_max=2, segments_max=1, cells_max=8)})
    metrics = [
        COST.replace("cost", name) % f"sum({column})" for name, column in [("a", "age"), ("b", "score"), ("c", "age")]
    ]
    apply(small, read_documents(joined(model(), metrics[0]), "f.yaml"), topic=topic)
    with pytest.raises(DefinitionError, match="has 3 metrics; FQLSTREAM_FQL__METRICS_MAX allows 2"):
        apply(small, read_documents(joined(*metrics[1:]), "f.yaml"), topic=topic)
    apply(small, read_documents(metrics[1], "f.yaml"), topic=topic)
    apply(small, read_documents(SENIORS, "f.yaml"), topic=topic)  # (2 + 2) x (1 + 1) states
    tight = settings.model_copy(update={"fql": FqlSettings(cells_max=7)})
    with pytest.raises(DefinitionError, match="keeps 8 states per pane"):
        apply(tight, read_documents(SENIORS.replace("60", "61"), "f.yaml"), topic=topic)
    with DefinitionsReader(tight, topic=topic) as reader:
        refused = reader.read_to_end()
    assert [letter.code for letter in refused] == ["too_many"]
    assert len(reader.catalogue.models["churn"].metrics) == 2
    assert reader.catalogue.models["churn"].segments == {}, "beyond a limit the newest is left out"


def test_a_deleted_metric_is_gone_and_its_revisions_are_not_used_again(
    applied: Callable[..., Applied], settings: Settings, topic: str, reader: DefinitionsReader
) -> None:
    applied(joined(model(), COST % "sum(age)"))
    applied(COST % "sum(score)")
    assert delete(settings, "metric", "cost", model="churn", topic=topic).keys == ("metric/churn/cost",)
    reader.read_to_end()
    assert reader.catalogue.models["churn"].metrics == {}
    applied(COST % "average(age)")
    reader.read_to_end()
    assert reader.catalogue.models["churn"].revisions == {"cost": 3}
    with pytest.raises(DefinitionError, match="there is no metric 'gone' of model 'churn'"):
        delete(settings, "metric", "gone", model="churn", topic=topic)
    with pytest.raises(UsageError, match="belongs to a model"):
        delete(settings, "metric", "cost", topic=topic)


def test_a_model_goes_with_all_that_belongs_to_it(
    applied: Callable[..., Applied], settings: Settings, topic: str, reader: DefinitionsReader
) -> None:
    applied(joined(model("v1"), model("v2"), COST % "sum(age)", SENIORS))
    assert delete(settings, "model", "churn", version="v1", topic=topic).keys == ("model/churn/v1",)
    reader.read_to_end()
    assert list(reader.catalogue.models["churn"].metrics) == ["cost"]
    gone = delete(settings, "model", "churn", topic=topic).keys
    assert gone == ("metric/churn/cost", "segment/churn/seniors", "model/churn/v2")
    assert reader.read_to_end() == ()
    assert reader.catalogue.models == {}


def test_what_is_no_definition_is_refused_with_its_place_and_changes_nothing(
    applied: Callable[..., Applied], settings: Settings, topic: str, reader: DefinitionsReader
) -> None:
    applied(joined(model(), COST % "sum(age)"))
    metric = {"kind": "metric", "model": "churn", "name": "cost", "definition": "sum(aeg)"}
    orphan = {**metric, "model": "nobody"}
    broken: list[tuple[str, bytes]] = [
        ("metric/churn/cost", b"{"),
        ("metric/churn/cost", b"\xff\xfe"),
        ("metric/churn/cost", json.dumps({**metric, "name": "other"}).encode()),
        ("metric/churn/cost", json.dumps({**metric, "kind": "job"}).encode()),
        ("nonsense", b"{}"),
        ("metric/churn/cost", b"[" * 100_000),
    ]
    reader.read_to_end()
    send(settings, topic, *broken)
    refused = reader.read_to_end()
    assert [(letter.code, letter.key, letter.value) for letter in refused] == [
        ("bad_definition", key.encode(), value) for key, value in broken
    ]
    first = reader.catalogue.position - len(broken) + 1
    assert [letter.origin for letter in refused] == [f"{topic}[0]@{first + n}" for n in range(len(broken))]
    assert reader.catalogue.models["churn"].metrics["cost"].definition == "sum(age)"

    wrong = {**metric, "name": "wrong"}
    send(
        settings,
        topic,
        ("metric/churn/wrong", json.dumps(wrong).encode()),
        ("metric/nobody/cost", json.dumps(orphan).encode()),
    )
    unfit = reader.read_to_end()
    codes = {letter.key: letter.code for letter in unfit}
    assert codes.keys() == {b"metric/churn/wrong", b"metric/nobody/cost"}
    assert codes[b"metric/churn/wrong"].startswith("FQL")
    assert codes[b"metric/nobody/cost"] == "unknown_model"
    assert list(reader.catalogue.models) == ["churn"]
    assert list(reader.catalogue.models["churn"].metrics) == ["cost"]
    applied(SENIORS)
    assert reader.read_to_end() == (), "each is refused once"


def test_a_metric_whose_model_comes_later_is_adopted_then(
    applied: Callable[..., Applied], settings: Settings, topic: str, reader: DefinitionsReader
) -> None:
    send(
        settings,
        topic,
        ("metric/churn/cost", b'{"kind": "metric", "model": "churn", "name": "cost", "definition": "sum(age)"}'),
    )
    assert [letter.code for letter in reader.read_to_end()] == ["unknown_model"]
    applied(model())
    assert reader.read_to_end() == ()
    assert list(reader.catalogue.models["churn"].metrics) == ["cost"]


def test_two_who_apply_at_once_get_one_revision_each(
    settings: Settings, topic: str, applied: Callable[..., Applied]
) -> None:
    applied(joined(model(), COST % "sum(age)"))
    failures: list[BaseException] = []

    def change(start: int) -> None:
        try:
            for number in range(start, start + 3):
                apply(settings, read_documents(COST % f"sum(age) + {number}", "f.yaml"), topic=topic)
        except BaseException as error:  # shown below
            failures.append(error)

    threads = [threading.Thread(target=change, args=(start,)) for start in (10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with DefinitionsReader(settings, topic=topic) as reader:
        reader.read_to_end()
    assert reader.catalogue.models["churn"].revisions == {"cost": 7}


def test_a_reader_follows_within_a_moment(applied: Callable[..., Applied], reader: DefinitionsReader) -> None:
    reader.read_to_end()
    applied(model())
    deadline = time.monotonic() + 10
    while "churn" not in reader.catalogue.models:
        assert time.monotonic() < deadline
        reader.poll(0.05)


def test_clickhouse_shows_what_stands(
    applied: Callable[..., Applied], settings: Settings, topic: str, store: Store
) -> None:
    shown = (
        "SELECT kind, model, name, JSONExtractString(definition, 'definition'), revision FROM definitions ORDER BY ALL"
    )
    applied(joined(model(), COST % "sum(age)"))
    done = applied(joined(COST % "sum(score)", SENIORS))
    prepare_store(store, done.folded, done.catalogue)
    assert store.query_rows(shown) == [
        ("metric", "churn", "cost", "sum(score)", 2), ("model", "churn", "v1", "", 1), ("segment", "churn", "seniors", "age >= 60", 1),
    ]  # fmt: skip
    assert mirror(store, done.folded) == 0, "nothing new, nothing written"
    assert "events_churn" in {name for (name,) in store.query_rows("SHOW TABLES")}
    gone = delete(settings, "metric", "cost", model="churn", topic=topic)
    assert mirror(store, gone.folded) == 1
    mirror(store, done.folded)  # late: somebody who read less
    assert [row[:3] for row in store.query_rows(shown)] == [("model", "churn", "v1"), ("segment", "churn", "seniors")]


def test_without_its_topic_it_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(BrokerError, match="does not exist") as caught:
        apply(settings, read_documents(model(), "f.yaml"), topic="no-such-topic")
    assert caught.value.hint == "make it: fqlstream topics apply"


def test_the_commands(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setenv("FQLSTREAM_KAFKA__BOOTSTRAP", str(kafka_settings.bootstrap))
    monkeypatch.chdir(tmp_path)
    from confluent_kafka.admin import AdminClient

    from fqlstream.ops import topics

    admin = AdminClient({"bootstrap.servers": kafka_settings.bootstrap})
    topics.apply(admin, topics.plan(admin, topics.load_declarations()))
    (tmp_path / "m.yaml").write_text(model().replace("churn\n", "cli model\n"))
    (tmp_path / "c.yaml").write_text(COST.replace("churn", "cli model") % "sum(age)")

    done = invoke(command(cli.apply), "-f", "m.yaml", "-f", "c.yaml", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == [
        {"kind": "model", "name": "cli model", "id": "model/cli model/v1", "result": "created"},
        {"kind": "metric", "name": "cost", "id": "metric/cli model/cost", "result": "created"},
    ]
    shown = invoke(command(cli.get), "metrics", "cost", "--model", "cli model", "--json")
    assert json.loads(shown.stdout) == [
        {
            "kind": "metric",
            "model": "cli model",
            "name": "cost",
            "definition": "sum(age)",
            "description": "",
            "revision": 1,
        }
    ]
    as_yaml = invoke(command(cli.get), "model", "cli model", "--yaml").stdout
    (tmp_path / "again.yaml").write_text(as_yaml)
    assert json.loads(invoke(command(cli.apply), "again.yaml", "--json").stdout)[0]["result"] == "unchanged"
    assert "cost" in invoke(command(cli.get), "metric").stdout
    gone = invoke(command(cli.delete), "model", "cli model", "--json")
    assert [row["id"] for row in json.loads(gone.stdout)] == ["metric/cli model/cost", "model/cli model/v1"]
    with pytest.raises(DefinitionError, match="there is no model 'cli model'"):
        invoke(command(cli.get), "model", "cli model")
    assert "cli model" not in read_catalogue(settings).models


def test_a_baseline_that_metrics_read_is_kept(
    applied: Callable[..., Applied], settings: Settings, topic: str, tmp_path: Path
) -> None:
    (tmp_path / "old.csv").write_text("age\n20\n30\n70\n")
    drift = "{kind: metric, model: churn, name: drift, definition: \"jsd(age, 'training')\"}\n"
    training = "{kind: baseline, model: churn, name: training, type: static, file: old.csv}\n"
    documents = read_documents(joined(model(), training, SENIORS, drift), str(tmp_path / "f.yaml"))
    done = apply(settings, documents, topic=topic)
    stored = done.catalogue.models["churn"].baselines["training"]
    counted = {(item.column, item.segment): sum(item.counts) for item in stored.counts}
    assert (counted["age", ""], counted["age", "seniors"]) == (3, 1)
    assert results(apply(settings, documents, topic=topic)) == ["unchanged"] * 4
    (tmp_path / "old.csv").write_text("age\n20\n30\n71\n72\n")
    assert results(apply(settings, documents, topic=topic)) == ["unchanged", "changed", "unchanged", "unchanged"]
    with pytest.raises(DefinitionError, match="read by the metrics 'drift'") as caught:
        delete(settings, "baseline", "training", model="churn", topic=topic)
    assert caught.value.code == "DEF033"
    delete(settings, "metric", "drift", model="churn", topic=topic)
    assert delete(settings, "baseline", "training", model="churn", topic=topic).keys == ("baseline/churn/training",)
    with pytest.raises(DefinitionError, match="window must lie on a whole pane"):
        applied("{kind: baseline, model: churn, name: before, type: rolling, window: 90s}\n")


def test_a_partition_without_a_leader_is_asked_again_and_any_other_trouble_is_told(
    applied: Callable[..., Applied], reader: DefinitionsReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied(model())
    told = reader._told_log_end
    troubles = [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE]

    def troubled() -> int:
        if troubles:
            raise KafkaException(KafkaError(troubles.pop()))
        return told()

    monkeypatch.setattr(reader, "_told_log_end", troubled)
    reader.read_to_end()
    assert "churn" in reader.catalogue.models
    troubles.append(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(BrokerError, match="cannot be read") as caught:
        reader.read_to_end()
    assert caught.value.code == "DEF021"

    def without_leader() -> int:
        raise KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))

    monkeypatch.setattr(reader, "_told_log_end", without_leader)
    with pytest.raises(BrokerError, match="cannot be read"):
        reader.read_to_end(0.5)
