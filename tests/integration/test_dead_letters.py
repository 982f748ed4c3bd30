from __future__ import annotations

import json
import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from tests.commands import invoke

from fqlstream.cli.dead_letters import app
from fqlstream.errors import BrokerError
from fqlstream.ops import topics
from fqlstream.ops.dead_letters import PREVIEW_BYTES, list_dead_letters
from fqlstream.ops.kafka_options import librdkafka_options, producer_options
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
    rows = list_dead_letters(kafka_settings, topic=topic, limit=3, code="odd")
    assert [row.offset for row in rows] == [15, 17, 19]
    assert list_dead_letters(kafka_settings, topic=topic, code="none of that") == ()


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
