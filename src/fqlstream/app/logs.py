"""What a worker writes to standard error: one line an event, and no flood while something outside is away."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Final, Literal

from fqlstream.ops.log_lines import JsonLines

#: Loggers of the Kafka clients, librdkafka's own under the name that `client/kafka_options.py` gives it.
_CLIENTS: Final = ("aiokafka", "fqlstream.kafka", "clickhouse_connect", "urllib3")
#: Each kind of line of theirs is written so often. While a broker is away they have a hundred a second to say; what matters
#: of it is in the lines of `fqlstream.outside`.
_EVERY_S: Final = 30.0


class Sparse(logging.Filter):
    """Lets one line of each kind through in a while, and says how many were left out."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now_s = now_s
        self._next_s: dict[tuple[str, int, str, str], float] = {}
        self._left_out: dict[tuple[str, int, str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is written."""
        if not record.name.startswith(_CLIENTS):
            return True
        first = str(record.args[0]) if isinstance(record.args, tuple) and record.args else ""
        kind = record.name, record.levelno, str(record.msg), first
        now_s = self._now_s()
        if now_s < self._next_s.get(kind, now_s):
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        self._next_s[kind] = now_s + _EVERY_S
        if (left_out := self._left_out.pop(kind, 0)) > 0:
            record.msg, record.args = f"{record.getMessage()} ({left_out} such lines were left out before)", ()
        return True


def configure_logging(log_format: Literal["text", "json"] = "text") -> None:
    """Write logs to standard error, one line an event: text for people, or JSON with what is known of the event as fields."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Sparse())
    handler.setFormatter(
        JsonLines() if log_format == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for noisy in ("aiokafka", "faust", "mode"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # a timer that comes late because something outside is slow to answer
    logging.getLogger("mode.timers").setLevel(logging.ERROR)
