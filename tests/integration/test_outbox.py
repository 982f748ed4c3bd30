"""What a worker sends to a real broker arrives, or a flush says that it did not."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from tests.fatal_error import raise_fatal_error
from tests.waiting import WAIT_S, wait_in_loop

from fqlstream.app.kafka_log import KafkaLog
from fqlstream.errors import BrokerError
from fqlstream.ops import topics
from fqlstream.ops.dead_letters import Selection
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.ops.outbox import OutboxProducer
from fqlstream.ops.replaying import letters_of
from fqlstream.settings import KafkaSettings
from fqlstream.stream.batches import DeadLetter

MakeTopic = Callable[..., str]


def read(kafka: KafkaSettings, topic: str, count: int, partition: int = 0) -> list:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "read", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0)])
    records: list = []
    deadline_s = time.monotonic() + 30
    while len(records) < count and time.monotonic() < deadline_s:
        records += consumer.consume(count - len(records), timeout=1)
    consumer.close()
    assert len(records) == count
    return records


def test_what_was_flushed_is_in_the_log_in_order(kafka_settings: KafkaSettings, make_topic: MakeTopic) -> None:
    topic = make_topic(1)

    async def main() -> int:
        async with OutboxProducer(kafka_settings) as outbox:
            for index in range(2_000):
                await outbox.send(topic, b"%d" % index)
            last = await outbox.send(topic, b"last")
            await outbox.flush()
            assert last.done()
            return last.result().offset

    assert asyncio.run(main()) == 2_000
    assert [record.value() for record in read(kafka_settings, topic, 2_001)][-2:] == [b"1999", b"last"]


def test_key_headers_partition_and_timestamp_are_kept(kafka_settings: KafkaSettings, make_topic: MakeTopic) -> None:
    topic = make_topic(3)

    async def main() -> None:
        async with OutboxProducer(kafka_settings) as outbox:
            headers = [("code", b"EVT001"), ("code", b"again")]
            await outbox.send(topic, b"v", b"k", headers, partition=2, timestamp_ms=1_700_000_000_123)
            await outbox.send(topic, None, b"gone", partition=2)
            await outbox.flush()

    asyncio.run(main())
    first, second = read(kafka_settings, topic, 2, partition=2)
    assert (first.key(), first.value(), first.timestamp()[1]) == (b"k", b"v", 1_700_000_000_123)
    assert first.headers() == [("code", b"EVT001"), ("code", b"again")]
    assert second.value() is None


def test_a_flush_raises_the_first_failed_delivery_once(kafka_settings: KafkaSettings, make_topic: MakeTopic) -> None:
    topic = make_topic(1, {"max.message.bytes": "1000"})

    async def main() -> None:
        async with OutboxProducer(kafka_settings) as outbox:
            await outbox.send(topic, b"fine")
            await outbox.flush()
            lost = await outbox.send(topic, os.urandom(10_000))
            with pytest.raises(BrokerError, match=topic) as caught:
                await outbox.flush()
            assert caught.value.code == "KFK113"
            assert lost.exception() is caught.value
            await outbox.send(topic, b"fine again")
            await outbox.flush()

    asyncio.run(main())
    assert [record.value() for record in read(kafka_settings, topic, 2)] == [b"fine", b"fine again"]


def test_a_record_that_the_queue_never_has_room_for_is_refused_at_once(
    kafka_settings: KafkaSettings, make_topic: MakeTopic
) -> None:
    topic = make_topic(1)
    settings = kafka_settings.model_copy(update={"send_queue_bytes_max": 2**20})

    async def main() -> None:
        async with OutboxProducer(settings) as outbox:
            with pytest.raises(BrokerError) as caught:
                await asyncio.wait_for(outbox.send(topic, b"x" * (4 * 2**20)), 20)
            assert caught.value.code == "KFK113"
            await outbox.flush()

    asyncio.run(main())


def test_dead_letters_of_any_size_get_there_whole_where_the_broker_takes_them(kafka_settings: KafkaSettings) -> None:
    """The broker weighs what is compressed, with headers: what it took as a record may be too much as a letter."""
    admin = AdminClient(librdkafka_options(kafka_settings))
    topics.apply(admin, topics.plan(admin, topics.load_declarations()))
    origin = f"o{uuid.uuid4().hex}"
    easy, hard = b'{"note": "' + b"y" * (20 * 2**20) + b'"}', os.urandom(20 * 2**20)
    headers = tuple((name, b"") for name in os.urandom(9 * 2**20).hex(",", 40).split(","))
    letters = [
        DeadLetter("DLQ002", "too large", origin, 0, offset, "0", b"k", value, 17, headers=of_its_own)
        for offset, (value, of_its_own) in enumerate([(easy, ()), (hard, ()), (b"v", headers), (b"small", ())])
    ]

    async def main() -> None:
        async with OutboxProducer(kafka_settings) as outbox:
            await KafkaLog(kafka_settings, outbox).send_dead_letters(letters)

    asyncio.run(main())
    found = {
        letter.offset: letter
        for letter in letters_of(kafka_settings, Selection(topic=origin))()
        if letter.topic == origin
    }
    assert {offset: (letter.value, letter.omitted_bytes) for offset, letter in found.items()} == {
        0: (easy, 0), 1: (None, 20 * 2**20 + 1), 2: (None, 2 + sum(len(name) for name, _ in headers)), 3: (b"small", 0),
    }  # fmt: skip


def test_sending_waits_while_the_queue_is_full(kafka_settings: KafkaSettings, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    settings = kafka_settings.model_copy(update={"send_queue_bytes_max": 2**20})
    ticks = 0

    async def main() -> None:
        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        async with OutboxProducer(settings) as outbox:
            ticking = asyncio.create_task(tick())
            for _ in range(3_000):
                await outbox.send(topic, b"x" * 10_000)
            await outbox.flush()
            ticking.cancel()

    asyncio.run(main())
    assert ticks > 10
    assert len(read(kafka_settings, topic, 3_000)) == 3_000


def test_a_broker_that_is_away_fails_the_flush_in_time_and_stopping_is_bounded(kafka_settings: KafkaSettings) -> None:
    settings = kafka_settings.model_copy(
        update={"bootstrap": "127.0.0.1:1", "delivery_timeout_ms": 1_000, "leave_wait_ms": 200}
    )

    async def main() -> None:
        async with OutboxProducer(settings) as outbox:
            await outbox.send("t", b"x")
            with pytest.raises(BrokerError, match="timed out"):
                await outbox.flush()
            await outbox.send("t", b"x")

    started_s = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - started_s < 10


@pytest.mark.parametrize("renews", [True, False])
def test_after_a_fatal_error_a_new_producer_goes_on_where_it_may(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, renews: bool
) -> None:
    """What the old one still had is failed: nobody waits for it in vain."""
    topic = make_topic(1)

    async def main() -> None:
        async with OutboxProducer(kafka_settings, linger_ms=60_000, renews=renews) as outbox:
            before = outbox._running
            assert before is not None
            held = await outbox.send(topic, b"held")
            raise_fatal_error(before.producer)
            with pytest.raises(BrokerError, match="not delivered") as failed:
                await asyncio.wait_for(held, WAIT_S)
            assert failed.value.retryable is renews
            assert (outbox._running is not before) is renews
            with pytest.raises(BrokerError):
                await outbox.flush()  # raises what has failed, once
            if renews:
                await wait_in_loop(lambda: not outbox._ending, "the old one has ended")
                await outbox.send(topic, b"later")
            else:
                with pytest.raises(BrokerError, match="start the process anew"):
                    await outbox.send(topic, b"later")

    asyncio.run(main())
    if renews:
        assert [record.value() for record in read(kafka_settings, topic, 1)] == [b"later"]


def test_a_producer_that_was_not_started_says_so(kafka_settings: KafkaSettings) -> None:
    async def main() -> None:
        outbox = OutboxProducer(kafka_settings)
        with pytest.raises(BrokerError, match="not running"):
            await outbox.send("t", b"x")

    asyncio.run(main())


def test_a_missing_topic_is_told_as_such_and_may_be_sent_to_again(
    kafka_settings: KafkaSettings, make_topic: MakeTopic
) -> None:
    topic = make_topic(3)

    async def main() -> None:
        async with OutboxProducer(kafka_settings) as outbox:
            assert await asyncio.to_thread(outbox.partitions_count, topic) == 3
            with pytest.raises(BrokerError) as missing:
                await asyncio.to_thread(outbox.partitions_count, "never-made")
            assert (missing.value.code, missing.value.retryable) == ("KFK121", False)
            lost = await outbox.send("never-made", b"x")
            with pytest.raises(BrokerError, match="never-made") as caught:
                await lost
            assert (caught.value.code, caught.value.retryable) == ("KFK110", True)
            with pytest.raises(BrokerError, match="never-made") as at_once:  # now that it is known to be missing
                await (await outbox.send("never-made", b"x"))
            assert (at_once.value.code, at_once.value.retryable) == ("KFK110", True)
            outbox.hint("never-made", b"x", None, 0)
            outbox.hint(topic, b"hint", None, 1)
            outbox.hint(topic, b"beyond", None, 9)

    asyncio.run(main())
    assert read(kafka_settings, topic, 1, partition=1)[0].value() == b"hint"
