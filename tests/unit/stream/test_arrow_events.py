from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.test_decode import CATALOGUE, NOW, SETTINGS, encoded, event

from fqlstream.stream.batches import Decoded, Fetch, RowKind
from fqlstream.stream.decode import decode

CONTENT_TYPE = b"application/vnd.apache.arrow.stream"
HEADERS = {"content-type": CONTENT_TYPE, "model": b"churn", "version": b"v2"}


def table(rows: int = 4, **columns: Any) -> pa.Table:
    usual: dict[str, Any] = {
        "event_id": [f"r-{row}" for row in range(rows)],
        "event_at": pa.array([NOW - row for row in range(rows)], pa.int64()),
        "age": list(range(20, 20 + rows)),
        "score": np.linspace(0, 1, rows),
        "country": ["FR"] * rows,
    }
    return pa.table({name: column for name, column in (usual | columns).items() if column is not None})


def stream(*tables: pa.Table, options: pa.ipc.IpcWriteOptions | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, tables[0].schema, options=options) as writer:
        for part in tables:
            writer.write_table(part)
    return bytes(sink.getvalue())


def fetch(values: Sequence[bytes | None], headers: Mapping[int, Mapping[str, bytes]]) -> Fetch:
    count = len(values)
    return Fetch(
        topic="inference-events",
        partition=1,
        offsets=np.arange(10, 10 + count),
        record_at_ms=np.full(count, NOW),
        keys=[None] * count,
        values=values,
        headers={at: list(items.items()) for at, items in headers.items()},
        next_offset=10 + count,
    )


def decoded(*values: bytes | None, headers: Mapping[str, bytes] = HEADERS, **options: Any) -> Decoded:
    return decode(fetch(values, dict.fromkeys(range(len(values)), headers)), CATALOGUE, SETTINGS, **options)


def only_letter(result: Decoded) -> tuple[str, str]:
    (letter,) = result.dead_letters
    return letter.code, letter.row


def test_rows_of_several_streams_are_one_table_in_offset_and_row_order() -> None:
    (rows,) = decoded(stream(table(3)), stream(table(2), table(1)), stream(table(0))).rows
    assert (rows.model, rows.version, rows.kind) == ("churn", "v2", RowKind.INFERENCE)
    assert rows.table["offset"].to_pylist() == [10, 10, 10, 11, 11, 11]
    assert rows.table["row"].to_pylist() == [0, 1, 2, 0, 1, 2]
    assert rows.table["event_id"].to_pylist() == ["r-0", "r-1", "r-2", "r-0", "r-1", "r-0"]
    assert rows.table["event_at"].to_pylist() == [NOW, NOW - 1, NOW - 2, NOW, NOW - 1, NOW]
    assert rows.table["age"].to_pylist() == [20, 21, 22, 20, 21, 20]
    assert rows.table["count"].to_pylist() == [None] * 6


def test_columns_that_the_model_lacks_are_told_of() -> None:
    assert decoded(stream(table(2))).foreign == frozenset()
    more = decoded(stream(table(2)), stream(table(2, colour=["red", "blue"])))
    assert more.foreign == {"churn"}
    assert [rows.table for rows in more.rows] == [
        rows.table for rows in decoded(stream(table(2)), stream(table(2))).rows
    ]


def test_arrow_and_json_events_say_the_same() -> None:
    events = [
        event(event_id=f"r-{i}", event_at=NOW - i, columns={"age": 20 + i, "score": i / 3, "country": "FR"})
        for i in range(4)
    ]
    rows = table(4, score=[i / 3 for i in range(4)])
    json_rows = decode(fetch([encoded(item) for item in events], {}), CATALOGUE, SETTINGS).rows[0].table
    arrow_rows = decoded(stream(rows)).rows[0].table
    assert arrow_rows.schema == json_rows.schema
    assert arrow_rows.drop_columns(["offset", "row"]).equals(json_rows.drop_columns(["offset", "row"]))


def test_arrow_and_json_records_in_one_fetch_keep_the_order_of_the_log() -> None:
    values = [stream(table(2)), encoded(event(event_id="a")), stream(table(1)), encoded(event(event_id="b"))]
    (rows,) = decode(fetch(values, {0: HEADERS, 2: HEADERS}), CATALOGUE, SETTINGS).rows
    assert rows.table["offset"].to_pylist() == [10, 10, 11, 12, 13]
    assert rows.table["event_id"].to_pylist() == ["r-0", "r-1", "a", "r-0", "b"]


