"""The engine: a model's plan over Arrow tables. Rows in, mergeable states per pane out; states in, metric values out.

Every distinct row expression is computed once per batch. Aggregates that only add up (counts, sums, histograms) are taken
together: segments are masks, and all (segment, aggregate) pairs of a pane are a count of common bits and one matrix
product, exact because sums travel as slices (see `aggregates.exact`). The others reduce their column once per mask.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from itertools import repeat
from operator import is_not
from typing import Any, Final, cast

import msgspec
import numpy as np
import pyarrow as pa

from fqlstream.aggregates.encoding import ForeignStateError
from fqlstream.aggregates.exact import Room
from fqlstream.aggregates.index import AGGREGATORS, make_aggregator
from fqlstream.aggregates.masks import pack
from fqlstream.aggregates.protocol import (
    SMALL_STATE_BYTES,
    Addends,
    Additive,
    Aggregator,
    Grows,
    MergesMany,
    OfNumbers,
)
from fqlstream.errors import FqlstreamError
from fqlstream.fql.batch import Batch, Codes, Counted, Pane, panes_of
from fqlstream.fql.plan import Cell, Lane, ModelPlan
from fqlstream.fql.programs import Program, ProgramBuilder, load_row
from fqlstream.fql.readings import Cells, Reader, Result
from fqlstream.settings import FqlSettings

__all__ = ["CELLS_VERSION", "LANES", "Cells", "Codes", "Engine", "Result", "compile_model"]

LANES: Final = (Lane.EVENTS, Lane.LABELS)
CELLS_VERSION: Final = 1

#: Rows taken at once: enough to amortise a batch, few enough that a batch's columns stay in the processor's cache.
_ROWS_MAX: Final = 2**15
_ROWS_MIN: Final = 2**12
#: Segments times rows of one pass: bounds the memory of masks to a few dozen megabytes.
_MASKED_MAX: Final = 2**22
_POINTER_BYTES: Final = 8
#: Additive aggregates of one matrix product: bounds the memory of slices.
_ADDED_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a cell's state comes from: which aggregate over which segment."""

    aggregate: int
    segment: int


@dataclass(frozen=True, slots=True)
class _Work:
    """What has to be computed for one lane, or for both at once."""

    program: Program
    aggregates: tuple[int, ...]
    segments: tuple[int, ...]
    places: Mapping[Lane, tuple[_Place, ...]]


