"""Metric values read out of states: many windows at once, each with what is known of its error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fqlstream.aggregates.protocol import Aggregator, Reading
from fqlstream.fql.bounds import enclose
from fqlstream.fql.plan import Cell, Lane, ModelPlan, walk
from fqlstream.fql.programs import ProgramBuilder
from fqlstream.functions.expression import Aggregate, AggregateValue, Expression

Cells = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One metric over one segment, read from merged states.

    `rows` and `labelled_rows` are those of the segment. `error_bound` is None where `exact`, and where no bound is known:
    of a quantile its normalised rank error at 99 % confidence, else an absolute error.
    """

    metric: str
    segment: str
    value: float | None
    exact: bool
    error_bound: float | None
    rows: int
    labelled_rows: int


class Reader:
    """Reads metric values out of states."""

    def __init__(
        self, plan: ModelPlan, cells: Mapping[Lane, Sequence[Cell]], made: Mapping[Aggregate, Aggregator[Any]]
    ) -> None:
        self._plan = plan
        aggregators = dict(made)
        cell_at: dict[tuple[Aggregate, Expression], tuple[Lane | None, int]] = {
            (cell.aggregate, cell.segment): (lane, place) for lane, of in cells.items() for place, cell in enumerate(of)
        }
        for place, of in enumerate(self._plan.compared):
            cell_at[of.aggregate, of.segment] = None, place
            aggregators[of.aggregate] = aggregators[of.production]
        builder = ProgramBuilder()
        self._roots = [builder.add(metric.expression) for metric in self._plan.metrics]
        self._traffic, self._labelled = builder.add(self._plan.traffic), builder.add(self._plan.labelled)
        self._program = builder.program([*self._roots, self._traffic, self._labelled])
        self._leaf_registers = [
            tuple((builder.add(leaf), leaf) for leaf in _leaves(metric.expression)) for metric in self._plan.metrics
        ]
        self._sources = {
            register: _LeafSource(
                aggregators[leaf.aggregate],
                leaf.read,
                dict(leaf.params),
                tuple(cell_at[leaf.aggregate, segment.expression] for segment in self._plan.segments),
            )
            for register, leaf in enumerate(self._program.sources)
            if isinstance(leaf, AggregateValue)
        }

    def read(self, windows: Sequence[Mapping[Lane, Cells]], compared: Sequence[Cells]) -> list[list[Result]]:
        """Give per window the value of each metric over each segment; `compared` are baselines' states, per window."""
        segments = [segment.name for segment in self._plan.segments]
        readings = {register: source.read(windows, compared) for register, source in self._sources.items()}
        registers = self._program.run_from(
            len(windows) * len(segments),
            {
                register: pa.array([reading.value for reading in of], pa.float64(), from_pandas=True)
                for register, of in readings.items()
            },
        )
        rows, labelled = (
            [int(reading.value or 0) for reading in readings[register]] for register in (self._traffic, self._labelled)
        )
        found: list[list[Result]] = [[] for _ in windows]
        for metric, root, leaves in zip(self._plan.metrics, self._roots, self._leaf_registers, strict=True):
            for at, value in enumerate(_finite_values(registers[root])):
                exact, bound = True, None
                if not all(readings[register][at].exact for register, _ in leaves):
                    here = {leaf: readings[register][at] for register, leaf in leaves}
                    exact, bound = enclose(metric.expression, value, here)
                window, segment = divmod(at, len(segments))
                found[window].append(
                    Result(metric.name, segments[segment], value, exact, bound, rows[at], labelled[at])
                )
        return found


@dataclass(frozen=True, slots=True)
class _LeafSource:
    """Where a number read from states stands: one cell per segment; of no lane where it is a baseline's."""

    aggregator: Aggregator[Any]
    name: str
    params: Mapping[str, float]
    cells: tuple[tuple[Lane | None, int], ...]

    def read(self, windows: Sequence[Mapping[Lane, Cells]], compared: Sequence[Cells]) -> list[Reading]:
        """Give the readings of all windows and segments, segments within windows."""
        read, name, params = self.aggregator.read, self.name, self.params
        return [
            read((beside if lane is None else window[lane])[place], name, params)
            for window, beside in zip(windows, compared, strict=True)
            for lane, place in self.cells
        ]


def _leaves(expression: Expression) -> Iterable[AggregateValue]:
    return dict.fromkeys(node for node in walk(expression) if isinstance(node, AggregateValue))


def _finite_values(array: pa.Array) -> list[float | None]:
    """Give numbers and Booleans as finite numbers or None."""
    return [None if value is None or not math.isfinite(value) else float(value) for value in array.to_pylist()]
