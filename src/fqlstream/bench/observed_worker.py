"""The whole worker, as `fqlstream worker` runs it, which says ten times a second what it holds: one line of JSON each."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from fqlstream.app.worker import Worker, configure_logging
from fqlstream.local.joining import join
from fqlstream.settings import load

_EVERY_S: Final = 0.1
#: What marks a line that is ours, among the log's.
MARK: Final = "observed "
#: `ru_maxrss` is in KiB, but on macOS in bytes.
_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at a worker. `rss_max_bytes`: the most it ever had; `applied`: offsets below which all is applied, added up."""

    at_s: float
    partitions: int
    applied: int
    flushed: int
    panes: int
    panes_bytes: int
    blocks: int
    blocks_bytes: int
    rss_max_bytes: int


def observed(worker: Worker) -> Observed:
    """Look at a worker."""
    owners = worker.aggregate.owners
    blocks = worker.finalise.memory.blocks
    return Observed(
        time.time(),
        len(owners),
        sum(owner.state.next_offset for owner in owners),
        sum(owner.flushed_offset for owner in owners),
        sum(len(owner.state.panes.held) for owner in owners),
        sum(owner.state.panes.bytes_count for owner in owners),
        len(blocks),
        blocks.weight,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT,
    )


async def _say(worker: Worker) -> None:
    while True:
        sys.stderr.write(f"{MARK}{json.dumps(asdict(observed(worker)))}\n")
        sys.stderr.flush()
        await asyncio.sleep(_EVERY_S)


def read(log: Path, since_s: float) -> list[Observed]:
    """Read what a worker said from a time on."""
    lines = log.read_text(errors="replace").splitlines()
    found = [
        Observed(**json.loads(line.removeprefix(MARK)))
        for line in lines
        if line.startswith(MARK) and line.endswith("}")
    ]
    return [each for each in found if each.at_s >= since_s]


def main() -> int:
    """Run one worker of the stack in the directory that is named."""
    configure_logging()
    worker = Worker(join(Path(sys.argv[1]), load()))
    worker.app.task(lambda: _say(worker))
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
