"""ClickHouse goes away, gets slow, read-only, full, answers nonsense, dies in the middle: nothing is lost, nothing twice, no fuss."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from tests import misbehaving_store as store_that
from tests.integration.test_crash import TOPIC, go, lag
from tests.integration.troubled import Troubled, Worker
from tests.misbehaving_store import Behaviour, MisbehavingStore
from tests.store_process import StoreProcess
from tests.waiting import wait_until

from fqlstream.errors import StoreError
from fqlstream.settings import StoreSettings
from fqlstream.store.client import Store
from fqlstream.store.error_codes import ERROR_CODES

EVENTS = 2_000


# -- one call, one trouble -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxy(store_process: StoreProcess) -> Iterator[MisbehavingStore]:
    proxy = MisbehavingStore((store_process.host, store_process.port))
    proxy.start()
    with store_process.connect() as admin:
        admin.command("CREATE TABLE trouble (a Int64) ENGINE = MergeTree ORDER BY a")
        yield proxy
        admin.command("DROP TABLE trouble")
    proxy.stop()


ROWS = pa.table({"a": pa.array(range(1_000), pa.int64())})
CALLS: dict[str, Callable[[Store], object]] = {
    "arrow": lambda store: store.query_arrow("SELECT number FROM numbers(300000)"),
    "stream": lambda store: list(store.stream_arrow("SELECT number FROM numbers(300000)")),
    "rows": lambda store: store.query_rows("SELECT number FROM numbers(1000)"),
    "insert": lambda store: store.insert_arrow("trouble", ROWS),
    "command": lambda store: store.command("ALTER TABLE trouble COMMENT COLUMN a 'b'"),
}
ALL = tuple(CALLS)
ARROW = ("arrow", "stream")
READS = (*ARROW, "rows")


@pytest.mark.parametrize(
    ("behaviour", "calls", "code", "said"),
    [
        (store_that.page(200), ("arrow", "insert", "command"), "STO006", "is a proxy or a login page between"),
        (store_that.page(200), ("rows",), None, "<html>"),
        (store_that.page(200), ("stream",), None, "broke off"),
        (store_that.page(502), ALL, "STO006", "is a proxy or a login page between"),
        (store_that.broken_off, READS, "STO001", ""),
        (store_that.shortened, ("arrow",), "STO006", "no whole answer"),
        (store_that.shortened, ("stream",), None, ""),
        (store_that.cut_between_batches, ARROW, "STO006", "no whole answer"),
        (store_that.shortened, ("rows",), None, ""),
        (store_that.failing_late, ARROW, "STO002", "memory limit exceeded"),
        (store_that.failing_in_a_header, ALL, "STO002", "fewer or cheaper queries"),
        (store_that.cut_before, ALL, "STO001", "does not answer"),
        (store_that.READ_ONLY, ALL, "STO002", "allow writes"),
        (store_that.TABLE_READ_ONLY, ALL, "STO002", "allow writes"),
        (store_that.DISK_FULL, ALL, "STO002", "free space on ClickHouse's disk"),
    ],
)
def test_whatever_is_no_answer_is_an_error_that_may_pass_and_says_what_to_do(
    store_process: StoreProcess,
    proxy: MisbehavingStore,
    behaviour: Behaviour,
    calls: tuple[str, ...],
    code: str | None,
    said: str,
) -> None:
    with Store.connect(StoreSettings(), url=f"{proxy.url}/default", key=store_process.key) as store:
        for name in calls:
            with proxy.behaving(behaviour), pytest.raises(StoreError) as caught:
                CALLS[name](store)
            assert caught.value.retryable, name
            assert code is None or caught.value.code == code, (name, str(caught.value))
            assert said in str(caught.value), (name, str(caught.value))
            CALLS[name](store)


def test_a_wrong_key_does_not_pass(store_process: StoreProcess, proxy: MisbehavingStore) -> None:
    with Store.connect(StoreSettings(), url=f"{proxy.url}/default", key=store_process.key) as store:
        refused = store_that.refusing(516, "AUTHENTICATION_FAILED", "default: Authentication failed")
        with proxy.behaving(refused), pytest.raises(StoreError) as caught:
            store.query_arrow("SELECT 1")
    assert (caught.value.code, caught.value.retryable) == ("STO003", False)


def test_the_table_of_errors_calls_them_as_clickhouse_does(store_process: StoreProcess) -> None:
    with store_process.connect() as store:
        codes = [row.code for row in ERROR_CODES]
        assert len(set(codes)) == len(codes)
        names = store.query_rows(f"SELECT errorCodeToName(arrayJoin({codes}))")
    assert [name for (name,) in names] == [row.name for row in ERROR_CODES]


def test_an_insert_that_fails_while_it_is_written_is_not_acknowledged(store_process: StoreProcess) -> None:
    """chDB itself gives a result with rows: of a full disk, of a limit of memory, of a constraint."""
    with store_process.connect() as store:
        store.command("CREATE TABLE narrow (a Int64, CONSTRAINT low CHECK a < 10) ENGINE = MergeTree ORDER BY a")
        try:
            for _ in range(3):
                with pytest.raises(StoreError, match="VIOLATED_CONSTRAINT") as caught:
                    store.insert_arrow("narrow", pa.table({"a": pa.array([5, 50], pa.int64())}))
                assert not caught.value.retryable
                store.insert_arrow("narrow", pa.table({"a": pa.array([1], pa.int64())}))
            assert store.query_rows("SELECT count() FROM narrow") == [(3,)]
        finally:
            store.command("DROP TABLE narrow")


def test_an_insert_is_not_refused_for_what_another_one_did(store_process: StoreProcess) -> None:
    """chDB does not say which of them has failed; what is unknown is sent again, and what ran alone is told as it is."""
    row, bad = (pa.table({"a": pa.array([a], pa.int64())}) for a in (1, 50))
    with store_process.connect() as store:
        store.command("CREATE TABLE narrow2 (a Int64, CONSTRAINT low CHECK a < 10) ENGINE = MergeTree ORDER BY a")
        ours = http.client.HTTPConnection(store_process.host, store_process.port, timeout=60)
        try:
            ours.putrequest("POST", "/?query=INSERT+INTO+narrow2+FORMAT+TSV")
            ours.putheader("X-ClickHouse-Key", store_process.key)
            ours.putheader("Transfer-Encoding", "chunked")
            ours.endheaders()
            begun = b"1\n" * (5 * 2**19)  # more than is waited for before an INSERT begins
            ours.send(b"%x\r\n%b\r\n" % (len(begun), begun))
            running = "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO narrow2%'"
            wait_until(lambda: store.query_rows(running) == [(1,)], "our INSERT has begun", 30)
            with pytest.raises(StoreError, match="VIOLATED_CONSTRAINT") as theirs:
                store.insert_arrow("narrow2", bad)
            ours.send(b"0\r\n\r\n")
            answer = ours.getresponse()
            assert answer.headers["X-ClickHouse-Exception-Code"] == "319", answer.read()
            assert theirs.value.retryable, "it may have been ours"
            with pytest.raises(StoreError, match="VIOLATED_CONSTRAINT") as alone:
                store.insert_arrow("narrow2", bad)
            assert not alone.value.retryable
            with pytest.raises(StoreError, match="UNKNOWN_TABLE"):
                store.insert_arrow("no_such_table", row)
            with pytest.raises(StoreError, match="VIOLATED_CONSTRAINT"):
                store.command("INSERT INTO narrow2 SELECT 50")
            store.insert_arrow("narrow2", row)
        finally:
            ours.close()
            store.command("DROP TABLE narrow2")


# -- a worker and its store ----------------------------------------------------------------------------------------------

#: What the store does for a while, and what the log says of it: the error, then what to do.
TROUBLES: tuple[tuple[Behaviour, tuple[str, ...]], ...] = (
    (store_that.READ_ONLY, ("READONLY", "allow writes")),
    (store_that.of_inserts(store_that.TABLE_READ_ONLY), ("TABLE_IS_READ_ONLY", "allow writes")),
    (store_that.of_inserts(store_that.DISK_FULL), ("NOT_ENOUGH_SPACE", "free space on ClickHouse's disk")),
    (store_that.of_inserts(store_that.cut_before), ("STO001", "check that it runs")),
    (store_that.of_inserts(store_that.cut_after), ("STO001", "check that it runs")),
    (store_that.of_inserts(store_that.page(200)), ("STO006", "is a proxy or a login page between")),
    (store_that.page(503), ("trying again",)),
    (store_that.of_reads(store_that.shortened), ("trying again",)),
    (store_that.of_reads(store_that.failing_late), ("MEMORY_LIMIT_EXCEEDED", "fewer or cheaper queries")),
    (store_that.failing_in_a_header, ("STO002", "fewer or cheaper queries")),
    (store_that.silent, ("STO001", "timed out")),
)


def said_since(worker: Worker, before: int, texts: tuple[str, ...]) -> Callable[[], bool]:
    """Whether one line after so many characters holds all texts."""
    return lambda: any(all(text in line for text in texts) for line in worker.said[before:].splitlines())


def over(worker: Worker) -> Callable[[], bool]:
    """Whether the last thing that was said of ClickHouse is that it works again."""

    def last() -> bool:
        lines = [line for line in worker.said.splitlines() if "fqlstream.outside ClickHouse" in line]
        return bool(lines) and "works again" in lines[-1]

    return last


def test_every_way_in_which_a_store_goes_wrong_is_waited_out_said_and_changes_no_number(troubled: Troubled) -> None:
    worker = troubled.worker(
        FQLSTREAM_STREAM__TROUBLE_SAID_MS="200",
        FQLSTREAM_STREAM__FLUSH_MS="100",
        FQLSTREAM_STREAM__STUCK_MS="60000",
        FQLSTREAM_STORE__TIMEOUT_S="1",
    )

    def trouble() -> None:
        worker.says("took over inference-events")
        for behaviour, texts in TROUBLES:
            before = len(worker.said)
            with troubled.proxy.behaving(behaviour):
                wait_until(said_since(worker, before, texts), f"said: {texts}", saw=worker.tail)
            wait_until(over(worker), f"over: {texts}", saw=worker.tail)
        before = len(worker.said)
        troubled.kill_store()
        wait_until(said_since(worker, before, ("STO001",)), "a store that was killed")
        troubled.start_store()
        wait_until(over(worker), "the store is back")

    go(troubled.stack, 21, trouble, events=EVENTS)
    assert worker.alive


def test_a_store_that_is_away_or_slow_pauses_reading_and_memory_stays_bounded(troubled: Troubled) -> None:
    """The log grows on, the worker does not, and is not taken for stuck however long it waits."""
    worker = troubled.worker(
        FQLSTREAM_STREAM__STUCK_MS="8000",
        FQLSTREAM_STREAM__SINK_BACKLOG_BYTES_MAX=str(2**20),
        FQLSTREAM_STREAM__QUEUED_BYTES_MAX=str(2**20),
        FQLSTREAM_KAFKA__FETCH_BYTES_MAX=str(2**16),
    )
    model = troubled.define()
    worker.says("took over inference-events")
    producer = Producer({"bootstrap.servers": troubled.stack.bootstrap, "linger.ms": 20})
    now_ms = time.time_ns() // 1_000_000
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        for number in range(sent, sent + count):
            columns = {"x": 1.0, "score": 0.5}
            event = {"model": model, "event_id": f"{number:06}" + 200 * "i", "event_at": now_ms, "columns": columns}
            producer.produce(TOPIC, json.dumps(event).encode(), partition=number % 4)
            if number % 1_000 == 0:
                producer.poll(0)
        assert producer.flush(60) == 0
        sent += count

    def counted() -> int:
        with troubled.store() as store:
            return int(store.query_rows(f"SELECT count() FROM events_{model}")[0][0])

    send(1_000)
    wait_until(lambda: counted() == sent, "all is well", saw=counted)
    before = worker.resident_bytes
    troubled.proxy.stop()
    send(40_000)
    worker.says("reading pauses until it has taken them")
    behind = lag(troubled.stack)
    send(20_000)
    assert lag(troubled.stack) == behind + 20_000, "nothing is taken in any more"
    threading.Event().wait(9)  # beyond stuck_ms
    grown = worker.resident_bytes - before
    assert grown < 80 * 2**20, f"{grown / 2**20:.0f} MiB more"
    assert worker.alive
    troubled.proxy.start()
    with troubled.proxy.behaving(store_that.slow(0.4)):
        worker.says("ClickHouse works again")
        threading.Event().wait(3)
        assert worker.alive
    wait_until(lambda: lag(troubled.stack) == 0 and counted() == sent, "everything is counted", 120, saw=counted)
    worker.says("reading goes on")
    assert worker.count("\n") < 60, worker.said
