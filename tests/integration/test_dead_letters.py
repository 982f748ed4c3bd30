from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from tests.commands import invoke

from fqlstream.cli.dead_letters import app
from fqlstream.errors import BrokerError, FqlstreamError
from fqlstream.ops import topics
from fqlstream.ops.dead_letters import (
    PREVIEW_BYTES,
    Place,
    Selection,
    count_dead_letters,
    find_letter,
    list_dead_letters,
)
from fqlstream.ops.kafka_options import librdkafka_options, producer_options
from fqlstream.ops.letter_files import export, read_letters
from fqlstream.ops.replaying import ReplayPlan, ReplayReport, letters_of, plan_replay, replay
from fqlstream.settings import KafkaSettings


def send(settings: KafkaSettings, topic: str, letters: list[tuple[bytes | None, dict[str, bytes]]]) -> None:
    producer = Producer(producer_options(settings))
    for number, (value, headers) in enumerate(letters):
        producer.produce(
            topic, value=value, headers=list(headers.items()), partition=number % 2, timestamp=1_000 + number
        )
    assert producer.flush(20) == 0


def headers(number: int) -> dict[str, bytes]:
    return {
        "code": b"odd" if number % 2 else b"even", "reason": f"r\u00e9ason {number}".encode(), "topic": b"inference-events",
        "partition": b"3", "offset": str(number).encode(), "row": b"0", "seen_at": b"2026-11-21T10:00:00Z",
    }  # fmt: skip


@pytest.fixture
def topic(kafka_settings: KafkaSettings, make_topic: Callable[..., str]) -> str:
    topic = make_topic(partitions=2, prefix="dead")
    send(kafka_settings, topic, [(f"value {n}".encode(), headers(n)) for n in range(20)])
    return topic


def test_the_newest_letters_come_in_their_order(kafka_settings: KafkaSettings, topic: str) -> None:
    rows = list_dead_letters(kafka_settings, topic=topic, limit=7)
    assert [row.offset for row in rows] == list(range(13, 20))
    assert rows[-1].reason == "r\u00e9ason 19"
    assert (rows[-1].topic, rows[-1].partition, rows[-1].row, rows[-1].preview) == (
        "inference-events",
        3,
        "0",
        "value 19",
    )


def test_letters_of_one_code_are_found_however_old(kafka_settings: KafkaSettings, topic: str) -> None:
    send(kafka_settings, topic, [(b"x", {"code": b"other"}) for _ in range(30)])
    rows = list_dead_letters(kafka_settings, Selection(codes=frozenset(["odd"])), topic=topic, limit=3)
    assert [row.offset for row in rows] == [15, 17, 19]
    assert list_dead_letters(kafka_settings, Selection(codes=frozenset(["none of that"])), topic=topic) == ()


def test_anything_may_stand_in_the_topic(kafka_settings: KafkaSettings, make_topic: Callable[..., str]) -> None:
    topic = make_topic(partitions=2, prefix="dead")
    send(
        kafka_settings,
        topic,
        [(None, {}), (b"\xff" * 5_000, {"code": b"\xfe", "offset": b"-1", "partition": b"9" * 50})],
    )
    empty, binary = list_dead_letters(kafka_settings, topic=topic)
    assert (empty.code, empty.offset, empty.bytes, empty.preview) == ("", None, 0, "")
    assert (binary.code, binary.offset, binary.partition, binary.bytes) == ("\ufffd", None, None, 5_000)
    assert len(binary.preview) == PREVIEW_BYTES


def test_an_empty_topic_has_none_and_a_missing_one_says_what_to_do(
    kafka_settings: KafkaSettings, make_topic: Callable[..., str]
) -> None:
    assert list_dead_letters(kafka_settings, topic=make_topic()) == ()
    with pytest.raises(BrokerError) as caught:
        list_dead_letters(kafka_settings, topic="no-such-topic")
    assert caught.value.hint == "make it: fqlstream topics apply"


