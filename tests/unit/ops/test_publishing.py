from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from tests.unit.stream.test_arrow_events import CONTENT_TYPE, fetch
from tests.unit.stream.test_decode import CATALOGUE, NOW

from fqlstream.client.frames import event_table, frame_table, partition_batches
from fqlstream.client.payloads import event_json, watermark_json
from fqlstream.errors import DefinitionError, UsageError
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import ModelDefinition
from fqlstream.ops.publishing import Form, PublishPlan, PublishReport, find_model, publish
from fqlstream.settings import StreamSettings
from fqlstream.stream.decode import decode

MODEL = find_model(CATALOGUE, "fraud", None)
RANKING = ModelDefinition.model_validate(
    {
        "name": "search",
        "task": "ranking",
        "columns": [{"name": "query", "type": "string"}, {"name": "clicked", "type": "int", "role": "target"}],
        "task_params": {"group_by": "query"},
    }
)


@dataclass
class Recorder:
    """A producer that keeps what it would send."""

    records: list[tuple[bytes, dict[str, bytes]]] = field(default_factory=list)
    keys: list[Any] = field(default_factory=list)
    calls: int = 0

    def _event(self, kind: Any, model: str, event_id: Any, columns: Any, event_at: Any, version: Any, key: Any) -> None:
        self.calls += 1
        self.keys.append(key)
        self.records.append((event_json(kind, model, event_id, columns, event_at, version), {}))

    def log_inference(self, model: str, event_id: Any, columns: Any, event_at: Any, version: Any, *, key: Any) -> None:
        self._event("inference", model, event_id, columns, event_at, version, key)

    def log_label(self, model: str, event_id: Any, columns: Any, event_at: Any, version: Any, *, key: Any) -> None:
        self._event("label", model, event_id, columns, event_at, version, key)

    def _frame(self, kind: bytes, model: str, frame: Any, event_at: str | None, key: str | None) -> int:
        self.calls += 1
        self.keys.append(key)
        headers = {"content-type": CONTENT_TYPE, "model": model.encode(), "type": kind}
        table = event_table(frame_table(frame), "event_id", event_at)
        for batch in partition_batches(table, 3, 10_000, 2**20, key):
            self.records.append((batch.value, headers))
        return int(table.num_rows)

    def log_inferences(self, model: str, frame: Any, *, event_at: str | None, version: Any, key: str | None) -> int:
        return self._frame(b"inference", model, frame, event_at, key)

    def log_labels(self, model: str, frame: Any, *, event_at: str | None, version: Any, key: str | None) -> int:
        return self._frame(b"label", model, frame, event_at, key)

    def finish(self, model: str, event_at: Any = None) -> None:
        self.records.append((watermark_json(model, event_at), {}))

    def rows(self, model: ModelDefinition = MODEL) -> dict[str, dict[str, dict[str, Any]]]:
        """What the engine makes of it: by kind and event_id."""
        headers: dict[int, Mapping[str, bytes]] = {at: head for at, (_, head) in enumerate(self.records) if head}
        log = fetch([value for value, _ in self.records], headers)
        found = decode(log, Catalogue().with_definition(model), StreamSettings())
        assert not found.dead_letters
        return {rows.kind.value: {line["event_id"]: line for line in rows.table.to_pylist()} for rows in found.rows}


def run(path: Path, **options: Any) -> tuple[Recorder, PublishReport]:
    recorder = Recorder()
    return recorder, publish(recorder, PublishPlan(path, **({"model": MODEL} | options)))


