"""Workers on source topics for tests: in this process, or as processes that can be killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from fqlstream.app.faust_app import PartitionOwner, SourceApp, build_app, run_worker, serve_source
from fqlstream.app.transport import SourcePartition
from fqlstream.settings import KafkaSettings, Settings, StreamSettings, load
from fqlstream.stream.batches import Fetch

DEADLINE_S = 40.0


def worker_settings(
    kafka: KafkaSettings, group: str, stream: StreamSettings | None = None, **changes: object
) -> Settings:
    """Settings of a worker in a group of its own."""
    changed = kafka.model_copy(update={"group": group, "session_timeout_ms": 6_000, **changes})
    return load().model_copy(update={"kafka": changed, "stream": stream or load().stream})


@dataclass
class Seen:
    """What the owners of one worker, or of several, were given."""

    fetches: list[Fetch] = field(default_factory=list)
    takeovers: list[int] = field(default_factory=list)
    releases: list[int] = field(default_factory=list)
    drops: list[int] = field(default_factory=list)
    partitions: dict[int, SourcePartition] = field(default_factory=dict)
    fences: dict[int, int] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)

    def count(self) -> int:
        return sum(map(len, self.fetches))

    def offsets(self, partition: int) -> list[int]:
        return [int(at) for fetch in self.fetches if fetch.partition == partition for at in fetch.offsets]

    def values(self, partition: int) -> list[bytes | None]:
        return [value for fetch in self.fetches if fetch.partition == partition for value in fetch.values]


@dataclass
class Recorder:
    """Owns a partition as the aggregate agent does: a fence says where the next owner goes on.

    An owner that was paused does not know that it has a successor: what it writes under its older epoch loses.
    """

    partition: SourcePartition
    seen: Seen
    work: Callable[[Fetch], Awaitable[None]] | None = None
    acknowledge: bool = True
    epoch: int = 0

    async def take_over(self) -> int:
        self.epoch = self.seen.epochs[self.partition.partition] = self.seen.epochs.get(self.partition.partition, 0) + 1
        self.seen.takeovers.append(self.partition.partition)
        self.seen.partitions[self.partition.partition] = self.partition
        fence = self.seen.fences.get(self.partition.partition)
        return await self.partition.log_start() if fence is None else fence + 1

    async def on_fetch(self, fetch: Fetch) -> None:
        if self.work is not None:
            await self.work(fetch)
        if self.seen.epochs[fetch.partition] != self.epoch:
            return
        self.seen.fetches.append(fetch)
        self.seen.fences[fetch.partition] = fetch.next_offset - 1
        if self.acknowledge:
            self.partition.ack(fetch.next_offset)

    async def release(self) -> None:
        self.seen.releases.append(self.partition.partition)

    def drop(self) -> None:
        self.seen.drops.append(self.partition.partition)


@asynccontextmanager
async def running(
    settings: Settings, topic: str, own: Callable[[SourcePartition], PartitionOwner], data_dir: Path
) -> AsyncIterator[SourceApp]:
    """A worker in this process and event loop; it must not have crashed when the block ends."""
    app = build_app(settings, source_topics=[topic], data_dir=data_dir)
    serve_source(app, topic, own)
    await app.start()
    try:
        yield app
        if app.crash_reason is not None:
            raise app.crash_reason
    finally:
        await app.stop()


def produce(
    kafka: KafkaSettings, topic: str, records: Iterator[tuple[int, dict]] | Sequence, **options: object
) -> None:
    """Write records, given as (partition, arguments of `produce`)."""
    failed: list[object] = []
    producer = Producer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "enable.idempotence": True,  # keeps the order through retries
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
            **{name.replace("_", "."): value for name, value in options.items()},
        }
    )
    for partition, record in records:
        producer.produce(
            topic, partition=partition, on_delivery=lambda error, _: error and failed.append(error), **record
        )
        producer.poll(0)
    assert producer.flush(30) == 0
    assert not failed


def committed(kafka: KafkaSettings, group: str, topic: str, partitions: int) -> list[int]:
    """What the group has committed, as Kafka tells others; -1001 where nothing is."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group})
    try:
        answer = consumer.committed([TopicPartition(topic, index) for index in range(partitions)], timeout=20)
        return [item.offset for item in answer]
    finally:
        consumer.close()


