"""Warm sandboxes, each used for one run: handed a job, watched, ended, and replaced by a new one."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from fqlstream.code_metrics import checking, failures, rows, supervisor
from fqlstream.code_metrics.launcher import Kind, Launcher, Started
from fqlstream.code_metrics.request import (
    CodeMetricsRefusedError,
    Failure,
    FrameOutcome,
    Job,
    Layer,
    Limits,
    Outcome,
    Progress,
    Stage,
)
from fqlstream.code_metrics.scratch import Scratch
from fqlstream.settings import CodeMetricsSettings

_MIB: Final = 2**20


class Pool:
    """Runs metric code, each run in a sandbox of its own. Every method may be called from any thread.

    Sandboxes' files lie below `directory`: on the disk of the rows, so that these are linked and not copied. `private` are
    directories that no sandbox may ever see. Raises CodeMetricsRefusedError where a layer that must hold is missing, or where an engine cannot be had.
    """

    def __init__(
        self, settings: CodeMetricsSettings, directory: Path | None = None, private: Sequence[Path] = ()
    ) -> None:
        self.settings = settings
        self._default = Kind(
            settings.engine,
            Limits(
                wall_s=settings.wall_s,
                memory_bytes=settings.memory_mib_max * _MIB,
                processes=settings.processes_max,
                output_bytes=settings.output_bytes_max,
                disk_bytes=settings.disk_mib_max * _MIB,
            ),
        )
        self._closed = threading.Event()
        self._scratch = Scratch(directory)
        self._launcher = Launcher(settings, self._scratch.path, private, self._closed.is_set)
        self._places = threading.BoundedSemaphore(settings.runs_at_once)
        self._lock = threading.Lock()
        self._ready: list[Started] = []
        self._getting_ready = 0
        # A warm sandbox is waited for by threads of their own, none of which a run needs.
        self._warmer = ThreadPoolExecutor(max(1, settings.warm), thread_name_prefix="warm-sandboxes")

    @property
    def limits(self) -> Limits:
        """What a run may use where its job names nothing else."""
        return self._default.limits

    def layers(self) -> tuple[Layer, ...]:
        """Report each layer of the sandbox, probed from inside once per pool."""
        return self._launcher.probe(self._default.limits).layers

    def warm(self) -> None:
        """Start as many sandboxes as the settings keep ready, without waiting for them; probes the layers first."""
        self._require(self._default)
        with self._lock:
            missing = self.settings.warm - len(self._ready) - self._getting_ready
            if self._closed.is_set() or missing <= 0:
                return
            self._getting_ready += missing
            for _ in range(missing):
                self._warmer.submit(self._add_ready)

    def ready(self) -> int:
        """How many sandboxes wait for a job."""
        with self._lock:
            return len(self._ready)

    def run(self, job: Job, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        """Run one job and wait for its outcome, at most `limits.wall_s` and the time to start a sandbox.

        What is wrong with the code is in the outcome, never raised. `on_progress` is called from the same thread.
        """
        kind = Kind(job.engine or self._default.engine, job.limits or self._default.limits)
        self._require(kind)
        probed = self._launcher.probe(kind.limits)
        active = probed.active()
        began = time.monotonic()
        failure = self._checked(job.code)
        seconds = {"check": time.monotonic() - began}
        if failure is not None:
            return Outcome(kind.engine, (), failure, active, seconds)
        counts = rows.count(job.rows, job.frames)
        stages = _Stages(job, counts, on_progress)
        if not any(counts):
            stages.tell_all()
            return Outcome(kind.engine, _outcomes(job, counts, ()), None, active, seconds)
        with self._places:
            with self._taken(kind, seconds) as taken:
                stages.tell("started")
                watched = self._watched(taken, job, counts, stages)
                active = probed.active(counted=taken.process.counted)
            self._refill(kind)
        seconds |= {"load": watched.load_s, "compute": watched.compute_s}
        frames = _outcomes(job, counts, watched.computed)
        return Outcome(kind.engine, frames, watched.failure, active, seconds, watched.memory_bytes_peak)

    def close(self) -> None:
        """End every sandbox of this pool and remove its files; runs under way end with a failure."""
        self._closed.set()
        self._end_ready()
        self._warmer.shutdown(wait=True, cancel_futures=True)
        for _ in range(self.settings.runs_at_once):  # runs see the flag and end
            self._places.acquire()
        for _ in range(self.settings.runs_at_once):  # those that waited for their turn are refused
            self._places.release()
        self._end_ready()
        self._launcher.close()
        self._scratch.close()

    def _require(self, kind: Kind) -> None:
        if self._closed.is_set():
            raise CodeMetricsRefusedError("CBM106", "no metric code is run any more: the service stops")
        self._launcher.require(kind)

    def _checked(self, code: str) -> Failure | None:
        look = checking.check if self.settings.static_check else checking.size_failure
        return look(code, self.settings)

    def _add_ready(self) -> None:
        started = None
        try:
            with contextlib.suppress(CodeMetricsRefusedError):  # a run that needs one finds out why, and says so
                started = self._launcher.start(self._default)
        finally:
            with self._lock:
                self._getting_ready -= 1
        with self._lock:
            if started is not None and not self._closed.is_set():
                self._ready.append(started)
                return
        if started is not None:
            self._launcher.end(started)

    def _end_ready(self) -> None:
        with self._lock:
            ready, self._ready = self._ready, []
        for started in ready:
            self._launcher.end(started)

    def _refill(self, kind: Kind) -> None:
        if kind == self._default and not self._closed.is_set():
            with contextlib.suppress(CodeMetricsRefusedError):  # closed in between
                self.warm()

    @contextlib.contextmanager
    def _taken(self, kind: Kind, seconds: dict[str, float]) -> Iterator[Started]:
        """Take a warm sandbox of this kind or start one; it ends with the run, whatever the run did to it."""
        if self._closed.is_set():
            raise CodeMetricsRefusedError("CBM106", "no metric code is run any more: the service stops")
        began = time.monotonic()
        with self._lock:
            taken = self._ready.pop() if kind == self._default and self._ready else None
        if taken is not None and not taken.process.running:
            self._launcher.end(taken)
            taken = None
        taken = taken or self._launcher.start(kind)
        seconds["start"] = time.monotonic() - began
        try:
            yield taken
        finally:
            self._launcher.end(taken)

    def _watched(self, taken: Started, job: Job, counts: Sequence[int], stages: _Stages) -> supervisor.Watched:
        places = [index for index, count in enumerate(counts) if count]
        run = supervisor.Run(places, stages.loaded_or_computed)
        order: Mapping[str, object] = {
            "code": job.code,
            "paths": self._given(taken, job.rows),
            "hidden": sorted({frame.where for frame in job.frames if frame.where is not None}),
            "frames": [(index, job.frames[index].where) for index in places],
        }
        try:
            taken.process.orders.write(json.dumps(order).encode() + b"\n")
            taken.process.orders.flush()
        except BrokenPipeError:
            return supervisor.Watched(failure=failures.died(taken.process.status))
        return supervisor.watch(
            taken.process,
            run,
            taken.kind.limits,
            self.settings.sample_ms / 1000,
            self._closed.is_set,
            self.settings.memory_spare_mib_min * _MIB,
        )

    def _given(self, taken: Started, paths: Sequence[Path]) -> list[str]:
        try:
            return [self._launcher.give(taken, path, number) for number, path in enumerate(paths)]
        except OSError as error:
            raise CodeMetricsRefusedError(
                "CBM108",
                f"the rows could not be brought into the sandbox: {error.strerror or error}",
                "see to the space of FQLSTREAM_RUNNER__DIRECTORY",
            ) from error


class _Stages:
    """Counts the stages of one run as they are completed: started, loaded, and each frame."""

    def __init__(self, job: Job, counts: Sequence[int], tell: Callable[[Progress], None] | None) -> None:
        self._names = [frame.name for frame in job.frames]
        self._empty = [name for name, count in zip(self._names, counts, strict=True) if not count]
        self._tell = tell
        self._done = 0

    def tell(self, stage: Stage, frame: str | None = None) -> None:
        """One more stage is done."""
        self._done += 1
        if self._tell is not None:
            self._tell(Progress(stage, self._done, len(self._names) + 2, frame))

    def loaded_or_computed(self, index: int | None) -> None:
        """Rows and code are loaded (None), or a frame is computed; frames without rows are done as soon as they are loaded."""
        if index is not None:
            self.tell("computed", self._names[index])
            return
        self.tell("loaded")
        for name in self._empty:
            self.tell("computed", name)

    def tell_all(self) -> None:
        """There is nothing to compute."""
        self.tell("started")
        self.loaded_or_computed(None)


def _outcomes(job: Job, counts: Sequence[int], computed: Sequence[supervisor.Computed]) -> tuple[FrameOutcome, ...]:
    """Frames in the job's order; those that a failed run never came to are left out."""
    left, found = list(computed), []
    for frame, count in zip(job.frames, counts, strict=True):
        if not count:
            found.append(FrameOutcome(frame.name, 0, None, 0.0))
        elif left:
            answer = left.pop(0)
            found.append(FrameOutcome(frame.name, count, answer.value, answer.seconds, answer.failure))
    return tuple(found)
