"""Looking at intervals in a thread of its own, for whoever is asked for the last look at any time."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from fqlstream.errors import BrokerError
from fqlstream.ops.lag.observing import Observer
from fqlstream.ops.lag.report import LagReport

_LOG: Final = logging.getLogger("fqlstream.lag")
#: Looks that may fail to come before the last one is too old: one that is late is no trouble.
_MISSED_MAX: Final = 3


class Poller:
    """Looks every `interval_s` until it is closed. A look that fails is logged, and told by having no last look.

    `look_s`: how long a look may take. A last look that is older than that and a few intervals is none.
    """

    def __init__(self, observer: Observer, interval_s: float, *, look_s: float, with_rows: bool) -> None:
        self._observer, self._interval_s, self._with_rows = observer, interval_s, with_rows
        self._age_s_max = _MISSED_MAX * interval_s + look_s
        #: the last look, and when it ended: read and written in one step
        self._seen: tuple[LagReport, float] | None = None
        self._told: frozenset[str] = frozenset()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag", daemon=True)

    def __enter__(self) -> Poller:
        self._poll()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()

    def latest(self) -> LagReport | None:
        """Give the last look; None where it failed, or has become old. From any thread."""
        seen = self._seen
        if seen is None or time.monotonic() - seen[1] > self._age_s_max:
            return None
        return seen[0]

    def _run(self) -> None:
        while not self._closing.wait(self._interval_s):
            self._poll()

    def _poll(self) -> None:
        is_first = self._seen is not None or not self._thread.is_alive()
        try:
            report = self._observer.look(with_rows=self._with_rows)
        except Exception as error:  # a thread that ended would leave an old look for ever
            self._seen = None
            if is_first and isinstance(error, BrokerError):
                _LOG.warning("lag is not known until Kafka answers: %s", error)
            elif is_first:
                _LOG.exception("lag is not known: the look failed")
            return
        self._seen = report, time.monotonic()
        for remark in report.remarks:
            if remark not in self._told:
                _LOG.warning("%s", remark)
        self._told = frozenset(report.remarks)
