"""Sessions over HTTP: a connection that keeps its SETs and temporary tables between the requests that name it.

A session costs a connection only once something is worth keeping: clickhouse-connect names one in every request.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fqlstream.store.embedded.exceptions import SESSION_IS_LOCKED, refusal

#: Sessions kept at once; the one that was used longest ago goes first.
_SESSIONS_MAX = 64
#: ClickHouse's own bounds of session_timeout.
TIMEOUT_S = 60
TIMEOUT_S_MAX = 3_600


@dataclass(slots=True)
class _Session:
    connection: Any
    ends_at: float
    busy: bool


class Sessions:
    """The connections that are kept, by the name that callers give their session."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Session] = OrderedDict()

    def take(self, name: str) -> Any | None:
        """Give the session's connection, for one statement; None where nothing was kept. Raises if it is in use."""
        with self._lock:
            self._drop_old()
            session = self._kept.get(name)
            if session is None:
                return None
            if session.busy:
                raise refusal(SESSION_IS_LOCKED, f"Session {name} is locked by a concurrent client")
            session.busy = True
            self._kept.move_to_end(name)
            return session.connection

    def keep(self, name: str, connection: Any, timeout_s: float) -> bool:
        """Keep a connection for the session's next statement. False where another one is kept already."""
        with self._lock:
            known = self._kept.get(name)
            if known is not None and known.connection is not connection:
                return False
            self._kept[name] = _Session(connection, self._clock() + timeout_s, busy=False)
            self._kept.move_to_end(name)
            self._drop_old()
            return True

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for session in self._kept.values():
                session.connection.close()
            self._kept.clear()

    def _drop_old(self) -> None:
        now = self._clock()
        for name, session in list(self._kept.items()):
            if not session.busy and (session.ends_at < now or len(self._kept) > _SESSIONS_MAX):
                session.connection.close()
                del self._kept[name]
