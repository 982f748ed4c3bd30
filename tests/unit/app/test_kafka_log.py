"""What the protocol's view of Kafka sends, and what it commits."""

from __future__ import annotations

import asyncio
import json
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from fqlstream.app.kafka_log import KafkaLog, value_payload
from fqlstream.app.sharing import Sharing
from fqlstream.errors import BrokerError
from fqlstream.events.schemas import SCHEMAS
from fqlstream.fql.plan import Lane
from fqlstream.settings import KafkaSettings
from fqlstream.stream.batches import DeadLetter
from fqlstream.stream.protocol import FlushRow, MetricValue, PaneKey, Version

VALUE = MetricValue(
    "churn", "all", "cost", "old", 1_795_255_200_000, 1_795_258_800_000, -1.5, 10, 4, False, 0.25, "final", 7, 2, 1_795_258_800_123
)  # fmt: skip


@dataclass
class Outbox:
    """A producer whose records arrive at once, or not at all."""

    records: list[tuple[Any, ...]] = field(default_factory=list)
    failure: BrokerError | None = None

    failures_left: int = 1_000
    partitions_count: Callable[[str], int] | None = None
    #: What one record may take with key and headers.
    bytes_max: int | None = None
    refuses_at_once: bool = False

    async def send(self, *record: Any) -> asyncio.Future[int]:
        if self.bytes_max is not None:
            return self._weigh(record)
        delivery: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.failure is not None and self.failures_left:
            self.failures_left -= 1
            delivery.set_exception(self.failure)
        else:
            self.records.append(record)
            delivery.set_result(len(self.records))
        return delivery

    def _weigh(self, record: tuple[Any, ...]) -> asyncio.Future[int]:
        _, value, key, headers = record
        size = len(value or b"") + len(key or b"") + sum(len(name) + len(content) for name, content in headers)
        delivery: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if size <= (self.bytes_max or 0):
            self.records.append(record)
            delivery.set_result(len(self.records))
            return delivery
        error = BrokerError("KFK113", f"{size} bytes are too large")
        if self.refuses_at_once:
            raise error
        delivery.set_exception(error)
        return delivery

    def hint(self, topic: str, value: bytes, key: bytes, partition: int) -> None:
        self.records.append((topic, value, key, (), partition))


@dataclass
class Source:
    """A partition that the worker holds."""

    partition: int
    position: int | None
    lost: bool = False
    acked: list[int] = field(default_factory=list)
    commits: int = 0

    def ack(self, next_offset: int) -> None:
        self.acked.append(next_offset)

    async def commit(self) -> None:
        self.commits += 1


def log(*sources: Source) -> tuple[KafkaLog, Outbox]:
    outbox = Outbox()
    made = KafkaLog(KafkaSettings(bootstrap="a:1"), outbox, {source.partition: source for source in sources})
    made._counts["pane-updates"] = 4
    return made, outbox


def test_a_value_travels_with_the_columns_of_the_table() -> None:
    payload = value_payload(VALUE)
    assert payload["window_start"] == "2026-11-21T10:00:00Z"
    assert payload["window_end"] == "2026-11-21T11:00:00Z"
    assert payload["updated_at"] == "2026-11-21T11:00:00.123000Z"
    assert payload["window_s"] == 3600
    assert {name: payload[name] for name in ("value", "exact", "error_bound", "value_version")} == {
        "value": -1.5, "exact": False, "error_bound": 0.25, "value_version": 7,
    }  # fmt: skip


def test_values_of_one_series_have_one_key_so_that_they_keep_their_order() -> None:
    made, outbox = log()
    other = replace(VALUE, version="v1", window_start_ms=0, window_end_ms=60_000, value=None)
    asyncio.run(made.send_values([VALUE, other, replace(VALUE, segment="")]))
    keys = [json.loads(record[2]) for record in outbox.records]
    assert keys == [["churn", "cost", "old"], ["churn", "cost", "old"], ["churn", "cost", ""]]
    assert {record[0] for record in outbox.records} == {"metric-values"}
    assert json.loads(outbox.records[1][1])["value"] is None


def test_a_dead_letter_has_its_bytes_and_says_in_headers_why_and_where_from() -> None:
    made, outbox = log()
    letter = DeadLetter(
        "DLQ005", "no JSON: é", "t", 3, 41, "1,5", b"k", b"\xff", 17, "application/vnd.apache.arrow.stream",
        (("model", b"churn"), ("code", b"\xfe"), ("model", b"")),
    )  # fmt: skip
    asyncio.run(made.send_dead_letters([letter, replace(letter, content_type=None)]))
    topic, value, key, headers = outbox.records[0]
    assert (topic, value, key) == ("dead-letters", b"\xff", b"k")
    assert headers[-3:] == [("original.model", b"churn"), ("original.code", b"\xfe"), ("original.model", b"")]
    told = {name: text.decode() for name, text in headers[:-3]}
    assert told.pop("seen_at").endswith("Z")
    assert told == {
        "code": "DLQ005", "reason": "no JSON: é", "topic": "t", "partition": "3", "offset": "41", "row": "1,5",
        "content-type": "application/vnd.apache.arrow.stream", "record_at": "17",
    }  # fmt: skip
    assert "content-type" not in dict(outbox.records[1][3])


