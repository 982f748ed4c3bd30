"""Warm sandboxes, each used for one run: what starts them, hands them a job, and ends them."""

from __future__ import annotations

from collections.abc import Callable

from fqlstream.code_metrics.request import Job, Layer, Outcome, Progress
from fqlstream.settings import CodeMetricsSettings


class Pool:
    """Runs metric code, each run in a sandbox of its own. Every method may be called from any thread.

    Raises CodeMetricsRefusedError where a layer that must hold is missing, or where an engine cannot be had.
    """

    def __init__(self, settings: CodeMetricsSettings) -> None:
        self.settings = settings

    def layers(self) -> tuple[Layer, ...]:
        """Report each layer of the sandbox, probed from inside once per pool."""
        raise NotImplementedError

    def warm(self) -> None:
        """Start as many sandboxes as the settings keep ready, without waiting for them; probes the layers first."""
        raise NotImplementedError

    def run(self, job: Job, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        """Run one job and wait for its outcome, at most `limits.wall_s` and the time to start a sandbox.

        What is wrong with the code is in the outcome, never raised. `on_progress` is called from the same thread.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End every sandbox of this pool and remove its files; runs under way end with a failure."""
        raise NotImplementedError
