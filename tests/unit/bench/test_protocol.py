"""What the protocol benchmark makes of its measurements, and the worker that it leaves parts out of."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.stream.one_partition import catalogue, pane

from fqlstream.bench import Request, run_bench
from fqlstream.bench.contender import Measurement
from fqlstream.bench.protocol import CONTENDERS, VARIANTS, figures
from fqlstream.bench.stubbed_worker import Passed, RememberedStates, _passed, _taken, leave_out
from fqlstream.errors import UsageError
from fqlstream.fql.plan import Lane
from fqlstream.settings import FqlSettings
from fqlstream.stream.engines import Engines
from fqlstream.stream.protocol import FlushRow, Published, StateRecord, Version


def test_a_share_is_what_a_run_without_a_part_saves_of_the_wholes_processor_time() -> None:
    found = figures(
        {
            "json_whole": Measurement(1_000, 4.0, 8.0, checked=True),
            "json_no_flush": Measurement(1_000, 3.0, 5.0, checked=True),
            "json_no_protocol": Measurement(1_000, 1.0, 5.0, checked=True),
            "arrow_no_flush": Measurement(1_000, 3.0, 5.0, checked=True),
        }
    )
    assert found["json_whole_events_per_s_core"] == 250
    assert found["json_whole_events_per_s"] == 125
    assert (found["json_flush_share"], found["json_protocol_share"]) == (0.25, 0.75)
    assert "arrow_flush_share" not in found, "there is no whole to compare with"
    assert not any(name.startswith("json_whole") and name.endswith("share") for name in found)


def test_shares_of_runs_without_history_are_of_the_whole_without_history() -> None:
    found = figures(
        {
            "arrow_whole": Measurement(1_000, 9.0, 9.0, checked=True),
            "arrow_no_history_whole": Measurement(1_000, 4.0, 4.0, checked=True),
            "arrow_no_history_no_fences": Measurement(1_000, 2.0, 2.0, checked=True),
        }
    )
    assert {name: value for name, value in found.items() if name.endswith("share")} == {
        "arrow_no_history_fences_share": 0.5
    }


def test_every_form_is_run_in_every_variant() -> None:
    assert len({contender.figure for contender in CONTENDERS}) == len(CONTENDERS) == 3 * len(VARIANTS)


def test_a_figure_that_there_is_not_is_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="no figure 'x'"):
        run_bench("protocol", Request(10, frozenset({"x"}), lambda _: None))


def test_a_part_that_there_is_not_cannot_be_left_out() -> None:
    worker: Any = None
    with pytest.raises(UsageError, match="no part 'commit'"):
        leave_out(worker, ["fences", "commit"])


def test_states_that_are_handed_over_are_the_very_same() -> None:
    engine = Engines(catalogue(), FqlSettings())("m", "v1")
    cells = engine.init(Lane.EVENTS)
    record = _passed(engine, Lane.EVENTS, cells, ["a"])
    assert isinstance(record, Passed)
    assert _taken(engine, Lane.EVENTS, record) == (cells, frozenset({"a"}))


def test_what_is_remembered_answers_as_the_store_does() -> None:
    async def main() -> None:
        store = RememberedStates(None)
        first, second = (
            FlushRow("t", partition, Version(1, 1), "me", "id", dict.fromkeys(Lane, 5), {}) for partition in (1, 0)
        )
        await store.write_flushes([first, second])
        assert await store.newest_flushes("t") == [second, first]
        assert await store.newest_flush("t", 1) == first
        assert await store.newest_flush("t", 2) is None
        records = [
            StateRecord(pane(minute), partition, Lane.EVENTS, Version(1, flush), 5, b"x")
            for minute, partition, flush in ((0, 0, 1), (1, 0, 2), (1, 1, 3), (2, 1, 1))
        ]
        await store.write_states(records)
        assert await store.read_states(1, [pane(1), pane(0)]) == [records[2]]
        assert await store.pane_records([pane(1)]) == records[1:3]
        assert await store.pane_keys(0, "m", "v1", pane(1).start_ms) == [pane(1)]
        assert await store.pane_starts("m", "v1", pane(0).start_ms, pane(2).start_ms) == [
            pane(0).start_ms,
            pane(1).start_ms,
        ]
        assert await store.changed_panes("m", {0: Version(1, 1).number, 1: Version(1, 2).number}) == [pane(1)]
        newer = StateRecord(pane(0), 0, Lane.EVENTS, Version(1, 9), 7, b"y")
        await store.write_states([newer])
        assert await store.pane_records([pane(0)]) == [newer]
        assert await store.read_published("m") is None
        await store.write_published("m", Published({0: 1}), 0)
        assert await store.read_published("m") == Published({0: 1})

    asyncio.run(main())
