from __future__ import annotations

import pytest

from fqlstream.store.embedded.statements import first_word, names, names_server_file, output_format, split_insert


@pytest.mark.parametrize(
    ("text", "sql", "format_name", "data"),
    [
        (b"INSERT INTO t FORMAT CSV\n1,2\n", b"INSERT INTO t \n", "CSV", b"1,2\n"),
        (b"insert into t format Native\r\n\x00\xff", b"insert into t \n", "Native", b"\x00\xff"),
        (b"INSERT INTO t FORMAT JSONEachRow {\"a\": 1}", b"INSERT INTO t \n", "JSONEachRow", b'{"a": 1}'),
        (b"INSERT INTO t (`FORMAT`, \"VALUES\") VALUES (1)", b"INSERT INTO t (`FORMAT`, \"VALUES\") \n", "Values", b" (1)"),
        (b"INSERT INTO format VALUES (1)", b"INSERT INTO format \n", "Values", b" (1)"),
        (b"INSERT INTO db.values (a) FORMAT TSV\n", b"INSERT INTO db.values (a) \n", "TSV", b""),
        (b"INSERT INTO TABLE t FORMAT TSV\n1", b"INSERT INTO TABLE t \n", "TSV", b"1"),
        (b"INSERT INTO FUNCTION null('a Int8') FORMAT TSV\n1", b"INSERT INTO FUNCTION null('a Int8') \n", "TSV", b"1"),
        (b"-- FORMAT X\nINSERT INTO t /* VALUES */ FORMAT TSV\n\n1", b"-- FORMAT X\nINSERT INTO t /* VALUES */ \n", "TSV", b"\n1"),
        (b"INSERT INTO t SETTINGS a = 'FORMAT CSV' FORMAT TSV\n1", b"INSERT INTO t SETTINGS a = 'FORMAT CSV' \n", "TSV", b"1"),
    ],
)  # fmt: skip
def test_the_data_of_an_insert_is_found(text: bytes, sql: bytes, format_name: str, data: bytes) -> None:
    found = split_insert(text)
    assert found is not None
    assert (found.sql, found.format, text[found.data_start :]) == (sql, format_name, data)


@pytest.mark.parametrize(
    "text",
    [b"SELECT 'INSERT INTO t FORMAT CSV'", b"INSERT INTO t SELECT 1 FORMAT CSV", b"INSERT INTO t WITH 1 AS a SELECT a", b"INSERT INTO t",
     b"INSERT INTO t FROM INFILE 'x' FORMAT CSV", b"", b"-- INSERT INTO t FORMAT CSV", b"INSERT INTO t (a, b) 'FORMAT CSV'"],
)  # fmt: skip
def test_what_has_no_data_of_its_own_is_left_alone(text: bytes) -> None:
    assert split_insert(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"SELECT 1 FORMAT CSV", "CSV"), (b"SELECT 1 format Native;", "Native"), (b"SELECT 1 FORMAT CSV SETTINGS max_threads = 1", "CSV"),
        (b"SELECT 1\nFORMAT JSON -- FORMAT CSV", "JSON"), (b"SELECT 1 FORMAT TSV /* x */ ; ", "TSV"), (b"SELECT 1", None),
        (b"SELECT 'FORMAT CSV'", None), (b"SELECT format('{}', 1)", None), (b"SELECT 1 AS format FROM t", None),
        (b"SELECT * FROM (SELECT 1 FORMAT CSV)", None), (b"SHOW TABLES FORMAT Vertical", "Vertical"), (b"SELECT `FORMAT` CSV", None),
    ],
)  # fmt: skip
def test_the_format_of_a_result_is_its_trailing_clause(text: bytes, expected: str | None) -> None:
    assert output_format(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"SELECT 1 INTO OUTFILE 'x'", True), (b"INSERT INTO t FROM INFILE 'x'", True), (b"SELECT 1 into /* */ outfile 'x'", True),
     (b"SELECT 'INTO OUTFILE'", False), (b"SELECT outfile FROM infile_t", False)],
)  # fmt: skip
def test_files_beside_the_server_are_noticed(text: bytes, expected: bool) -> None:
    assert names_server_file(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"SELECT file('x')", True), (b"SELECT FILE ('x')", True), (b"SELECT * APPLY(file)", True), (b"SELECT arrayMap(file, ['x'])", True),
        (b"SELECT `file`('x')", True), (b"SELECT t.file FROM t", False), (b"SELECT 'file(x)'", False), (b"SELECT files, myfile()", False),
    ],
)  # fmt: skip
def test_a_name_is_found_where_it_is_not_somebody_s(text: bytes, expected: bool) -> None:
    assert names(text, b"file") is expected


def test_the_first_word() -> None:
    assert first_word(b" /* x */ -- y\n (select 1)") == b"SELECT"
    assert first_word(b"") == b""
