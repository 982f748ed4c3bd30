"""`fqlstream bench stages`: where the time of the worker's own code goes, stage by stage, without broker and store.

Nanoseconds of processor time per event, for events as JSON and as Arrow batches of a thousand: decoding; fingerprints and
duplicate verdicts; evaluating every metric, segment and state; putting the result in place.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, Literal

import numpy as np

from fqlstream.bench import Report, Request, machine
from fqlstream.bench.workload import DEFINITIONS, MODEL, VERSION, Workload
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import COMPUTED
from fqlstream.fql.plan import Lane
from fqlstream.settings import FqlSettings, StreamSettings
from fqlstream.stream.batches import Fetch, Headers
from fqlstream.stream.decode import decode
from fqlstream.stream.engines import Engines
from fqlstream.stream.panes import LANES
from fqlstream.stream.partition import PartitionState, empty_pane

Form = Literal["json", "arrow"]
STAGES: Final = ("decode", "judge", "evaluate", "commit")
#: Events in one fetch, as the worker gets them from a partition with a backlog.
_FETCH_EVENTS: Final = 40_000
_ARROW_ROWS: Final = 1_000
_HEADERS: Final[Headers] = (
    ("content-type", b"application/vnd.apache.arrow.stream"),
    ("model", MODEL.encode()),
    ("version", VERSION.encode()),
)


def run(request: Request) -> Report:
    """Measure both forms. Raises UsageError for nothing; `checked` says that every event was counted once."""
    workload = Workload(request.events_count)
    figures: dict[str, float] = {}
    checked = True
    forms: tuple[Form, ...] = ("json", "arrow")
    for form in forms:
        spent, counted = _measure(workload, form)
        checked = checked and counted == workload.events_count
        for stage, seconds in spent.items():
            figures[f"{form}_{stage}_ns_per_event"] = round(seconds / workload.events_count * 1e9)
        request.say(f"{form}: {sum(spent.values()) / workload.events_count * 1e9:.0f} ns an event, {counted} counted")
    return Report("stages", machine(), checked, figures)


def _measure(workload: Workload, form: Form) -> tuple[dict[str, float], int]:
    """Give the seconds of each stage, and how many events the states say there were."""
    catalogue = Catalogue()
    for definition in DEFINITIONS:
        catalogue = catalogue.with_definition(COMPUTED.validate_python(definition))
    settings = StreamSettings()
    engines = Engines(catalogue, FqlSettings())
    state = PartitionState(0, catalogue, engines, settings)
    spent = dict.fromkeys(STAGES, 0.0)
    for fetch in _fetches(workload, form):
        marks = [time.process_time()]
        decoded = decode(fetch, catalogue, settings)
        marks.append(time.process_time())
        staged = state.stage(decoded, fetch.next_offset)
        marks.append(time.process_time())
        for key in state.needs(staged).panes:
            state.absorb_pane(key, empty_pane(engines(key.model, key.version)))
        update = state.compute(staged)
        marks.append(time.process_time())
        state.commit(staged, update)
        marks.append(time.process_time())
        for stage, start, end in zip(STAGES, marks, marks[1:], strict=False):
            spent[stage] += end - start
    engine = engines(MODEL, VERSION)
    held = state.panes.held.values()
    whole = {lane: engine.merge_all(lane, [pane.cells[lane] for pane in held]) for lane in LANES}
    assert set(whole) == set(Lane)  # noqa: S101  # both lanes, or the count below means nothing
    return spent, engine.results(whole)[0].rows


def _fetches(workload: Workload, form: Form) -> Iterator[Fetch]:
    """Cut the workload into fetches of one partition."""
    if form == "json":
        records = list(workload.json_records())
        per_fetch, headers = _FETCH_EVENTS, None
    else:
        records = list(workload.arrow_records(_ARROW_ROWS))
        per_fetch, headers = _FETCH_EVENTS // _ARROW_ROWS, _HEADERS
    for start in range(0, len(records), per_fetch):
        part = records[start : start + per_fetch]
        yield Fetch(
            "bench",
            0,
            np.arange(start, start + len(part), dtype=np.int64),
            np.array([at_ms for _, at_ms, _ in part], np.int64),
            [event_id.encode() for event_id, _, _ in part],
            [value for _, _, value in part],
            dict.fromkeys(range(len(part)), headers) if headers else {},
            start + len(part),
            sum(len(value) for _, _, value in part),
        )
