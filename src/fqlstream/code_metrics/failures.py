"""Every way a run can fail, by code. The codes are stable: stored runs and answers carry them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from fqlstream.code_metrics.request import Failure, Limits

SYNTAX: Final = "CBM001"
IMPORT: Final = "CBM002"
FORBIDDEN: Final = "CBM003"
ENTRY_POINT: Final = "CBM004"
CODE_SIZE: Final = "CBM005"
CHECK: Final = "CBM006"
RAISED: Final = "CBM010"
RESULT: Final = "CBM011"
COLUMN: Final = "CBM012"
NOT_INSTALLED: Final = "CBM013"
TIME: Final = "CBM020"
MEMORY: Final = "CBM021"
OUTPUT: Final = "CBM022"
PROCESSES: Final = "CBM023"
DISK: Final = "CBM024"
DIED: Final = "CBM025"
PROTOCOL: Final = "CBM026"
CLOSED: Final = "CBM030"

#: What a sandbox may report about its own code; everything else is found out by us, from outside.
REPORTED: Final = frozenset(
    {SYNTAX, IMPORT, ENTRY_POINT, RAISED, RESULT, COLUMN, NOT_INSTALLED, MEMORY, PROCESSES, DISK}
)

_TEXT_MAX: Final = 4_000  # characters of a message or a hint that are kept; a stored run is no place for a dump
_TRACEBACK_MAX: Final = 16_000


#: Limits of a run: what is said where one is reached, and what to do. `doing` is what the run was at.
_REACHED: Final[Mapping[str, tuple[str, str]]] = {
    TIME: (
        "the run was stopped after {limits.wall_s:g} s while {doing}",
        "compute on the data frame instead of collecting it, or ask for a larger FQLSTREAM_CODE_METRICS__WALL_S",
    ),
    MEMORY: (
        "the run used more than its {memory_mib} MiB of memory",
        "aggregate on the data frame before collecting it, or ask for a larger FQLSTREAM_CODE_METRICS__MEMORY_MIB_MAX",
    ),
    OUTPUT: ("the run printed more than {limits.output_bytes} bytes", "print less: a metric returns its number"),
    PROCESSES: (
        "the run reached its limit of {limits.processes} processes and threads",
        "a metric needs none of its own: Spark runs in parallel by itself",
    ),
    DISK: (
        "the run filled its {disk_mib} MiB of disk",
        "select fewer columns before sorting or joining, or ask for a larger FQLSTREAM_CODE_METRICS__DISK_MIB_MAX",
    ),
}
#: Limits that a metric's own code may run into, and report itself.
MET_INSIDE: Final = frozenset({MEMORY, PROCESSES, DISK})


def reached(code: str, limits: Limits, doing: str = "") -> Failure:
    """Say that a run came to one of its limits: TIME, MEMORY, OUTPUT, PROCESSES or DISK."""
    message, hint = _REACHED[code]
    sizes = {"memory_mib": limits.memory_bytes // 2**20, "disk_mib": limits.disk_bytes // 2**20}
    return Failure(code, message.format(limits=limits, doing=doing, **sizes), hint=hint)


def died(status: int | None) -> Failure:
    """Say that the run's process ended before its results were complete."""
    how = "" if status is None else f" (exit status {status})"
    return Failure(DIED, f"the run's process ended before all results were there{how}", hint="a metric must not exit")


def broke_protocol(what: str) -> Failure:
    """Say that something other than our own code wrote on the channel of results."""
    return Failure(
        PROTOCOL,
        f"the results were not written by us: {what}",
        hint="a metric's only result is what calc_metric returns",
    )


def closed() -> Failure:
    """Say that the pool was closed while this run was under way."""
    return Failure(CLOSED, "the run was ended because the service stops", hint="it runs again after the next start")


def bounded(failure: Failure) -> Failure:
    """Cut texts that come from a sandbox to what is worth keeping."""
    hint = failure.hint[:_TEXT_MAX] if failure.hint is not None else None
    return replace(
        failure, message=failure.message[:_TEXT_MAX], traceback=failure.traceback[-_TRACEBACK_MAX:], hint=hint
    )
