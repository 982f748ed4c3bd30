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
MACHINE: Final = "CBM031"

#: What a sandbox may report about its own code; everything else is found out by us, from outside.
REPORTED: Final = frozenset(
    {SYNTAX, IMPORT, ENTRY_POINT, RAISED, RESULT, COLUMN, NOT_INSTALLED, MEMORY, PROCESSES, DISK}
)

_TEXT_MAX: Final = 4_000  # characters of a message or a hint that are kept; a stored run is no place for a dump
_TRACEBACK_MAX: Final = 16_000
_SAID_MAX: Final = 500  # of what a process printed before it ended


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


def died(status: int | None, said: str = "") -> Failure:
    """Say that the run's process ended before its results were complete, and what was printed last."""
    how = "" if status is None else f" (exit status {status})"
    last = f"; it printed last: {said.strip()[-_SAID_MAX:]}" if said.strip() else ""
    message = f"the run's process ended before all results were there{how}{last}"
    return bounded(Failure(DIED, message, hint="a metric must not exit"))


def machine_full(spare_bytes_min: int) -> Failure:
    """Say that the run was ended because the whole machine ran out of memory, by whomever."""
    return Failure(
        MACHINE,
        f"the run was ended because the machine has less than {spare_bytes_min // 2**20} MiB of memory left",
        hint="it runs again later; where it was the metric, aggregate on the data frame before collecting it",
    )


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
    """Cut texts that come from a sandbox to what is worth keeping, and take out what is no text."""
    hint = cleaned(failure.hint[:_TEXT_MAX]) if failure.hint is not None else None
    lines = cleaned(failure.traceback[-_TRACEBACK_MAX:], keep="\n\t")
    return replace(failure, message=cleaned(failure.message[:_TEXT_MAX]), traceback=lines, hint=hint)


def cleaned(text: str, keep: str = "") -> str:
    """Make one printable line of a text that anybody may have written: it goes to logs, terminals and tables.

    Spaces of all kinds, line ends too, become spaces; what else has no picture (escapes, halves of a pair) is replaced.
    """
    return "".join(
        sign if sign.isprintable() or sign in keep else " " if sign.isspace() else "\N{REPLACEMENT CHARACTER}"
        for sign in text
    )
