"""Recorded metrics on a real broker and a real store: through the recorder and straight to the topic, with a worker that dies."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
from confluent_kafka import Producer
from tests.integration.source_workers import committed, log_ends
from tests.running_stack import RunningStack
from tests.waiting import wait_equal, wait_in_loop, wait_until

from fqlstream.aggregates.running import RunningSummary
from fqlstream.client import Producer as SdkProducer
from fqlstream.events.payloads import Forget, JobMetric, ListMetric, PipelineMetric
from fqlstream.ops.recording import Recorder
from fqlstream.settings import Settings, load
from fqlstream.store import recorded
from fqlstream.store.client import Store

T = TypeVar("T")


@pytest.fixture(scope="module")
def store(stack: RunningStack) -> Iterator[Store]:
    with stack.store() as client:
        yield client


def settings_of(stack: RunningStack, **record: Any) -> Settings:
    settings = load()
    return settings.model_copy(update={
        "kafka": settings.kafka.model_copy(update={"bootstrap": stack.bootstrap}),
        "record": settings.record.model_copy(update={"verdict_wait_ms": 60_000, "read_wait_ms": 60_000, **record}),
    })  # fmt: skip


def with_recorder(stack: RunningStack, store: Store, work: Callable[[Recorder], Coroutine[Any, Any, T]]) -> T:
    async def main() -> T:
        async with Recorder(settings_of(stack), store) as recorder:
            return await work(recorder)

    return asyncio.run(main())


def test_what_was_recorded_is_read_as_soon_as_the_recorder_says_so(stack: RunningStack, store: Store) -> None:
    async def work(recorder: Recorder) -> None:
        await recorder.record(PipelineMetric(id="e-read", name="test-loss", value=0.5))
        await recorder.record(
            PipelineMetric(id="e-read", name="test-loss", value=0.25, at="2026-11-21T10:00:00.123456Z")
        )
        await recorder.record(PipelineMetric(id="e-read", name="1onx", value=3))
        for values in ([1.0, 2.0], [3.0], [4.5]):
            assert (
                await recorder.verdict(await recorder.record(ListMetric(id="e-read", name="loss", values=values)))
                is None
            )
        for step, value in ((3, 0.1), (-2, 0.2), (7, "NaN"), (3, "-Infinity")):
            await recorder.record(JobMetric(id=17, name="ACC_1", value=value, step=step))
        await recorder.settled()

    with_recorder(stack, store, work)
    page = recorded.pipeline_metrics(store, executions=["e-read"])
    assert [(row.name, row.value) for row in page.rows] == [("1onx", 3.0), ("test-loss", 0.25)]
    assert page.rows[1].at_us == 1_795_255_200_123_456
    assert page.total_count == 2
    (head,) = recorded.list_metrics(store, name="loss", executions=["e-read"]).rows
    assert head.count == 4
    ((_, values),) = recorded.list_values(store, [head])
    assert values.tolist() == [1.0, 2.0, 3.0, 4.5]
    (summary,) = recorded.list_summaries(store, [head])
    assert (summary.count, summary.finite, summary.min, summary.max) == (4, 4, 1.0, 4.5)
    assert (summary.mean, summary.variance) == pytest.approx((np.mean(values), np.var(values, ddof=1)))
    assert summary.exact_quantiles[0.5] == np.median(values)
    steps = recorded.job_metric_steps(store, "17", "ACC_1")
    assert [(row.step, repr(row.value)) for row in steps.rows] == [(-2, "0.2"), (3, "-inf"), (7, "nan")]
    (latest,) = recorded.job_metrics_latest(store, ["17", "18"])["17"]
    assert (latest.step, repr(latest.value)) == (7, "nan")


def test_a_list_takes_no_value_beyond_its_limit_and_says_what_is_stored(stack: RunningStack, store: Store) -> None:
    async def work(recorder: Recorder) -> list[recorded.Refusal | None]:
        sizes = [10_000, 10_000, 10_000, 10_000, 9_999, 2, 1, 1]
        written = [
            await recorder.record(ListMetric(id="e-limit", name="loss", values=[float(size)] * size)) for size in sizes
        ]
        verdicts = [await recorder.verdict(one) for one in written]
        await recorder.settled()
        return verdicts

    verdicts = with_recorder(stack, store, work)
    assert [verdict is None for verdict in verdicts] == [True] * 5 + [False, True, False]
    too_many = verdicts[5]
    assert too_many is not None
    assert (too_many.code, too_many.stored) == ("DLQ027", 49_999)
    assert "49999" in too_many.message
    assert "2" in too_many.message
    (head,) = recorded.list_metrics(store, executions=["e-limit"]).rows
    assert head.count == 50_000
    assert recorded.list_slice(store, "e-limit", "loss", offset=49_998, limit=10).rows == (9_999.0, 1.0)
    letters = store.query_rows(
        "SELECT code FROM dead_letters WHERE topic = 'metric-events' AND reason LIKE '%e-limit%'"
    )
    assert letters == [("DLQ027",), ("DLQ027",)]


def test_sixteen_writers_at_the_limit_store_exactly_that_many_values(stack: RunningStack, store: Store) -> None:
    """Each has a recorder of its own, as if each were another server; 16 x 3,200 values and a few single ones do not fit."""

    async def writer(number: int) -> tuple[int, int]:
        taken = refused = 0
        async with Recorder(settings_of(stack), store) as recorder:
            for size in [400] * 8 + [7] * 20:
                written = await recorder.record(ListMetric(id="e-race", name="loss", values=[float(number)] * size))
                if await recorder.verdict(written) is None:
                    taken += size
                else:
                    refused += size
            # fill up to the last value
            for _ in range(40):
                written = await recorder.record(ListMetric(id="e-race", name="loss", values=[float(number)]))
                taken += await recorder.verdict(written) is None
            await recorder.settled()
        return taken, refused

    async def main() -> list[tuple[int, int]]:
        return await asyncio.gather(*(writer(number) for number in range(16)))

    outcome = asyncio.run(main())
    assert sum(taken for taken, _ in outcome) == 50_000
    assert sum(refused for _, refused in outcome) > 0
    (head,) = recorded.list_metrics(store, executions=["e-race"]).rows
    assert head.count == 50_000
    ((_, values),) = recorded.list_values(store, [head])
    stored = {float(number): count for number, count in zip(*np.unique(values, return_counts=True), strict=True)}
    assert stored == {float(number): taken for number, (taken, _) in enumerate(outcome) if taken}


def test_what_is_forgotten_is_gone_and_what_comes_after_it_stays(stack: RunningStack, store: Store) -> None:
    async def work(recorder: Recorder) -> None:
        for execution in ("e-gone", "e-stays"):
            await recorder.record(PipelineMetric(id=execution, name="loss", value=1))
            await recorder.record(PipelineMetric(id=execution, name="gain", value=1))
            await recorder.verdict(await recorder.record(ListMetric(id=execution, name="loss", values=[1.0] * 50_000)))
            await recorder.record(JobMetric(id=execution, name="loss", value=1, step=4))
        await recorder.settled()
        await recorder.record(Forget(kind="execution", id="e-gone"))
        await recorder.record(PipelineMetric(id="e-gone", name="loss", value=2))
        # there is room again: the values that were there are not
        assert (
            await recorder.verdict(await recorder.record(ListMetric(id="e-gone", name="loss", values=[2.0, 3.0])))
            is None
        )
        await recorder.settled()

    with_recorder(stack, store, work)
    assert [(row.name, row.value) for row in recorded.pipeline_metrics(store, executions=["e-gone"]).rows] == [
        ("loss", 2.0)
    ]
    assert recorded.list_slice(store, "e-gone", "loss").rows == (2.0, 3.0)
    (summary,) = recorded.list_summaries(store, recorded.list_metrics(store, executions=["e-gone"]).rows)
    assert (summary.count, summary.mean, summary.max) == (2, 2.5, 3.0)
    assert recorded.pipeline_metrics(store, executions=["e-stays"]).total_count == 2
    assert recorded.list_slice(store, "e-stays", "loss", limit=1).total_count == 50_000
    # an execution and a job of one name are two things
    assert [row.step for row in recorded.job_metrics_latest(store, ["e-gone"])["e-gone"]] == [4]

    with_recorder(stack, store, lambda recorder: forget_job(recorder, "e-gone"))
    assert recorded.job_metrics_latest(store, ["e-gone", "e-stays"]).keys() == {"e-stays"}


async def forget_job(recorder: Recorder, job: str) -> None:
    await recorder.record(Forget(kind="job", id=job))
    await recorder.settled()


BAD: list[tuple[str, bytes]] = [
    ("DLQ005", b'{"type": "pipeline_metric", "id": "bad", "name": "x", "value": NaN}'),
    ("DLQ006", b"[1]"),
    ("DLQ020", b'{"type": "inference", "id": "bad", "name": "x", "value": 1}'),
    ("DLQ021", b'{"type": "pipeline_metric", "name": "x", "value": 1}'),
    ("DLQ022", b'{"type": "job_metric", "id": "bad", "name": "a-b", "value": 1}'),
    ("DLQ023", b'{"type": "pipeline_metric", "id": "bad", "name": "x", "value": true}'),
    ("DLQ024", b'{"type": "list_metric", "id": "bad", "name": "x", "values": [1, [2]]}'),
    ("DLQ025", b'{"type": "job_metric", "id": "bad", "name": "x", "value": 1, "step": 9223372036854775808}'),
    ("DLQ026", b'{"type": "job_metric", "id": "bad", "name": "x", "value": 1, "at": "2026-11-21"}'),
    ("DLQ028", b'{"type": "forget", "id": "bad", "kind": "model"}'),
]


def test_events_straight_to_the_topic_count_and_bad_ones_are_dead_letters(stack: RunningStack, store: Store) -> None:
    with SdkProducer(stack.bootstrap) as sdk:
        sdk.record_metric_value("loss", 0.5, execution_id="e-sdk")
        sdk.record_list_metric_values("losses", np.arange(25_000.0), execution_id="e-sdk")
        sdk.record_list_metric_values("losses", 7, execution_id="e-sdk")
        sdk.append_metric(5, "loss", float("nan"), step=2, at=dt.datetime(2026, 11, 21, 10, 0, 0, 5, tzinfo=dt.UTC))
    producer = Producer({"bootstrap.servers": stack.bootstrap})
    for _, value in BAD:
        producer.produce("metric-events", value, b"bad", partition=2)
    # the last one of that partition: whoever sees it has seen them all
    producer.produce(
        "metric-events", b'{"type": "pipeline_metric", "id": "e-raw", "name": "x", "value": 1e999}', partition=2
    )
    assert producer.flush(30) == 0
    wait_until(lambda: recorded.pipeline_metrics(store, executions=["e-raw", "e-sdk"]).total_count == 2, "both numbers")
    wait_until(lambda: recorded.list_slice(store, "e-sdk", "losses").total_count == 25_001, "the list")
    assert recorded.list_slice(store, "e-sdk", "losses", offset=24_999).rows == (24_999.0, 7.0)
    assert [row.value for row in recorded.pipeline_metrics(store, name="x", executions=["e-raw"]).rows] == [math.inf]
    (nan,) = recorded.job_metrics_latest(store, ["5"])["5"]
    assert (nan.step, math.isnan(nan.value), nan.at_us % 1_000_000) == (2, True, 5)
    found = store.query_rows(
        "SELECT code FROM dead_letters WHERE topic = 'metric-events' AND partition = 2 ORDER BY offset"
    )
    assert [code for (code,) in found if code != "DLQ027"] == [code for code, _ in BAD]


def test_views_tell_what_was_recorded(stack: RunningStack, store: Store) -> None:
    async def work(recorder: Recorder) -> None:
        await recorder.record(PipelineMetric(id="e-view", name="loss", value=0.5, at="2026-11-21T10:00:00.5Z"))
        for values in ([3.0, 1.0], [2.0, "NaN"]):
            await recorder.record(ListMetric(id="e-view", name="loss", values=values, at=1_795_255_200_000))
        for step in (1, 9, 3):
            await recorder.record(JobMetric(id="j-view", name="loss", value=step, step=step, at="0001-01-01T00:00:00Z"))
        await recorder.settled()

    with_recorder(stack, store, work)
    rows = store.query_rows(
        "SELECT value, toString(created_at) FROM pipeline_metric_latest WHERE execution_id = 'e-view'"
    )
    assert rows == [(0.5, "2026-11-21 10:00:00.500000")]
    rows = store.query_rows(
        "SELECT index, value FROM list_metric_values WHERE execution_id = 'e-view' ORDER BY index LIMIT 3"
    )
    assert rows == [(0, 3.0), (1, 1.0), (2, 2.0)]
    rows = store.query_rows(
        "SELECT count, values[2], toString(created_at) FROM list_metric_latest WHERE execution_id = 'e-view'"
    )
    assert rows == [(4, 1.0, "2026-11-21 10:00:00.000000")]
    rows = store.query_rows(
        "SELECT count, finite, mean, variance, min, max, quantiles['0.5'], exact_quantiles['0.5'] FROM list_metric_summary "
        "WHERE execution_id = 'e-view'"
    )
    assert rows == [(4, 3, 2.0, 1.0, 1.0, 3.0, 2.0, 2.0)]
    rows = store.query_rows("SELECT step, value, toString(created_at) FROM job_metric_latest WHERE job_id = 'j-view'")
    assert rows == [(9, 9.0, "1900-01-01 00:00:00.000000")]
    assert store.query_rows("SELECT count() FROM job_metric_series WHERE job_id = 'j-view'") == [(3,)]


def test_a_recorder_that_hears_no_notices_learns_the_same_from_clickhouse(stack: RunningStack, store: Store) -> None:
    async def main() -> tuple[bool, recorded.Refusal | None]:
        deaf = Recorder(settings_of(stack, look_ms=50), store)
        deaf._note = lambda told: None
        async with deaf:
            fine = await deaf.record(ListMetric(id="e-deaf", name="loss", values=[1.0]))
            bad = await deaf.record(ListMetric(id="e-deaf", name="loss", values=[1.0] * 50_001))
            taken = await deaf.verdict(fine) is None
            refused = await deaf.verdict(bad)
            await deaf.settled()
        return taken, refused

    taken, refused = asyncio.run(main())
    assert taken
    assert refused is not None
    assert (refused.code, refused.stored) == ("DLQ027", 1)
    assert recorded.list_slice(store, "e-deaf", "loss").rows == (1.0,)


def test_at_rest_the_group_has_committed_the_end_of_every_log(stack: RunningStack, store: Store) -> None:
    async def work(recorder: Recorder) -> None:
        for number in range(20):  # of every partition some
            await recorder.record(PipelineMetric(id=f"e-rest-{number}", name="loss", value=number))
        await recorder.settled()

    with_recorder(stack, store, work)
    kafka = settings_of(stack).kafka
    ends = log_ends(kafka, "metric-events", 4)
    wait_equal(lambda: committed(kafka, kafka.group, "metric-events", 4), ends, "every commit")


def test_a_worker_that_is_killed_under_writes_loses_none_and_stores_none_twice(
    stack: RunningStack, store: Store
) -> None:
    """Kill -9, three times, while writers wait for every acknowledgement; `up` starts the next worker."""
    ended = asyncio.Event()

    async def writer(recorder: Recorder, number: int) -> list[float]:
        acknowledged = []
        for value in range(10_000):
            if ended.is_set():
                return acknowledged
            await recorder.record(PipelineMetric(id=f"e-kill-{number}", name=f"m-{value}", value=value))
            written = await recorder.record(ListMetric(id=f"e-kill-{number}", name="all", values=[value, value + 0.5]))
            assert await recorder.verdict(written) is None
            acknowledged += [value, value + 0.5]
        return acknowledged

    async def killer() -> None:
        for _ in range(3):
            await wait_in_loop(lambda: fences(store) > most[0], "progress between two kills", 120)
            await kill_worker(stack)
            most[0] = fences(store)
        await wait_in_loop(lambda: fences(store) > most[0], "progress after the last kill", 120)
        ended.set()

    async def main() -> list[list[float]]:
        async with Recorder(settings_of(stack), store) as recorder:
            writers = [asyncio.create_task(writer(recorder, number)) for number in range(4)]
            await killer()
            written = await asyncio.gather(*writers)
            await recorder.settled()
        return written

    most = [fences(store)]
    written = asyncio.run(main())
    for number, wanted in enumerate(written):
        assert len(wanted) > 2
        assert list(recorded.list_slice(store, f"e-kill-{number}", "all").rows) == wanted
        (head,) = recorded.list_metrics(store, executions=[f"e-kill-{number}"]).rows
        (summary,) = recorded.list_summaries(store, [head])
        assert (summary.count, summary.max) == (len(wanted), max(wanted))
        assert summary.mean == pytest.approx(np.mean(wanted))
        # a summary is a function of its list alone, whoever died while it grew
        whole = RunningSummary()
        whole.learn(wanted)
        assert (summary.mean, summary.variance, summary.quantiles) == (whole.mean, whole.variance, whole.quantiles())
        assert recorded.pipeline_metrics(store, executions=[f"e-kill-{number}"]).total_count == len(wanted) // 2


async def kill_worker(stack: RunningStack) -> None:
    """End the worker without a word, and wait until `up` has started the next one."""
    before = described(stack)["pids"]["workers"]
    os.kill(before[0], signal.SIGKILL)
    await wait_in_loop(lambda: described(stack)["pids"]["workers"] not in ([], before), "the next worker", 120)


def described(stack: RunningStack) -> dict[str, Any]:
    return dict(json.loads((stack.data / "stack.json").read_text()))


def fences(store: Store) -> int:
    return sum(recorded.flushed_upto(store).values())
