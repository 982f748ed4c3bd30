"""`python -m fqlstream.store.embedded --data DIR`: run the embedded store."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fqlstream.errors import FqlstreamError
from fqlstream.settings import load
from fqlstream.store.embedded.process import end_with_parent
from fqlstream.store.embedded.server import StoreAddress, serve


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM. Prints one JSON line with url and pid on stdout when the port listens."""
    parser = argparse.ArgumentParser(
        prog="python -m fqlstream.store.embedded", description="ClickHouse in one process."
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of the store; its key is in store.key")
    parser.add_argument("--port", type=int, help="port to listen on; 0 takes a free one")
    parser.add_argument("--host", help="address to listen on; loopback unless you say otherwise")
    parser.add_argument("--with-parent", action="store_true", help="end when the parent process ends")
    options = parser.parse_args(arguments)
    if options.with_parent:
        end_with_parent()
    try:
        serve(options.data, load().store, port=options.port, host=options.host, on_ready=_tell)
    except FqlstreamError as error:
        print(error, file=sys.stderr)  # noqa: T201  # the process's own words to whoever started it
        return error.exit_code
    return 0


def _tell(address: StoreAddress) -> None:
    print(json.dumps({"url": address.url}), flush=True)  # noqa: T201  # the parent reads this line


if __name__ == "__main__":
    sys.exit(main())