def log_ends(kafka: KafkaSettings, topic: str, partitions: int) -> list[int]:
    """The ends of the logs, markers included."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "ends"})
    try:
        return [
            consumer.get_watermark_offsets(TopicPartition(topic, index), timeout=20)[1] for index in range(partitions)
        ]
    finally:
        consumer.close()


@dataclass
class WorkerProcess:
    """A worker as a process. What it did is in files: `rows-<partition>-<pid>` and `fence-<partition>`."""

    process: subprocess.Popen[bytes]
    data_dir: Path

    def rows(self) -> dict[int, list[int]]:
        """Offsets that any worker of the directory has taken in, per partition, as written."""
        rows: dict[int, list[int]] = {}
        for path in sorted(self.data_dir.glob("rows-*")):
            # The last line of a killed worker may be cut.
            for line in path.read_text().splitlines(keepends=True):
                if line.endswith("\n"):
                    rows.setdefault(int(path.name.split("-")[1]), []).extend(json.loads(line))
        return rows

    def said(self, word: str) -> int:
        """How often the worker has reported this."""
        with suppress(FileNotFoundError):
            return (self.data_dir / f"said-{self.process.pid}").read_text().split().count(word)
        return 0


@contextmanager
def worker_process(
    kafka: KafkaSettings, topic: str, group: str, data_dir: Path, *, slow_ms: int = 0, fail: bool = False
) -> Iterator[WorkerProcess]:
    """Start a worker process; it is killed, if it still runs, when the block ends."""
    arguments = {
        "bootstrap": kafka.bootstrap,
        "topic": topic,
        "group": group,
        "data_dir": str(data_dir),
        "slow_ms": slow_ms,
        "fail": fail,
    }
    process = subprocess.Popen([sys.executable, __file__, json.dumps(arguments)])
    try:
        yield WorkerProcess(process, data_dir)
    finally:
        process.kill()
        process.wait()


@dataclass
class _FileOwner:
    """Appends the offsets it is given to a file, then moves the fence; commits after each fetch."""

    partition: SourcePartition
    data_dir: Path
    slow_ms: int
    fail: bool

    def _say(self, word: str) -> None:
        with (self.data_dir / f"said-{os.getpid()}").open("a") as file:
            file.write(f"{word}\n")

    @property
    def _fence(self) -> Path:
        return self.data_dir / f"fence-{self.partition.partition}"

    async def take_over(self) -> int:
        self._say("take_over")
        return int(self._fence.read_text()) + 1 if self._fence.exists() else await self.partition.log_start()

    async def on_fetch(self, fetch: Fetch) -> None:
        if self.fail:
            raise RuntimeError("a bug in the owner")
        await asyncio.sleep(self.slow_ms / 1000)
        with (self.data_dir / f"rows-{fetch.partition}-{os.getpid()}").open("a") as file:
            file.write(json.dumps(fetch.offsets.tolist()) + "\n")
        temporary = self._fence.with_suffix(f".{os.getpid()}")
        temporary.write_text(str(fetch.next_offset - 1))
        temporary.replace(self._fence)
        self.partition.ack(fetch.next_offset)
        await self.partition.commit()

    async def release(self) -> None:
        self._say("release")

    def drop(self) -> None:
        self._say("drop")


def _main(arguments: dict) -> int:
    kafka = load().kafka.model_copy(update={"bootstrap": arguments["bootstrap"]})
    settings = worker_settings(kafka, arguments["group"], fetch_bytes_max=2**16)
    data_dir = Path(arguments["data_dir"])
    app = build_app(settings, source_topics=[arguments["topic"]], data_dir=data_dir / "faust")
    serve_source(
        app,
        arguments["topic"],
        lambda partition: _FileOwner(partition, data_dir, arguments["slow_ms"], arguments["fail"]),
    )
    return run_worker(app)


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
