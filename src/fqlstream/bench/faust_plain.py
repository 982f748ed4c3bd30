"""Plain Faust, as its manual shows it: one agent, `async for`, a dict per key in a Table. What our transport replaces."""

from __future__ import annotations

import math
import signal
import sys
from typing import Any

import faust
from faust.worker import Worker

from fqlstream.bench.contender import Meter, Task
from fqlstream.bench.workload import Workload


def main() -> int:
    """Read the task's topic once, keeping count, sum and extremes of a column per country."""
    task = Task.from_arguments()
    app = faust.App(
        f"plain-{task.topic}",
        broker=f"kafka://{task.bootstrap}",
        datadir=task.data_dir,
        store="memory://",
        web_enabled=False,
        topic_partitions=task.partitions,
        topic_replication_factor=1,
        topic_disable_leader=True,
        stream_wait_empty=False,
        worker_redirect_stdouts=False,
    )
    states = app.Table("states", default=dict, partitions=task.partitions)
    seen = 0
    meter: Meter | None = None

    @app.agent(app.topic(task.topic, value_type=bytes, value_serializer="json", key_serializer="raw"))
    async def aggregate(events: Any) -> None:
        nonlocal seen, meter
        async for event in events:
            meter = meter or Meter()
            columns = event["columns"]
            state = states[columns["country"]]
            value = columns["latency_ms"]
            state["count"] = state.get("count", 0) + 1
            state["sum"] = state.get("sum", 0.0) + value
            state["least"] = min(state.get("least", value), value)
            state["most"] = max(state.get("most", value), value)
            states[columns["country"]] = state
            seen += 1
            if seen == task.events_count:
                meter.measurement(seen, checked=_right(task, dict(states.items()))).hand_in()
                signal.raise_signal(signal.SIGTERM)

    app.finalize()
    try:
        Worker(app, quiet=True, redirect_stdouts=False, override_logging=False).execute_from_commandline()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _right(task: Task, states: dict[str, dict[str, float]]) -> bool:
    frame = Workload(task.events_count).table.to_pandas()
    expected = frame.groupby("country")["latency_ms"].agg(["count", "sum", "min", "max"])
    return len(states) == len(expected) and all(
        state["count"] == expected["count"][country]
        and math.isclose(state["sum"], expected["sum"][country], rel_tol=1e-9)
        and (state["least"], state["most"]) == (expected["min"][country], expected["max"][country])
        for country, state in states.items()
    )


if __name__ == "__main__":
    sys.exit(main())
