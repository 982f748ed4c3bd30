"""How SIGTERM, Ctrl-C and a closed terminal end a command that runs until it is told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fqlstream.cli.output import print_note


class Stopped(BaseException):
    """A signal asked us to end; not an Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def stop_signals() -> Iterator[None]:
    """Turn the first SIGTERM or SIGINT into `Stopped`; further ones wait for the orderly stop, which is bounded."""
    stopping = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        if not stopping.is_set():
            stopping.set()
            print_note("stopping")
            raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
