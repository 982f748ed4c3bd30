"""The whole worker as a contender: fetch, decode, evaluate, history, states, values; until every value is published."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fqlstream.app.worker import Worker
from fqlstream.bench.contender import Meter, Task
from fqlstream.bench.workload import MODEL
from fqlstream.errors import FqlstreamError
from fqlstream.local.joining import join
from fqlstream.settings import load

_LOOK_S = 0.05


@dataclass(slots=True)
class Watch:
    """Waits until the task's events are applied, durable and published; then hands in what that took, and ends."""

    worker: Worker
    task: Task

    async def run(self) -> None:
        """Measure from the first partition on."""
        await self.worker.ready.wait()
        await _until(lambda: bool(self.worker.aggregate.owners))
        meter = Meter()
        await _until(self._durable)
        await self.worker.aggregate.flush(labels=True)
        await _until(self._published)
        parts = self.worker.aggregate.meter
        sys.stderr.write(
            json.dumps(
                {
                    "apply_s": round(parts.apply_s, 3),
                    "flush_s": round(parts.flush_s, 3),
                    "finalise_s": round(self.worker.finalise.finalise_s, 3),
                    "fetches": parts.fetches,
                    "flushes": parts.flushes,
                }
            )
            + "\n"
        )
        meter.measurement(self.task.events_count, checked=True).hand_in()
        signal.raise_signal(signal.SIGTERM)

    def _durable(self) -> bool:
        owners = self.worker.aggregate.owners
        events = sum(owner.state.counters.get("events", 0) for owner in owners)
        refused = sum(owner.state.counters.get("dead_letters", 0) for owner in owners)
        if refused:
            raise FqlstreamError("BEN006", f"{refused} records were refused: the worker cannot read this workload")
        return events >= self.task.events_count and all(o.flushed_offset == o.state.next_offset for o in owners)

    def _published(self) -> bool:
        """Say whether every flush is in the published values."""
        wanted = {owner.partition: owner.base.version.number for owner in self.worker.aggregate.owners}
        return self.worker.finalise.published(MODEL) == wanted


async def _until(condition: Callable[[], bool]) -> None:
    while not await asyncio.to_thread(condition):  # noqa: ASYNC110  # looking from outside: nobody sets an event
        await asyncio.sleep(_LOOK_S)


def main() -> int:
    """Run one worker of the stack in the task's directory over everything in its topic."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    task = Task.from_arguments()
    worker = Worker(join(Path(task.data_dir), load()))
    worker.app.task(Watch(worker, task).run)
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