def test_the_content_type_alone_decides_and_other_headers_are_free() -> None:
    headers = {
        0: {"content-type": b"Application/VND.apache.arrow.stream; x=1", "model": b"churn", "trace": b"\xff"},
        1: {"model": b"no"},
    }
    result = decode(fetch([stream(table(2)), encoded(event())], headers), CATALOGUE, SETTINGS)
    assert [rows.table.num_rows for rows in result.rows] == [3]


def test_a_stream_cut_at_any_byte_is_one_dead_letter_and_takes_nobody_along() -> None:
    whole = stream(table(2), table(1))
    good = stream(table(3))
    for end in range(len(whole)):
        result = decoded(whole[:end], good)
        letter = result.dead_letters[0]
        assert (len(result.dead_letters), letter.code, letter.offset) == (1, "DLQ016" if end else "DLQ001", 10), end
        assert letter.value == whole[:end]
        assert letter.content_type == CONTENT_TYPE.decode()
        assert [rows.table["offset"].to_pylist() for rows in result.rows] == [[11, 11, 11]]


def test_bytes_after_the_end_and_the_file_format_are_refused() -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table().schema) as writer:
        writer.write_table(table())
    for value in (stream(table()) + b"\0" * 8, stream(table()) * 2, bytes(sink.getvalue()), b"{}"):
        assert only_letter(decoded(value)) == ("DLQ016", "0")


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("DLQ008", {"model": None}),
        ("DLQ009", {"model": b"who"}),
        ("DLQ010", {"version": b"v9"}),
        ("DLQ007", {"type": b"watermark"}),
        ("DLQ003", {"model": b"\xff"}),
    ],
)
def test_an_unusable_envelope_refuses_the_whole_record(code: str, changes: dict[str, bytes | None]) -> None:
    headers = {name: value for name, value in (HEADERS | changes).items() if value is not None}
    result = decoded(stream(table()), headers=headers)
    assert only_letter(result) == (code, "0")
    # a model or a version of it that a newer catalogue may know
    assert result.unknown_models == {"DLQ009": {"who"}, "DLQ010": {"churn"}}.get(code, frozenset())


def test_limits_on_bytes_and_rows() -> None:
    value = stream(table(4))
    assert only_letter(decoded(value, record_bytes_max=len(value) - 1)) == ("DLQ002", "0")
    few = SETTINGS.model_copy(update={"arrow_rows_max": 3})
    assert decode(fetch([value], {0: HEADERS}), CATALOGUE, few).dead_letters[0].code == "DLQ017"


def test_a_small_record_cannot_unpack_to_a_huge_one() -> None:
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(200_000, np.int32)), pa.array(["x" * 10_000]))
    view = pa.array(["x" * 100_000], pa.string_view())
    shared = pa.RunEndEncodedArray.from_arrays(pa.array([500_000], pa.int32()), pa.array(["x" * 5_000]))
    views = pa.Array.from_buffers(
        pa.string_view(), 20_000, [None, pa.py_buffer(bytes(view.buffers()[1]) * 20_000), view.buffers()[2]]
    )
    for column in (long, views, shared):
        value = stream(pa.table({"plan name (x)": column}))
        assert len(value) < 2_000_000
        assert only_letter(decoded(value)) == ("DLQ017", "0")


# --------------------------------------------------------------------------------------------- bad rows


def test_bad_rows_go_as_one_small_stream_of_the_same_schema_and_the_rest_counts() -> None:
    bad = table(
        6, event_id=["a", None, "c", "", "e", "f"], event_at=pa.array([NOW] * 5 + [NOW * 2]), note=list("uvwxyz")
    )
    result = decoded(stream(table(2)), stream(bad), stream(table(1)))
    (rows,) = result.rows
    assert rows.table["event_id"].to_pylist() == ["r-0", "r-1", "a", "c", "e", "r-0"]
    assert rows.table["row"].to_pylist() == [0, 1, 0, 2, 4, 0]
    (letter,) = result.dead_letters
    assert (letter.code, letter.row, letter.offset) == ("DLQ011", "1,3,5", 11)
    assert "2 of 6 rows" in letter.reason
    assert "1 more" in letter.reason
    kept = pa.ipc.open_stream(letter.value).read_all()
    assert kept.equals(bad.take([1, 3, 5]))


