"""`fqlstream bench protocol`: what the promise costs. The same worker over the same events, with and without flush and fences.

Each run has a broker, a store and a worker process of its own, and every run's values are compared with batch. Figures are
events per second of the worker's processor time and of wall time, and the shares of processor time that go into the protocol.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fqlstream.bench import Report, Request, machine
from fqlstream.bench.contender import Measurement
from fqlstream.bench.pipeline import NO_HISTORY, Contender, measure_whole
from fqlstream.bench.stubbed_worker import STUBS_VARIABLE
from fqlstream.bench.workload import Workload
from fqlstream.errors import UsageError

_WORKER: Final = "fqlstream.bench.stubbed_worker"
#: What a run leaves out.
VARIANTS: Final[Mapping[str, str]] = {
    "whole": "",
    "no_fences": "fences",
    "no_flush": "flush",
    "no_protocol": "fences,flush",
}


def _contenders() -> tuple[Contender, ...]:
    found = []
    for name, stubs in VARIANTS.items():
        environment = ((STUBS_VARIABLE, stubs),)
        found += [
            Contender(f"json_{name}", _WORKER, "json", 1.0, True, environment),
            Contender(f"arrow_{name}", _WORKER, "arrow", 2.0, True, environment),
            Contender(f"arrow_no_history_{name}", _WORKER, "arrow", 4.0, True, (*environment, *NO_HISTORY)),
        ]
    return tuple(found)


CONTENDERS: Final = _contenders()


def run(request: Request) -> Report:
    """Measure all variants, or those that were named (such as json_whole). Raises UsageError where there is none of a name."""
    known = {contender.figure: contender for contender in CONTENDERS}
    unknown = sorted(request.figures - known.keys())
    if unknown:
        raise UsageError("BEN004", f"there is no figure {unknown[0]!r}", f"there are: {', '.join(known)}")
    measured: dict[str, Measurement] = {}
    with tempfile.TemporaryDirectory(prefix="fqlstream-protocol-") as directory:
        for name, contender in known.items():
            if request.figures and name not in request.figures:
                continue
            place = Path(directory) / name
            place.mkdir()
            workload = Workload(max(1, int(request.events_count * contender.share)))
            measured[name] = found = measure_whole(contender, workload, place, request)
            request.say(f"{name}: {found.events_per_s_core:,.0f} ({found.cpu_s:.2f} s of a core, {found.wall_s:.2f} s)")
    return Report("protocol", machine(), all(each.checked for each in measured.values()), figures(measured))


def figures(measured: Mapping[str, Measurement]) -> dict[str, float]:
    """Give both speeds of every run, and per form the share of the whole's time that a run without a part saves."""
    found: dict[str, float] = {}
    for name, each in measured.items():
        found[f"{name}_events_per_s_core"] = round(each.events_per_s_core)
        found[f"{name}_events_per_s"] = round(each.events_count / each.wall_s)
    for name, each in measured.items():
        for variant in VARIANTS:
            whole = measured.get(f"{name.removesuffix(variant)}whole")
            if variant != "whole" and name.endswith(variant) and whole is not None:
                saved = 1 - each.cpu_s / whole.cpu_s
                found[f"{name.removesuffix(variant)}{variant.replace('no_', '')}_share"] = round(saved, 3)
    return found
