from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.stream.event_rules import RECORD_BYTES_MAX, Dead, Mark, Row, read

from fqlstream.events import columns as columns_module
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.columns import arrow_schema
from fqlstream.events.definitions import ModelDefinition
from fqlstream.events.refusals import REFUSALS
from fqlstream.settings import StreamSettings
from fqlstream.stream import json_events
from fqlstream.stream.batches import Decoded, Fetch
from fqlstream.stream.decode import decode

NOW = 1_795_255_200_000  # 2026-11-21T10:00:00Z
SETTINGS = StreamSettings()

COLUMNS = [
    {"name": "age", "type": "int", "min": 18, "max": 100},
    {"name": "score", "type": "float", "role": "output", "min": 0, "max": 1},
    {"name": "size", "type": "float"},
    {"name": "count", "type": "int"},
    {"name": "plan name (x)", "type": "string", "role": "metadata"},
    {"name": "country", "type": "category", "categories": ["FR", "DE"]},
    {"name": "paid", "type": "bool"},
    {"name": "seen", "type": "timestamp"},
    {"name": "embedding", "type": "vector", "n_dimensions": 2},
    {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
]


def model(name: str, version: str = "v1", columns: Sequence[dict[str, Any]] = COLUMNS) -> ModelDefinition:
    return ModelDefinition.model_validate({"name": name, "version": version, "columns": list(columns)})


ODD = model(
    "odd",
    columns=[{"name": 'a "quoted" name', "type": "int"}, {"name": "back\\slash", "type": "string", "role": "target"}],
)
CATALOGUE = (
    Catalogue()
    .with_definition(model("churn", "v1", COLUMNS[:3]))
    .with_definition(model("churn", "v2"))
    .with_definition(model("fraud"))
    .with_definition(ODD)
)


def fetch(values: Sequence[bytes | None], record_at: int = NOW, first_offset: int = 100) -> Fetch:
    count = len(values)
    return Fetch(
        topic="inference-events",
        partition=3,
        offsets=np.arange(first_offset, first_offset + count),
        record_at_ms=np.full(count, record_at),
        keys=[b"key"] * count,
        values=values,
        headers={},
        next_offset=first_offset + count,
    )


def decoded(values: Sequence[bytes | None], **options: Any) -> Decoded:
    return decode(fetch(values), CATALOGUE, SETTINGS, record_bytes_max=RECORD_BYTES_MAX, **options)


def event(**changes: Any) -> dict[str, Any]:
    usual = {
        "type": "inference",
        "model": "churn",
        "version": "v2",
        "event_id": "r-1",
        "event_at": "2026-11-21T09:59:00Z",
        "columns": {"age": 41, "score": 0.73, "plan name (x)": "gold", "country": "FR"},
    }
    return {key: value for key, value in (usual | changes).items() if value is not ABSENT}


ABSENT = object()


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def outcomes(result: Decoded, count: int, first_offset: int = 100) -> list[Row | Mark | Dead]:
    """What became of each record, in the form of the rules; every record has exactly one outcome."""
    found: dict[int, Row | Mark | Dead] = {}

    def put(offset: int, outcome: Row | Mark | Dead) -> None:
        assert offset not in found
        found[offset] = outcome

    for rows in result.rows:
        definition = CATALOGUE.models[rows.model].versions[rows.version]
        assert rows.table.schema.names[:5] == ["offset", "row", "record_at", "event_at", "event_id"]
        assert rows.table.schema.types[:5] == [pa.int64(), pa.int32(), pa.int64(), pa.int64(), pa.string()]
        assert pa.schema(list(rows.table.schema)[5:]) == arrow_schema(definition, rows.kind)
        assert rows.table["offset"].to_pylist() == sorted(rows.table["offset"].to_pylist())
        for line in rows.table.to_pylist():
            offset, row, record_at = line.pop("offset"), line.pop("row"), line.pop("record_at")
            assert (row, record_at) == (0, NOW)
            event_at, event_id = line.pop("event_at"), line.pop("event_id")
            wrong, outside = line.pop("_type_violations"), line.pop("_range_violations")
            if line.get("seen") is not None:
                line["seen"] = line["seen"].value // 1_000_000 if hasattr(line["seen"], "value") else _ms(line["seen"])
            put(
                offset,
                Row(rows.model, rows.version, rows.kind.value, event_id, event_at, line, tuple(wrong), tuple(outside)),
            )
    for mark in result.watermarks:
        put(mark.offset, Mark(mark.model, mark.event_at_ms))
    for letter in result.dead_letters:
        assert letter.row == "0"
        put(letter.offset, Dead(letter.code))
    return [found[first_offset + i] for i in range(count)]


def _ms(moment: Any) -> int:
    from datetime import UTC, datetime, timedelta

    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def check(values: Sequence[bytes | None]) -> None:
    expected = [read(value, NOW, CATALOGUE, SETTINGS) for value in values]
    assert outcomes(decoded(values), len(values)) == expected


# --------------------------------------------------------------------------------------------- one record at a time

FINE = [
    ("usual", event()),
    ("type left out", event(type=ABSENT)),
    ("type null", event(type=None)),
    ("version left out is the newest", event(version=ABSENT)),
    ("version null is the newest", event(version=None)),
    ("older version", event(version="v1")),
    ("label", event(type="label", columns={"churned": "yes", "age": 3})),
    ("integer id", event(event_id=12345678901234567890123)),
    ("negative id", event(event_id=-7)),
    ("no columns at all in columns", event(columns={})),
    ("unknown column", event(columns={"who": {"nested": [1]}})),
    ("milliseconds", event(event_at=NOW - 5)),
    ("whole float milliseconds", event(event_at=float(NOW))),
    ("fraction is cut", event(event_at="2026-11-21T09:59:00.9999Z")),
    ("offset", event(event_at="2026-11-21T11:59:00.5+02:00")),
    ("time left out", event(event_at=ABSENT)),
    ("time null", event(event_at=None)),
    ("an hour ahead", event(event_at="2026-11-21T11:00:00Z")),
    ("watermark", {"type": "watermark", "model": "fraud", "event_at": NOW}),
    ("watermark without a time", {"type": "watermark", "model": "fraud"}),
    ("ill-typed columns", event(columns={"age": "x", "score": True, "paid": "yes", "embedding": [1, "a"], "seen": "no"})),
    ("out of range", event(columns={"age": 7, "score": 1.5, "country": "XX", "embedding": [1.0]})),
    ("beyond 64 bits", event(columns={"age": 2**70, "count": -(2**64), "size": 10**400})),
    ("integral floats", event(columns={"age": 41.0, "count": 1e3, "seen": float(NOW)})),
    ("all nulls", event(columns=dict.fromkeys(c["name"] for c in COLUMNS))),
    ("names that are hard to write", event(model="odd", version="v1", columns={'a "quoted" name': 3, "back\\slash": "x"})),
    ("a key twice: the last counts", b'{"model":"no","model":"churn","event_id":"a","columns":{"age":1},"columns":{"age":20}}'),
    ("white space is free", b' \n{ "model" :\t"churn", "event_id":"a",\r\n "columns": { } } '),
    ("infinite number", b'{"model":"churn","event_id":"a","columns":{"size":1e999,"score":-1e999,"age":1e999}}'),
    ("endless integer", b'{"model":"fraud","event_id":"a","columns":{"score":' + b"9" * 1500 + b"}}"),
    ("escaped keys", b'{"\\u006dodel":"churn","event_id":"a","columns":{"\\u0061ge":20}}'),
    ("a pair of surrogates", b'{"model":"churn","event_id":"\\ud83d\\ude00","columns":{}}'),
    ("wide is not deep", event(columns={"other": [[]] * 300, "age": 20})),
    ("brackets in texts are no nesting", event(columns={"plan name (x)": "[" * 500 + '"{\\' * 30})),
]  # fmt: skip

DEAD = [
    ("DLQ001", None),
    ("DLQ001", b""),
    ("DLQ002", encoded(event(columns={"plan name (x)": "x" * RECORD_BYTES_MAX}))),
    ("DLQ003", encoded(event()).replace(b"gold", b"\xff\xfe")),
    ("DLQ003", b'{"model":"churn","event_id":"a","columns":{},"nobody":"\xc3"}'),
    ("DLQ004", b'{"model":"churn","event_id":"a","columns":{},"nobody":' + b"[" * 64 + b"]" * 64 + b"}"),
    ("DLQ004", b'{"model":"churn","event_id":"a","columns":{"embedding":' + b"[" * 63 + b"]" * 63 + b"}}"),
    ("DLQ004", b"[" * 1900),
    ("DLQ005", b"{"),
    ("DLQ005", b"[]" * 900),
    ("DLQ005", b'{"a":"' + b'\\"[' * 600),
    ("DLQ005", b" "),
    ("DLQ005", encoded(event()) + b"x"),
    ("DLQ005", encoded(event()) * 2),
    ("DLQ005", encoded(event()) + b"\n" + encoded(event())),
    ("DLQ005", b'{"model":"churn","event_id":"a","columns":{"size":NaN}}'),
    ("DLQ005", b'{"model":"churn","event_id":"a","columns":{"size":Infinity}}'),
    ("DLQ005", b'{"model":"churn","event_id":"a","columns":{"size":01}}'),
    ("DLQ005", b'{"model":"churn","event_id":"\\ud800","columns":{}}'),
    ("DLQ005", b'{"model":"churn","event_id":"a","columns":{},"nobody":"\\ud800","size":1e999}'),
    ("DLQ005", b"\xef\xbb\xbf" + encoded(event())),
    ("DLQ006", b"[]"),
    ("DLQ006", b"17"),
    ("DLQ006", b"1e999"),
    ("DLQ006", b"null"),
    ("DLQ007", encoded(event(type="pipeline_metric"))),
    ("DLQ007", encoded(event(type=1))),
    ("DLQ008", encoded(event(model=ABSENT))),
    ("DLQ008", encoded(event(model=""))),
    ("DLQ008", encoded(event(model=["churn"]))),
    ("DLQ009", encoded(event(model="unheard-of"))),
    ("DLQ010", encoded(event(version="v9"))),
    ("DLQ010", encoded(event(version=2))),
    ("DLQ011", encoded(event(event_id=ABSENT))),
    ("DLQ011", encoded(event(event_id=None))),
    ("DLQ011", encoded(event(event_id=""))),
    ("DLQ011", encoded(event(event_id=1.0))),
    ("DLQ011", encoded(event(event_id=True))),
    ("DLQ011", b'{"model":"churn","event_id":' + b"9" * 4_500 + b',"columns":{}}'),
    ("DLQ012", encoded(event(columns=ABSENT))),
    ("DLQ012", encoded(event(columns=None))),
    ("DLQ012", encoded(event(columns=[1, 2]))),
    ("DLQ013", encoded(event(event_at="yesterday"))),
    ("DLQ013", encoded(event(event_at="2026-11-21T09:59:00"))),
    ("DLQ013", encoded(event(event_at="2026-11-21"))),
    ("DLQ013", encoded(event(event_at="2026-02-30T09:59:00Z"))),
    ("DLQ013", encoded(event(event_at="2026-11-21T24:00:00Z"))),
    ("DLQ013", encoded(event(event_at=True))),
    ("DLQ013", encoded(event(event_at=NOW + 0.5))),
    ("DLQ013", encoded(event(event_at={}))),
    ("DLQ014", encoded(event(event_at="2026-11-21T11:00:00.001Z"))),
    ("DLQ014", encoded(event(event_at=10**40))),
    ("DLQ015", encoded(event(event_at=NOW // 1000))),
    ("DLQ015", encoded(event(event_at=-(10**40)))),
    ("DLQ014", encoded({"type": "watermark", "model": "churn", "event_at": NOW * 2})),
    ("DLQ013", encoded({"type": "watermark", "model": "churn", "event_at": "soon"})),
]  # fmt: skip


@pytest.mark.parametrize("value", [case[1] for case in FINE], ids=[case[0] for case in FINE])
def test_an_event_with_a_usable_envelope_counts(value: Any) -> None:
    value = value if isinstance(value, bytes) else encoded(value)
    expected = read(value, NOW, CATALOGUE, SETTINGS)
    assert not isinstance(expected, Dead)
    assert outcomes(decoded([value]), 1) == [expected]


@pytest.mark.parametrize(("code", "value"), DEAD)
def test_an_unusable_envelope_is_a_dead_letter_with_its_code(code: str, value: bytes | None) -> None:
    limit = max(RECORD_BYTES_MAX, len(value or b"") if code == "DLQ011" else 0)
    letter = decode(fetch([value]), CATALOGUE, SETTINGS, record_bytes_max=limit).dead_letters[0]
    assert (letter.code, letter.value, letter.origin) == (code, value, "inference-events[3]@100")
    assert letter.reason
    if code != "DLQ011":
        assert read(value, NOW, CATALOGUE, SETTINGS) == Dead(code)


@pytest.mark.parametrize("repeats", [1, 40])
def test_every_case_among_all_others_has_the_same_outcome(repeats: int) -> None:
    values = [case[1] if isinstance(case[1], bytes) else encoded(case[1]) for case in FINE]
    values = [*values, *(value for code, value in DEAD if code != "DLQ002"), *[encoded(event())] * 200] * repeats
    random.Random(5).shuffle(values)
    check(values)


def test_every_code_is_declared_once_with_a_meaning_and_a_remedy() -> None:
    not_of_json_alone = {"DLQ016", "DLQ017", "DLQ018", "DLQ019"}
    of_metric_events = {f"DLQ0{number}" for number in range(20, 29)}  # tests/unit/stream/test_recorded.py
    assert {code for code, _ in DEAD} | not_of_json_alone | of_metric_events == {refusal.code for refusal in REFUSALS}
    assert all(refusal.meaning and refusal.remedy for refusal in REFUSALS)


def test_unknown_models_are_named_for_the_worker_to_look_up() -> None:
    result = decoded([encoded(event(model="new")), encoded(event(model="newer")), encoded(event())])
    assert result.unknown_models == {"new", "newer"}


def test_unknown_versions_are_looked_up_as_well() -> None:
    result = decoded([encoded(event(model="churn", version="v99")), encoded(event())])
    assert result.unknown_models == {"churn"}
    # what can be no version's name is none in any catalogue
    assert decoded([encoded(event(model="churn", version=7))]).unknown_models == frozenset()


def test_a_label_has_only_targets_and_metadata() -> None:
    (rows,) = decoded([encoded(event(type="label", columns={"churned": "yes", "age": 5}))]).rows
    assert rows.table.column_names[5:] == ["plan name (x)", "churned", "_type_violations", "_range_violations"]


def test_an_empty_fetch_holds_nothing() -> None:
    assert decoded([]) == Decoded()


def test_rows_of_one_model_version_and_kind_are_one_table_in_order() -> None:
    values = [
        encoded(event(model=name, version=None, event_id=f"{name}-{i}"))
        for i in range(50)
        for name in ("churn", "fraud")
    ]
    result = decoded(values)
    assert [(rows.model, rows.table.num_rows) for rows in result.rows] == [("churn", 50), ("fraud", 50)]
    assert result.rows[0].table["event_id"].to_pylist() == [f"churn-{i}" for i in range(50)]


def test_pruning_columns_changes_no_verdict_and_no_kept_value() -> None:
    values = [
        encoded(event()),
        b'{"model":"churn","event_id":"a","columns":{"age":"x","score":1e999}}',
        encoded(event(columns=[])),
    ]
    whole, pruned = decoded(values), decoded(values, columns={"churn": ["score"]})
    assert pruned.dead_letters == whole.dead_letters
    assert pruned.rows[0].table.column_names[5:] == ["score", "_type_violations", "_range_violations"]
    assert pruned.rows[0].table["score"] == whole.rows[0].table["score"]
    assert pruned.rows[0].table["_type_violations"].to_pylist() == [[], []]


@pytest.mark.parametrize("names", [["colour"], [f"c{number}" for number in range(600)]])
def test_columns_that_the_model_lacks_are_told_of_and_change_no_row(names: list[str]) -> None:
    known = Catalogue().with_definition(model("wide"))
    plain = [event(model="wide", version="v1", event_id=f"e{i}") for i in range(40)]
    more = [{**e, "columns": {**e["columns"], names[i % len(names)]: {"nested": [1]}}} for i, e in enumerate(plain)]
    more += [{**e, "columns": {**e["columns"], **dict.fromkeys(names, 1)}} for e in plain[:1]]
    plain += plain[:1]

    def read_all(events: list[dict[str, Any]]) -> Decoded:
        return decode(fetch(list(map(encoded, events))), known, SETTINGS)

    alone = read_all(plain)
    assert alone.foreign == frozenset()
    for _ in range(3):  # what the first has found out makes the others fast
        found = read_all(more)
        assert found.foreign == {"wide"}
        assert [rows.table for rows in found.rows] == [rows.table for rows in alone.rows]
    wider = Catalogue().with_definition(model("wide", columns=[*COLUMNS, {"name": names[0], "type": "string"}]))
    (rows,) = decode(fetch([encoded(more[0])]), wider, SETTINGS).rows
    assert rows.table["_type_violations"].to_pylist() == [[names[0]]], "it is read as soon as it is defined"
    assert decode(fetch([encoded(more[0])]), wider, SETTINGS).foreign == frozenset()


def test_columns_of_any_name_are_told_of_when_the_model_lacks_them() -> None:
    value = encoded({"model": "odd", "event_id": "a", "columns": {"back\\slash": "x", 'a "quoted" name': 3}})
    more = encoded({"model": "odd", "event_id": "a", "columns": {"other": 1}})
    known = Catalogue().with_definition(model("odd", columns=ODD.model_dump(exclude_unset=True)["columns"]))
    assert decode(fetch([value]), known, SETTINGS).foreign == frozenset()
    assert decode(fetch([value, more]), known, SETTINGS).foreign == {"odd"}


def test_a_label_with_columns_of_its_event_lacks_no_definition() -> None:
    label = encoded(event(model="own", type="label", version=None, columns={"age": 30, "churned": "yes"}))
    known = Catalogue().with_definition(model("own"))
    assert decode(fetch([label] * 3), known, SETTINGS).foreign == frozenset()


def test_a_fetch_cut_anywhere_gives_the_same_outcomes() -> None:
    values = [case[1] if isinstance(case[1], bytes) else encoded(case[1]) for case in FINE]
    whole = outcomes(decoded(values), len(values))
    for cut in range(len(values)):
        parts = outcomes(decoded(values[:cut]), cut) + outcomes(decoded(values[cut:]), len(values) - cut)
        assert parts == whole


# --------------------------------------------------------------------------------------------- poison


def test_one_poison_record_in_ten_thousand_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(values: Sequence[Any], column: Any) -> Any:
        if "poison" in values:
            raise MemoryError("boom")
        return columns_module.coerce_values(values, column)

    monkeypatch.setattr(json_events, "coerce_values", poisoned)
    values = [encoded(event(event_id=f"r-{i}")) for i in range(10_000)]
    values[4_321] = encoded(event(columns={"plan name (x)": "poison"}))
    result = decoded(values)
    (letter,) = result.dead_letters
    assert (letter.code, letter.offset, letter.value) == ("DLQ018", 100 + 4_321, values[4_321])
    assert "MemoryError" in letter.reason
    (rows,) = result.rows
    offsets = rows.table["offset"].to_numpy()
    assert len(offsets) == 9_999
    assert (np.diff(offsets) > 0).all()


# --------------------------------------------------------------------------------------------- any event at all

numbers = st.one_of(
    st.integers(-5, 200),
    st.floats(allow_nan=False),
    st.sampled_from(
        [2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**30, 10**400, 0, 1, 18, 100, 100.00000001]
    ),
)
texts = st.one_of(
    st.sampled_from(["FR", "DE", "", "yes", "no", "12", "é", "\U0001f600", "{[", "<NA>"]), st.text(max_size=6)
)
times = st.one_of(
    st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    st.integers(-(10**7), 10**7).map(lambda shift: NOW + shift),
    st.sampled_from([
        "2026-11-21T10:00:00Z", "2026-11-21t10:00:00z", "2026-11-21 10:00:00+00:00", "2026-11-21T10:00:00.123456789-11:30",
        "2026-11-21T10:00:00+2:00", "2026-11-21T10:00:60Z", "2026-11-21T10:00Z", "0000-11-21T10:00:00Z", "2026-11-21T10:00:00+24:00",
        "2026-11-21T10:00:00.Z", "2026-11-21T10:00:00,5Z", "２026-11-21T10:00:00Z", "2024-02-29T00:00:00Z", "2100-02-29T00:00:00Z", NOW, None, "",
    ]),
)  # fmt: skip
anything = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    texts,
    times,
    st.lists(numbers, max_size=3),
    st.dictionaries(texts, numbers, max_size=2),
)
columns = st.fixed_dictionaries({}, optional={column["name"]: anything for column in COLUMNS} | {"other": anything})
events = st.fixed_dictionaries(
    {
        "model": st.one_of(st.sampled_from(["churn", "churn", "fraud", "odd", "who", ""]), anything),
        "event_id": st.one_of(st.text(min_size=1, max_size=5), st.integers(), anything),
        "columns": st.one_of(columns, columns, anything),
    },
    optional={
        "type": st.sampled_from(["inference", "label", "watermark", None, "x", 1]),
        "version": st.sampled_from(["v1", "v2", None, "v3", 2]),
        "event_at": st.one_of(times, anything),
        "trace": anything,
    },
)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    value = draw(st.one_of(events, events, events, anything))
    if isinstance(value, dict) and draw(st.booleans()):
        value = dict(draw(st.permutations(list(value.items()))))
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), separators=draw(st.sampled_from([None, (",", ":")])))
    record = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0 and record:
        place = draw(st.integers(0, len(record) - 1))
        record = record[:place] + draw(st.binary(max_size=2)) + record[place + draw(st.integers(0, 2)) :]
    return record


@settings(max_examples=300, deadline=None)
@given(values=st.lists(records(), max_size=12), usual=st.sampled_from([0, 0, 3, 60]))
@example(values=[b'{"model": "churn", "event_id": "a", "columns": {}, "event_at": 1e999}'], usual=60)
@example(values=[b'{"model": "churn", "event_id": [], "columns": null}'], usual=0)
def test_any_records_decode_as_the_rules_say(values: list[bytes], usual: int) -> None:
    mixed: list[bytes | None] = [*values, *(encoded(event(event_id=f"r-{i}")) for i in range(usual))]
    random.Random(len(values)).shuffle(mixed)
    check(mixed)


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.one_of(st.none(), st.binary(max_size=60)), max_size=8))
def test_any_bytes_at_all_have_one_outcome_each(values: list[bytes | None]) -> None:
    check(values)
