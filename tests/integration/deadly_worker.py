"""The command line with a weakness: a worker whose process ends at once when it decodes a record with a certain mark."""

from __future__ import annotations

import os
import signal
from typing import Any
from unittest import mock

from fqlstream.app import worker
from fqlstream.cli.main import run
from fqlstream.stream.batches import Decoded, Fetch
from fqlstream.stream.decode import decode

MARK = "deadly-record"


def decode_or_die(fetch: Fetch, *arguments: Any, **options: Any) -> Decoded:
    """Decode as a worker does, or end as a native library's fault would: without a word."""
    if any(value is not None and MARK.encode() in value for value in fetch.values):
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(fetch, *arguments, **options)


if __name__ == "__main__":
    with mock.patch.object(worker, "decode", decode_or_die):
        run()
