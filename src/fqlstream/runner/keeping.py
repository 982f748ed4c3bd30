"""The row of a run while it goes on: every change is written under a higher version, silence is broken now and then, the end comes once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Generic, TypeVar

from fqlstream.clock import Clock
from fqlstream.errors import StoreError
from fqlstream.store.code_metric_rows import (
    FAILED,
    GIVEN_UP,
    STEP_FINAL,
    SUCCESS,
    Report,
    RunRow,
    TaskRow,
    ValueRow,
)

R = TypeVar("R", RunRow, TaskRow)

log = logging.getLogger("fqlstream.runner")

_AGAIN_S: Final = 1.0
_AGAIN_S_MAX: Final = 15.0


class Kept(Generic[R]):
    """A row that a run writes from its thread, and the runner's own thread keeps fresh meanwhile.

    `following` gives the row with the next version. What cannot be written on the way is left out; the end is written again and
    again until ClickHouse has it, or until `stopping`: then the row shows no sign of life, and somebody else does it again.
    """

    def __init__(
        self,
        row: R,
        write: Callable[[R], None],
        following: Callable[[R], R],
        clock: Clock,
        stopping: threading.Event,
    ) -> None:
        self._row: R = row
        self._write: Callable[[R], None] = write
        self._following: Callable[[R], R] = following
        self._clock = clock
        self._stopping = stopping
        self._lock = threading.Lock()
        self._ended = False
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the last row is written."""
        return self._is_over

    @property
    def row(self) -> R:
        """The row as it was last meant to be."""
        return self._row

    def begin(self) -> None:
        """Write the row for the first time. Raises StoreError."""
        with self._lock:
            self._advance(self._row)
            self._write(self._row)

    def tell(self, report: Report) -> None:
        """Write how far the run is."""
        with self._lock:
            if not self._ended:
                self._advance(replace(self._row, report=report))
                self._try()

    def beat(self, heartbeat_ms: int) -> None:
        """Show that the run goes on, where nothing was written for so long."""
        if self._lock.acquire(blocking=False):
            try:
                if not self._ended and self._clock.now_ms() - self._row.updated_at_ms >= heartbeat_ms:
                    self._advance(self._row)
                    self._try()
            finally:
                self._lock.release()

    def end(self, finish: Callable[[R], R], before: Callable[[R], None] | None = None) -> None:
        """Write the last row, after what has to be durable before it."""
        with self._lock:
            self._ended = True
            self._advance(finish(self._row))
            wait_s = _AGAIN_S
            while True:
                try:
                    if before is not None:
                        before(self._row)
                    self._write(self._row)
                except StoreError as error:
                    log.warning("the end of a run waits for ClickHouse: %s", error.message)
                    if self._stopping.wait(wait_s):
                        return
                    wait_s = min(2 * wait_s, _AGAIN_S_MAX)
                else:
                    self._is_over = True
                    return

    def _advance(self, row: R) -> None:
        self._row = replace(self._following(row), updated_at_ms=self._clock.now_ms())

    def _try(self) -> None:
        try:
            self._write(self._row)
        except StoreError as error:
            log.warning("the progress of a run could not be written: %s", error.message)


def ended_run(report: Report, *, is_success: bool, now_ms: int) -> Callable[[RunRow], RunRow]:
    """Give what makes the last row of a run."""
    state = SUCCESS if is_success else FAILED
    return lambda row: replace(row, state=state, report=report, finished_at_ms=now_ms)


def given_up(code: str, error: str, *, is_failure: bool) -> Callable[[RunRow], RunRow]:
    """Give what makes the last row of a run that is to be begun again; one that was ended in order does not count as a try."""

    def give_up(row: RunRow) -> RunRow:
        tries = row.tries + 1 if is_failure else 0
        return replace(row, state=GIVEN_UP, tries=tries, report=replace(row.report, code=code, error=error))

    return give_up


def ended_task(
    report: Report, values: tuple[ValueRow, ...], version: str, *, is_success: bool
) -> Callable[[TaskRow], TaskRow]:
    """Give what makes the last row of a task: the value of all rows, and of each segment, of the version that was asked for."""
    found = {value.segment: value.value for value in values if value.version == version}
    segments = {segment: value for segment, value in found.items() if segment}
    state = SUCCESS if is_success else FAILED

    def end(row: TaskRow) -> TaskRow:
        return replace(row, state=state, report=report, value=found.get(""), segments=segments, step=STEP_FINAL)

    return end


def next_step(row: TaskRow) -> TaskRow:
    """Give a task's row with the next step; a last one stays that."""
    return row if row.step >= STEP_FINAL else replace(row, step=row.step + 1)
