"""Who runs which code metric when: runners in this process, on a real broker and store, with a pool that counts rows instead of running code."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pyarrow.parquet as pq
import pytest
from tests.running_stack import RunningStack
from tests.waiting import wait_until

from fqlstream.clock import SystemClock
from fqlstream.code_metrics.request import Failure, FrameOutcome, Job, Layer, Outcome, Progress
from fqlstream.events.definitions import CodeMetricDefinition
from fqlstream.local.joining import join
from fqlstream.ops.code_metric_tasks import CodeMetricRequests, TaskSender
from fqlstream.ops.definition_log import read_catalogue
from fqlstream.runner.runner import Runner
from fqlstream.settings import Settings, load
from fqlstream.store.client import Store

METRICS = 12
MODEL = """
kind: model
name: shared
columns: [{name: x, type: int}]
windows: {pane: 1m, sizes: [1h], lateness: 1h}
"""


class CountingPool:
    """Answers with the number of rows of each frame. `gate` holds runs back; closing ends them with a failure."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.closed = threading.Event()
        self.runs: list[str] = []

    def layers(self) -> tuple[Layer, ...]:
        return (Layer("file_system", active=True, detail=""), Layer("landlock", active=False, detail="old kernel"))

    def warm(self) -> None:
        """Nothing is started."""

    def run(self, job: Job, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        self.runs.append(job.code)
        if on_progress is not None:
            on_progress(Progress("started", 1, 3))
        while not self.gate.wait(0.02):
            if self.closed.is_set():
                return Outcome("sqlframe", (), Failure("CBM199", "closed"), ())
        rows = sum(pq.read_metadata(path).num_rows for path in job.rows)
        frames = tuple(FrameOutcome(frame.name, rows, float(rows), 0.0) for frame in job.frames)
        return Outcome("sqlframe", frames, None, ("file_system",))

    def close(self) -> None:
        self.closed.set()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = RunningStack.start(tmp_path_factory.mktemp("runners"))
    events = [
        {"model": "shared", "event_id": f"e-{n}", "event_at": "2026-03-01T10:20:00Z", "columns": {"x": n}}
        for n in range(5)
    ]
    (running.directory / "model.yaml").write_text(MODEL)
    (running.directory / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    running.run("apply", "-f", "model.yaml")
    running.run("publish", "--model", "shared", "--finish", "events.jsonl")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def settings(stack: RunningStack) -> Settings:
    joined = join(stack.data, load())
    fast = {
        "late_periods_max": 0,
        "heartbeat_ms": 200,
        "look_ms": 100,
        "spread_ms_max": 0,
        "poll_wait_ms": 0,
    }
    return joined.model_copy(
        update={
            "runner": joined.runner.model_copy(update={**fast, "directory": stack.directory / "rows"}),
            "kafka": joined.kafka.model_copy(update={"session_timeout_ms": 6_000}),
        }
    )


@pytest.fixture(scope="module")
def store(stack: RunningStack) -> Iterator[Store]:
    with stack.store() as client:
        wait_until(lambda: client.query_rows("SELECT count() FROM events_shared")[0][0] == 5, "the events are stored")
        yield client


@contextmanager
def running(settings: Settings, store: Store, pool: CountingPool) -> Iterator[Runner]:
    runner = Runner(settings, store, pool, SystemClock())
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        yield runner
    finally:
        runner.stop()
        thread.join(40)
        assert not thread.is_alive()


def define(stack: RunningStack, *names: str) -> None:
    documents = [
        json.dumps({"kind": "code_metric", "model": "shared", "name": name, "code": f"# {name}"}) for name in names
    ]
    (stack.directory / "metrics.yaml").write_text("\n---\n".join(documents))
    stack.run("apply", "-f", "metrics.yaml")


def runs(store: Store, like: str) -> list[tuple[str, str, str]]:
    return store.query_rows(
        "SELECT metric, state, owner FROM code_metric_run_rows FINAL WHERE metric LIKE {like:String} ORDER BY metric",
        {"like": like},
    )


def found(settings: Settings, name: str) -> CodeMetricDefinition:
    return read_catalogue(settings).models["shared"].code_metrics[name]


def test_runners_share_the_metrics_and_each_period_is_computed_once(
    stack: RunningStack, settings: Settings, store: Store
) -> None:
    names = [f"shared {n:02}" for n in range(METRICS)]
    define(stack, *names)
    pools = CountingPool(), CountingPool()
    with ExitStack() as opened:
        for pool in pools:
            pool.gate.clear()
            opened.enter_context(running(settings, store, pool))
        wait_until(
            lambda: store.query_rows(
                "SELECT uniq(owner) FROM code_metric_runner_rows FINAL WHERE notEmpty(partitions) AND seen_at > now() - 30"
            )[0][0] >= 2,
            "both have partitions",
            60,
        )  # fmt: skip
        for pool in pools:
            pool.gate.set()
        wait_until(lambda: [state for _, state, _ in runs(store, "shared%")] == ["success"] * METRICS, "all have run", 60,
                   saw=lambda: runs(store, "shared%"))  # fmt: skip
    values = store.query_rows("SELECT DISTINCT value, rows FROM code_metric_latest WHERE metric LIKE 'shared%'")
    assert values == [(5.0, 5)]
    counted = Counter(code for pool in pools for code in pool.runs)
    assert set(counted) == {f"# {name}" for name in names}
    # one that was under way when its partition moved may have been waited for; none ran for the same period twice
    assert counted.total() == METRICS


def test_a_runner_that_stops_gives_its_run_up_and_the_next_one_does_it_at_once(
    stack: RunningStack, settings: Settings, store: Store
) -> None:
    define(stack, "stopped")
    first, second = CountingPool(), CountingPool()
    first.gate.clear()
    with running(settings, store, first):
        wait_until(lambda: "# stopped" in first.runs, "it runs", 60)
    assert [state for _, state, _ in runs(store, "stopped")] == ["given_up"]
    with running(settings, store, second):
        wait_until(lambda: [state for _, state, _ in runs(store, "stopped")] == ["success"], "it ran", 60)
    assert second.runs.count("# stopped") == 1


def test_a_request_that_nobody_was_there_for_is_done_by_whoever_comes(
    stack: RunningStack, settings: Settings, store: Store
) -> None:
    define(stack, "asked")
    requests = CodeMetricRequests(store, TaskSender(settings.kafka), settings.runner, SystemClock())
    metric = found(settings, "asked")
    assert not requests.ask(metric, "serving/shared/v1").is_final
    with running(settings, store, CountingPool()):
        final = wait_until(
            lambda: (task := requests.ask(metric, "serving/shared/v1")).is_final and task,
            "the request is done",
            60,
            look_s=0.2,
        )
    assert final
    assert (final.state, final.value, final.report.rows, final.report.layers) == ("success", 5.0, 5, ("file_system",))


def test_what_was_changed_meanwhile_is_not_run_as_it_was(stack: RunningStack, settings: Settings, store: Store) -> None:
    define(stack, "changed")
    requests = CodeMetricRequests(store, TaskSender(settings.kafka), settings.runner, SystemClock())
    asked = requests.ask(found(settings, "changed"), "serving/shared/v1")
    (stack.directory / "metrics.yaml").write_text('{kind: code_metric, model: shared, name: changed, code: "# other"}')
    stack.run("apply", "-f", "metrics.yaml")
    with running(settings, store, CountingPool()):
        wait_until(lambda: requests.look(asked).is_final, "the request is done", 60, look_s=0.2)
    ended = requests.look(asked)
    assert (ended.state, ended.report.code) == ("failed", "CMR004")


def test_a_runner_says_that_it_is_there_and_what_contains_the_code(settings: Settings, store: Store) -> None:
    with running(settings, store, CountingPool()) as runner:
        row = wait_until(
            lambda: store.query_rows(
                "SELECT layers, missing FROM code_metric_runner_rows FINAL WHERE owner = {owner:String} AND notEmpty(layers)",
                {"owner": runner.owner},
            ),
            "it was seen",
            60,
        )
    assert row == [(["file_system"], ["landlock: old kernel"])]
