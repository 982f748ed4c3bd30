"""Delivery from a real broker: everything once and in order, commits exact, whoever comes and goes."""

from __future__ import annotations

import asyncio
import random
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from tests.integration.source_workers import (
    Recorder,
    Seen,
    committed,
    log_ends,
    produce,
    running,
    worker_process,
    worker_settings,
)
from tests.waiting import wait_in_loop, wait_until

from fqlstream.app.faust_app import SourceApp
from fqlstream.errors import BrokerError
from fqlstream.local.broker import provide_broker
from fqlstream.settings import KafkaSettings, load
from fqlstream.stream.batches import Fetch

MakeTopic = Callable[..., str]


@pytest.fixture
def group() -> str:
    return f"g-{uuid.uuid4().hex[:8]}"


def admin(kafka: KafkaSettings) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap})


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_record_arrives_once_in_order_in_every_codec(
    codec: str, kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(4)
    expected = [[b"%d:%d:" % (part, index) + b"x" * (index % 300) for index in range(10_000)] for part in range(4)]
    produce(
        kafka_settings,
        topic,
        ((part, {"value": value}) for part in range(4) for value in expected[part]),
        compression_type=codec,
    )
    seen = Seen()

    async def main() -> None:
        settings = worker_settings(kafka_settings, group, fetch_bytes_max=2**18)
        async with running(settings, topic, lambda partition: Recorder(partition, seen), tmp_path):
            await wait_in_loop(lambda: seen.count() >= 40_000, "all records")

    asyncio.run(main())
    assert [seen.values(part) for part in range(4)] == expected
    assert [seen.offsets(part) for part in range(4)] == [list(range(10_000))] * 4
    assert len(seen.fetches) < 400
    assert committed(kafka_settings, group, topic, 4) == log_ends(kafka_settings, topic, 4) == [10_000] * 4
    assert sorted(seen.releases) == sorted(seen.drops) == [0, 1, 2, 3]


def test_aborted_transactions_are_not_delivered_and_the_commit_reaches_the_logs_end(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(1)
    producer = Producer({"bootstrap.servers": kafka_settings.bootstrap, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(20)
    for index in range(9):
        producer.begin_transaction()
        for part in range(20):
            producer.produce(topic, b"%d.%d" % (index, part), partition=0)
        producer.flush(20)
        producer.abort_transaction(20) if index % 3 == 2 else producer.commit_transaction(20)
    seen = Seen()
    (end,) = log_ends(kafka_settings, topic, 1)

    async def main() -> None:
        settings = worker_settings(kafka_settings, group)
        async with running(settings, topic, lambda partition: Recorder(partition, seen), tmp_path):
            await wait_in_loop(lambda: seen.fetches and seen.fetches[-1].next_offset == end, "the log's end")
            await seen.partitions[0].commit()
            progress = seen.partitions[0].progress()
            assert progress is not None
            assert (progress.position, progress.log_end) == (end, end)
            assert committed(kafka_settings, group, topic, 1) == [end]

    asyncio.run(main())
    assert end == 9 * 21
    assert seen.values(0) == [b"%d.%d" % (index, part) for index in range(9) if index % 3 != 2 for part in range(20)]


def test_an_open_transaction_holds_back_what_follows_it(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(1)
    producer = Producer({"bootstrap.servers": kafka_settings.bootstrap, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(20)
    produce(kafka_settings, topic, [(0, {"value": b"before"})])
    producer.begin_transaction()
    producer.produce(topic, b"inside", partition=0)
    producer.flush(20)
    produce(kafka_settings, topic, [(0, {"value": b"after"})])
    seen = Seen()

    async def main() -> None:
        settings = worker_settings(kafka_settings, group)
        async with running(settings, topic, lambda partition: Recorder(partition, seen), tmp_path):
            await wait_in_loop(lambda: seen.count() == 1, "the record before the transaction")
            assert await seen.partitions[0].log_end() == 1
            producer.commit_transaction(20)
            await wait_in_loop(lambda: seen.count() == 3, "the rest")

    asyncio.run(main())
    assert seen.values(0) == [b"before", b"inside", b"after"]


def test_a_compacted_topic_is_read_to_its_end(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    set_broker(kafka_settings, "log.cleaner.backoff.ms", "100")
    config = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}
    topic = make_topic(1, config)
    for turn in range(5):
        records = [(0, {"key": b"%d" % (index % 7), "value": b"%d.%d" % (turn, index)}) for index in range(100)]
        produce(kafka_settings, topic, [*records, (0, {"key": b"gone", "value": None})])
    (end,) = log_ends(kafka_settings, topic, 1)

    async def read(data_dir: Path) -> Seen:
        seen = Seen()
        settings = worker_settings(kafka_settings, f"g-{uuid.uuid4().hex[:8]}")
        async with running(settings, topic, lambda partition: Recorder(partition, seen), data_dir):
            await wait_in_loop(lambda: seen.fetches and seen.fetches[-1].next_offset == end, "the log's end")
        return seen

    deadline_s = time.monotonic() + 40
    seen = asyncio.run(read(tmp_path / "0"))
    while seen.count() > end // 2:
        assert time.monotonic() < deadline_s, "the broker did not compact the topic"
        produce(kafka_settings, topic, [(0, {"key": b"again", "value": b"x"})])  # rolls the segment
        (end,) = log_ends(kafka_settings, topic, 1)
        seen = asyncio.run(read(tmp_path / uuid.uuid4().hex))
    newest = dict(zip((key for fetch in seen.fetches for key in fetch.keys), seen.values(0), strict=True))
    assert {newest[b"%d" % index] for index in range(7)} == {b"4.%d" % index for index in range(93, 100)}
    assert seen.offsets(0) == sorted(set(seen.offsets(0)))


def delete_before(kafka: KafkaSettings, topic: str, offset: int) -> None:
    client = admin(kafka)
    for answer in client.delete_records([TopicPartition(topic, 0, offset)]).values():
        answer.result(20)


def set_broker(kafka: KafkaSettings, name: str, value: str) -> None:
    client = admin(kafka)
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.BROKER, "1", incremental_configs=[entry])
    for answer in client.incremental_alter_configs([resource]).values():
        answer.result(20)


@pytest.mark.parametrize("fence", [-1, 19, 49, 79, 99])
def test_reading_begins_after_the_fence_whatever_kafka_has_committed(
    fence: int, kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(1)
    produce(kafka_settings, topic, [(0, {"value": b"%d" % index}) for index in range(100)])
    commit_as_somebody(kafka_settings, group, topic, 50)
    seen = Seen(fences={0: fence})

    async def main() -> None:
        settings = worker_settings(kafka_settings, group)
        async with running(settings, topic, lambda partition: Recorder(partition, seen), tmp_path):
            await wait_in_loop(lambda: seen.partitions, "takeover")
            produce(kafka_settings, topic, [(0, {"value": b"100"})])
            await wait_in_loop(lambda: seen.fences[0] == 100, "the last record")

    asyncio.run(main())
    assert seen.offsets(0) == list(range(fence + 1, 101))
    assert committed(kafka_settings, group, topic, 1) == [101]


def commit_as_somebody(kafka: KafkaSettings, group: str, topic: str, offset: int) -> None:
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group, "enable.auto.commit": False})
    consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    consumer.close()


@pytest.mark.parametrize("fence", [10, 500])
def test_an_offset_that_the_log_does_not_hold_ends_the_worker(
    fence: int, kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(1)
    produce(kafka_settings, topic, [(0, {"value": b"x"}) for _ in range(100)])
    delete_before(kafka_settings, topic, 50)

    async def main() -> None:
        settings = worker_settings(kafka_settings, group)
        seen = Seen(fences={0: fence})
        async with running(settings, topic, lambda partition: Recorder(partition, seen), tmp_path) as app:
            await wait_in_loop(lambda: app.crashed, "the worker gives up")

    with pytest.raises(BrokerError, match="the log now holds 50 to 100") as caught:
        asyncio.run(main())
    assert caught.value.code == "KFK101"


def test_records_deleted_before_they_were_read_end_the_worker(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(1)
    produce(kafka_settings, topic, [(0, {"value": b"x"}) for _ in range(10)])
    seen = Seen()

    async def main() -> None:
        settings = worker_settings(kafka_settings, group)
        async with running(settings, topic, lambda partition: Recorder(partition, seen), tmp_path) as app:
            await wait_in_loop(lambda: seen.count() == 10, "the first records")
            seen.partitions[0].pause()
            produce(kafka_settings, topic, [(0, {"value": b"x"}) for _ in range(50_000)])
            delete_before(kafka_settings, topic, 50_005)
            seen.partitions[0].resume()
            await wait_in_loop(lambda: app.crashed, "the worker gives up")

    with pytest.raises(BrokerError, match="deleted") as caught:
        asyncio.run(main())
    assert caught.value.code == "KFK101"


def test_what_is_committed_is_what_was_acknowledged(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(1)
    produce(kafka_settings, topic, [(0, {"value": b"x"}) for _ in range(100)])
    seen = Seen()

    async def main() -> None:
        settings = worker_settings(kafka_settings, group)
        async with running(
            settings, topic, lambda partition: Recorder(partition, seen, acknowledge=False), tmp_path
        ) as app:
            await wait_in_loop(lambda: seen.count() == 100, "all records")
            source = seen.partitions[0]
            assert await source.commit()
            assert committed(kafka_settings, group, topic, 1)[0] < 0
            for done in (30, 20, 70):
                source.ack(done)
                assert await source.commit()
                assert committed(kafka_settings, group, topic, 1) == [max(30, done)]
            with pytest.raises(ValueError, match="acknowledged 101"):
                source.ack(101)
            source.ack(100)
            await app.consumer.commit()

    asyncio.run(main())
    assert committed(kafka_settings, group, topic, 1) == [100]


def test_headers_keys_timestamps_and_tombstones_arrive(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(1)
    large = bytes(range(256)) * 4
    records = [
        {"value": b"plain", "timestamp": 1_700_000_000_123},
        {"value": large, "key": b"k", "headers": [("model", b"churn"), ("model", b"again"), ("none", None)]},
        {"value": None, "key": b"gone"},
        {"value": b"", "headers": [("x", b"\xff\x00")]},
    ]
    produce(kafka_settings, topic, [(0, record) for record in records])
    seen = Seen()

    async def main() -> None:
        settings = worker_settings(kafka_settings, group)
        async with running(settings, topic, lambda partition: Recorder(partition, seen), tmp_path):
            await wait_in_loop(lambda: seen.count() == 4, "all records")

    asyncio.run(main())
    assert seen.values(0) == [b"plain", large, None, b""]
    assert [key for fetch in seen.fetches for key in fetch.keys] == [None, b"k", b"gone", None]
    assert seen.fetches[0].record_at_ms[0] == 1_700_000_000_123
    named = [fetch.headers.get(index) for fetch in seen.fetches for index in range(len(fetch))]
    assert named == [None, (("model", b"churn"), ("model", b"again"), ("none", b"")), None, (("x", b"\xff\x00"),)]


def test_a_record_larger_than_a_fetch_arrives_and_holds_up_nobody(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(2, {"max.message.bytes": str(20 * 2**20)})
    huge = b"z" * (12 * 2**20)
    records = [(0, {"value": b"a"}), (0, {"value": huge}), (0, {"value": b"c"}), (1, {"value": b"b"})]
    produce(kafka_settings, topic, records, message_max_bytes=20 * 2**20)
    seen = Seen()

    async def main() -> None:
        settings = worker_settings(kafka_settings, group, fetch_bytes_max=2**18)
        async with running(settings, topic, lambda partition: Recorder(partition, seen), tmp_path):
            await wait_in_loop(lambda: seen.count() == 4, "all records")

    asyncio.run(main())
    assert seen.values(0) == [b"a", huge, b"c"]
    assert seen.values(1) == [b"b"]


def test_queued_bytes_stay_bounded_and_a_paused_partition_stays_ours(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    """The owner takes longer than the session and than the longest time between two looks for records."""
    topic = make_topic(4)
    value = b"x" * 1000
    records = ((part, {"value": value}) for part in range(4) for _ in range(4_000))
    produce(kafka_settings, topic, records, batch_size=2**15)
    stream = load().stream.model_copy(update={"queued_bytes_max": 2**20, "stuck_ms": 2_000})
    settings = worker_settings(kafka_settings, group, stream, fetch_bytes_max=2**18)
    seen = Seen()
    queued: list[int] = []
    go_on = asyncio.Event()

    async def wait(_: Fetch) -> None:
        await go_on.wait()

    async def main() -> None:
        async with running(settings, topic, lambda partition: Recorder(partition, seen, wait), tmp_path) as app:
            await wait_in_loop(lambda: app.consumer.ledger.queued_bytes >= 0.7 * 2**20, "full queues")
            generation = app.consumer.ledger.generation
            started_s = time.monotonic()

            def waited() -> bool:
                queued.append(app.consumer.ledger.queued_bytes)
                return time.monotonic() - started_s > settings.kafka.session_timeout_ms / 1000 + 1

            await wait_in_loop(waited, "a session time-out to pass")
            seen.partitions[3].pause()
            go_on.set()
            await wait_in_loop(
                lambda: seen.count() >= 12_000 and all(len(seen.offsets(p)) == 4_000 for p in range(3)), "rest"
            )
            assert len(seen.offsets(3)) < 4_000
            seen.partitions[3].resume()
            await wait_in_loop(lambda: seen.count() == 16_000, "the paused partition's rest")
            assert app.consumer.ledger.generation == generation
            assert app.consumer.ledger.queued_bytes == 0

    asyncio.run(main())
    # Beyond the bound is at most what one look had already brought.
    assert max(queued) <= 2**20 + 2**18
    assert [seen.offsets(part) for part in range(4)] == [list(range(4_000))] * 4
    assert sorted(seen.takeovers) == [0, 1, 2, 3]


def test_workers_come_and_go_and_nothing_is_lost_or_given_twice(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    """A partition that stays keeps its owner through the rebalance; one that moves goes on at its fence."""
    topic = make_topic(4)
    first, second = Seen(), Seen()
    second.fences = first.fences
    sent = 0

    def more() -> None:
        nonlocal sent
        produce(kafka_settings, topic, [(part, {"value": b"%d" % sent}) for part in range(4) for _ in range(500)])
        sent += 500

    async def caught_up() -> None:
        await wait_in_loop(lambda: all(first.fences.get(part) == sent - 1 for part in range(4)), f"{sent} records each")

    async def main() -> None:
        settings = worker_settings(kafka_settings, group)
        async with running(settings, topic, lambda partition: Recorder(partition, first), tmp_path / "1"):
            more()
            await caught_up()
            async with running(settings, topic, lambda partition: Recorder(partition, second), tmp_path / "2"):
                more()
                await wait_in_loop(lambda: len(second.partitions) == 2, "the second worker's share")
                await caught_up()
                more()
                await caught_up()
                assert len(first.takeovers) == 4
            more()
            await caught_up()

    asyncio.run(main())
    assert len(first.takeovers) == 6
    assert sorted(second.drops) == sorted(set(second.takeovers))
    for part in range(4):
        assert sorted(first.offsets(part) + second.offsets(part)) == list(range(sent))
    assert committed(kafka_settings, group, topic, 4) == [sent] * 4


def test_partitions_may_go_while_they_are_still_being_taken_over(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(4)
    produce(kafka_settings, topic, [(part, {"value": b"x"}) for part in range(4) for _ in range(100)])
    first, second = Seen(), Seen()
    second.fences = first.fences
    goes_on = asyncio.Event()

    class Slow(Recorder):
        """Takes over when it may: until then partitions go from worker to worker without being read from."""

        async def take_over(self) -> int:
            offset = await super().take_over()
            await goes_on.wait()
            return offset

    async def main() -> None:
        settings = worker_settings(kafka_settings, group)
        async with running(settings, topic, lambda partition: Slow(partition, first), tmp_path / "1"):
            await wait_in_loop(lambda: len(first.takeovers) == 4, "all takeovers")
            async with running(settings, topic, lambda partition: Slow(partition, second), tmp_path / "2"):
                await wait_in_loop(lambda: len(first.drops) == 2, "the loss of two that were not taken over yet")
                await wait_in_loop(lambda: len(second.takeovers) == 2, "the second worker's share")
                goes_on.set()
                await wait_in_loop(lambda: first.count() + second.count() == 400, "all records")

    asyncio.run(main())
    for part in range(4):
        assert sorted(first.offsets(part) + second.offsets(part)) == list(range(100))


def test_a_static_member_that_restarts_disturbs_nobody(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(4)
    first, second, again = Seen(), Seen(), Seen()

    async def main() -> None:
        one = worker_settings(kafka_settings, group, instance_id="one")
        two = worker_settings(kafka_settings, group, instance_id="two")
        async with running(one, topic, lambda partition: Recorder(partition, first), tmp_path / "1") as stays:
            async with running(two, topic, lambda partition: Recorder(partition, second), tmp_path / "2"):
                await wait_in_loop(lambda: len(second.partitions) == 2, "the second worker's share")
                await wait_in_loop(lambda: len(stays.consumer.ledger.all_held()) == 2, "the first worker's new share")
            generation = stays.consumer.ledger.generation
            async with running(two, topic, lambda partition: Recorder(partition, again), tmp_path / "3"):
                await wait_in_loop(lambda: set(again.partitions) == set(second.partitions), "the same share")
                produce(kafka_settings, topic, [(part, {"value": b"x"}) for part in range(4)])
                await wait_in_loop(lambda: first.count() + again.count() == 4, "all records")
            assert stays.consumer.ledger.generation == generation
            assert stays.crash_reason is None

    asyncio.run(main())
    assert len(first.takeovers) == 4


@pytest.mark.parametrize("restarted", ["nobody", "the leader", "everybody, across the growth"])
def test_new_partitions_of_a_topic_are_taken_over_whoever_has_restarted(
    restarted: str, kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    """A static leader that restarts is not told that it leads: then nobody of the group would see that a topic has grown."""
    topic = make_topic(4)
    seen = Seen()

    def start(name: str) -> AbstractAsyncContextManager[SourceApp]:
        settings = worker_settings(kafka_settings, group, instance_id=name, topic_look_ms=200)
        return running(settings, topic, lambda partition: Recorder(partition, seen), tmp_path / uuid.uuid4().hex)

    def grow() -> None:
        client = admin(kafka_settings)
        client.create_partitions([NewPartitions(topic, 7)])[topic].result(20)
        produce(kafka_settings, topic, [(part, {"value": b"later"}) for part in range(7)])

    async def main() -> None:
        async with AsyncExitStack() as first, AsyncExitStack() as second:
            one = await first.enter_async_context(start("one"))
            two = await second.enter_async_context(start("two"))
            await wait_in_loop(lambda: held_by(one) == held_by(two) == 2, "a share each")
            generation = one.consumer.ledger.generation
            produce(kafka_settings, topic, [(part, {"value": b"before"}) for part in range(4)])
            await wait_in_loop(lambda: seen.count() == 4, "the first records")
            if restarted == "everybody, across the growth":
                await first.aclose()
                await second.aclose()
                await asyncio.to_thread(grow)
                two = await second.enter_async_context(start("two"))
                one = await first.enter_async_context(start("one"))
            elif restarted == "the leader":
                await first.aclose()
                one = await first.enter_async_context(start("one"))
                await wait_in_loop(lambda: held_by(one) == 2, "the same share")
                assert one.consumer.ledger.generation == generation
            if restarted != "everybody, across the growth":
                await asyncio.to_thread(grow)
            await wait_in_loop(lambda: held_by(one) + held_by(two) == 7, "shares of all seven")
            await wait_in_loop(lambda: seen.count() == 11, "all records")
            assert one.consumer.ledger.generation == two.consumer.ledger.generation == generation + 1
            assert one.crash_reason is two.crash_reason is None

    asyncio.run(main())
    assert [seen.values(part) for part in range(7)] == [[b"before", b"later"]] * 4 + [[b"later"]] * 3


def held_by(app: SourceApp) -> int:
    return len(app.consumer.ledger.all_held())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_storm_of_rebalances_loses_and_repeats_nothing(
    seed: int, kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    """Workers join and leave at any moment, in the middle of fetches, while records keep coming."""
    chance = random.Random(seed)
    topic = make_topic(4)
    everything = Seen()
    settings = worker_settings(kafka_settings, group, fetch_bytes_max=2**16, fetch_bytes_min=1)
    sent = 0
    storm = True

    async def work(_: Fetch) -> None:
        await asyncio.sleep(chance.random() * 0.05)

    async def writer() -> None:
        nonlocal sent
        while storm:
            records = [(part, {"value": b"%d" % (sent + index)}) for index in range(50) for part in range(4)]
            await asyncio.to_thread(produce, kafka_settings, topic, records)
            sent += 50

    async def come_and_go(number: int) -> None:
        await asyncio.sleep(chance.random())
        for turn in range(3):
            data_dir = tmp_path / f"{number}-{turn}"
            async with running(settings, topic, lambda partition: Recorder(partition, everything, work), data_dir):
                await asyncio.sleep(chance.random() * 2.5)

    async def main() -> None:
        nonlocal storm
        writing = asyncio.create_task(writer())
        await asyncio.gather(*(come_and_go(number) for number in range(3)))
        storm = False
        await writing
        last = tmp_path / "last"
        async with running(settings, topic, lambda partition: Recorder(partition, everything, work), last):
            await wait_in_loop(
                lambda: all(everything.fences.get(part) == sent - 1 for part in range(4)), "the logs' ends"
            )

    asyncio.run(main())
    for part in range(4):
        assert everything.offsets(part) == list(range(sent))
        assert everything.values(part) == [b"%d" % index for index in range(sent)]
    assert sorted(everything.drops) == sorted(everything.takeovers)
    assert committed(kafka_settings, group, topic, 4) == [sent] * 4


def test_a_killed_worker_is_succeeded_and_every_record_is_taken_in(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(4)
    records = ((part, {"value": b"x" * 200}) for part in range(4) for _ in range(5_000))
    produce(kafka_settings, topic, records, batch_size=2**14)
    with (
        worker_process(kafka_settings, topic, group, tmp_path, slow_ms=50) as victim,
        worker_process(kafka_settings, topic, group, tmp_path) as heir,
    ):

        async def main() -> None:
            await wait_in_loop(lambda: heir.said("take_over") >= 2 and victim.said("take_over") >= 2, "both at work")
            victim.process.kill()
            await wait_in_loop(lambda: heir.said("take_over") >= 4, "the heir's takeover")
            produce(kafka_settings, topic, [(part, {"value": b"y"}) for part in range(4) for _ in range(10)])
            await wait_in_loop(
                lambda: all(set(rows) == set(range(5_010)) for rows in heir.rows().values()) and len(heir.rows()) == 4,
                "every record",
            )
            await wait_in_loop(lambda: committed(kafka_settings, group, topic, 4) == [5_010] * 4, "commits")

        asyncio.run(main())
        heir.process.send_signal(signal.SIGTERM)
        assert heir.process.wait(20) == 0
        assert heir.said("release") >= 4


def test_a_worker_that_slept_through_its_session_changes_no_commit_and_takes_over_anew(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(1)
    produce(kafka_settings, topic, ((0, {"value": b"x" * 200}) for _ in range(3_000)), batch_size=2**14)
    with worker_process(kafka_settings, topic, group, tmp_path, slow_ms=100) as sleeper:

        async def main() -> None:
            await wait_in_loop(lambda: sleeper.rows(), "the first rows")
            sleeper.process.send_signal(signal.SIGSTOP)
            with worker_process(kafka_settings, topic, group, tmp_path) as heir:
                await wait_in_loop(lambda: committed(kafka_settings, group, topic, 1) == [3_000], "the heir's commit")
                sleeper.process.send_signal(signal.SIGCONT)
                await wait_in_loop(lambda: sleeper.said("drop") == 1, "the sleeper notices")
                assert committed(kafka_settings, group, topic, 1) == [3_000]
                heir.process.kill()
            produce(kafka_settings, topic, [(0, {"value": b"y"}) for _ in range(10)])
            await wait_in_loop(
                lambda: committed(kafka_settings, group, topic, 1) == [3_010], "the sleeper's second turn"
            )
            assert set(sleeper.rows()[0]) == set(range(3_010))

        asyncio.run(main())


def test_an_owners_bug_ends_the_worker_and_commits_nothing(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic = make_topic(1)
    produce(kafka_settings, topic, [(0, {"value": b"x"})])
    with worker_process(kafka_settings, topic, group, tmp_path, fail=True) as worker:
        assert worker.process.wait(30) == 1
    assert committed(kafka_settings, group, topic, 1)[0] < 0


def test_a_worker_stops_in_bounded_time_when_the_broker_is_away(tmp_path: Path, group: str) -> None:
    broker = provide_broker(load(), tmp_path / "kafka", port=0, mock_allowed=False)
    try:
        kafka = load().kafka.model_copy(update={"bootstrap": broker.bootstrap})
        from confluent_kafka.admin import NewTopic

        client = admin(kafka)
        client.create_topics([NewTopic("t", 1, 1)])["t"].result(20)
        produce(kafka, "t", [(0, {"value": b"x"})])
        with worker_process(kafka, "t", group, tmp_path) as worker:
            wait_until(worker.rows, "the first row")
            broker.stop()
            worker.process.send_signal(signal.SIGTERM)
            worker.process.wait(25)
    finally:
        broker.stop()


def test_a_recreated_topic_has_another_id_and_one_that_is_missing_is_told(
    kafka_settings: KafkaSettings, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    topic, others = make_topic(1), [make_topic(1) for _ in range(8)]
    client = admin(kafka_settings)
    told = {
        name: str(found.result(20).topic_id) for name, found in client.describe_topics(TopicCollection(others)).items()
    }
    seen = Seen()

    async def main() -> None:
        settings = worker_settings(kafka_settings, group)
        async with running(settings, topic, lambda partition: Recorder(partition, seen), tmp_path):
            await wait_in_loop(lambda: seen.partitions, "an assignment")
            source = seen.partitions[0]
            assert {name: await source._consumer.topic_id(name) for name in others} == told
            other = others[0]
            await asyncio.to_thread(client.delete_topics([other])[other].result, 20)
            await wait_in_loop(lambda: other not in client.list_topics(timeout=20).topics, "the topic is gone")
            with pytest.raises(BrokerError) as missing:
                await source._consumer.topic_id(other)
            assert (missing.value.code, missing.value.retryable) == ("KFK021", False)
            await asyncio.to_thread(client.create_topics([NewTopic(other, 1, 1)])[other].result, 20)
            assert await source._consumer.topic_id(other) != told[other]

    asyncio.run(main())
