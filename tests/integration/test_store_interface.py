"""The embedded store, asked by clients that know nothing of it: clickhouse-connect, curl's requests, ClickHouse's drivers."""

from __future__ import annotations

import base64
import datetime as dt
import gzip
import http.client
import io
import json
import math
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import clickhouse_connect
import lz4.frame
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from clickhouse_driver.bufferedreader import BufferedReader
from clickhouse_driver.streams.compressed import CompressedBlockInputStream
from clickhouse_driver.streams.native import BlockInputStream
from tests.store_process import StoreProcess
from tests.waiting import wait_equal

from fqlstream.store.client import Store

Reply = tuple[int, dict[str, str], bytes]


@pytest.fixture
def client(store_process: StoreProcess, store: Store) -> Iterator[Any]:
    """An unmodified clickhouse-connect client with the key, in a database of the test's own."""
    client = clickhouse_connect.get_client(
        host=store_process.host,
        port=store_process.port,
        password=store_process.key,
        database=store.name.rsplit("/", 1)[1],
    )
    yield client
    client.close()


def ask(
    process: StoreProcess, sql: str | bytes = b"", *, path: str = "/", method: str = "POST", headers: dict[str, str] | None = None,
    key: bool = True, **parameters: object,
) -> Reply:  # fmt: skip
    """Send one request as it is written here."""
    connection = http.client.HTTPConnection(process.host, process.port, timeout=60)
    sent = {"X-ClickHouse-Key": process.key, "X-ClickHouse-User": "default"} if key else {}
    query = urlencode({name: str(value) for name, value in parameters.items()})
    try:
        connection.request(method, f"{path}?{query}" if query else path, body=sql, headers={**sent, **(headers or {})})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


# ---- clickhouse-connect --------------------------------------------------------------------------------------------

COLUMNS: dict[str, tuple[str, list[Any]]] = {
    "u8": ("UInt8", [0, 255]),
    "i64": ("Int64", [-(2**63), 2**63 - 1]),
    "u256": ("UInt256", [0, 2**256 - 1]),
    "f64": ("Float64", [5e-324, -math.inf]),
    "f32": ("Float32", [0.5, math.inf]),
    "b": ("Bool", [True, False]),
    "s": ("String", ["", "ünï\0cödé\n\t\\'\""]),
    "fs": ("FixedString(3)", [b"abc", b"\0\0\0"]),
    "n": ("Nullable(Int32)", [None, 7]),
    "ns": ("Nullable(String)", ["x", None]),
    "lc": ("LowCardinality(String)", ["a", "b"]),
    "lcn": ("LowCardinality(Nullable(String))", [None, "b"]),
    "d": ("Date", [dt.date(1970, 1, 1), dt.date(2149, 6, 6)]),
    "d32": ("Date32", [dt.date(1900, 1, 1), dt.date(2299, 12, 31)]),
    "dt": ("DateTime('UTC')", [dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.datetime(2106, 1, 1, tzinfo=dt.UTC)]),
    "dt64": ("DateTime64(3, 'UTC')", [dt.datetime(2026, 11, 21, 1, 2, 3, 456_000, tzinfo=dt.UTC)] * 2),
    "dec": ("Decimal(18, 4)", [Decimal("-1.2345"), Decimal("99999999999999.9999")]),
    "uuid": ("UUID", [UUID(int=0), UUID(int=2**128 - 1)]),
    "e": ("Enum8('x' = 1, 'y' = -2)", ["x", "y"]),
    "arr": ("Array(Nullable(Float64))", [[], [1.5, None]]),
    "arr2": ("Array(Array(String))", [[["a"], []], []]),
    "tup": ("Tuple(Int8, String)", [(1, "a"), (-1, "b")]),
    "m": ("Map(String, Array(UInt8))", [{}, {"k": [1, 2]}]),
    "alc": ("Array(LowCardinality(Nullable(String)))", [["a", None, "a"], []]),
}


def test_every_type_makes_the_round_trip(client: Any) -> None:
    client.command(
        f"CREATE TABLE t ({', '.join(f'{name} {kind}' for name, (kind, _) in COLUMNS.items())}) ENGINE = Memory"
    )
    rows = [[values[i] for _, values in COLUMNS.values()] for i in range(2)]

    summary = client.insert("t", rows, column_names=list(COLUMNS))
    found = client.query("SELECT * FROM t", query_tz="UTC", tz_mode="aware")

    assert summary.written_rows == 2
    assert [list(row) for row in found.result_rows] == rows
    assert found.column_names == tuple(COLUMNS)


