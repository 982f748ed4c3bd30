"""`fqlstream sql` and `fqlstream schema` against the real store."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tests.store_process import StoreProcess

from fqlstream.store import migrations
from fqlstream.store.client import Store


@pytest.fixture
def environment(store_process: StoreProcess, store: Store) -> dict[str, str]:
    database = store.name.rsplit("/", 1)[1]
    return {
        **os.environ,
        "FQLSTREAM_STORE__URL": f"{store_process.url}/{database}",
        "FQLSTREAM_STORE__PASSWORD": store_process.key,
    }


def run(environment: dict[str, str], *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "fqlstream.cli", *arguments], capture_output=True, env=environment, timeout=60, check=False,
        input=text.encode() if text is not None else None,
    )  # fmt: skip


def test_sql_writes_what_clickhouse_answers(environment: dict[str, str]) -> None:
    assert run(environment, "sql", "SELECT 1, 'ü'").stdout == "1\tü\n".encode()
    assert run(environment, "sql", "SELECT 1 AS a", "--format", "CSVWithNames").stdout == b'"a"\n1\n'
    assert run(environment, "sql", "SELECT 1 AS a FORMAT JSONEachRow", "--format", "CSV").stdout == b'{"a":1}\n'
    assert run(environment, "sql", "-", text="SELECT 2").stdout == b"2\n"


def test_sql_writes_too(environment: dict[str, str]) -> None:
    for sql in ("CREATE TABLE t (a Int64) ENGINE = Memory", "INSERT INTO t VALUES (1), (2)"):
        done = run(environment, "sql", sql)
        assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert run(environment, "sql", "SELECT sum(a) FROM t").stdout == b"3\n"


def test_sql_says_what_clickhouse_said(environment: dict[str, str]) -> None:
    done = run(environment, "sql", "SELECT nope")
    assert (done.returncode, b"Code: 47. DB::Exception" in done.stderr) == (1, True)
    late = run(environment, "sql", "SELECT throwIf(number = 2000000) FROM numbers(3000000)")
    assert (late.returncode, b"__exception__" in late.stdout) == (1, False)
    assert b"FUNCTION_THROW_IF_VALUE_IS_NON_ZERO" in late.stderr


def test_a_reader_that_has_seen_enough_is_no_error(environment: dict[str, str]) -> None:
    command = f"{sys.executable} -m fqlstream.cli sql 'SELECT number FROM numbers(3000000)' | head -n 2"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, env=environment, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == (b"0\n1\n", b"")


def test_schema_says_what_is_pending_and_applies_it(environment: dict[str, str], store: Store) -> None:
    assert run(environment, "schema", "status").returncode == 0
    store.command("TRUNCATE TABLE schema_migrations")
    names = [migration.name for migration in migrations.load()]

    status = run(environment, "schema", "status", "--json")
    assert (status.returncode, json.loads(status.stdout)) == (1, {"pending": names})
    applied = run(environment, "schema", "apply", "--json")
    assert (applied.returncode, json.loads(applied.stdout)) == (0, {"applied": names})
    again = run(environment, "schema", "apply")
    assert (again.returncode, b"nothing to apply" in again.stdout) == (0, True)