@pytest.mark.parametrize("at_once", [False, True])
def test_a_letter_that_is_too_large_says_what_it_was_and_fails_nothing(at_once: bool) -> None:
    made, outbox = log()
    outbox.bytes_max, outbox.refuses_at_once = 4_000, at_once
    small = DeadLetter("DLQ005", "no JSON", "t", 3, 41, "0", b"k", b"\xff", 17)
    large = replace(small, offset=42, value=b"v" * 5_000, headers=(("model", b"churn"),))
    headed = replace(small, offset=43, headers=tuple((f"h{number}", b"x") for number in range(600)))
    wordy = replace(large, offset=44, key=b"k" * 5_000, row=",".join(map(str, range(9_000))), reason="é" * 9_000)
    asyncio.run(made.send_dead_letters([large, small, headed, wordy]))
    told = {record[3][4][1]: (record, dict(record[3])) for record in outbox.records}
    assert [name for name, _ in outbox.records[0][3]][4] == "offset"
    assert told.keys() == {b"41", b"42", b"43", b"44"}
    assert told[b"41"][0][1:3] == (b"\xff", b"k")
    assert "omitted_bytes" not in told[b"41"][1]
    for offset, size, key in ((b"42", 5_000 + 1 + 10, b"k"), (b"43", 2 + 600 * 2 + sum(len(str(n)) for n in range(600)), b"k"),
                              (b"44", 10_000 + 10, None)):  # fmt: skip
        record, headers = told[offset]
        assert record[1:3] == (None, key)
        assert headers["omitted_bytes"] == str(size).encode()
        assert headers["code"] == b"DLQ005"
        assert not any(name.startswith("original.") for name in headers)


def test_letters_that_are_too_large_together_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made, outbox = log()
    offered = outbox.send
    pending: list[asyncio.Future[int]] = []

    async def send(*record: Any) -> asyncio.Future[int]:
        """As librdkafka's batches: one that is refused takes all its records with it."""
        refused: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if len(pending) < 3:
            pending.append(refused)
            refused.set_exception(BrokerError("KFK113", "too large together"))
            return refused
        return await offered(*record)

    monkeypatch.setattr(outbox, "send", send)
    letter = DeadLetter("DLQ005", "no JSON", "t", 3, 41, "0", b"k", b"\xff", 17)
    asyncio.run(made.send_dead_letters([letter, replace(letter, offset=42), replace(letter, offset=43)]))
    assert [record[1] for record in outbox.records] == [b"\xff"] * 3, "whole"


def test_a_topic_that_takes_not_even_a_stub_is_told_of_and_the_flush_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    made, outbox = log()
    outbox.bytes_max = 10
    asyncio.run(made.send_dead_letters([DeadLetter("DLQ005", "no JSON", "t", 3, 41, "0", b"k", b"\xff", 17)]))
    assert outbox.records == []
    assert "t[3]@41" in caplog.text
    with pytest.raises(BrokerError, match="metric-values"):
        asyncio.run(made.send_values([VALUE]))


def flush_row(*panes: PaneKey, models: tuple[str, ...] = ()) -> FlushRow:
    marks = dict.fromkeys(models, 0)
    return FlushRow(
        "t",
        2,
        Version(5, 6),
        "me",
        "id",
        {Lane.EVENTS: 1, Lane.LABELS: 1},
        {Lane.EVENTS: marks, Lane.LABELS: marks},
        panes=panes,
    )


def test_each_model_gets_its_notice_where_its_finaliser_listens() -> None:
    made, outbox = log()
    asyncio.run(made.send_notices([flush_row(PaneKey("a", "v1", 60_000), PaneKey("a", "v2", 0), models=("a", "b"))]))
    notices = {record[2]: (json.loads(record[1]), record[4]) for record in outbox.records}
    assert notices[b"a"][0] == {
        "topic": "t", "partition": 2, "epoch": 5, "flush": 6, "model": "a", "panes": [["v1", 60_000], ["v2", 0]],
    }  # fmt: skip
    assert notices[b"b"][0]["panes"] == [], "time goes on for it too"
    for model, (_, partition) in notices.items():
        assert partition == asyncio.run(made.model_partition(model.decode()))


def test_a_model_that_stands_still_gets_no_notice_of_others_flushes() -> None:
    made, outbox = log()
    asyncio.run(made.send_notices([flush_row(PaneKey("a", "v1", 0), models=("a", "b"))]))
    outbox.records.clear()
    asyncio.run(made.send_notices([flush_row(PaneKey("a", "v1", 0), models=("a", "b"))]))
    assert [record[2] for record in outbox.records] == [b"a"]
    moved = flush_row(models=("a", "b"))
    reached = {**moved.watermarks[Lane.EVENTS], "b": 10**12}
    asyncio.run(made.send_notices([replace(moved, watermarks={**moved.watermarks, Lane.EVENTS: reached})]))
    assert [record[2] for record in outbox.records] == [b"a", b"b"]