def test_nan_is_not_null(client: Any) -> None:
    client.command("CREATE TABLE t (x Nullable(Float64)) ENGINE = Memory")
    client.insert("t", [[math.nan], [None], [math.inf]], column_names=["x"])

    assert client.query("SELECT isNaN(x), x IS NULL FROM t").result_rows == [(1, 0), (None, 1), (0, 0)]
    values = [row[0] for row in client.query("SELECT x FROM t").result_rows]
    assert math.isnan(values[0])
    assert values[1:] == [None, math.inf]


def test_frames_and_arrow_tables(client: Any) -> None:
    client.command("CREATE TABLE t (a Int64, b Nullable(String), c Array(Float64)) ENGINE = MergeTree ORDER BY a")
    table = pa.table({"a": [1, 2], "b": ["x", None], "c": [[1.5], []]})
    client.insert_arrow("t", table)
    client.insert_df("t", pd.DataFrame({"a": [3], "b": ["z"], "c": [[2.5]]}))

    found = client.query_arrow("SELECT * FROM t ORDER BY a", use_strings=True)
    assert found.to_pylist() == [*table.to_pylist(), {"a": 3, "b": "z", "c": [2.5]}]
    assert client.query_df("SELECT a FROM t ORDER BY a")["a"].tolist() == [1, 2, 3]
    with client.query_arrow_stream("SELECT number FROM numbers(200000)") as stream:
        assert sum(batch.num_rows for batch in stream) == 200_000


def test_parameters_and_settings(client: Any) -> None:
    text = "it's\t\\ ü \n{x}"
    found = client.query(
        "SELECT {a:String}, {b:Array(Int64)}, {c:Nullable(String)}, getSetting('max_block_size'), getSetting('log_comment')",
        parameters={"a": text, "b": [1, -2], "c": None},
        settings={"max_block_size": 1234, "log_comment": "a'b\\c"},
    )

    assert found.result_rows == [(text, [1, -2], None, 1234, "a'b\\c")]
    # a later caller of the same connection has its own
    assert client.query("SELECT getSetting('max_block_size') != 1234").result_rows == [(True,)]


def test_long_parameters_travel_as_a_form(store_process: StoreProcess, store: Store) -> None:
    client = clickhouse_connect.get_client(
        host=store_process.host, port=store_process.port, form_encode_query_params=True
    )
    ids = [f"id-{i}" for i in range(50_000)]

    assert client.query("SELECT length({ids:Array(String)})", parameters={"ids": ids}).result_rows == [(50_000,)]


def test_sessions_are_tolerated_and_query_ids_come_back(client: Any) -> None:
    found = client.query("SELECT 1", settings={"session_id": "s1", "query_id": "my-query"})

    assert found.query_id == "my-query"


def test_a_session_keeps_its_temporary_tables_and_settings(store_process: StoreProcess, client: Any) -> None:
    client.command("CREATE TEMPORARY TABLE mine (a Int64)")
    client.insert("mine", [[1], [2]], column_names=["a"])
    client.command("SET max_block_size = 777")
    asked = "SELECT (SELECT sum(a) FROM mine), getSetting('max_block_size')"

    assert client.query(asked).result_rows == [(3, 777)]
    assert client.query(asked, settings={"max_block_size": 5}).result_rows == [(3, 5)]
    assert client.query(asked).result_rows == [(3, 777)]
    other = clickhouse_connect.get_client(host=store_process.host, port=store_process.port, password=store_process.key)
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
        other.query("SELECT * FROM mine")
    assert other.query("SELECT getSetting('max_block_size') != 777").result_rows == [(True,)]
    other.close()


def test_errors_are_clickhouse_s_own(client: Any) -> None:
    cases = {
        "SELECT nope": 47, "SELECT * FROM nope": 60, "SELECT nope()": 46, "SELEC 1": 62, "SELECT 1 FORMAT Nope": 73,
        "SELECT throwIf(1)": 395, "SELECT toUInt8('x')": 6, "SELECT 1; SELECT 2": 62, "SELECT {x:Int8}": 456,
        "SELECT 1 SETTINGS nope = 1": 115, "CREATE TABLE t (a Int8) ENGINE = Nope": 56,
    }  # fmt: skip
    for sql, code in cases.items():
        with pytest.raises(DatabaseError) as caught:
            client.command(sql)
        assert (caught.value.code, sql) == (code, sql)
        assert f"Code: {code}. DB::Exception: " in str(caught.value)
        assert "(version 26." in str(caught.value)


