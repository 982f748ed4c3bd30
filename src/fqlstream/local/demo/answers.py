"""What the demo reads back: the values to show, and whether everything that was sent is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, TopicPartition

from fqlstream.client.kafka_options import librdkafka_options
from fqlstream.errors import BrokerError
from fqlstream.settings import KafkaSettings
from fqlstream.store.client import Store
from fqlstream.stream.panes import LANES
from fqlstream.stream.protocol import Version

_ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class Value:
    """One value of one window, over all versions of its model; times in Unix ms."""

    model: str
    metric: str
    segment: str
    window_start_ms: int
    window_end_ms: int
    value: float | None
    rows: int
    labelled_rows: int
    exact: bool
    error_bound: float | None
    status: str
    updated_at_ms: int

    @property
    def window_ms(self) -> int:
        """How long the window is."""
        return self.window_end_ms - self.window_start_ms


def latest_values(store: Store, models: Sequence[str]) -> list[Value]:
    """Give the newest value of the newest window of each metric, segment and window length."""
    return _read(store, "metric_latest", models)


def all_values(store: Store, models: Sequence[str], until_ms: int) -> list[Value]:
    """Give the newest value of every window that ends at `until_ms` or before."""
    return [value for value in _read(store, "metric_series", models) if value.window_end_ms <= until_ms]


def _read(store: Store, view: str, models: Sequence[str]) -> list[Value]:
    rows = store.query_rows(
        "SELECT model, metric, segment, toUnixTimestamp64Milli(window_start), toUnixTimestamp64Milli(window_end), value,"
        " rows, labelled_rows, exact, error_bound, toString(status), toUnixTimestamp64Milli(updated_at)"
        " FROM {view:Identifier} WHERE version = 'all' AND has({models:Array(String)}, model)"
        " ORDER BY model, window_s, window_start, segment, metric",
        {"view": view, "models": list(models)},
    )
    return [Value(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the stream is: records that are in the log and not yet in the states; models with unpublished states."""

    unread: int
    unpublished: tuple[str, ...]

    @property
    def settled(self) -> bool:
        """Whether all that was sent is in the published values."""
        return self.unread == 0 and not self.unpublished


@contextmanager
def watching_log(kafka: KafkaSettings, topic: str) -> Iterator[Callable[[], Mapping[int, int]]]:
    """Give a function that asks the broker for the end of every partition. Raises BrokerError where it does not answer."""
    consumer = Consumer(librdkafka_options(kafka, group_id="fqlstream-demo"))
    try:
        partitions = tuple(consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic].partitions)
        yield lambda: {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_ANSWER_S)[1]
            for number in partitions
        }
    except KafkaException as error:
        raise BrokerError("KFK130", f"no answer about {topic}: {error.args[0].str()}", "is the broker up?") from None
    finally:
        consumer.close()


def standing(store: Store, topic: str, ends: Mapping[int, int], models: Sequence[str]) -> Standing:
    """Compare what the partitions' owners have flushed with the log, and what was published with what was flushed."""
    flushes = store.query_rows(
        "SELECT partition, epoch, flush, fences FROM flushes FINAL WHERE topic = {topic:String}"
        " ORDER BY epoch DESC, flush DESC LIMIT 1 BY partition",
        {"topic": topic},
    )
    fences = {number: min(lanes.get(lane, -1) for lane in LANES) for number, _, _, lanes in flushes}
    flushed = {number: Version(epoch, flush).number for number, epoch, flush, _ in flushes}
    vectors = dict(
        store.query_rows(
            "SELECT model, vector FROM published FINAL WHERE has({models:Array(String)}, model)",
            {"models": list(models)},
        )
    )
    return Standing(
        sum(max(0, end - 1 - fences.get(number, -1)) for number, end in ends.items()),
        tuple(model for model in models if not _covers(vectors.get(model, {}), flushed)),
    )


def _covers(vector: Mapping[int, int], flushed: Mapping[int, int]) -> bool:
    return all(vector.get(partition, -1) >= version for partition, version in flushed.items())