def test_a_flush_does_not_wait_for_the_number_of_partitions() -> None:
    made, outbox = log()
    made._counts.clear()
    answer = threading.Event()

    def count(topic: str) -> int:
        assert topic == "pane-updates"
        assert answer.wait(30)
        return 4

    outbox.partitions_count = count
    row = flush_row(PaneKey("a", "v1", 0), models=("a",))

    async def main() -> None:
        for _ in range(2):
            await asyncio.wait_for(made.send_notices([row]), 5)
        assert outbox.records == [], "nobody knows where to"
        answer.set()
        await made.partitions_count("pane-updates")
        await made.send_notices([row])

    asyncio.run(main())
    assert [record[2] for record in outbox.records] == [b"a"], "what was not told is still news"


def test_a_topic_that_grows_is_counted_anew_and_one_that_is_gone_as_it_was() -> None:
    made, _ = log()
    made.sharing = sharing = Sharing(1.0, lambda: 0.0)
    counts = []
    for seen in ({"inference-events": 4}, {"inference-events": 6}, {}):
        sharing.seen = seen
        counts.append(asyncio.run(made.partitions_count("inference-events")))
    assert counts == [4, 6, 6]


def test_a_model_belongs_to_a_partition_that_was_shared_out_and_not_to_one_that_is_only_seen() -> None:
    made, outbox = log()
    made.sharing = sharing = Sharing(1.0, lambda: 0.0, seen={"pane-updates": 64})
    sharing.shared = {"pane-updates": 4}
    models = [f"m{number}" for number in range(20)]

    def places() -> list[int]:
        return [asyncio.run(made.model_partition(model)) for model in models]

    of_four = [zlib.crc32(model.encode()) % 4 for model in models]
    assert places() == of_four
    sharing.shared = {"pane-updates": 64}
    assert places() == [zlib.crc32(model.encode()) % 64 for model in models] != of_four
    made._counts.clear()
    asyncio.run(made.send_notices([flush_row(PaneKey("a", "v1", 0), models=("a",))]))
    assert [record[2] for record in outbox.records] == [b"a"]
    before = places()
    sharing.shared = sharing.seen = {}
    assert places() == before, "deleted: a worker goes on without it, and nothing asks a broker that has no answer"


def test_a_notice_is_a_hint_of_bounded_length_that_nobody_waits_for() -> None:
    made, outbox = log()
    many = flush_row(*(PaneKey("a", "v1", start) for start in range(2_000)))
    asyncio.run(made.send_notices([many]))
    assert len(json.loads(outbox.records[0][1])["panes"]) == 1_000


def test_values_that_kafka_did_not_take_are_sent_again_until_it_does_and_only_those() -> None:
    made, outbox = log()
    outbox.failure, outbox.failures_left = BrokerError("KFK110", "gone", retryable=True), 3
    asyncio.run(made.send_values([VALUE, replace(VALUE, version="v2")]))
    assert outbox.failures_left == 0
    assert sorted(json.loads(record[1])["version"] for record in outbox.records) == ["all", "v2"]
    outbox.failure, outbox.failures_left = BrokerError("KFK110", "too large"), 1
    with pytest.raises(BrokerError, match="too large"):
        asyncio.run(made.send_values([VALUE]))


def test_a_commit_is_of_what_is_durable_and_was_read_by_this_owner() -> None:
    mine, lost, new, back = Source(0, 10), Source(1, 10, lost=True), Source(2, None), Source(3, 4)
    made, _ = log(mine, lost, new, back)
    for partition in range(4):
        made.acknowledge("t", partition, 7)
    made.acknowledge("t", 9, 7)  # not held
    asyncio.run(made.commit())
    assert (mine.acked, lost.acked, new.acked) == ([7], [], [])
    assert back.acked == [4], "it went and came back, and has not been read so far again"
    assert [source.commits for source in (mine, lost, new, back)] == [1, 0, 0, 0], "one request for all"
    asyncio.run(made.commit())
    assert mine.acked == [7]


def test_what_was_acknowledged_of_a_lost_partition_is_forgotten_with_it() -> None:
    before, after = Source(0, 10), Source(0, 3)
    made, _ = log(before)
    made.acknowledge("t", 0, 9)
    made.forget(before)
    made.sources[0] = after
    asyncio.run(made.commit())
    assert after.acked == []
    made.acknowledge("t", 0, 2)
    made.forget(before)  # late: it has come back meanwhile
    asyncio.run(made.commit())
    assert after.acked == [2]


def test_offsets_of_a_partition_that_is_gone_are_not_asked_for() -> None:
    made, _ = log(Source(1, 10, lost=True))
    for partition in (0, 1):
        with pytest.raises(BrokerError) as caught:
            asyncio.run(made.offset_range("t", partition))
        assert caught.value.code == "KFK020"


def test_the_payloads_are_those_of_the_schemas() -> None:
    """Names of properties as schemas/ has them."""
    assert set(value_payload(VALUE)) == set(SCHEMAS["metric_value"].json_schema()["properties"])
    SCHEMAS["metric_value"].validate_python(value_payload(VALUE))