def test_an_error_in_the_middle_of_a_stream_is_raised(client: Any) -> None:
    with (
        pytest.raises(StreamFailureError, match="is non-zero"),
        client.query_column_block_stream("SELECT number, throwIf(number = 4900000) FROM numbers(5000000)") as stream,
    ):
        for _ in stream:
            pass


def test_a_long_result_streams_in_bounded_memory(store_process: StoreProcess, client: Any) -> None:
    def resident_mb() -> float:
        with Path(f"/proc/{store_process.process.pid}/status").open() as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))

    client.query("SELECT count() FROM numbers(5000000)")
    before = resident_mb()
    most = before
    rows = 0
    total = 0
    with client.query_column_block_stream("SELECT number, repeat('x', 100) FROM numbers(5000000)") as stream:
        for block in stream:
            rows += len(block[0])
            total += sum(block[0])
            if rows % (1 << 20) < 65_536:
                most = max(most, resident_mb())

    assert (rows, total) == (5_000_000, 5_000_000 * 4_999_999 // 2)
    # the result is 600 MB
    assert most - before < 200


def test_many_clients_at_once(store_process: StoreProcess, store: Store, client: Any) -> None:
    client.command("CREATE TABLE t (who UInt32, n UInt32) ENGINE = MergeTree ORDER BY (who, n)")
    database = client.database

    def work(who: int) -> int:
        own = clickhouse_connect.get_client(
            host=store_process.host, port=store_process.port, password=store_process.key, database=database
        )
        for part in range(5):
            own.insert("t", [[who, part * 100 + i] for i in range(100)], column_names=["who", "n"])
            assert own.query("SELECT count() FROM t WHERE who = {w:UInt32}", parameters={"w": who}).result_rows == [
                ((part + 1) * 100,)
            ]
        own.close()
        return who

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == list(range(8))
    assert client.query("SELECT count(), uniqExact(who, n) FROM t").result_rows == [(4000, 4000)]


@pytest.mark.parametrize("compression", ["lz4", "zstd", "gzip", True, False])
def test_compression_as_the_client_likes_it(store_process: StoreProcess, store: Store, compression: str | bool) -> None:
    database = store.name.rsplit("/", 1)[1]
    client = clickhouse_connect.get_client(
        host=store_process.host,
        port=store_process.port,
        password=store_process.key,
        database=database,
        compress=compression,
    )
    client.command("CREATE TABLE t (a Int64, b String) ENGINE = Memory")
    client.insert("t", [[i, "text" * 20] for i in range(20_000)], column_names=["a", "b"])

    assert client.query("SELECT count(), sum(a), any(b) FROM t").result_rows == [(20_000, 199_990_000, "text" * 20)]
    assert len(client.query("SELECT a, b FROM t").result_rows) == 20_000
    client.close()


# ---- the interface itself ------------------------------------------------------------------------------------------


def test_is_it_there(store_process: StoreProcess) -> None:
    for path in ("/", "/ping", "/replicas_status"):
        assert ask(store_process, path=path, method="GET", key=False)[::2] == (200, b"Ok.\n")


def test_queries_by_address_and_by_body(store_process: StoreProcess) -> None:
    status, headers, body = ask(store_process, method="GET", key=False, query="SELECT 1, 'a'")
    assert (status, body, headers["x-clickhouse-format"]) == (200, b"1\ta\n", "TabSeparated")
    assert headers["x-clickhouse-timezone"] == "UTC"
    assert json.loads(headers["x-clickhouse-summary"])["read_rows"] == "1"
    assert headers["x-clickhouse-query-id"]

    assert ask(store_process, "SELECT 2 FORMAT JSONCompactEachRow")[2] == b"[2]\n"
    assert ask(store_process, "+ 3", query="SELECT 4")[2] == b"7\n"
    assert ask(store_process, "SELECT 5", default_format="CSVWithNames")[2] == b'"5"\n5\n'
    assert ask(store_process, "SELECT 5", headers={"X-ClickHouse-Format": "JSONEachRow"})[2] == b'{"5":5}\n'
    # curl -d says that its body is a form
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert ask(store_process, "SELECT 'a=1&b=2'", headers=form)[2] == b"a=1&b=2\n"
    assert ask(store_process, "SELECT database()", database="system")[2] == b"system\n"
    assert ask(store_process, "SELECT currentDatabase()", headers={"X-ClickHouse-Database": "system"})[2] == b"system\n"
    assert ask(store_process, "", method="HEAD", query="SELECT 1")[::2] == (200, b"")


def test_statuses_are_clickhouse_s(store_process: StoreProcess) -> None:
    cases = {
        "SELECT nope": 404,
        "SELEC": 400,
        "SELECT throwIf(1)": 500,
        "SELECT 1 FORMAT Nope": 404,
        "SELECT toDate('x')": 400,
        "": 400,
    }
    for sql, expected in cases.items():
        status, headers, body = ask(store_process, sql)
        assert (status, sql) == (expected, sql)
        assert body.decode().startswith(f"Code: {headers['x-clickhouse-exception-code']}. DB::Exception: ")


def test_what_it_does_not_do_is_said_politely(store_process: StoreProcess) -> None:
    assert ask(store_process, path="/play", method="GET")[0] == 404
    assert ask(store_process, method="PUT", query="SELECT 1")[0] == 501
    assert b"not allowed over HTTP" in ask(store_process, "SELECT 1 INTO OUTFILE 'x.csv'")[2]
    assert b"not allowed over HTTP" in ask(store_process, "INSERT INTO t FROM INFILE 'x.csv' FORMAT CSV")[2]
    assert b"Roles are not supported" in ask(store_process, "SELECT 1", role="admin")[2]
    assert b"Unknown compression method 'br'" in ask(store_process, b"x", headers={"Content-Encoding": "br"})[2]


@pytest.mark.parametrize(
    "format_name",
    ["TabSeparated", "TabSeparatedWithNames", "TSVWithNamesAndTypes", "CSV", "CSVWithNames", "CSVWithNamesAndTypes", "JSONEachRow",
     "JSONCompactEachRowWithNamesAndTypes", "RowBinary", "Native", "JSON", "JSONCompact", "Values", "XML", "RowBinaryWithNamesAndTypes"],
)  # fmt: skip
def test_a_streamed_result_is_one_document(store_process: StoreProcess, format_name: str) -> None:
    columns = "number, concat('a\"\\n', toString(number)) AS `we\"ird\nname`"
    # one block makes one document whichever way it goes; small blocks must make the same one
    sql = f"SELECT {columns} FROM numbers(50000) FORMAT {format_name}"
    whole = ask(store_process, sql, max_block_size=100_000, max_threads=1)[2]
    pieces = ask(store_process, sql, max_block_size=1_000, max_threads=1)[2]

    if format_name == "Native":
        found = [pa.array(_native_column(document)) for document in (whole, pieces)]
        assert found[0].equals(found[1])
    elif format_name in ("JSON", "JSONCompact", "XML"):
        assert _without_statistics(pieces) == _without_statistics(whole)
    else:
        assert pieces == whole


def _native_column(document: bytes) -> list[int]:
    return [number for block in _blocks(document, 0) for number in block.get_column_by_index(0)]


def _without_statistics(document: bytes) -> bytes:
    return document.split(b'"statistics"')[0].split(b"<statistics>")[0]


def test_arrow_and_parquet_are_whole_files(store_process: StoreProcess) -> None:
    sql = "SELECT number, toString(number) AS s FROM numbers(300000) FORMAT "
    stream = pa.ipc.open_stream(ask(store_process, sql + "ArrowStream")[2]).read_all()
    file = pa.ipc.open_file(ask(store_process, sql + "Arrow")[2]).read_all()
    parquet = pq.read_table(io.BytesIO(ask(store_process, sql + "Parquet")[2]))

    expected = list(range(300_000))
    for table in (stream, file, parquet):
        assert table.column("number").to_pylist() == expected
    assert stream.schema.field("s").type == pa.string()
    empty = pa.ipc.open_stream(ask(store_process, "SELECT 1 AS a, 'x' AS b WHERE 0 FORMAT ArrowStream")[2]).read_all()
    assert empty.schema.names == ["a", "b"]


def test_dictionaries_survive_streaming(store_process: StoreProcess) -> None:
    sql = "SELECT CAST(toString(number % 7 + intDiv(number, 30000)), 'LowCardinality(String)') AS s FROM numbers(200000) FORMAT ArrowStream"
    body = ask(store_process, sql, output_format_arrow_low_cardinality_as_dictionary=1)[2]

    table = pa.ipc.open_stream(body).read_all()

    assert pa.types.is_dictionary(table.schema.field("s").type)
    assert table.column("s").cast(pa.string()).to_pylist() == [str(n % 7 + n // 30_000) for n in range(200_000)]


def test_inserts_of_every_shape(store_process: StoreProcess, store: Store) -> None:
    database = store.name.rsplit("/", 1)[1]
    store.command("CREATE TABLE t (a Int64, b String DEFAULT 'd') ENGINE = Memory")
    table = pa.table({"a": [7]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    arrow = sink.getvalue().to_pybytes()
    cases: list[tuple[bytes | str, dict[str, str], dict[str, object]]] = [
        ("INSERT INTO t VALUES (1, 'x;y\n FORMAT CSV'), (2, 'b')", {}, {}),
        (b"INSERT INTO t FORMAT TSV\n3\tc\n", {}, {}),
        (b"4,d\n", {}, {"query": "INSERT INTO t FORMAT CSV"}),
        (b'{"a": 5}', {}, {"query": "INSERT INTO t (a) SETTINGS max_insert_block_size = 10 FORMAT JSONEachRow"}),
        ("INSERT INTO t SELECT 6, 'f'", {}, {}),
        (b"insert into t (a) format ArrowStream\n" + arrow, {}, {}),
        (gzip.compress(b"8\th\n"), {"Content-Encoding": "gzip"}, {"query": "INSERT INTO t FORMAT TSV"}),
        (zstd.compress(b"9\ti\n"), {"Content-Encoding": "zstd"}, {"query": "INSERT INTO t FORMAT TSV"}),
        (lz4.frame.compress(b"INSERT INTO t FORMAT TSV\n10\tj\n"), {"Content-Encoding": "lz4"}, {}),
        (zlib.compress(b"11\tk\n"), {"Content-Encoding": "deflate"}, {"query": "INSERT INTO t FORMAT TSV"}),
        ("INSERT INTO t VALUES ({n:Int64}, {s:String})", {}, {"param_n": 12, "param_s": "l"}),
        ("/* INSERT */ INSERT INTO `t` (`a`, \"b\") -- FORMAT CSV\n FORMAT  TSV \r\n13\tm\n", {}, {}),
    ]  # fmt: skip
    for body, headers, parameters in cases:
        status, _, answer = ask(store_process, body, headers=headers, database=database, **parameters)
        assert (status, answer) == (200, b""), (body, answer)

    expected = [
        (i, v)
        for i, v in enumerate(["x;y\n FORMAT CSV", "b", "c", "d", "d", "f", "d", "h", "i", "j", "k", "l", "m"], start=1)
    ]
    assert store.query_rows("SELECT a, b FROM t ORDER BY a") == expected


def test_a_bad_insert_leaves_nothing_behind(store_process: StoreProcess, store: Store) -> None:
    database = store.name.rsplit("/", 1)[1]
    store.command("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a")
    good = b"".join(b"%d\n" % i for i in range(1000))
    cases = [
        (good + b"nope\n", {}),
        (gzip.compress(good)[:-9], {"Content-Encoding": "gzip"}),
        (b"\x00\x01" + gzip.compress(good), {"Content-Encoding": "gzip"}),
    ]
    for body, headers in cases:
        status, _, answer = ask(
            store_process, body, headers=headers, query="INSERT INTO t FORMAT TSV", database=database
        )
        assert status == 400, answer

    assert store.query_rows("SELECT count() FROM t") == [(0,)]
    assert ask(store_process, good, query="INSERT INTO t FORMAT TSV", database=database)[0] == 200
    assert store.query_rows("SELECT count() FROM t") == [(1000,)]


def test_a_client_that_goes_away_stops_its_query(store_process: StoreProcess, store: Store) -> None:
    marker = "SELECT sum(sleepEachRow(0.01)) FROM numbers(100000) SETTINGS max_block_size = 10"
    connection = http.client.HTTPConnection(store_process.host, store_process.port, timeout=60)
    connection.request("POST", "/", body=marker)
    running = "SELECT count() FROM system.processes WHERE startsWith(query, {q:String})"
    wait_equal(lambda: store.query_rows(running, {"q": marker[:40]}), [(1,)], "the query to run")

    connection.close()

    wait_equal(lambda: store.query_rows(running, {"q": marker[:40]}), [(0,)], "the query to end")


def test_a_client_that_goes_away_stops_nobody_elses_query(store_process: StoreProcess, store: Store) -> None:
    """Nor that of whom its thread serves next: statements are stopped by the number of their request."""
    slow = "SELECT 'slow', sum(sleepEachRow(0.002)) FROM numbers(1000) SETTINGS max_block_size = 10"
    answers: list[list[tuple[Any, ...]]] = []
    others = [threading.Thread(target=lambda: answers.append(store.query_rows(slow))) for _ in range(3)]
    for other in others:
        other.start()
    running = "SELECT count() FROM system.processes WHERE startsWith(query, {q:String})"
    wait_equal(lambda: store.query_rows(running, {"q": slow[:14]}), [(3,)], "three queries to run")
    numbers = store.query_rows(
        "SELECT uniqExact(Settings['log_comment']) FROM system.processes WHERE startsWith(query, {q:String})",
        {"q": slow[:14]},
    )
    assert numbers == [(3,)]

    for _ in range(60):  # quick ones, that have often ended when it is noticed that nobody waits for them
        connection = http.client.HTTPConnection(store_process.host, store_process.port, timeout=60)
        connection.request("POST", "/", body="SELECT count() FROM numbers(100000)")
        connection.close()
        assert store.query_rows("SELECT number FROM numbers(3)") == [(0,), (1,), (2,)]

    for other in others:
        other.join(60)
    assert answers == [[("slow", 0)]] * 3


# ---- ClickHouse's own blocks, read by a driver that is not ours ----------------------------------------------------

_DRIVER_SETTINGS = {
    "strings_as_bytes": False, "strings_encoding": "utf-8", "use_numpy": False, "namedtuple_as_json": False,
    "opentelemetry_traceparent": None, "opentelemetry_tracestate": "", "quota_key": "", "input_format_null_as_default": False,
    "round_robin": False, "server_side_params": False,
}  # fmt: skip


class _Bytes(BufferedReader):
    """The driver's reader over bytes instead of a socket."""

    def __init__(self, data: bytes) -> None:
        super().__init__(len(data))
        self.buffer = bytearray(data)
        self.current_buffer_size = len(data)

    def read_into_buffer(self) -> None:
        raise EOFError


def _blocks(body: bytes, revision: int) -> Iterator[Any]:
    """Read blocks as clickhouse-driver does; what it cannot make sense of raises there, or leaves rows missing."""
    server = SimpleNamespace(used_revision=revision, get_timezone=lambda: "UTC")
    context = SimpleNamespace(server_info=server, client_settings=_DRIVER_SETTINGS, settings={})
    source = _Bytes(body)
    while True:
        try:
            block = BlockInputStream(source, context).read()
        except EOFError:
            return
        yield block


@pytest.mark.parametrize("revision", [54_405, 54_454, 54_467])
def test_native_blocks_of_newer_revisions(store_process: StoreProcess, store: Store, revision: int) -> None:
    database = store.name.rsplit("/", 1)[1]
    columns = {name: entry for name, entry in COLUMNS.items() if name not in ("d32", "u256")}
    store.command(
        f"CREATE TABLE t ({', '.join(f'{name} {kind}' for name, (kind, _) in columns.items())}) ENGINE = Memory"
    )
    client = clickhouse_connect.get_client(
        host=store_process.host, port=store_process.port, password=store_process.key, database=database
    )
    client.insert("t", [[values[i] for _, values in columns.values()] for i in range(2)], column_names=list(columns))
    sql = "SELECT t.*, map('a', ['x'::LowCardinality(String)]) AS mlc, (1, 'x')::Tuple(a UInt8, `b c` String) AS named, number FROM t, numbers(3000) AS n"

    body = ask(
        store_process,
        sql,
        database=database,
        default_format="Native",
        client_protocol_version=revision,
        max_block_size=1000,
    )[2]

    found: dict[str, list[Any]] = {}
    for block in _blocks(body, revision):
        for (name, _), values in zip(block.columns_with_types, block.data, strict=True):
            found.setdefault(name.rsplit(".")[-1], []).extend(values)
    expected = client.query(sql, query_tz="UTC")
    plain = dict(zip(expected.column_names, zip(*expected.result_rows, strict=True), strict=True))
    for name in ("i64", "s", "n", "lc", "lcn", "arr", "arr2", "tup", "alc", "number", "f64", "e", "b"):
        assert sorted(map(repr, found[name])) == sorted(map(repr, plain[name])), name


def test_compressed_blocks_both_ways(store_process: StoreProcess, store: Store) -> None:
    database = store.name.rsplit("/", 1)[1]
    body = ask(
        store_process, "SELECT number, toString(number) AS s FROM numbers(300000)", default_format="Native", compress=1
    )[2]

    context = SimpleNamespace(
        server_info=SimpleNamespace(used_revision=0), client_settings=_DRIVER_SETTINGS, settings={}
    )
    stream = CompressedBlockInputStream(_Bytes(body), context)
    numbers: list[int] = []
    while len(numbers) < 300_000:
        numbers.extend(stream.read().get_column_by_index(0))
    assert numbers == list(range(300_000))

    store.command("CREATE TABLE t (number UInt64, s String) ENGINE = MergeTree ORDER BY number")
    query = "INSERT INTO t FORMAT Native"
    assert ask(store_process, body, query=query, decompress=1, database=database)[0] == 200
    assert store.query_rows("SELECT count(), sum(number) FROM t") == [(300_000, sum(range(300_000)))]
    broken = bytearray(body)
    broken[40] ^= 1
    status, headers, answer = ask(store_process, bytes(broken), query=query, decompress=1, database=database)
    assert (status, headers["x-clickhouse-exception-code"]) == (500, "40"), answer


# ---- who may do what -----------------------------------------------------------------------------------------------


def test_without_the_key_only_reading(store_process: StoreProcess, store: Store) -> None:
    store.command("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a")
    database = store.name.rsplit("/", 1)[1]
    refused = [
        "INSERT INTO t VALUES (1)", "CREATE TABLE u (a Int8) ENGINE = Memory", "DROP TABLE t", "ALTER TABLE t ADD COLUMN b Int8", "TRUNCATE t",
        "SET readonly = 0", "SET ROLE fqlstream_writer", "SYSTEM FLUSH LOGS", "KILL QUERY WHERE 1", "CREATE TEMPORARY TABLE x (a Int8)",
        "SELECT * FROM file('/etc/passwd')", "SELECT * FROM `/etc/passwd`", "DESCRIBE '/etc/passwd'", "SELECT file('/etc/passwd')",
        "SELECT * APPLY(file) FROM (SELECT '/etc/passwd')", "SELECT arrayMap(file, ['/etc/passwd'])", "SELECT `fi\\x6ce`('/etc/passwd')",
        "SHOW TABLES WHERE file('/etc/passwd') != ''", "EXPLAIN SELECT file('/etc/passwd')", "WITH file AS f SELECT f('/etc/passwd')",
        "SELECT * FROM url('http://127.0.0.1:1/')", "SELECT * FROM remote('127.0.0.1:1', system.one)", "SELECT * FROM executable('x', 'TSV', 'a Int8')",
        "SELECT * FROM Python(key)", "SELECT * FROM loop(file('/etc/passwd'))", "SELECT * FROM view(SELECT * FROM file('/etc/passwd'))",
        "SELECT 1 SETTINGS additional_result_filter = '1'", "SELECT 1 FORMAT Template SETTINGS format_template_row = '/etc/passwd'",
        "SELECT 1 FORMAT Protobuf SETTINGS format_schema = '/etc/passwd:x'", "SELECT 1 INTO OUTFILE 'x.csv'", "INSERT INTO FUNCTION file('x.csv') SELECT 1",
        "SELECT 1; DROP TABLE t", "BACKUP TABLE t TO File('x')", "EXECUTE AS default SELECT 1", "CREATE FUNCTION f AS x -> x",
        "SELECT sleep(0) SETTINGS readonly = 0",
    ]  # fmt: skip
    for sql in refused:
        status, _, answer = ask(store_process, sql, key=False, database=database)
        assert status >= 400, (sql, answer)
        assert b"root:" not in answer
    smuggled = [
        ("SELECT /*" + "x" * 300_000 + "*/ file('/etc/passwd')", {"max_query_size": 10**9}),
        ("SELECT arrayMap({f:Identifier}, ['/etc/passwd'])", {"param_f": "file"}),
        ("SELECT * APPLY {f:Identifier} FROM (SELECT '/etc/passwd')", {"param_f": "fi\\x6ce"}),
        ("file('/etc/passwd')", {"implicit_select": 1}),
        ("SELECT 1 WHERE " + "(" * 2000 + "file('/etc/passwd') = ''" + ")" * 2000, {"max_parser_depth": 10**6}),
    ]
    for sql, parameters in smuggled:
        status, _, answer = ask(store_process, sql, key=False, database=database, **parameters)
        assert (status >= 400, b"root:" in answer) == (True, False), (sql[:80], answer[:300])
    assert ask(store_process, "SELECT '" + "x" * (5 << 20) + "'", key=False, max_query_size=10**9)[0] == 413
    status, headers, answer = ask(store_process, "SELEC 1", key=False)
    assert (status, headers["x-clickhouse-exception-code"], b"formatQuery" in answer) == (400, "62", False)
    assert ask(store_process, "SELECT 1", key=False, readonly=0)[0] == 500
    assert ask(store_process, "SELECT 1", key=False, dialect="kusto")[0] == 500
    for sql in (
        "SELECT count() FROM t",
        "SHOW TABLES",
        "DESCRIBE t",
        "EXPLAIN SELECT 1",
        "SELECT name FROM system.tables",
        "EXISTS TABLE t",
        "WITH 1 AS a SELECT a",
    ):
        assert ask(store_process, sql, key=False, database=database)[0] == 200, sql
    assert ask(store_process, "SELECT 1", key=False, max_threads=1, max_execution_time=5)[0] == 200


def test_a_column_may_be_called_file(store_process: StoreProcess, store: Store) -> None:
    store.command("CREATE TABLE t (file String, c String) ENGINE = Memory")
    database = store.name.rsplit("/", 1)[1]

    assert ask(store_process, "SELECT t.file, 'file(x)' FROM t", key=False, database=database)[0] == 200
    status, _, answer = ask(store_process, "SELECT file FROM t", key=False, database=database)
    assert (status, b"write table.file" in answer) == (403, True)
    assert ask(store_process, "SELECT file FROM t", database=database)[0] == 200


def test_get_only_reads(store_process: StoreProcess) -> None:
    status, headers, _ = ask(store_process, method="GET", query="CREATE TABLE x (a Int8) ENGINE = Memory")

    assert (status, headers["x-clickhouse-exception-code"]) == (500, "164")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic " + base64.b64encode(b"default:{key}").decode()},
        {"Authorization": "Bearer {key}"},
        {"X-ClickHouse-Key": "{key}"},
        {"X-ClickHouse-User": "default", "X-ClickHouse-Key": "{key}"},
    ],
)
def test_the_key_opens_writing(store_process: StoreProcess, headers: dict[str, str]) -> None:
    def filled(value: str) -> str:
        if value.startswith("Basic "):
            return "Basic " + base64.b64encode(f"default:{store_process.key}".encode()).decode()
        return value.format(key=store_process.key)

    own = {name: filled(value) for name, value in headers.items()}
    wrong = {name: value.replace(store_process.key, "wrong") for name, value in own.items()}
    if own.get("Authorization", "").startswith("Basic "):
        wrong = {"Authorization": "Basic " + base64.b64encode(b"default:wrong").decode()}

    assert ask(store_process, "SYSTEM FLUSH LOGS", key=False, headers=own)[0] == 200
    status, answer_headers, answer = ask(store_process, "SELECT 1", key=False, headers=wrong)
    assert (status, answer_headers["x-clickhouse-exception-code"]) == (403, "516")
    assert store_process.key.encode() not in answer


def test_the_key_in_the_address(store_process: StoreProcess) -> None:
    assert ask(store_process, "SYSTEM FLUSH LOGS", key=False, user="default", password=store_process.key)[0] == 200
    assert ask(store_process, "SELECT 1", key=False, user="someone")[0] == 403


def test_what_a_browser_was_talked_into_is_refused(store_process: StoreProcess) -> None:
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example:8123"},
        {"Host": "127.0.0.1.evil.example"},
    ):
        status, _, answer = ask(store_process, "SELECT 1", key=False, headers=headers)
        assert (status, b"web page" in answer) == (403, True), headers
        assert ask(store_process, "SELECT 1", headers=headers)[0] == 200
    for host in ("localhost", "127.0.0.1:9", "[::1]:8123"):
        assert ask(store_process, "SELECT 1", key=False, headers={"Host": host})[0] == 200


def test_the_key_is_its_owner_s_file(store_process: StoreProcess) -> None:
    assert (store_process.data / "store.key").stat().st_mode & 0o777 == 0o600
    assert len(store_process.key) >= 32


def test_headers_cannot_be_smuggled_in(store_process: StoreProcess) -> None:
    _, headers, _ = ask(store_process, "SELECT 1", query_id="a\r\nX-Evil: 1")

    assert "x-evil" not in headers


def test_numbers_equal_numpy(client: Any) -> None:
    random = np.random.default_rng(5)
    values = random.normal(size=20_000)
    client.command("CREATE TABLE t (x Float64) ENGINE = Memory")
    client.insert_arrow("t", pa.table({"x": values}))

    assert client.query("SELECT groupArray(x) FROM t").result_rows[0][0] == values.tolist()
