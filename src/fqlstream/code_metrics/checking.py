"""Runs the static check of a metric's code in a process that can be killed: parsing hostile text may take all memory or time."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

from fqlstream.code_metrics import failures
from fqlstream.code_metrics.inside import static_check
from fqlstream.code_metrics.request import Failure
from fqlstream.settings import CodeMetricsSettings

#: Modules that metric code may import, in order.
ALLOWED_IMPORTS: Final = tuple(sorted({*static_check.DOCUMENTED, *static_check.FURTHER}))


def size_failure(code: str, settings: CodeMetricsSettings) -> Failure | None:
    """Refuse code that is too large, or no text; this holds without the static check too."""
    try:
        size = len(code.encode())
    except UnicodeEncodeError:
        return Failure(failures.SYNTAX, "the code is no Unicode text")
    if size <= settings.code_bytes_max:
        return None
    return Failure(
        failures.CODE_SIZE, f"the code has {size} bytes, more than {settings.code_bytes_max}", hint="shorten it"
    )


def check(code: str, settings: CodeMetricsSettings) -> Failure | None:
    """Say what is wrong with code that can be seen without running it; None: nothing."""
    too_large = size_failure(code, settings)
    if too_large is not None:
        return too_large
    try:
        done = subprocess.run(  # noqa: S603  # our own file
            [sys.executable, "-I", "-S", static_check.__file__],
            input=code.encode(),
            capture_output=True,
            timeout=settings.check_wait_s,
            check=True,
            env={},
            cwd="/",
        )
        parts = json.loads(done.stdout)
    except OSError as error:
        # the machine's trouble, and no word about the code: it is checked again with the next try
        return Failure(
            failures.CHECK,
            f"the code could not be checked: no process could be started for it ({error.strerror or error})",
            hint="try again; if it stays so, see to the machine's memory and processes",
        )
    except (subprocess.SubprocessError, ValueError):
        return Failure(
            failures.CHECK,
            f"the code could not be checked within {settings.check_wait_s:g} s and 512 MiB",
            hint="write it less deeply nested",
        )
    return None if parts is None else failures.bounded(Failure(**parts))
