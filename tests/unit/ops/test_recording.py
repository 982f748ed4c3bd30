from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from fqlstream.errors import UsageError
from fqlstream.events.payloads import METRIC_EVENT, Forget, JobMetric, ListMetric, PipelineMetric
from fqlstream.ops import recording
from fqlstream.ops.recording import RecordedEvent, Recorder, event_json
from fqlstream.settings import RecordSettings, Settings
from fqlstream.store.recorded import Refusal

EVENTS: list[RecordedEvent] = [
    PipelineMetric(id="e-1", name="test-loss", value=0.5),
    PipelineMetric(id="e-1", name="x", value=float("-inf"), at="2026-11-21T10:00:00.123456Z"),
    ListMetric(id=3, name="x", values=[1, 2.5, "NaN", float("inf")]),
    JobMetric(id=7, name="ACC", value="Infinity", step=-3, at=1_795_255_200_000),
    Forget(kind="job", id=7),
]


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_travels_as_its_schema_has_it(event: RecordedEvent) -> None:
    sent = json.loads(event_json(event), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    read = METRIC_EVENT.validate_python(sent)
    assert type(read) is type(event)
    assert read.id == str(event.id)
    assert getattr(read, "at", None) == getattr(event, "at", None)


def test_numbers_that_json_lacks_travel_by_their_names() -> None:
    assert json.loads(event_json(EVENTS[1]))["value"] == "-Infinity"
    assert json.loads(event_json(EVENTS[2]))["values"] == [1, 2.5, "NaN", "Infinity"]


def test_a_name_that_no_job_metric_may_have_is_refused_before_it_is_sent() -> None:
    with pytest.raises(UsageError) as caught:
        event_json(JobMetric.model_construct(id=7, name="a-b", value=1.0, step=0, at=None))
    assert caught.value.code == "SDK008"


def told(first: int, applied: int, flushed: int = -1, *refused: int) -> Any:
    notes = [recording._RefusedRecord(offset, "DLQ027", "full", 3) for offset in refused]
    return recording._Verdict(0, first, applied, flushed, notes)


def test_notices_that_follow_each_other_are_one_and_a_gap_forgets_what_was_before() -> None:
    known = recording._Known()
    known.take_in(told(100, 104, 90, 102))
    assert [known.decides(offset) for offset in (99, 100, 104, 105)] == [False, True, True, False]
    known.take_in(told(105, 104, 104))  # only that all of it can be read now
    known.take_in(told(105, 110, 99))
    assert known.decides(100)
    assert known.decides(110)
    assert known.flushed == 104
    assert known.refused == {102: Refusal("DLQ027", "full", 3)}
    known.take_in(told(120, 121))
    assert [known.decides(offset) for offset in (110, 119, 120, 121)] == [False, False, True, True]
    assert known.refused == {}


def test_an_owner_that_begins_further_back_says_the_same_again() -> None:
    known = recording._Known()
    known.take_in(told(10, 20, 5, 12))
    known.take_in(told(8, 9, 5))
    assert not known.decides(15)  # until it has come so far
    known.take_in(told(10, 16, 5, 12))
    assert known.decides(15)
    assert 12 in known.refused


def test_refusals_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_REFUSED_KEPT", 2)
    known = recording._Known()
    known.take_in(told(0, 9, -1, 1, 4, 6))
    assert list(known.refused) == [4, 6]
    # whoever asks about what was forgotten is not told that it was taken
    assert not known.decides(1)
    assert known.decides(2)


def test_clickhouse_is_asked_however_often_others_are_told_of() -> None:
    """A notice that was lost is never sent again, and those of other writers come all the time."""

    async def main() -> None:
        nothing: Any = None
        recorder = Recorder(Settings(record=RecordSettings(look_ms=50)), nothing)
        recorder._loop = asyncio.get_running_loop()
        asked: list[bool] = []

        async def ask() -> None:
            asked.append(True)

        async def tell_of_others() -> None:
            while True:
                recorder._changed.set()
                await asyncio.sleep(0.01)

        telling = asyncio.create_task(tell_of_others())
        known = await asyncio.wait_for(recorder._until(lambda: ("found",) if asked else None, ask), 10)
        telling.cancel()
        assert known == "found"

    asyncio.run(main())
