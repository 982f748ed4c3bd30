"""`publish` and `values` on a real broker and store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from confluent_kafka.admin import AdminClient
from tests.commands import command, invoke
from tests.integration.test_client import fetch_of
from tests.integration.test_client_queries import HOUR_MS, START_MS, value
from tests.store_process import StoreProcess
from tests.topic_records import read_topic

from fqlstream.cli.publish import publish
from fqlstream.cli.values import values
from fqlstream.client.kafka_options import librdkafka_options
from fqlstream.client.queries import VALUE_COLUMNS
from fqlstream.errors import DefinitionError
from fqlstream.events.documents import read_documents
from fqlstream.ops import topics
from fqlstream.ops.definition_log import read_catalogue
from fqlstream.ops.definitions import apply
from fqlstream.settings import KafkaSettings, load
from fqlstream.store.client import Store
from fqlstream.store.values import write_values
from fqlstream.stream.decode import decode

MODEL = """
kind: model
name: published
columns:
  - {name: age, type: int, min: 18, max: 100}
  - {name: score, type: float, role: output}
  - {name: churned, type: category, role: target, categories: ["no", "yes"]}
"""


@pytest.fixture
def broker(kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KafkaSettings:
    """The broker with every topic, as the settings of this process name it."""
    monkeypatch.setenv("FQLSTREAM_KAFKA__BOOTSTRAP", str(kafka_settings.bootstrap))
    monkeypatch.chdir(tmp_path)
    admin = AdminClient(librdkafka_options(kafka_settings))
    topics.apply(admin, topics.plan(admin, topics.load_declarations(), replication=1))
    apply(load(), read_documents(MODEL, "model.yaml"))
    return kafka_settings


def test_a_file_its_labels_and_watermarks_arrive(broker: KafkaSettings, tmp_path: Path) -> None:
    before = read_topic(broker.bootstrap, "inference-events")
    rows = pd.DataFrame({"event_id": np.arange(500), "age": 30, "score": 0.5})
    rows.to_parquet(tmp_path / "events.parquet")
    rows[["event_id"]].assign(churned="yes").to_csv(tmp_path / "labels.csv", index=False)
    sent = invoke(command(publish), "--model", "published", tmp_path / "events.parquet")
    assert (sent.exit_code, "sent 500 events of model published as arrow" in sent.stderr) == (0, True)
    labelled = invoke(
        command(publish), "--model", "published", "--labels", "--json", "--finish", tmp_path / "labels.csv"
    )
    assert (labelled.exit_code, "sent 500 labels" in labelled.stderr) == (0, True)
    catalogue = read_catalogue(load())
    known = {(message.partition(), message.offset()) for message in before}
    messages = [
        message
        for message in read_topic(broker.bootstrap, "inference-events")
        if (message.partition(), message.offset()) not in known
    ]
    events, labels, marks = {}, {}, 0
    for partition in {message.partition() for message in messages}:
        found = decode(fetch_of(messages, partition), catalogue, load().stream)
        assert not found.dead_letters
        marks += len(found.watermarks)
        for part in found.rows:
            kept = events if part.kind == "inference" else labels
            kept |= dict.fromkeys(part.table["event_id"].to_pylist(), partition)
    assert len(events) == 500
    assert labels == events  # the same ids in the same partitions
    assert marks == 4


def test_a_model_that_is_not_defined_is_refused(broker: KafkaSettings, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age\n1\n")
    with pytest.raises(DefinitionError, match="not defined"):
        invoke(command(publish), "--model", "nobody", tmp_path / "a.csv")


@pytest.fixture
def published(store: Store, store_process: StoreProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [value(0, 1.5, status="final"), value(1, None), value(2, 2.25, exact=False, error_bound=0.0133)]
    write_values(store, rows, retention_ms=400 * 24 * HOUR_MS)
    database = store.query_rows("SELECT currentDatabase()")[0][0]
    monkeypatch.setenv("FQLSTREAM_STORE__URL", f"{store_process.url}/{database}")
    monkeypatch.setenv("FQLSTREAM_STORE__PASSWORD", store_process.key)
    monkeypatch.chdir(tmp_path)


def test_values_as_json_csv_and_table(published: None) -> None:
    answer = invoke(command(values), "churn", "cost", "--json")
    rows = json.loads(answer.stdout)
    assert [tuple(row) for row in rows] == [VALUE_COLUMNS] * 3
    assert [row["value"] for row in rows] == [1.5, None, 2.25]
    assert rows[0]["window_start"] == pd.Timestamp(START_MS, unit="ms", tz="UTC").isoformat(
        timespec="milliseconds"
    ).replace("+00:00", "Z")
    assert (rows[2]["exact"], rows[2]["error_bound"], rows[0]["error_bound"], rows[0]["rows"]) == (
        False,
        0.0133,
        None,
        10,
    )
    lines = invoke(command(values), "churn", "cost", "--csv").stdout.splitlines()
    assert lines[0] == ",".join(VALUE_COLUMNS)
    assert len(lines) == 4
    shown = invoke(command(values), "churn", "cost").stdout
    assert "final" in shown
    assert "2.25" in shown


def test_values_of_a_range_and_of_nothing(published: None) -> None:
    second = pd.Timestamp(START_MS + HOUR_MS, unit="ms", tz="UTC").isoformat()
    assert len(json.loads(invoke(command(values), "churn", "cost", "--from", second, "--json").stdout)) == 2
    assert len(json.loads(invoke(command(values), "churn", "cost", "--to", second, "--json").stdout)) == 1
    nothing = invoke(command(values), "churn", "cost", "--window", "1d", "--json")
    assert (nothing.exit_code, json.loads(nothing.stdout)) == (1, [])