def write_lines(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


FLAT = pd.DataFrame({
    "event_id": ["a", "b", "c"],
    "event_at": pd.to_datetime([NOW - 3, NOW - 2, NOW - 1], unit="ms"),
    "age": [20, 30, 40],
    "score": [0.25, None, 0.75],
    "country": ["FR", "DE", None],
    "paid": [True, False, True],
    "surplus": [1, 2, 3],
})  # fmt: skip


@pytest.mark.parametrize("form", [Form.ARROW, Form.JSON, None])
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_flat_rows_of_every_format_and_form_arrive_alike(tmp_path: Path, ending: str, form: Form | None) -> None:
    path = tmp_path / f"rows{ending}"
    texts = FLAT.assign(event_at=[moment.isoformat() + "Z" for moment in FLAT["event_at"]])
    match ending:
        case ".csv":
            texts.to_csv(path, index=False)
        case ".parquet":
            FLAT.to_parquet(path)
        case _:
            texts.to_json(path, orient="records", lines=True)
    recorder, report = run(path, form=form)
    assert (report.rows, report.form) == (3, form or Form.ARROW)
    assert any("surplus" in note for note in report.notes)
    rows = recorder.rows()["inference"]
    assert {
        name: (line["event_at"], line["age"], line["score"], line["country"], line["paid"])
        for name, line in rows.items()
    } == {
        "a": (NOW - 3, 20, 0.25, "FR", True),
        "b": (NOW - 2, 30, None, "DE", False),
        "c": (NOW - 1, 40, 0.75, None, True),
    }
    assert all(line["_type_violations"] == line["_range_violations"] == [] for line in rows.values())


def test_a_column_of_several_types_travels_as_json_and_stays_a_violation(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("event_id,age,country\n1,20,FR\n2,old,007\n")
    recorder, report = run(path)
    assert report.form is Form.JSON
    rows = recorder.rows()["inference"]
    assert (rows["1"]["age"], rows["2"]["age"], rows["2"]["country"]) == (20, None, "007")
    assert rows["2"]["_type_violations"] == ["age"]
    with pytest.raises(UsageError, match="several types"):
        run(path, form=Form.ARROW)


def test_events_as_they_are_on_the_topic(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "events.jsonl",
        {"event_id": "a", "event_at": NOW - 9, "columns": {"age": 20, "who": 1}},
        '{"type": "inference", "model": "fraud", "event_id": 7, "columns": {"size": 1e999}}',
        "",
        {"type": "label", "event_id": "a", "columns": {"churned": "yes"}},
        {"type": "watermark", "model": "fraud", "event_at": NOW},
    )
    recorder, report = run(path)
    assert (report.rows, report.form) == (4, Form.JSON)
    rows = recorder.rows()
    assert {name: line["age"] for name, line in rows["inference"].items()} == {"a": 20, "7": None}
    assert rows["label"]["a"]["churned"] == "yes"
    assert recorder.records[-1][0] == watermark_json("fraud", NOW)


def test_labels_of_events_and_of_flat_rows(tmp_path: Path) -> None:
    events = write_lines(tmp_path / "e.jsonl", {"event_id": "a", "columns": {"churned": "no"}})
    assert run(events, labels=True)[0].rows()["label"]["a"]["churned"] == "no"
    flat = tmp_path / "l.csv"
    flat.write_text("request,churned,age\na,yes,20\nb,no,30\n")
    recorder, report = run(flat, labels=True, event_id="request")
    assert {name: line["churned"] for name, line in recorder.rows()["label"].items()} == {"a": "yes", "b": "no"}
    assert any("age" in note for note in report.notes)
    with pytest.raises(UsageError, match="event_id"):
        run(flat, labels=True)
    with pytest.raises(UsageError, match="not a label"):
        run(write_lines(events, {"type": "inference", "event_id": "a", "columns": {}}), labels=True)


def test_rows_without_ids_are_named_the_same_on_every_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("age\n20\n30\n")
    first, report = run(path)
    names = sorted(first.rows()["inference"])
    assert [name.rpartition(":")[2] for name in names] == ["1", "2"]
    assert any(f"rows are named {names[0]} to {names[1]}" in note for note in report.notes)
    assert sorted(run(path)[0].rows()["inference"]) == names


def test_rows_of_another_file_of_the_same_name_are_other_rows(tmp_path: Path) -> None:
    """As that of each day may be: else all but the first day's would be duplicates."""
    names = []
    for day, text in (("monday", "age\n20\n30\n"), ("tuesday", "age\n20\n31\n")):
        (tmp_path / day).mkdir()
        (tmp_path / day / "rows.csv").write_text(text)
        names.append(set(run(tmp_path / day / "rows.csv")[0].rows()["inference"]))
    assert [len(of) for of in names] == [2, 2]
    assert names[0].isdisjoint(names[1])


def test_who_has_to_send_rows_without_ids_again_is_told_which_were_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("age\n20\n21\n22\n")
    recorder = Recorder()
    log = recorder.log_inference

    def refusing(*event: Any, **more: Any) -> None:
        if recorder.calls == 2:
            raise UsageError("X001", "too large")
        log(*event, **more)

    monkeypatch.setattr(recorder, "log_inference", refusing)
    with pytest.raises(UsageError, match="row 3: too large") as refused:
        publish(recorder, PublishPlan(path, MODEL, form=Form.JSON))
    told = "the 2 before it were sent: mend the file and send the rest: without event_id they would count twice"
    assert refused.value.hint == told


def test_columns_of_ids_and_times_may_have_other_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"request,at,age\n17,{NOW - 5},20\n")
    recorder, _ = run(path, event_id="request", event_at="at")
    assert recorder.rows()["inference"]["17"]["event_at"] == NOW - 5


@pytest.mark.parametrize("form", list(Form))
def test_a_ranking_models_rows_are_keyed_by_their_query(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("event_id,query,clicked\n1,q1,0\n2,q1,1\n3,q2,1\n")
    recorder, _ = run(path, model=RANKING, form=form)
    assert recorder.keys == (["query"] if form is Form.ARROW else ["q1", "q1", "q2"])
    events = write_lines(tmp_path / "e.jsonl", {"event_id": 1, "columns": {"query": "q9"}})
    assert run(events, model=RANKING)[0].keys == ["q9"]


@pytest.mark.parametrize("form", list(Form))
def test_a_rate_spreads_rows_over_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Form) -> None:
    now_s, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now_s[0] += seconds

    monkeypatch.setattr("fqlstream.ops.publishing.time.monotonic", lambda: now_s[0])
    monkeypatch.setattr("fqlstream.ops.publishing.time.sleep", sleep)
    path = tmp_path / "rows.csv"
    pd.DataFrame({"event_id": np.arange(500), "age": 20}).to_csv(path, index=False)
    seen: list[int] = []
    publish(Recorder(), PublishPlan(path, MODEL, form=form, rate=100), lambda sent, _: seen.append(sent))
    assert now_s[0] == pytest.approx(105.0)
    assert len(seen) == 100  # five rows at once: twenty times a second
    assert seen[-1] == 500


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("a.jsonl", '{"event_id": "a", "columns": {}}\n{', "a.jsonl:2 is no JSON"),
        ("a.jsonl", '{"event_id": "a", "columns": {}}\n[]', "a.jsonl:2 is no event"),
        ("a.jsonl", '{"event_id": "a", "columns": {}}\n{"event_id": "a"}', "no columns"),
        ("a.jsonl", '{"model": "churn", "event_id": "a", "columns": {}}', "'churn'"),
        ("a.jsonl", '{"event_id": "", "columns": {}}', "event_id"),
        ("a.jsonl", '{"event_id": "a", "event_at": "2026-11-21T10:00:00", "columns": {}}', "RFC 3339"),
        ("a.jsonl", '{"type": "x", "event_id": "a", "columns": {}}', "type 'x'"),
        ("a.csv", "event_id,other\n1,2\n", "no column that such an event carries"),
        ("a.csv", "event_id,event_at,age\n1,soon,2\n", "no time"),
        ("a.csv", "event_id,age\n,2\n", "no event id"),
        ("a.txt", "x", "unknown"),
    ],
)
def test_what_the_engine_would_refuse_is_refused_with_its_place(
    tmp_path: Path, name: str, text: str, part: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=part.replace(".", r"\.")):
        run(tmp_path / name)


