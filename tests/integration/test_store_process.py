"""The embedded store as a process: it owns its directory, loses nothing, and ends when it should."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from tests.store_process import StoreProcess
from tests.waiting import wait_equal, wait_until

from fqlstream.errors import StoreError
from fqlstream.store.client import Store

ROWS = 500


@pytest.fixture
def process(tmp_path: Path) -> Iterator[StoreProcess]:
    process = StoreProcess.start(tmp_path)
    yield process
    if process.process.poll() is None:
        process.stop()


def write_until_it_breaks(store: Store, who: int, acknowledged: list[tuple[int, int]]) -> None:
    for number in range(10_000):
        ids = [number * ROWS + i for i in range(ROWS)]
        try:
            store.insert_arrow(
                "t", pa.table({"who": pa.array([who] * ROWS, pa.int32()), "id": ids, "text": ["x" * 50] * ROWS})
            )
        except StoreError:
            return
        acknowledged.append((who, number))


def kill_amid_writes(
    process: StoreProcess, stores: Sequence[Store], first_writer: int, acknowledged: list[tuple[int, int]]
) -> None:
    """Let every client write on its own thread, and kill the store once thirty more batches were acknowledged."""
    writers = [
        threading.Thread(target=write_until_it_breaks, args=(store, first_writer + number, acknowledged))
        for number, store in enumerate(stores)
    ]
    goal = len(acknowledged) + 30
    for writer in writers:
        writer.start()
    wait_until(lambda: len(acknowledged) >= goal, "thirty more batches", saw=lambda: len(acknowledged))
    process.kill()
    for writer in writers:
        writer.join(60)
    for store in stores:
        store.close()


def test_a_killed_store_keeps_what_it_acknowledged(process: StoreProcess, tmp_path: Path) -> None:
    acknowledged: list[tuple[int, int]] = []
    stores = [process.connect() for _ in range(4)]
    stores[0].command(
        "CREATE TABLE t (who Int32, id Int64, text String) ENGINE = ReplacingMergeTree ORDER BY (who, id)"
    )
    for round_number in range(3):
        kill_amid_writes(process, stores, 10 * round_number, acknowledged)
        process = StoreProcess.start(tmp_path)
        stores = [process.connect() for _ in range(4)]
        found = stores[0].query_rows(f"SELECT who, intDiv(id, {ROWS}) AS n, uniqExact(id) FROM t GROUP BY who, n")
        whole = {(who, number) for who, number, count in found if count == ROWS}
        assert set(acknowledged) <= whole
        # a batch that was not acknowledged is there as a whole or not at all
        assert all(count == ROWS for _, _, count in found)
    for store in stores:
        store.close()
    assert process.stop() == 0


def test_a_directory_has_one_owner(process: StoreProcess, tmp_path: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "fqlstream.store.embedded", "--data", str(tmp_path), "--port", "0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert second.returncode == 2
    assert "STO010" in second.stderr
    assert str(process.process.pid) in second.stderr
    assert process.connect().ping()


def test_it_goes_on_where_it_ended(process: StoreProcess, tmp_path: Path) -> None:
    with process.connect() as store:
        store.command("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a")
        store.insert_arrow("t", pa.table({"a": [1, 2, 3]}))
    assert process.stop() == 0

    again = StoreProcess.start(tmp_path)
    assert again.key == process.key
    with again.connect() as store:
        assert store.query_rows("SELECT sum(a) FROM t") == [(6,)]
    assert again.stop() == 0


def test_sigterm_ends_it_in_time_whatever_runs(process: StoreProcess) -> None:
    idle = http.client.HTTPConnection(process.host, process.port)
    idle.request("GET", "/ping")
    idle.getresponse().read()
    busy = http.client.HTTPConnection(process.host, process.port, timeout=60)
    busy.request("POST", "/", body="SELECT sum(sleepEachRow(1)) FROM numbers(600) SETTINGS max_block_size = 1")
    slow = http.client.HTTPConnection(process.host, process.port, timeout=60)
    slow.request("POST", "/", body="SELECT number, repeat('x', 1000) FROM numbers(100000000)")
    slow.getresponse().read(100)
    with process.connect() as store:
        running = "SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow(1)%'"
        wait_until(lambda: store.query_rows(running)[0][0] >= 1, "the slow query to run")

    start = time.monotonic()
    code = process.stop()

    assert (code, time.monotonic() - start < 10) == (0, True)
    for connection in (idle, busy, slow):
        connection.close()


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'fqlstream.store.embedded', '--data', sys.argv[1], '--port', '0', '--with-parent'],"
        " stdout=subprocess.PIPE, text=True)\n"
        "print(child.pid, child.stdout.readline(), flush=True)\n"
        "child.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child, line = parent.stdout.readline().split(" ", 1)
    assert json.loads(line)["url"].startswith("http://127.0.0.1:")

    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    parent.stdout.close()

    wait_until(lambda: not _lives(int(child)), "the end of the store whose parent is dead", 15)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state != "Z"


def test_parts_are_merged_and_old_rows_removed_behind_the_statements(process: StoreProcess) -> None:
    with process.connect() as store:
        store.command("CREATE TABLE t (a Int64, v Int64) ENGINE = ReplacingMergeTree(v) ORDER BY a")
        for v in range(40):
            store.insert_arrow("t", pa.table({"a": [1, 2], "v": [v, v]}))
        store.command(
            "CREATE TABLE old (a Int64, at DateTime) ENGINE = MergeTree ORDER BY a TTL at + INTERVAL 1 SECOND "
            "SETTINGS merge_with_ttl_timeout = 0"
        )
        store.command("INSERT INTO old SELECT number, now() FROM numbers(100)")

        parts = "SELECT count() FROM system.parts WHERE table = 't' AND active"
        wait_until(lambda: store.query_rows(parts)[0][0] < 20, "parts to be merged", 60)
        wait_equal(lambda: store.query_rows("SELECT count() FROM old"), [(0,)], "rows that are too old to go", 60)
        assert store.query_rows("SELECT a, v FROM t FINAL ORDER BY a") == [(1, 39), (2, 39)]


def test_a_port_that_is_taken_is_said(process: StoreProcess, tmp_path: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "fqlstream.store.embedded", "--data", str(tmp_path / "other"), "--port", str(process.port)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (second.returncode, "STO012" in second.stderr) == (2, True)


def test_another_port_is_taken_where_none_was_asked_for(process: StoreProcess, tmp_path: Path) -> None:
    second = subprocess.Popen(
        [sys.executable, "-m", "fqlstream.store.embedded", "--data", str(tmp_path / "other"), "--with-parent"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "FQLSTREAM_STORE__PORT": str(process.port)},
    )  # fmt: skip
    assert second.stdout is not None
    url = json.loads(second.stdout.readline())["url"]
    second.terminate()

    assert (second.wait(15), url != process.url) == (0, True)
    second.stdout.close()


def test_inserts_may_be_written_through(tmp_path: Path) -> None:
    process = StoreProcess.start(tmp_path, environment={"FQLSTREAM_STORE__FSYNC": "true"})
    with process.connect() as store:
        found = dict(store.query_rows("SELECT name, value FROM system.merge_tree_settings WHERE name LIKE 'fsync%'"))
        assert found == {"fsync_after_insert": "1", "fsync_part_directory": "1"}
        store.command("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a")
        store.insert_arrow("t", pa.table({"a": [1]}))
    process.kill()
    again = StoreProcess.start(tmp_path)
    with again.connect() as store:
        assert store.query_rows("SELECT a FROM t") == [(1,)]
    again.stop()


def test_a_body_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    process = StoreProcess.start(tmp_path, environment={"FQLSTREAM_STORE__BODY_BYTES_MAX": str(2**20)})
    connection = http.client.HTTPConnection(process.host, process.port, timeout=60)
    try:
        connection.request(
            "POST", "/", body=b"SELECT '" + b"x" * (2**20) + b"'", headers={"X-ClickHouse-Key": process.key}
        )
        response = connection.getresponse()
        assert (response.status, b"FQLSTREAM_STORE__BODY_BYTES_MAX" in response.read()) == (413, True)
    finally:
        connection.close()
        process.stop()
