"""What is asked of the contained execution, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fqlstream.errors import FqlstreamError

#: Engines by name: PySpark in this sandbox, PySpark's client of a Spark Connect server, SQLFrame on DuckDB.
Engine = Literal["spark", "spark_remote", "sqlframe"]

#: What a run passes through, in this order; `computed` comes once per frame.
Stage = Literal["started", "loaded", "computed"]


class CodeMetricsRefusedError(FqlstreamError):
    """No metric code is run here: a layer of the sandbox, or what an engine needs, is missing."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One data frame that `calc_metric` is called with.

    `name` tells the caller's frames apart: a segment's name, `''` for all rows. `where` is a boolean column of the rows,
    and the frame holds the rows where it is true; None: every row. All segments are columns of the same rows, because
    rows are then exported, copied and read once, however many segments a model has. The metric's code never sees
    a column that is some frame's `where`.
    """

    name: str
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use of the machine, over all its processes."""

    wall_s: float
    memory_bytes: int
    processes: int
    output_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class Job:
    """One run: `code` defines `calc_metric(df)`; `rows` are Parquet files of one schema, read as one table.

    `engine` and `limits` None: the settings' own.
    """

    code: str
    rows: tuple[Path, ...]
    frames: tuple[Frame, ...] = (Frame(""),)
    engine: Engine | None = None
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no value. `traceback` holds the metric's own lines only; `''` where none of them was running."""

    code: str
    message: str
    traceback: str = ""
    hint: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """Give the four keys that every answer and stored run carries."""
        return {"code": self.code, "message": self.message, "traceback": self.traceback, "hint": self.hint}


@dataclass(frozen=True, slots=True)
class FrameOutcome:
    """What became of one frame.

    `value` may be NaN or infinite. It is None where `rows` is 0, for which the code is not called, and where `failure`
    says why there is none. One frame's failure leaves the others their values. `rows` is counted by us, not by the code.
    """

    name: str
    rows: int
    value: float | None
    seconds: float
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the sandbox: whether it holds here, as probed from inside, and if not, why."""

    name: str
    active: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage that was just completed: `done` of `total` stages; `frame` names the frame of a `computed`."""

    stage: Stage
    done: int
    total: int
    frame: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run's answer. `failure` is the whole run's: then `frames` holds those that were computed before it.

    `layers` are the names of the layers that were active, `seconds` says how long each stage took
    (`check`, `start`, `load`, `compute`), and `memory_bytes_peak` is the highest sample over all processes of the run.
    """

    engine: Engine
    frames: tuple[FrameOutcome, ...]
    failure: Failure | None
    layers: tuple[str, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    memory_bytes_peak: int = 0
