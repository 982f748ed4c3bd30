"""Chunks of a result joined to one document, which other readers than ours must read as the whole."""

from __future__ import annotations

import csv
import io
import json

import pyarrow as pa
import pytest

from fqlstream.store.embedded.formats import ending, joiner, media_type

#: A column whose name has a line break and quotes, which CSV alone writes as they are.
NAME = 'two\nlines, "quoted"'
ROWS = [[(1, "a"), (2, 'b"\n')], [(3, "c")], [(4, "")]]


def joined(format_name: str, documents: list[bytes]) -> bytes:
    join = joiner(format_name)
    assert join is not None
    return b"".join(join(document) for document in documents) + ending(format_name)


@pytest.mark.parametrize("header", [1, 2])
def test_csv_has_its_header_once_also_where_a_name_has_lines(header: int) -> None:
    def document(rows: list[tuple[int, str]]) -> bytes:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        for line in [("n", NAME), ("Int64", "String")][:header]:
            writer.writerow(line)
        writer.writerows(rows)
        return out.getvalue().encode()

    name = "CSVWithNames" if header == 1 else "CSVWithNamesAndTypes"
    found = list(csv.reader(io.StringIO(joined(name, [document(rows) for rows in ROWS]).decode())))
    assert found[0] == ["n", NAME]
    assert [(int(n), text) for n, text in found[header:]] == [row for rows in ROWS for row in rows]


@pytest.mark.parametrize(
    ("name", "header"),
    [("TSVWithNames", 1), ("TabSeparatedWithNamesAndTypes", 2), ("TSVRawWithNames", 1), ("JSONCompactEachRowWithNames", 1)],
)  # fmt: skip
def test_lines_have_their_header_once(name: str, header: int) -> None:
    head = b"".join(b"h%d\n" % number for number in range(header))
    assert joined(name, [head + b"1\n2\n", head + b"3\n", head]) == head + b"1\n2\n3\n"


@pytest.mark.parametrize("name", ["TSV", "CSV", "JSONEachRow", "Native", "RowBinary", "Null"])
def test_formats_without_a_header_just_follow_each_other(name: str) -> None:
    assert joined(name, [b"a\n", b"", b"b\n"]) == b"a\nb\n"


@pytest.mark.parametrize("metadata", [None, {b"k": b"v" * 1_000}])
def test_arrow_streams_become_one_stream(metadata: dict[bytes, bytes] | None) -> None:
    schema = pa.schema([("n", pa.int64()), (NAME, pa.string())], metadata=metadata)

    def document(batches: list[pa.RecordBatch]) -> bytes:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        return sink.getvalue()

    batches = [[pa.record_batch([*map(list, zip(*rows, strict=True))], schema=schema)] for rows in ROWS]
    stream = pa.ipc.open_stream(
        joined("ArrowStream", [document(batches[0] * 2), document([]), *map(document, batches[1:])])
    )
    table = stream.read_all()
    assert list(zip(*table.to_pydict().values(), strict=True)) == [row for rows in (ROWS[0], *ROWS) for row in rows]
    assert pa.ipc.open_stream(joined("ArrowStream", [document([])])).read_all().num_rows == 0


@pytest.mark.parametrize("name", ["JSON", "Parquet", "Arrow", "Pretty", "XML", "NoSuchFormat"])
def test_what_must_be_there_as_a_whole_has_no_joiner(name: str) -> None:
    assert joiner(name) is None


def test_two_results_do_not_share_a_header() -> None:
    first, second = joiner("TSVWithNames"), joiner("TSVWithNames")
    assert first is not None
    assert second is not None
    assert (first(b"n\n1\n"), second(b"n\n2\n"), first(b"n\n3\n")) == (b"n\n1\n", b"n\n2\n", b"3\n")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("JSON", "application/json"), ("JSONEachRow", "application/x-ndjson"), ("CSVWithNames", "text/csv"),
     ("Parquet", "application/octet-stream"), ("NoSuchFormat", "text/plain")],
)  # fmt: skip
def test_media_types(name: str, kind: str) -> None:
    assert media_type(name).split(";")[0] == kind


def test_json_lines_are_json_lines() -> None:
    text = joined("JSONEachRow", [b'{"a":1}\n', b'{"a":2}\n']).decode()
    assert [json.loads(line) for line in text.splitlines()] == [{"a": 1}, {"a": 2}]
