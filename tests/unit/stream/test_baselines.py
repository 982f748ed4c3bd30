from __future__ import annotations

import itertools

from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.definitions import DAY_MS, HOUR_MS, BaselineDefinition, Window
from fqlstream.stream.baselines import is_in_fixed_range, reach_ms, touched_spans
from fqlstream.stream.windows import Span, spans_of

MINUTE_MS = 60_000


def entry_of(**baselines: dict[str, str]) -> ModelEntry:
    named = {
        name: BaselineDefinition.model_validate({"model": "m", "name": name, **of}) for name, of in baselines.items()
    }
    return ModelEntry("m", baselines=named)


def test_a_changed_pane_touches_the_windows_whose_past_it_is() -> None:
    entry = entry_of(before={"type": "rolling", "window": "3h", "offset": "1h"})
    baseline = entry.baselines["before"]
    windows = [Window.model_validate("1h"), Window.model_validate({"size": "2h", "every": "30m"})]
    start = 400 * DAY_MS
    newest = start + DAY_MS
    panes = [Span(at, at + MINUTE_MS) for at in (start, start + 59 * MINUTE_MS, start + 7 * HOUR_MS)]
    found = touched_spans(entry, ["before"], windows, panes, newest)
    every_minute = range(start - DAY_MS, start + 2 * DAY_MS, MINUTE_MS)
    all_spans = set(itertools.chain.from_iterable(spans_of(window, at) for window in windows for at in every_minute))
    wanted = set()
    for span in all_spans:
        reach = baseline.range_before(span.end_ms)
        assert reach is not None
        if any(reach[0] <= pane.start_ms < reach[1] for pane in panes):
            wanted.add(span)
    assert found == wanted
    assert len(found) > 12


def test_windows_of_the_future_are_not_touched() -> None:
    entry = entry_of(before={"type": "rolling", "window": "30d"})
    at = 400 * DAY_MS
    found = touched_spans(entry, ["before"], [Window.model_validate("1h")], [Span(at, at + MINUTE_MS)], at + MINUTE_MS)
    assert found == {Span(at, at + HOUR_MS)}


def test_a_pane_in_a_fixed_range_is_noticed() -> None:
    entry = entry_of(
        week={"type": "static", "start": "1970-01-02T00:00:00Z", "end": "1970-01-03T00:00:00Z"},
        before={"type": "rolling", "window": "7d", "offset": "1d"},
    )
    assert entry.baselines["week"].range_ms == (DAY_MS, 2 * DAY_MS)
    assert is_in_fixed_range(entry, ["week"], [Span(DAY_MS, DAY_MS + MINUTE_MS)])
    assert not is_in_fixed_range(entry, ["week"], [Span(2 * DAY_MS, 2 * DAY_MS + MINUTE_MS)])
    assert not is_in_fixed_range(entry, ["before"], [Span(DAY_MS, DAY_MS + MINUTE_MS)])
    assert reach_ms(entry.baselines.values()) == 8 * DAY_MS
