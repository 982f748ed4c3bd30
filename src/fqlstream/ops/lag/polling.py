"""Looking at intervals in a thread of its own, for whoever is asked for the last look at any time."""

from __future__ import annotations

import logging
import threading
from typing import Final

from fqlstream.errors import BrokerError
from fqlstream.ops.lag.observing import Observer
from fqlstream.ops.lag.report import LagReport

_LOG: Final = logging.getLogger("fqlstream.lag")


class Poller:
    """Looks every `interval_s` until it is closed. A look that fails is logged, and told by having no last look."""

    def __init__(self, observer: Observer, interval_s: float, *, with_rows: bool) -> None:
        self._observer, self._interval_s, self._with_rows = observer, interval_s, with_rows
        self._latest: LagReport | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag", daemon=True)

    def __enter__(self) -> Poller:
        self._poll()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()

    def latest(self) -> LagReport | None:
        """Give the last look; None where it failed. From any thread."""
        return self._latest

    def _run(self) -> None:
        while not self._closing.wait(self._interval_s):
            self._poll()

    def _poll(self) -> None:
        was_well = self._latest is not None
        try:
            self._latest = self._observer.look(with_rows=self._with_rows)
        except BrokerError as error:
            self._latest = None
            if was_well or not self._thread.is_alive():
                _LOG.warning("lag is not known until Kafka answers: %s", error)
            return
        for note in self._latest.notes:
            _LOG.warning("%s", note)
