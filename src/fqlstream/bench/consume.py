"""Bare consumption: our transport through to the partition's owner, which only counts. What nothing on top can beat."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from fqlstream.app.faust_app import build_app, run_worker, serve_source
from fqlstream.app.transport import SourcePartition
from fqlstream.bench.contender import Meter, Task
from fqlstream.settings import load
from fqlstream.stream.batches import Fetch


@dataclass(slots=True)
class Counter:
    """Counts what all partitions were given, and ends the worker when that is all."""

    task: Task
    meter: Meter | None = None
    events_count: int = 0
    bytes_count: int = 0

    def add(self, fetch: Fetch) -> None:
        """Count one fetch."""
        self.events_count += len(fetch)
        self.bytes_count += fetch.bytes_count
        if self.events_count >= self.task.events_count and self.meter is not None:
            right = (self.events_count, self.bytes_count) == (self.task.events_count, self.task.bytes_count)
            self.meter.measurement(self.events_count, checked=right).hand_in()
            self.meter = None
            signal.raise_signal(signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class CountingOwner:
    """A partition's owner that does nothing with what it gets."""

    partition: SourcePartition
    counter: Counter

    async def take_over(self) -> int:
        """Begin at the log's start; the clock runs from the first partition on."""
        self.counter.meter = self.counter.meter or Meter()
        return 0

    async def on_fetch(self, fetch: Fetch) -> None:
        """Count, acknowledge."""
        self.counter.add(fetch)
        self.partition.ack(fetch.next_offset)

    async def release(self) -> None:
        """Have nothing to write."""

    def drop(self) -> None:
        """Have nothing to forget."""


def main() -> int:
    """Read the task's topic once."""
    task = Task.from_arguments()
    kafka = load().kafka.model_copy(update={"bootstrap": task.bootstrap, "group": f"bench-{task.topic}"})
    settings = load().model_copy(update={"kafka": kafka})
    app = build_app(settings, source_topics=[task.topic], data_dir=Path(task.data_dir))
    counter = Counter(task)
    serve_source(app, task.topic, lambda partition: CountingOwner(partition, counter))
    return run_worker(app)


if __name__ == "__main__":
    sys.exit(main())