def test_a_missing_file_an_empty_file_and_an_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        run(tmp_path / "gone.csv")
    (tmp_path / "empty.jsonl").write_text("")
    assert run(tmp_path / "empty.jsonl")[1].rows == 0
    with pytest.raises(DefinitionError, match="not defined") as caught:
        find_model(CATALOGUE, "nobody", None)
    assert "churn" in (caught.value.hint or "")
    with pytest.raises(DefinitionError, match="no version"):
        find_model(CATALOGUE, "churn", "v9")
    assert find_model(CATALOGUE, "churn", "v1").version == "v1"


@pytest.mark.parametrize("more", [{"type": ["label"]}, {"type": {"x": 1}}, {"type": 7}, {"model": ["fraud"]}])
def test_an_event_of_odd_type_or_model_is_refused_with_its_place(tmp_path: Path, more: dict[str, Any]) -> None:
    path = tmp_path / "f.jsonl"
    good = {"event_id": "1", "columns": {"amount": 1.0}}
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | more))
    with pytest.raises(UsageError, match=r"f\.jsonl:2") as refused:
        publish(Recorder(), PublishPlan(path, MODEL))
    assert refused.value.code == "PUB003"
    assert "the 1 before it were sent" in str(refused.value.hint)


def test_a_time_beyond_all_calendars_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    far = pa.array([2**60], pa.timestamp("ms"))
    pa.parquet.write_table(pa.table({"event_id": ["1"], "event_at": far, MODEL.columns[0].name: far}), path)
    with pytest.raises(UsageError) as refused:
        publish(Recorder(), PublishPlan(path, MODEL, form=Form.JSON))
    assert refused.value.code == "DAT007"


def test_notes_name_a_file_without_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text("")
    assert publish(Recorder(), PublishPlan(path, MODEL)).notes == ("f.jsonl holds no rows",)