def test_a_record_of_bad_rows_only_keeps_its_own_bytes() -> None:
    value = stream(table(3, event_id=None))
    (letter,) = decoded(value).dead_letters
    assert (letter.code, letter.row, letter.value) == ("DLQ011", "0,1,2", value)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([1, -2, None], pa.int64()), ["1", "-2", None]),
        (pa.array([2**64 - 1, 0, 1], pa.uint64()), ["18446744073709551615", "0", "1"]),
        (pa.array(["a", "b", ""], pa.large_string()), ["a", "b", None]),
        (pa.array(["a", "b", None], pa.string_view()), ["a", "b", None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([b"a", b"\xff", b"c"]).view(pa.string()), ["a", None, "c"]),
        (pa.array([b"a", b"b", b"c"]), [None] * 3),
        (pa.array([1.0, 2.0, 3.0]), [None] * 3),
        (pa.array([True, False, True]), [None] * 3),
        (pa.nulls(3), [None] * 3),
    ],
)
def test_event_ids_are_text_or_integers(ids: pa.Array, expected: list[str | None]) -> None:
    result = decoded(stream(table(3, event_id=ids)))
    found = (
        dict(zip(*(result.rows[0].table[name].to_pylist() for name in ("row", "event_id")), strict=True))
        if result.rows
        else {}
    )
    assert [found.get(row) for row in range(3)] == expected
    assert {letter.code for letter in result.dead_letters} == ({"DLQ011"} if None in expected else set())


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (None, [NOW, NOW, NOW]),
        (pa.nulls(3), [NOW, NOW, NOW]),
        (pa.array([NOW, None, NOW + 1]), [NOW, NOW, NOW + 1]),
        (pa.array([NOW // 1000, None, 0], pa.timestamp("s")), [NOW, NOW, "DLQ015"]),
        (pa.array([NOW * 1000 - 1, None, -1], pa.timestamp("us", "Europe/Paris")), [NOW - 1, NOW, "DLQ015"]),
        (pa.array([NOW * 10**6 + 999_999, None, NOW * 10**6], pa.timestamp("ns")), [NOW, NOW, NOW]),
        (pa.array([2**64 - 1, None, NOW], pa.uint64()), ["DLQ014", NOW, NOW]),
        (pa.array([2**63 - 1, -(2**63), NOW]), ["DLQ014", "DLQ015", NOW]),
        (pa.array([float(NOW), float("nan"), NOW + 0.5]), [NOW, NOW, "DLQ013"]),
        (pa.array([float("inf"), 1e300, None]), ["DLQ013", "DLQ014", NOW]),
        (pa.array(["2026-11-21T10:00:00Z", None, "x"]), ["DLQ013", NOW, "DLQ013"]),
        (pa.array([1, 2, 3], pa.int32()), ["DLQ015"] * 3),
        (pa.array([NOW, NOW, NOW]).dictionary_encode(), [NOW, NOW, NOW]),
    ],
)
def test_event_times_are_whole_milliseconds_or_timestamps(times: Any, expected: list[int | str]) -> None:
    result = decoded(*(stream(table(3, event_at=times).slice(row, 1)) for row in range(3)))
    found: dict[int, int | str] = {letter.offset: letter.code for letter in result.dead_letters}
    for rows in result.rows:
        found |= dict(zip(rows.table["offset"].to_pylist(), rows.table["event_at"].to_pylist(), strict=True))
    assert [found[10 + row] for row in range(3)] == expected


def test_a_label_batch_has_labels() -> None:
    (rows,) = decoded(stream(table(2, churned=["yes", "maybe"])), headers=HEADERS | {"type": b"label"}).rows
    assert rows.kind is RowKind.LABEL
    assert rows.table.column_names[5:] == ["plan name (x)", "churned", "_type_violations", "_range_violations"]
    assert rows.table["_range_violations"].to_pylist() == [[], ["churned"]]


def test_bad_columns_are_violations_and_never_dead_letters() -> None:
    bad = table(
        2,
        age=["x", "y"],
        score=[float("inf"), 0.5],
        country=pa.array([b"\xff", b"FR"]).view(pa.string()),
        seen=[[1], [2]],
    )
    (rows,) = decoded(stream(bad)).rows
    assert rows.table["_type_violations"].to_pylist() == [["age", "country", "seen"], ["age", "seen"]]
    assert rows.table["_range_violations"].to_pylist() == [["score"], []]


def test_of_a_column_that_stands_twice_the_last_counts() -> None:
    twice = table(2).append_column("age", pa.array([50, 51]))
    (rows,) = decoded(stream(twice)).rows
    assert rows.table["age"].to_pylist() == [50, 51]


def test_pruning_leaves_out_columns_and_changes_no_verdict() -> None:
    value = stream(table(3, event_id=["a", "", "c"]))
    result = decoded(value, columns={"churn": {"age"}})
    assert result.rows[0].table.column_names[5:] == ["age", "_type_violations", "_range_violations"]
    assert result.dead_letters == decoded(value).dead_letters


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_streams_are_read(codec: str) -> None:
    (rows,) = decoded(stream(table(50), options=pa.ipc.IpcWriteOptions(compression=codec))).rows
    assert rows.table["age"].to_pylist() == list(range(20, 70))


# --------------------------------------------------------------------------------------------- streams that begin alike


def outcomes(*values: bytes) -> list[str | list[dict[str, Any]]]:
    """Of each record its rows, or the code of its dead letter."""
    result = decoded(*values)
    found: dict[int, str | list[dict[str, Any]]] = {letter.offset: letter.code for letter in result.dead_letters}
    rows = [row for part in result.rows for row in part.table.to_pylist()]
    for at in range(10, 10 + len(values)):
        of = [{k: v for k, v in row.items() if k != "offset"} for row in rows if row["offset"] == at]
        assert not (of and at in found)
        found.setdefault(at, of)
    return [found[at] for at in range(10, 10 + len(values))]


def alone(*values: bytes) -> list[str | list[dict[str, Any]]]:
    return [outcome for value in values for outcome in outcomes(value)]


def head_and_body(value: bytes) -> tuple[bytes, bytes]:
    source = pa.BufferReader(value)
    with pa.ipc.open_stream(source):
        return value[: source.tell()], value[source.tell() : -8]


def test_records_say_the_same_together_as_alone() -> None:
    other = table(2, age=None, note=["x", "y"])
    values = [
        stream(table(3)),
        stream(other),
        stream(table(2), table(1)),
        stream(table(0)),
        stream(other.slice(1)),
        stream(table(3, country=pa.array(["FR", "DE", "FR"]).dictionary_encode())),
        stream(table(2, country=pa.array(["DE", "FR"]).dictionary_encode())),
        stream(table(4).replace_schema_metadata({"writer": "another"})),
    ]
    assert outcomes(*values) == alone(*values)
    assert [len(outcome) for outcome in outcomes(*values)] == [3, 2, 3, 0, 1, 3, 2, 4]


def test_a_message_does_not_reach_into_the_next_record() -> None:
    head, body = head_and_body(stream(table(2), table(1)))
    end = b"\xff\xff\xff\xff\0\0\0\0"
    refused = 0
    for cut in range(0, len(body) + 1, 8):
        halves = [head + body[:cut] + end, head + body[cut:] + end]
        values = [stream(table(1)), *halves, stream(table(3))]
        assert outcomes(*values) == alone(*values), cut
        refused += "DLQ016" in outcomes(*halves)
    assert refused == len(body) // 8 + 1 - 3  # it is whole before, between and after its two messages


def test_data_that_looks_like_an_end_ends_nothing() -> None:
    value = stream(pa.table({"event_id": pa.array(range(7, 15)), "x": pa.array([0xFFFFFFFF] * 8, pa.int64())}))
    end = b"\xff\xff\xff\xff\0\0\0\0"
    assert value.endswith(end + end)
    assert outcomes(value, value[:-8]) == [outcomes(value)[0], "DLQ016"]
    assert len(outcomes(value)[0]) == 8


def test_more_kinds_of_records_than_are_told_apart_are_read_all_the_same() -> None:
    values = [stream(table(2).replace_schema_metadata({"writer": str(writer)})) for writer in range(40)] * 2
    assert [len(outcome) for outcome in outcomes(*values)] == [2] * 80


# --------------------------------------------------------------------------------------------- hostile bytes


def _lying() -> bytes:
    """A stream whose string offsets point outside of their text: to read it would end the process."""
    offsets = pa.py_buffer(np.array([0, 10**9, 2, 3], np.int32).tobytes())
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"abc")])
    return stream(pa.table({"event_id": ["a", "b", "c"], "country": texts}))


def test_a_stream_whose_buffers_lie_is_refused_alone() -> None:
    result = decoded(*[stream(table(2))] * 5, _lying(), *[stream(table(2))] * 5)
    assert only_letter(result) == ("DLQ016", "0")
    assert result.dead_letters[0].offset == 15
    assert sum(rows.table.num_rows for rows in result.rows) == 20


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 6))
def test_flipped_bytes_end_nothing_and_take_nobody_along(seed: int, flips: int) -> None:
    random_ = random.Random(seed)
    dictionary = table(3, country=pa.array(["FR", "DE", "FR"]).dictionary_encode(), embedding=[[1.0, 2.0], None, [3.0]])
    value = bytearray(stream(random_.choice([table(3), dictionary])))
    for _ in range(flips):
        value[random_.randrange(len(value))] = random_.randrange(256)
    good = stream(table(2))
    result = decoded(good, bytes(value), good)
    counted = {10: 0, 12: 0}
    for rows in result.rows:
        rows.table.validate(full=True)
        for offset in rows.table["offset"].to_pylist():
            counted[offset] = counted.get(offset, 0) + 1
    assert counted[10] == counted[12] == 2
    assert all(letter.offset == 11 for letter in result.dead_letters)
