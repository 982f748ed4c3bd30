"""The runner as a process: its parts are opened, code metrics run until SIGTERM, and all of it closed in order."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Final

from fqlstream.clock import SteadyClock
from fqlstream.code_metrics.pool import Pool
from fqlstream.errors import UsageError
from fqlstream.runner.runner import Runner
from fqlstream.settings import Settings
from fqlstream.store import migrations
from fqlstream.store.client import Store

_NOISY: Final = ("clickhouse_connect", "urllib3", "fqlstream.kafka")


def serve(settings: Settings) -> None:
    """Run code metrics until SIGTERM or SIGINT.

    Raises UsageError CMR011 where ClickHouse lacks tables, StoreError and BrokerError where ClickHouse or Kafka cannot be had.
    """
    configure_logging()
    with Store.connect(settings.store) as store:
        if waiting := migrations.pending(store):
            raise UsageError(
                "CMR011", f"ClickHouse lacks what {', '.join(waiting)} make", "apply them: fqlstream schema apply"
            )
        clock = SteadyClock(leap_ms_min=settings.stream.clock_leap_ms)
        runner = Runner(settings, store, _open_pool(settings), clock)
        _take_signals(runner)
        runner.run()


def _open_pool(settings: Settings) -> Pool:
    folder = settings.runner.directory or settings.data / "code-metrics"
    return Pool(settings.code_metrics, folder, private=(settings.data,))


def configure_logging() -> None:
    """Write logs to standard error, one line an event."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _take_signals(runner: Runner) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        runner.stop()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