def test_the_command_lists(kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FQLSTREAM_KAFKA__BOOTSTRAP", str(kafka_settings.bootstrap))
    admin = AdminClient(librdkafka_options(kafka_settings))
    topics.apply(admin, topics.plan(admin, topics.load_declarations()))
    code = f"test-{uuid.uuid4().hex}"
    letters = [(b"v", {**headers(number), "code": code.encode()}) for number in range(4)]
    producer = Producer(producer_options(kafka_settings))
    for value, its_headers in letters:
        producer.produce("dead-letters", value=value, headers=list(its_headers.items()))
    assert producer.flush(20) == 0

    shown = json.loads(invoke(app, "list", "--json", "--limit", "2", "--code", code).stdout)
    assert [row["offset"] for row in shown] == [2, 3]
    assert set(shown[0]) >= {"code", "reason", "topic", "partition", "offset", "row", "seen_at"}
    assert "inference-events[3]@3" in invoke(app, "list", "--code", code).stdout
    assert invoke(app, "list", "--code", "x").stdout == "no dead letters of code x\n"


# ------------------------------------------------------------------------------------------ finding and showing


def test_letters_are_found_by_origin_and_time(kafka_settings: KafkaSettings, topic: str) -> None:
    send(kafka_settings, topic, [(b"x", {"topic": b"elsewhere"})])
    (row,) = list_dead_letters(kafka_settings, Selection(topic="elsewhere"), topic=topic)
    assert row.seen_at == "1970-01-01T00:00:01.000Z", "of a letter that does not say, the record's own time"
    timed = list_dead_letters(kafka_settings, Selection(since_ms=1_005, until_ms=1_008), topic=topic)
    assert [row.offset for row in timed] == [5, 6, 7]
    assert list_dead_letters(kafka_settings, Selection(since_ms=9_999_999), topic=topic) == ()


def test_the_newest_are_found_behind_many_of_another_code(kafka_settings: KafkaSettings, topic: str) -> None:
    producer = Producer(producer_options(kafka_settings))
    for number in range(9_000):
        producer.produce(topic, b"", headers=[("code", b"flood")], partition=number % 2, timestamp=2_000)
    assert producer.flush(20) == 0
    rows = list_dead_letters(kafka_settings, Selection(codes=frozenset(["odd", "even"])), topic=topic, limit=3)
    assert [row.offset for row in rows] == [17, 18, 19]


def test_letters_are_counted_by_code_and_topic(kafka_settings: KafkaSettings, topic: str) -> None:
    send(kafka_settings, topic, [(b"abc", {**headers(4), "topic": b"other", "code": b"DLQ009"})])
    odd, even, other = sorted(count_dead_letters(kafka_settings, topic=topic), key=lambda c: -ord(c.code[0]))
    assert (odd.code, odd.letters, even.letters, other.letters, other.bytes) == ("odd", 10, 10, 1, 3)
    assert odd.bytes == sum(len(f"value {n}") for n in range(1, 20, 2))
    assert "fqlstream apply" in other.remedy
    assert (even.first_seen_at, even.replayed, even.returned) == ("2026-11-21T10:00:00Z", 0, 0)


def test_one_letter_is_found_by_its_place_and_by_its_origin(kafka_settings: KafkaSettings, topic: str) -> None:
    letter, mark = find_letter(kafka_settings, Place("inference-events", 3, 17), topic=topic)
    assert (letter.value, letter.partition, letter.offset, mark) == (b"value 17", 3, 17, None)
    same, _ = find_letter(kafka_settings, letter.place, topic=topic)
    assert same == letter
    with pytest.raises(FqlstreamError, match="no letter came from inference-events"):
        find_letter(kafka_settings, Place("inference-events", 3, 99), topic=topic)


# ----------------------------------------------------------------------------------------------------- replaying


@dataclass
class Post:
    """A topic of letters, and one that they come from."""

    settings: KafkaSettings
    letters: str
    origin: str

    def write(self, *letters: tuple[bytes | None, bytes | None, dict[str, bytes]]) -> None:
        """Write letters: key, value, headers; the origin is filled in, its offset the letter's number."""
        producer = Producer(producer_options(self.settings))
        for number, (key, value, extra) in enumerate(letters):
            said = {
                "code": b"DLQ009", "topic": self.origin.encode(), "partition": b"1", "offset": str(number).encode(),
                "row": b"0", "record_at": str(T0 + number).encode(), **extra,
            }  # fmt: skip
            producer.produce(self.letters, key=key, value=value, headers=list(said.items()))
        assert producer.flush(20) == 0

    def replay(self, plan: ReplayPlan | None = None, file: Path | None = None) -> ReplayReport:
        plan = plan or ReplayPlan()
        source = letters_of(self.settings, plan.selection, self.letters) if file is None else lambda: read_letters(file)
        return replay(self.settings, source, plan, topic=self.letters)

    def arrived(self) -> list[Message]:
        """Read what is in the origin topic and committed."""
        consumer = Consumer(
            librdkafka_options(self.settings, group_id=uuid.uuid4().hex, enable_auto_commit=False, enable_partition_eof=True)
        )  # fmt: skip
        try:
            partitions = list(consumer.list_topics(self.origin, 10).topics[self.origin].partitions)
            consumer.assign([TopicPartition(self.origin, partition, 0) for partition in partitions])
            found: list[Message] = []
            deadline = time.monotonic() + 30
            while partitions:
                assert time.monotonic() < deadline
                message = consumer.poll(1)
                if message is None:
                    continue
                if message.error() is not None:
                    partitions.remove(message.partition())
                else:
                    found.append(message)
            return found
        finally:
            consumer.close()


T0 = 1_763_726_400_000


@pytest.fixture
def post(kafka_settings: KafkaSettings, make_topic: Callable[..., str]) -> Post:
    big = {"max.message.bytes": str(18 * 2**20)}
    return Post(kafka_settings, make_topic(prefix="dead", config=big), make_topic(partitions=2, prefix="o", config=big))


def test_a_record_comes_back_as_it_was_and_once(post: Post) -> None:
    large = np.random.default_rng(1).bytes(16 * 2**20)
    post.write(
        (b"k", b'{"a": 1}', {"original.model": b"churn", "original.x": b"\xff"}), (None, None, {}), (b"", b"", {}),
        (None, large, {}),
    )  # fmt: skip
    report = post.replay()
    assert (report.counts, report.has_trouble) == ({"replayed": 4}, False)
    found = post.arrived()
    assert [(m.key(), m.value(), m.partition(), m.timestamp()[1]) for m in found] == [
        (b"k", b'{"a": 1}', 1, T0), (None, None, 1, T0 + 1), (b"", b"", 1, T0 + 2), (None, large, 1, T0 + 3),
    ]  # fmt: skip
    assert found[0].headers() == [
        ("model", b"churn"), ("x", b"\xff"), ("replayed_from", b"dead-letters[0]@0"), ("replays", b"1"),
    ]  # fmt: skip
    second = post.replay()
    assert second.counts == {"already_replayed": 4}
    assert f"to {post.origin}[1]@0" in second.letters[0]
    assert len(post.arrived()) == 4
    assert post.replay(ReplayPlan(again=True, limit=1)).counts["replayed"] == 1
    assert len(post.arrived()) == 5
    rows = list_dead_letters(post.settings, topic=post.letters)
    assert len(rows) == 4, "marks are no letters"
    assert all(row.replayed_at for row in rows)
    assert [count.replayed for count in count_dead_letters(post.settings, topic=post.letters)] == [4]
    _, mark = find_letter(post.settings, Place("", 0, 0), topic=post.letters)
    assert mark is not None


def test_a_record_that_two_owners_refused_is_sent_once(post: Post) -> None:
    post.write((b"k", b"v", {}))
    post.write((b"k", b"v", {"seen_at": b"later"}))
    assert post.replay().counts == {"replayed": 1, "same_record_again": 1}
    post.write((b"k", b"v", {"seen_at": b"later still"}))
    assert post.replay().counts == {"already_replayed": 1, "same_record_again": 2}
    assert len(post.arrived()) == 1


def test_letters_that_cannot_be_sent_say_why(post: Post, make_topic: Callable[..., str]) -> None:
    post.write(
        (None, b"0", {"topic": b""}), (None, b"1", {"partition": b"7"}), (b"k", b"2", {"partition": b"7"}),
        (None, b"3", {"topic": b"no-such-topic"}), (None, b"4", {"topic": b"definitions"}), (None, b"5", {"code": b"DLQ019"}),
        (None, b"6", {"original.replays": b"5"}), (None, b"7", {"original.replays": b"4"}),
        (None, np.random.default_rng(2).bytes(2_000), {"topic": make_topic(config={"max.message.bytes": "1024"}).encode(), "partition": b"0"}),
    )  # fmt: skip
    report = post.replay()
    assert report.counts == {
        "without_origin": 1, "origin_is_gone": 3, "not_a_source_topic": 1, "ends_workers": 1, "returned_too_often": 1,
        "replayed": 1, "refused_by_kafka": 1,
    }  # fmt: skip
    assert (report.has_trouble, report.returned) == (True, 1)
    assert any("has 2 partitions" in line for line in report.letters)
    found = {m.value(): dict(m.headers()) for m in post.arrived()}
    assert found.keys() == {b"7"}
    assert found[b"7"]["replays"] == b"5"
    killer = ReplayPlan(Selection(codes=frozenset(["DLQ019"])))
    assert post.replay(killer).counts == {"replayed": 1}
    assert post.replay(ReplayPlan(by_key=True)).counts["replayed"] == 1, "the one with a key has a partition again"
    assert {m.value() for m in post.arrived()} == {b"7", b"5", b"2"}


def test_a_dry_run_a_limit_and_a_rate(post: Post) -> None:
    post.write(*((None, str(number).encode(), {}) for number in range(10)))
    source = letters_of(post.settings, Selection(), post.letters)
    planned = plan_replay(post.settings, source, ReplayPlan(), topic=post.letters)
    assert (planned.counts["replayed"], post.arrived()) == (10, [])
    started = time.monotonic()
    assert post.replay(ReplayPlan(limit=6, rate=5.0)).counts["replayed"] == 6
    assert time.monotonic() - started >= 6 / 5
    assert [m.value() for m in post.arrived()] == [str(number).encode() for number in range(6)]


def test_an_export_is_lossless_and_what_was_edited_is_what_is_sent(post: Post, tmp_path: Path) -> None:
    post.write(
        (b"k\xff", b'{"model": "chrn"}\n\xc2\x85', {"original.h": b"\xfe", "original.e": b""}), (None, None, {}),
        (b"", bytes(range(256)), {}),
    )  # fmt: skip
    file = tmp_path / "letters.jsonl"
    source = letters_of(post.settings, Selection(), post.letters)
    assert export(source(), file) == 3
    for before, after in zip(source(), read_letters(file), strict=True):
        assert replace(after, told=before.told) == before
    file.write_text(file.read_text().replace("chrn", "churn"))
    assert post.replay(file=file).counts == {"replayed": 3}
    assert post.arrived()[0].value() == '{"model": "churn"}\n\x85'.encode()
    assert post.replay().counts == {"already_replayed": 3}, "an edited letter is still that letter"


def test_a_file_that_holds_letters_twice_sends_them_once(post: Post, tmp_path: Path) -> None:
    post.write((b"k", b"1", {}), (b"k", b"2", {}))
    file = tmp_path / "letters.jsonl"
    export(letters_of(post.settings, Selection(), post.letters)(), file)
    file.write_text(file.read_text() + file.read_text())  # two exports that overlap
    assert post.replay(file=file).counts == {"replayed": 2, "same_record_again": 2}
    assert [message.value() for message in post.arrived()] == [b"1", b"2"]
    assert post.replay(ReplayPlan(again=True), file=file).counts == {"replayed": 2, "same_record_again": 2}
    assert len(post.arrived()) == 4


def test_a_letter_without_its_record_is_not_replayed_until_it_has_it_again(post: Post, tmp_path: Path) -> None:
    post.write((b"k", None, {"omitted_bytes": b"17"}), (None, None, {}))
    assert post.replay().counts == {"without_value": 1, "replayed": 1}
    file = tmp_path / "letters.jsonl"
    export(letters_of(post.settings, Selection(), post.letters)(), file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["value"] = {"text": "found again"}
    file.write_text("\n".join(map(json.dumps, lines)))
    assert post.replay(file=file).counts == {"replayed": 1, "already_replayed": 1}
    assert [message.value() for message in post.arrived()] == [None, b"found again"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1"),
        ("[]", "line 1"),
        ('{"letter": "0@1"}', "headers is missing"),
        ('{"letter": "x"}', "no place"),
        ('{"letter": "0@1", "headers": [["a", {"base64": "?"}]]}', "base64"),
        ('{"letter": "0@1", "headers": [["a", 5]]}', "bytes are null"),
        ('{"letter": "0@1", "headers": [], "id": "nonsense"}', "id is not"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "letters.jsonl"
    file.write_text(line)
    with pytest.raises(FqlstreamError, match=says) as caught:
        list(read_letters(file))
    assert caught.value.code == "DLT011"


def test_whoever_replays_later_ends_whoever_has_not_finished(post: Post) -> None:
    post.write(*((None, str(number).encode(), {}) for number in range(6)))
    source = letters_of(post.settings, Selection(), post.letters)
    second: list[ReplayReport] = []

    def interfere(done: int, total: int) -> None:
        if not second:
            second.append(replay(post.settings, source, ReplayPlan(), topic=post.letters))

    with pytest.raises(BrokerError, match="somebody else") as caught:
        replay(post.settings, source, ReplayPlan(rate=1.0), interfere, topic=post.letters)
    assert caught.value.code == "DLT021"
    assert second[0].counts == {"already_replayed": 1, "replayed": 5}
    assert sorted(m.value() for m in post.arrived()) == [str(number).encode() for number in range(6)]