def compile_model(plan: ModelPlan, settings: FqlSettings) -> Engine:
    """Give the engine of a plan."""
    _keep_freed_memory()
    return Engine(plan, settings)


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Let glibc keep the memory of one batch for the next.

    It hands blocks as large as a batch's columns back to the system, and every batch would pay for hundreds of page faults
    again, a quarter of its time; once a larger block was freed, it keeps them. Elsewhere this does nothing.
    """
    np.empty(_KEPT_BYTES, dtype=np.uint8)


#: Just below 32 MB, the largest block that moves glibc's threshold.
_KEPT_BYTES: Final = 2**25 - 2**16


class Engine:
    """Computes all metrics of one model version. Holds no data: states go in and out."""

    def __init__(self, plan: ModelPlan, settings: FqlSettings) -> None:
        self.plan = plan
        self.settings = settings
        self._cells: dict[Lane, tuple[Cell, ...]] = {lane: plan.lane_cells(lane) for lane in LANES}
        self._aggregates = tuple(dict.fromkeys(cell.aggregate for cell in plan.cells))
        self._segments = tuple(dict.fromkeys(cell.segment for cell in plan.cells))
        self._aggregators: tuple[Aggregator[Any], ...] = tuple(
            make_aggregator(item.kind, dict(item.params), settings) for item in self._aggregates
        )
        self._additive = {
            index: aggregator for index, aggregator in enumerate(self._aggregators) if isinstance(aggregator, Additive)
        }
        self._of_numbers = {
            index: aggregator for index, aggregator in enumerate(self._aggregators) if isinstance(aggregator, OfNumbers)
        }
        self._merge_many: tuple[Callable[[Sequence[Any]], Any], ...] = tuple(
            aggregator.merge_many if isinstance(aggregator, MergesMany) else partial(reduce, aggregator.merge)
            for aggregator in self._aggregators
        )
        builder = ProgramBuilder()
        self._arguments = tuple(tuple(map(builder.add, item.args)) for item in self._aggregates)
        self._conditions = tuple(map(builder.add, self._segments))
        aggregate_at = {item: place for place, item in enumerate(self._aggregates)}
        segment_at = {item: place for place, item in enumerate(self._segments)}
        self._places = {
            lane: tuple(_Place(aggregate_at[cell.aggregate], segment_at[cell.segment]) for cell in self._cells[lane])
            for lane in LANES
        }
        self._work = {lane: self._work_of(builder, (lane,)) for lane in LANES}
        self._work_both = self._work_of(builder, LANES)
        grows = {index: it for index, it in enumerate(self._aggregators) if isinstance(it, Grows)}
        self._growing = {
            lane: tuple((at, grows[of.aggregate]) for at, of in enumerate(places) if of.aggregate in grows)
            for lane, places in self._places.items()
        }
        self._init = {
            lane: tuple(self._aggregators[place.aggregate].init() for place in self._places[lane]) for lane in LANES
        }
        self._reader = Reader(plan, self._cells, dict(zip(self._aggregates, self._aggregators, strict=True)))

    @property
    def columns(self) -> frozenset[str]:
        """Table columns that the engine reads, the violation columns among them where they are asked for."""
        return self._work_both.program.columns

    @property
    def label_columns(self) -> frozenset[str]:
        """Table columns that cells of the label lane read."""
        return self._work[Lane.LABELS].program.columns

    def aggregators(self, lane: Lane) -> tuple[Aggregator[Any], ...]:
        """Give the aggregator of every cell of a lane."""
        return tuple(self._aggregators[place.aggregate] for place in self._places[lane])

    def init(self, lane: Lane) -> Cells:
        """Give the states of no rows, in the order of `plan.lane_cells(lane)`."""
        return self._init[lane]

    def partials(self, table: pa.Table, pane_codes: Codes, pane_count: int, lane: Lane) -> list[Cells]:
        """Give per pane the states of just these rows; `pane_codes` has one number in [0, pane_count) per row."""
        return self._compute(table, pane_codes, pane_count, self._work[lane])[lane]

    def partials_both(self, table: pa.Table, pane_codes: Codes, pane_count: int) -> dict[Lane, list[Cells]]:
        """Give the same for both lanes; an expression that both read is computed once."""
        return self._compute(table, pane_codes, pane_count, self._work_both)

    def merge(self, lane: Lane, a: Cells, b: Cells) -> Cells:
        """Give the states of both sets of rows."""
        if a is self._init[lane]:
            return b
        if b is self._init[lane]:
            return a
        aggregators = self._aggregators
        return tuple(
            aggregators[place.aggregate].merge(left, right)
            for place, left, right in zip(self._places[lane], a, b, strict=True)
        )

    def merge_all(self, lane: Lane, parts: Iterable[Cells]) -> Cells:
        """Give the states of all sets of rows."""
        nothing = self._init[lane]
        some = [part for part in parts if part is not nothing]
        if len(some) < 2:
            return some[0] if some else nothing
        columns = zip(*some, strict=True)
        return tuple(
            self._merge_many[place.aggregate](of) for place, of in zip(self._places[lane], columns, strict=True)
        )

    def retract(self, lane: Lane, a: Cells, gone: Cells) -> tuple[Cells, bool]:
        """Give the states without the rows of `gone`; False where some state could not tell and stayed as it was."""
        return self.replace(lane, a, gone, self._init[lane])

    def replace(self, lane: Lane, a: Cells, gone: Cells, come: Cells) -> tuple[Cells, bool]:
        """Give the states with the rows of `come` in place of those of `gone`; False where some state could not tell.

        A cell that both change in the same way is left alone, so that a label which a cell does not notice costs it
        nothing, not even a state that cannot take rows back.
        """
        states = []
        complete = True
        for place, state, old, new, nothing in zip(self._places[lane], a, gone, come, self._init[lane], strict=True):
            kept = state
            if old != new:
                aggregator = self._aggregators[place.aggregate]
                if old != nothing:
                    retracted = aggregator.retract(kept, old)
                    complete &= retracted is not None
                    kept = kept if retracted is None else retracted
                kept = aggregator.merge(kept, new)
            states.append(kept)
        return tuple(states), complete

    def cells_lost(self, lane: Lane, a: Cells, gone: Cells, come: Cells) -> frozenset[str]:
        """Name the cells that `replace` leaves wrong, because they cannot take rows back."""
        aggregators = self.aggregators(lane)
        return frozenset(
            cell.key
            for cell, aggregator, state, old, new, nothing in zip(
                self._cells[lane], aggregators, a, gone, come, self._init[lane], strict=True
            )
            if old not in (new, nothing) and aggregator.retract(state, old) is None
        )

    def bytes_of(self, cells: Mapping[Lane, Cells]) -> int:
        """Say about how many bytes of memory the states of a pane or window take."""
        return sum(self._lane_bytes(lane, of) for lane, of in cells.items())

    @property
    def most_bytes(self) -> int:
        """Say about how many bytes of memory the states of a pane may take."""
        kinds = [AGGREGATORS[item.kind].state_bytes_max(dict(item.params), self.settings) for item in self._aggregates]
        places = [place for of in self._places.values() for place in of]
        return sum(_POINTER_BYTES + max(SMALL_STATE_BYTES, kinds[place.aggregate]) for place in places)

    def _lane_bytes(self, lane: Lane, cells: Cells) -> int:
        nothing = self._init[lane]
        if cells is nothing:
            return 0
        total = _POINTER_BYTES * len(cells) + SMALL_STATE_BYTES * sum(map(is_not, cells, nothing))
        for place, aggregator in self._growing[lane]:
            state = cells[place]
            if state is not nothing[place]:
                total += aggregator.bytes_of(state)
        return total

    def encode(self, lane: Lane, cells: Cells, without: Collection[str] = ()) -> bytes:
        """Give a msgpack map: `version`, and `cells`: cell key to encoded state, nil where it holds nothing.

        Cells whose keys are in `without` are left out: the record does not cover them.
        """
        encoded = {
            cell.key: None if state == nothing else aggregator.encode(state)
            for cell, aggregator, state, nothing in zip(
                self._cells[lane], self.aggregators(lane), cells, self._init[lane], strict=True
            )
            if cell.key not in without
        }
        return msgspec.msgpack.encode({"version": CELLS_VERSION, "cells": encoded})

    def decode(self, lane: Lane, data: bytes) -> tuple[Cells, frozenset[str]]:
        """Give the states by cell key, and the keys of this plan's lane that the record does not cover."""
        encoded = _decode_record(data)
        missing = {cell.key for cell in self._cells[lane] if cell.key not in encoded}
        states = []
        for cell, aggregator, nothing in zip(self._cells[lane], self.aggregators(lane), self._init[lane], strict=True):
            state = encoded.get(cell.key)
            try:
                states.append(nothing if state is None else aggregator.decode(state))
            except ForeignStateError:  # as good as not there: it is rebuilt like that of a new definition
                states.append(nothing)
                missing.add(cell.key)
        return tuple(states), frozenset(missing)

    def results(self, cells: Mapping[Lane, Cells], compared: Cells = ()) -> list[Result]:
        """Give the value of each metric over each segment; `compared` are the baselines' states for `plan.compared`."""
        return self._reader.read([cells], [compared])[0]

    def results_many(
        self, windows: Sequence[Mapping[Lane, Cells]], compared: Sequence[Cells] | None = None
    ) -> list[list[Result]]:
        """Give the same for many windows; expressions over states are computed once for all of them."""
        return self._reader.read(windows, [()] * len(windows) if compared is None else compared)

    # ---------------------------------------------------------------------------------------------- compilation

    def _work_of(self, builder: ProgramBuilder, lanes: Sequence[Lane]) -> _Work:
        places = {lane: self._places[lane] for lane in lanes}
        aggregates = tuple(sorted({place.aggregate for of in places.values() for place in of}))
        segments = tuple(sorted({place.segment for of in places.values() for place in of}))
        roots = [register for index in aggregates for register in self._arguments[index]]
        roots += [self._conditions[index] for index in segments]
        return _Work(builder.program(roots), aggregates, segments, places)

    # ---------------------------------------------------------------------------------------------- computation

    def _compute(self, table: pa.Table, codes: Codes, pane_count: int, work: _Work) -> dict[Lane, list[Cells]]:
        merged = {lane: [self._init[lane]] * pane_count for lane in work.places}
        step = max(_ROWS_MIN, min(_ROWS_MAX, _MASKED_MAX // max(1, len(work.segments))))
        table = table.select(sorted(work.program.columns))
        start = 0
        while start < len(codes):
            stop = _stop(codes, start, step)
            found = self._compute_some(table.slice(start, stop - start), codes[start:stop], work)
            for code, states in found.items():
                for lane, cells in states.items():
                    merged[lane][code] = self.merge(lane, merged[lane][code], cells)
            start = stop
        return merged

    def _compute_some(self, table: pa.Table, codes: Codes, work: _Work) -> dict[int, dict[Lane, Cells]]:
        rows = len(codes)
        panes, order = panes_of(codes)
        if order is not None:
            table = table.take(pa.array(order))
        registers = work.program.run(rows, load_row(table))
        conditions = [registers[self._conditions[index]] for index in work.segments]
        batch = Batch(rows, pack(conditions, rows), registers)
        states: dict[int, dict[int, list[Any]]] = {pane.code: {} for pane in panes}
        additive = [index for index in work.aggregates if index in self._additive]
        for start in range(0, len(additive), _ADDED_AT_ONCE):
            self._add_up(batch, panes, additive[start : start + _ADDED_AT_ONCE], states)
        for index in work.aggregates:
            if index not in self._additive:
                self._reduce(batch, panes, index, states)
        segment_at = {segment: place for place, segment in enumerate(work.segments)}
        return {
            code: {
                lane: tuple(of[place.aggregate][segment_at[place.segment]] for place in places)
                for lane, places in work.places.items()
            }
            for code, of in states.items()
        }

    def _reduce(self, batch: Batch, panes: Sequence[Pane], index: int, states: Mapping[int, dict[int, Any]]) -> None:
        """Give an aggregate its states, segment by segment."""
        for pane in panes:
            if index in self._of_numbers:
                numbers = batch.numbers(pane, self._arguments[index][0])
                states[pane.code][index] = list(map(self._of_numbers[index].of_numbers, numbers))
            else:
                args = [batch.argument(register).array for register in self._arguments[index]]
                sliced = tuple(array.slice(pane.start, pane.stop - pane.start) for array in args)
                states[pane.code][index] = self._aggregators[index].reduce(sliced, batch.masks(pane))

    def _add_up(
        self, batch: Batch, panes: Sequence[Pane], indices: Sequence[int], states: Mapping[int, dict[int, Any]]
    ) -> None:
        """Give additive aggregates their states: counts by common bits, sums by one matrix product."""
        room = Room(batch.rows, 2 * len(indices))
        found: dict[int, Addends] = {}
        for index in indices:
            addends = self._additive[index].addends(tuple(map(batch.argument, self._arguments[index])), room)
            if addends is None:
                self._reduce(batch, panes, index, states)
            else:
                found[index] = addends
        counted = Counted(batch, [array for addends in found.values() for array in addends.counts])
        slices = [item for addends in found.values() for item in addends.sums]
        for pane in panes:
            counts = counted.count(pane)
            sums = batch.sums(pane, slices)
            count_at = sum_at = 0
            for index, addends in found.items():
                count_to, sum_to = count_at + len(addends.counts), sum_at + len(addends.sums)
                make = self._additive[index].from_totals
                totals = zip(*sums[sum_at:sum_to], strict=True) if addends.sums else repeat(())
                states[pane.code][index] = [
                    make(of[count_at:count_to], total) for of, total in zip(counts, totals, strict=False)
                ]
                count_at, sum_at = count_to, sum_to


def _stop(codes: Codes, start: int, step: int) -> int:
    """Say where a part of at most `step` rows ends: between two panes if it can, which saves merging the halves of one."""
    stop = start + step
    if stop >= len(codes) or codes[stop - 1] != codes[stop]:
        return min(stop, len(codes))
    later = codes[start + step // 2 : stop]
    ends = np.flatnonzero(later[1:] != later[:-1])
    return start + step // 2 + int(ends[-1]) + 1 if len(ends) else stop


def _decode_record(data: bytes) -> Mapping[str, Any]:
    try:
        record = msgspec.msgpack.decode(data)
        version, encoded = record["version"], record["cells"]
    except (msgspec.DecodeError, TypeError, KeyError):
        raise FqlstreamError(
            "STA002",
            "a stored state record is damaged: it is no msgpack map of version and cells",
            "rebuild the pane from history with `fqlstream repair`",
        ) from None
    if version > CELLS_VERSION:
        raise FqlstreamError(
            "STA001",
            f"a stored state record has version {version}, this release reads up to {CELLS_VERSION}",
            "a newer release of fqlstream has written it: run that one, or rebuild the states with `fqlstream repair`",
        )
    return cast("Mapping[str, Any]", encoded)
