"""The benchmarks behind `fqlstream bench`: what is measured, on what machine, and whether the answers were right."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fqlstream.errors import UsageError


@dataclass(frozen=True, slots=True)
class Report:
    """One benchmark's result. `checked`: every answer was compared with the right one, so the figures mean something."""

    name: str
    machine: str
    checked: bool
    figures: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Give the keys of the JSON contract."""
        return {"name": self.name, "machine": self.machine, "checked": self.checked, "figures": dict(self.figures)}


@dataclass(frozen=True, slots=True)
class Request:
    """How large, and which figures (none named: all). `say` tells a person what is going on.

    `rounds` and `seed` are for what draws its course.
    """

    events_count: int
    figures: frozenset[str]
    say: Callable[[str], None]
    rounds: int = 10
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark: where its `run(request)` is, and what it measures."""

    name: str
    target: str
    help: str


BENCHES: Final = (
    Bench("pipeline", "fqlstream.bench.pipeline:run", "Events per second and core through the whole pipeline, and what compares."),
    Bench("fql", "fqlstream.bench.fql:run", "Rows per second and core over a table in memory, beside Polars, DuckDB and chDB."),
    Bench("chaos", "fqlstream.bench.chaos:run", "Wrong numbers after processes were killed, stopped and frozen while events flowed."),
    Bench("recovery", "fqlstream.bench.recovery:run", "Seconds and memory of a worker that takes over 10,000 to a million states, and of late events."),
    Bench("scaling", "fqlstream.bench.scaling:run", "Events per second by 1, 2 and 3 workers on 4 and 12 partitions, and a worker that joins under load."),
    Bench("api", "fqlstream.bench.api:run", "Requests a second through the REST API by 1 and 32 clients, beside an empty FastAPI route."),
    Bench("code_metrics", "fqlstream.bench.code_metrics:run", "Seconds and memory of metrics in Python, first and warm, from stored rows to values."),
    Bench("protocol", "fqlstream.bench.protocol:run", "What the promise costs: the worker with flush and fences, and with them left out."),
    Bench("functions", "fqlstream.bench.functions:run", "Rows per second and core, and bytes of state, of each FQL function alone."),
    Bench("stages", "fqlstream.bench.stages:run", "Where the time of the worker's own code goes, stage by stage, without broker and store."),
)  # fmt: skip


def run_bench(name: str, request: Request) -> Report:
    """Run a benchmark by name. Raises UsageError where there is none of that name."""
    for bench in BENCHES:
        if bench.name == name:
            module, _, attribute = bench.target.partition(":")
            report: Report = getattr(importlib.import_module(module), attribute)(request)
            return report
    known = ", ".join(bench.name for bench in BENCHES)
    raise UsageError("BEN001", f"there is no benchmark {name!r}", f"there are: {known}")


def machine() -> str:
    """Describe this machine in one line: processor, cores that this process may use, system, Python."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor}, {cores} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
