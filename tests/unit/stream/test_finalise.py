"""What is published, when, and under which version; and what two finalisers of one model may do to each other."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tests.simulation.world import TOPIC, MemoryStore
from tests.unit.stream.one_partition import (
    HOUR_MS,
    MINUTE_MS,
    START_MS,
    EndedError,
    Place,
    catalogue,
    event,
    in_a_loop,
    label,
    mark,
    model,
    place,
)

from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import DEFINITION
from fqlstream.settings import FqlSettings, StreamSettings
from fqlstream.stream.delivery import Owner
from fqlstream.stream.engines import Engines
from fqlstream.stream.finalise import ALL, ModelFinaliser
from fqlstream.stream.protocol import MetricValue, PaneKey, Published

#: Windows of two minutes, lateness of one.
SUM_AND_TRAFFIC = {"traffic": "traffic()", "sum": "sum(x)"}
HIGH = {"high": "x >= 5"}
SUMS = catalogue(metrics=SUM_AND_TRAFFIC, segments=HIGH)
ONE = catalogue(metrics={"sum": "sum(x)"}, segments={})
#: Windows that stay open for an hour.
PATIENT = {"pane": "1m", "sizes": ["2m"], "lateness": "1h"}


@dataclass
class Stage:
    """An owner that writes states, and finalisers that read them."""

    there: Place
    owner: Owner
    offset: int = 0
    topic: list[MetricValue] = field(default_factory=list)

    @classmethod
    async def of(cls, known: Catalogue = ONE, **settings: Any) -> Stage:
        there = place(known, **settings)
        stage = cls(there, await there.take())

        async def send_values(values: Sequence[MetricValue]) -> None:
            await there.world.step(there.log, "send values")
            stage.topic.extend(values)

        there.log.send_values = send_values
        await there.flush(stage.owner)
        return stage

    async def write(self, *records: bytes) -> None:
        """Apply and flush records."""
        await self.there.apply(self.owner, self.offset, *records)
        self.offset += len(records)
        await self.there.flush(self.owner)

    def finaliser(self, **settings: Any) -> ModelFinaliser:
        there = self.there
        limits = there.ports.settings.model_copy(update=settings)
        assert isinstance(there.ports.store, MemoryStore)
        return ModelFinaliser("m", TOPIC, there.ports.store, there.log, there.clock, limits)

    async def publish(self, finaliser: ModelFinaliser) -> list[MetricValue]:
        """Look once; gives what was published, of all versions together."""
        found = await finaliser.refresh(self.there.world.catalogue, self.there.engines)
        return [value for value in found if value.version == ALL]

    def define(self, known: Catalogue) -> None:
        self.there.world.catalogue, self.there.engines = known, Engines(known, FqlSettings(), self.there.engines)


def said(values: Sequence[MetricValue]) -> list[tuple[str, str, int, float | None, str]]:
    """Metric, segment, minute of the window's start, value, status."""
    return sorted(
        (value.metric, value.segment, (value.window_start_ms - START_MS) // MINUTE_MS, value.value, value.status)
        for value in values
    )


# -- early, final, revised -----------------------------------------------------------------------------------------------


@in_a_loop
async def test_a_value_is_published_when_it_says_something_new() -> None:
    stage = await Stage.of()
    finaliser = stage.finaliser()
    assert await stage.publish(finaliser) == []
    await stage.write(event("a", 0, x=1))
    assert said(await stage.publish(finaliser)) == [("sum", "", 0, 1.0, "early")]
    assert await stage.publish(finaliser) == []
    await stage.write(event("b", 1, x=2), event("c", 2, x=4))
    assert said(await stage.publish(finaliser)) == [("sum", "", 0, 3.0, "early"), ("sum", "", 2, 4.0, "early")]
    await stage.write(event("a", 0, x=1))  # a duplicate changes no number
    assert await stage.publish(finaliser) == []


@in_a_loop
async def test_the_same_value_of_more_rows_is_news() -> None:
    stage = await Stage.of()
    finaliser = stage.finaliser()
    await stage.write(event("a", 0, x=1))
    await stage.publish(finaliser)
    await stage.write(event("b", 0, x=0), event("c", 0, x=None))
    (value,) = await stage.publish(finaliser)
    assert (value.value, value.rows) == (1.0, 3)


@pytest.mark.parametrize(("watermark_ms", "status"), [(3 * MINUTE_MS - 1, "early"), (3 * MINUTE_MS, "final")])
def test_a_window_is_final_once_time_has_passed_its_end_by_the_lateness(watermark_ms: int, status: str) -> None:
    async def main() -> None:
        stage = await Stage.of()
        finaliser = stage.finaliser()
        await stage.write(event("a", 0, x=1), mark(watermark_ms / MINUTE_MS))
        assert said(await stage.publish(finaliser)) == [("sum", "", 0, 1.0, status)]

    in_a_loop(main)()


@in_a_loop
async def test_a_value_is_early_then_final_then_revised_and_final_is_said_once() -> None:
    stage = await Stage.of()
    finaliser = stage.finaliser()
    await stage.write(event("a", 0, x=1))
    await stage.publish(finaliser)
    await stage.write(mark(3))
    assert said(await stage.publish(finaliser)) == [("sum", "", 0, 1.0, "final")]
    await stage.write(mark(9))
    assert await stage.publish(finaliser) == []
    for number, total in ((2.0, 3.0), (4.0, 7.0)):
        await stage.write(event(f"b{number}", 0, x=number))
        assert said(await stage.publish(finaliser)) == [("sum", "", 0, total, "revised")]
    await stage.write(event("new", 2, x=1))
    assert said(await stage.publish(finaliser)) == [("sum", "", 2, 1.0, "final")], (
        "a window that begins late is final at once"
    )


@in_a_loop
async def test_of_two_values_of_one_version_the_newer_one_counts_though_the_clock_was_set_back() -> None:
    stage = await Stage.of()
    await stage.write(event("a", 0, x=1))
    (before,) = await stage.publish(stage.finaliser())
    stage.there.clock.advance(-6 * 60 * MINUTE_MS)
    stage.define(catalogue(metrics={"sum": "sum(x) * 2"}, segments={}))
    (after,) = await stage.publish(stage.finaliser())
    assert (after.value, after.value_version) == (2.0, before.value_version)
    assert after.updated_at_ms > before.updated_at_ms


@in_a_loop
async def test_a_value_that_a_label_takes_away_is_published_as_null() -> None:
    stage = await Stage.of(catalogue(metrics={"precision": "precision()"}, segments={}))
    finaliser = stage.finaliser()
    await stage.write(event("a", 0, s=0.9), label("a", 1), mark(3))
    assert said(await stage.publish(finaliser)) == [("precision", "", 0, 1.0, "final")]
    await stage.write(label("a", None))
    (value,) = await stage.publish(finaliser)
    assert (value.value, value.rows, value.labelled_rows, value.status) == (None, 1, 0, "revised")


@in_a_loop
async def test_a_window_that_holds_an_event_has_every_metric_and_segment_one_without_has_none() -> None:
    stage = await Stage.of(catalogue(model(windows=PATIENT), metrics=SUM_AND_TRAFFIC, segments=HIGH))
    finaliser = stage.finaliser()
    await stage.write(event("a", 0, x=1), event("b", 4, x=6))
    assert said(await stage.publish(finaliser)) == [
        ("sum", "", 0, 1.0, "early"),
        ("sum", "", 4, 6.0, "early"),
        ("sum", "high", 0, None, "early"),
        ("sum", "high", 4, 6.0, "early"),
        ("traffic", "", 0, 1.0, "early"),
        ("traffic", "", 4, 1.0, "early"),
        ("traffic", "high", 0, 0.0, "early"),
        ("traffic", "high", 4, 1.0, "early"),
    ]


@in_a_loop
async def test_time_does_not_go_back_for_a_partition_that_comes_late() -> None:
    """What was final stays so: how far time has come is stored with what was published."""
    stage = await Stage.of(published_ms=1)
    stage.there.clock.advance(10)
    await stage.write(event("a", 0, x=1), mark(3))
    await stage.publish(stage.finaliser())
    assert stage.there.world.published["m"].watermark_ms == START_MS + 3 * MINUTE_MS
    stage.there.log.partitions = 2
    other = await stage.there.take(partition=1)
    await stage.there.apply(other, 0, event("b", 0.5, x=2))
    await stage.there.flush(other)
    heir = stage.finaliser()
    assert said(await stage.publish(heir)) == [("sum", "", 0, 3.0, "revised")]
    await stage.there.apply(other, 1, event("c", -1, x=4))  # which that partition alone would not call over
    await stage.there.flush(other)
    assert said(await stage.publish(heir)) == [("sum", "", -2, 4.0, "final")]


@in_a_loop
async def test_nothing_is_final_before_every_partition_has_an_owner() -> None:
    stage = await Stage.of()
    stage.there.log.partitions = 2
    finaliser = stage.finaliser()
    await stage.write(event("a", 0, x=1), mark(9))
    assert said(await stage.publish(finaliser)) == [("sum", "", 0, 1.0, "early")]
    other = await stage.there.take(partition=1)
    await stage.there.apply(other, 0, mark(2))
    await stage.there.flush(other)
    assert await stage.publish(finaliser) == []
    await stage.there.apply(other, 1, mark(3))
    await stage.there.flush(other)
    assert said(await stage.publish(finaliser)) == [("sum", "", 0, 1.0, "final")]


# -- versions of values --------------------------------------------------------------------------------------------------


@in_a_loop
async def test_the_version_of_a_value_is_the_sum_of_all_partitions_newest_flushes_and_only_grows() -> None:
    stage = await Stage.of()
    stage.there.log.partitions = 2
    owners = [stage.owner, await stage.there.take(partition=1)]
    finaliser = stage.finaliser()
    versions = []
    for number in range(6):
        owner = owners[number % 2]
        if number == 4:
            owners[0] = owner = await stage.there.take("heir")
        await stage.there.apply(owner, owner.state.next_offset, event(f"e{number}", 0, x=1))
        await stage.there.flush(owner)
        (value,) = await stage.publish(finaliser)
        newest = {}
        for (partition, _, _), row in stage.there.world.flushes.items():
            newest[partition] = max(newest.get(partition, 0), row.version.epoch * 2**32 + row.version.flush)
        assert value.value_version == sum(newest.values())
        assert value.value == number + 1
        versions.append(value.value_version)
    assert versions == sorted(set(versions))
    assert versions[-1] - versions[0] > 2**32, "an epoch outweighs every flush before it"


@in_a_loop
async def test_values_are_in_the_topic_before_they_are_in_the_table() -> None:
    """What is in the table is not sent again after a crash; what is in the topic alone is."""
    stage = await Stage.of()
    await stage.write(event("a", 0, x=1))
    there = stage.there
    before = len(there.world.taken)
    await stage.publish(stage.finaliser())
    steps = there.world.taken[before:]
    assert steps.index("send values") < steps.index("write values") < steps.index("write published")
    await stage.write(event("b", 0, x=2))
    there.world.ends_before = "write values"
    with pytest.raises(EndedError):
        await stage.publish(stage.finaliser())
    there.world.ends_before = None
    sent = len(stage.topic)
    assert [value.value for value in there.world.values.values()] == [1.0, 1.0]
    assert said(await stage.publish(stage.finaliser())) == [("sum", "", 0, 3.0, "early")]
    assert len(stage.topic) > sent
    assert {value.value for value in there.world.values.values()} == {3.0}


# -- two finalisers ------------------------------------------------------------------------------------------------------


@in_a_loop
async def test_a_finaliser_that_finds_a_higher_claim_publishes_nothing_any_more() -> None:
    stage = await Stage.of()
    forgotten, heir = stage.finaliser(), stage.finaliser()
    await stage.write(event("a", 0, x=1))
    await stage.publish(forgotten)
    await stage.publish(heir)
    await stage.write(event("b", 0, x=2))
    assert await stage.publish(forgotten) == []
    assert forgotten.superseded
    assert said(await stage.publish(heir)) == [("sum", "", 0, 3.0, "early")]
    assert not heir.superseded


@in_a_loop
async def test_a_successor_says_again_what_a_forgotten_one_may_still_be_about_to_write() -> None:
    """A value of the same content under an older version may arrive at any time: the newest one must be the successor's."""
    stage = await Stage.of()
    await stage.write(event("a", 0, x=1))
    await stage.publish(stage.finaliser())
    await stage.write(event("b", 4, x=1))
    heir = stage.finaliser()
    await stage.publish(heir)
    await stage.write(event("c", 0, x=None))
    await stage.publish(heir)
    await stage.write(label("a", 1))
    (again,) = await stage.publish(heir)
    assert (again.window_start_ms, again.labelled_rows) == (START_MS, 1)


@in_a_loop
async def test_an_unchanged_value_of_a_predecessor_is_said_again_once_its_pane_changes_and_once_only() -> None:
    stage = await Stage.of(catalogue(model(windows=PATIENT), metrics={"sum": "sum(x)"}, segments=HIGH))
    await stage.write(event("a", 0, x=1))
    await stage.publish(stage.finaliser())
    await stage.write(event("b", 8, x=1))
    heir = stage.finaliser()
    await stage.publish(heir)
    await stage.write(event("c", 1, x=2))
    first = said(await stage.publish(heir))
    assert first == [("sum", "", 0, 3.0, "early"), ("sum", "high", 0, None, "early")], "the second one has not changed"
    await stage.write(event("d", 1, x=2))
    assert said(await stage.publish(heir)) == [("sum", "", 0, 5.0, "early")]


@in_a_loop
async def test_whoever_claims_at_the_same_moment_claims_again_higher() -> None:
    stage = await Stage.of()
    await stage.write(event("a", 0, x=1))
    world = stage.there.world
    one, two = stage.finaliser(), stage.finaliser()
    await stage.publish(one)
    epoch = max(world.finalisers.values())
    await stage.publish(two)
    assert max(world.finalisers.values()) == epoch + 1
    assert sorted(world.finalisers.values()) == [epoch, epoch + 1]


@in_a_loop
async def test_two_finalisers_at_once_publish_the_same_numbers() -> None:
    stage = await Stage.of(SUMS)
    one, two = stage.finaliser(), stage.finaliser()
    for number in range(5):
        await stage.write(event(f"e{number}", number % 3, x=number))
        for finaliser in (one, two) if number % 2 else (two, one):
            await stage.publish(finaliser)
    table = {
        (v.metric, v.segment, v.window_start_ms, v.value, v.rows)
        for v in stage.there.world.values.values()
        if v.version == ALL
    }
    alone = await Stage.of(SUMS)
    for number in range(5):
        await alone.write(event(f"e{number}", number % 3, x=number))
    await alone.publish(alone.finaliser())
    assert table == {
        (v.metric, v.segment, v.window_start_ms, v.value, v.rows)
        for v in alone.there.world.values.values()
        if v.version == ALL
    }


# -- what is read, and how much of it is kept ----------------------------------------------------------------------------


@in_a_loop
async def test_a_long_window_follows_every_pane_though_hours_and_days_are_kept_merged() -> None:
    windows = {"pane": "1m", "sizes": ["1d"], "lateness": "1d"}
    stage = await Stage.of(catalogue(model(windows=windows), metrics={"sum": "sum(x)"}, segments={}))
    stage.there.clock.at_ms = START_MS + 30 * HOUR_MS
    finaliser = stage.finaliser()
    total = 0.0
    # only so far after the record's time may an event be: minutes of the first hour and a half
    for number, minute in enumerate([0, 59, 60, 89, 0, 60, 59]):
        await stage.write(event(f"e{number}", minute, x=2.0**number))
        total += 2.0**number
        (value,) = await stage.publish(finaliser)
        assert value.value == total
        assert value.window_end_ms - value.window_start_ms == 24 * HOUR_MS
        assert value.rows == number + 1


TINY = {"blocks_bytes_max": 1, "load_bytes_max": 1, "values_max": 1_000, "windows_max": 10}
LONG = {"pane": "1m", "sizes": ["1h", "1d", "7d", {"size": "2h", "every": "30m"}], "lateness": "7d"}


@pytest.mark.parametrize("limits", [{}, TINY, {"blocks_bytes_max": 12_000}, {"load_bytes_max": 1_000}])
def test_whatever_left_the_memory_a_changed_pane_changes_its_hour_its_day_and_every_window(
    limits: dict[str, Any],
) -> None:
    """Cached hours and days are made anew when a pane in them changes, never moved by the difference."""

    async def main() -> None:
        metrics = {**SUM_AND_TRAFFIC, "median": "quantile(x, 0.5)"}
        stage = await Stage.of(catalogue(model(windows=LONG), metrics=metrics, segments=HIGH))
        finaliser = stage.finaliser(**limits)
        rows: list[tuple[int, float]] = []
        # minutes of three days, some of them again and again
        for number, minute in enumerate([0, -3000, -1, -59, -60, 89, -1440, -1, 0, -3000, -1439, -1, 30, -60]):
            x = float(number % 7)
            rows.append((minute, x))
            await stage.write(event(f"e{number}", minute, x=x))
            found = await stage.publish(finaliser)
            assert found
            for value in found:
                start, end = ((at - START_MS) // MINUTE_MS for at in (value.window_start_ms, value.window_end_ms))
                inside = [x for at, x in rows if start <= at < end and (not value.segment or x >= 5)]
                assert value.rows == len(inside), value
                wanted = {"sum": sum(inside), "traffic": len(inside), "median": np.median(inside) if inside else None}
                assert value.value == (wanted[value.metric] if inside or value.metric == "traffic" else None), value
            assert finaliser.memory.blocks.weight <= finaliser.settings.blocks_bytes_max
            assert finaliser.memory.values.weight <= finaliser.settings.values_max

    in_a_loop(main)()


@pytest.mark.parametrize("blocks_bytes_max", [5_000, 10_000])
def test_blocks_that_are_in_memory_are_merged_before_others_push_them_out(blocks_bytes_max: int) -> None:
    """Windows that overlap find some of their hours in memory, and read panes of the others."""

    async def main() -> None:
        rng = random.Random(1)
        windows = {"pane": "1m", "sizes": [{"size": "1h", "every": "5m"}], "lateness": "7d"}
        stage = await Stage.of(catalogue(model(windows=windows), metrics=SUM_AND_TRAFFIC, segments={}))
        finaliser = stage.finaliser(blocks_bytes_max=blocks_bytes_max, load_bytes_max=1)
        minutes: list[int] = []
        for number in range(40):
            late = [-rng.randrange(120) for _ in range(3)]
            minutes += late
            await stage.write(*(event(f"e{number}-{i}", minute, x=1.0) for i, minute in enumerate(late)))
            for value in await stage.publish(finaliser):
                start, end = ((at - START_MS) // MINUTE_MS for at in (value.window_start_ms, value.window_end_ms))
                assert value.rows == sum(start <= minute < end for minute in minutes), value

    in_a_loop(main)()


@in_a_loop
async def test_a_changed_pane_is_read_alone_where_its_neighbours_are_in_memory() -> None:
    stage = await Stage.of(catalogue(model(windows=LONG), metrics=SUM_AND_TRAFFIC, segments={}))
    finaliser = stage.finaliser()
    await stage.write(*(event(f"e{minute}", -minute, x=1) for minute in range(180)))
    await stage.publish(finaliser)
    read: list[int] = []
    store: Any = finaliser.store
    pane_records = store.pane_records

    async def counting(keys: Sequence[PaneKey]) -> Any:
        read.append(len(keys))
        return await pane_records(keys)

    store.pane_records = counting
    await stage.write(event("late", -77, x=1))
    await stage.publish(finaliser)
    assert read == [1]


@in_a_loop
async def test_the_memory_of_a_worker_is_for_all_its_models_and_a_forgotten_finaliser_leaves_no_states() -> None:
    stage = await Stage.of(catalogue(model(windows=LONG), metrics=SUM_AND_TRAFFIC, segments={}))
    before, after = stage.finaliser(), stage.finaliser()
    after.memory = before.memory
    await stage.write(event("a", 0, x=1))
    await stage.publish(before)
    await stage.write(event("b", 0, x=2))
    found = await stage.publish(after)
    assert {value.value for value in found if value.metric == "sum"} == {3.0}
    assert before.memory.blocks is after.memory.blocks


@in_a_loop
async def test_windows_that_left_the_memory_are_read_again_and_only_changes_are_published() -> None:
    stage = await Stage.of(catalogue(model(windows=PATIENT), metrics={"sum": "sum(x)"}, segments={}))
    finaliser = stage.finaliser(windows_max=10)
    await stage.write(*(event(f"e{minute}", minute, x=1) for minute in range(0, 60, 2)))
    assert len(await stage.publish(finaliser)) == 30
    assert len(finaliser.memory.values) == 10
    await stage.write(event("a", 0, x=None), event("a", 0, x=1))
    (value,) = await stage.publish(finaliser)
    assert (value.value, value.rows) == (1.0, 2)
    await stage.write(mark(62))
    assert said(await stage.publish(finaliser)) == [("sum", "", 0, 1.0, "final")]


@in_a_loop
async def test_a_successor_ends_the_windows_that_were_open() -> None:
    stage = await Stage.of()
    stage.there.log.partitions = 2
    other = await stage.there.take(partition=1)
    await stage.write(event("a", 0, x=1), event("b", 4, x=1))
    assert [entry[-1] for entry in said(await stage.publish(stage.finaliser()))] == ["early", "early"]
    await stage.there.apply(other, 0, mark(20))
    await stage.there.flush(other)
    await stage.write(mark(20))
    found = said(await stage.publish(stage.finaliser()))
    assert [entry[-1] for entry in found] == ["final", "final"]


@in_a_loop
async def test_hopping_windows_hold_a_row_more_than_once() -> None:
    windows = {"pane": "1m", "sizes": [{"size": "3m", "every": "1m"}], "lateness": "1m"}
    stage = await Stage.of(catalogue(model(windows=windows), metrics={"sum": "sum(x)"}, segments={}))
    await stage.write(event("a", 0, x=1), event("b", 2, x=2))
    found = said(await stage.publish(stage.finaliser()))
    assert [(minute, value) for _, _, minute, value, _ in found] == [(-2, 1.0), (-1, 1.0), (0, 3.0), (1, 2.0), (2, 2.0)]


@in_a_loop
async def test_versions_have_values_of_their_own_and_one_together_as_each_reads_its_rows() -> None:
    cost = {"cost": "sum(if(fp(), 1, 0))"}
    second = model("v2", task_params={"threshold": 0.95, "target_class_order": [0, 1]})
    stage = await Stage.of(catalogue(model("v1"), second, metrics=cost, segments={}))
    records = [
        event(f"{version}{score}", 0, s=score, version=version)
        for version in ("v1", "v2")
        for score in (0.1, 0.9, 0.99)
    ]
    labels = [label(f"{version}{score}", 0) for version in ("v1", "v2") for score in (0.1, 0.9, 0.99)]
    await stage.write(*records, *labels)
    found = await stage.finaliser().refresh(stage.there.world.catalogue, stage.there.engines)
    assert {value.version: (value.value, value.rows) for value in found} == {
        "v1": (2.0, 3),
        "v2": (1.0, 3),
        ALL: (3.0, 6),
    }


@in_a_loop
async def test_versions_of_other_columns_are_together_in_what_both_can_say() -> None:
    """Their states stand in other places; what one of them lacks is not published of all."""
    second = model("v2", columns=[{"name": "z", "type": "float"}, *model()["columns"]])
    metrics = {"second": "sum(z)", "most": "max(x)", "sum": "sum(x)"}
    stage = await Stage.of(catalogue(model("v1"), second, metrics=metrics, segments={"high": "x >= 5"}))
    wide = json.loads(event("b", 0, x=6, version="v2"))
    wide["columns"]["z"] = 40
    await stage.write(event("a", 0, x=1, version="v1"), json.dumps(wide).encode())
    found = await stage.finaliser().refresh(stage.there.world.catalogue, stage.there.engines)
    by_version: dict[str, dict[str, float | None]] = {}
    for value in found:
        by_version.setdefault(value.version, {})[f"{value.metric} {value.segment}".strip()] = value.value
    assert by_version["v1"] == {"sum": 1, "sum high": None, "most": 1, "most high": None}
    assert by_version["v2"] == {"sum": 6, "sum high": 6, "most": 6, "most high": 6, "second": 40, "second high": 40}
    assert by_version[ALL] == {"sum": 7, "sum high": 6, "most": 6, "most high": 6}


@in_a_loop
async def test_a_window_that_only_its_baseline_says_something_of_has_no_values() -> None:
    columns = [{"name": "x", "type": "float", "min": 0, "max": 10}, *model()["columns"][1:]]
    known = catalogue(model(columns=columns, windows=PATIENT), metrics={"drift": "jsd(x, 'before')"}, segments={})
    before = {"kind": "baseline", "model": "m", "name": "before", "type": "rolling", "window": "2m", "offset": "2m"}
    stage = await Stage.of(known.with_definition(DEFINITION.validate_python(before)))
    await stage.write(event("a", 0, x=1), event("b", 6, x=1))
    finaliser = stage.finaliser()
    assert said(await stage.publish(finaliser)) == [("drift", "", 0, None, "early"), ("drift", "", 6, None, "early")]
    await stage.write(event("c", 2, x=1), event("d", 4, x=9))
    found = said(await stage.publish(finaliser))
    assert ("drift", "", 2, 0.0, "early") in found, "compared with minute 0"
    assert ("drift", "", 4, 1.0, "early") in found, "compared with minute 2"
    assert {minute for _, _, minute, _, _ in found} == {2, 4, 6}


# -- definitions ---------------------------------------------------------------------------------------------------------


@in_a_loop
async def test_a_metric_is_published_once_every_record_of_its_window_covers_it() -> None:
    stage = await Stage.of()
    finaliser = stage.finaliser()
    await stage.write(event("a", 0, x=1), event("b", 1, x=2))
    await stage.publish(finaliser)
    grown = catalogue(metrics={"sum": "sum(x)", "least": "min(x)"}, segments={})
    stage.define(grown)
    assert await stage.publish(finaliser) == [], "the states do not hold it yet"
    await stage.owner.adopt(grown, stage.there.engines, frozenset({"m"}))
    await stage.owner.backfill(1)
    await stage.there.flush(stage.owner)
    assert await stage.publish(finaliser) == [], "one of two panes does"
    await stage.owner.backfill(1)
    await stage.there.flush(stage.owner)
    assert said(await stage.publish(finaliser)) == [("least", "", 0, 1.0, "early")]


@in_a_loop
async def test_a_metric_whose_states_are_there_already_is_published_for_open_windows_at_once() -> None:
    stage = await Stage.of()
    finaliser = stage.finaliser()
    await stage.write(event("a", 0, x=3), event("old", -20, x=1))
    await stage.publish(finaliser)
    stage.define(catalogue(metrics={"sum": "sum(x)", "double": "2 * sum(x)"}, segments={}))
    stage.there.clock.advance(120_000)  # the other window changed long ago, and is over
    assert said(await stage.publish(finaliser)) == [("double", "", 0, 6.0, "early")]


@in_a_loop
async def test_a_changed_text_is_a_new_revision_of_the_value() -> None:
    stage = await Stage.of()
    finaliser = stage.finaliser()
    await stage.write(event("a", 0, x=3))
    assert [value.definition_revision for value in await stage.publish(finaliser)] == [1]
    document = {"kind": "metric", "model": "m", "name": "sum", "definition": "sum(x) + 0"}
    stage.define(ONE.with_definition(DEFINITION.validate_python(document), revision=2))
    (value,) = await stage.publish(finaliser)
    assert (value.value, value.definition_revision) == (3.0, 2)


@in_a_loop
async def test_a_model_that_is_gone_publishes_nothing() -> None:
    stage = await Stage.of()
    await stage.write(event("a", 0, x=3))
    finaliser = stage.finaliser()
    assert list(await finaliser.refresh(Catalogue(), stage.there.engines)) == []
    assert stage.there.world.values == {}


@in_a_loop
async def test_how_far_it_is_is_remembered_with_news_at_once_and_else_now_and_then() -> None:
    stage = await Stage.of(published_ms=10_000)
    finaliser = stage.finaliser()
    await stage.write(event("a", 0, x=3))
    await stage.publish(finaliser)
    first = stage.there.world.published["m"]
    assert first.vector == {0: stage.owner.base.version.number}
    await stage.write(event("b", 0, x=4))
    await stage.publish(finaliser)
    second = stage.there.world.published["m"]
    assert second.vector == {0: stage.owner.base.version.number}, "news at once"
    await stage.write(mark(0.5))
    await stage.publish(finaliser)
    assert stage.there.world.published["m"] is second, "else not so soon"
    stage.there.clock.advance(10_000)
    await stage.publish(finaliser)
    assert stage.there.world.published["m"] == Published(
        {0: stage.owner.base.version.number}, START_MS + MINUTE_MS // 2, first.definitions
    )
    assert StreamSettings().published_ms == 10_000
