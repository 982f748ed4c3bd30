"""The pool of sandboxes as a runner uses it: real bubblewrap, real engines. What hostile code comes to is in tests/escapes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.waiting import wait_until

from fqlstream.code_metrics import failures
from fqlstream.code_metrics.pool import Pool
from fqlstream.code_metrics.process import descendants
from fqlstream.code_metrics.request import CodeMetricsRefusedError, Frame, Job, Outcome, Progress
from fqlstream.code_metrics.sandbox import find_bwrap
from fqlstream.settings import CodeMetricsSettings

#: The page's own example.
DOCUMENTED = "import numpy as np\n\ndef calc_metric(df):\n\treturn np.average(df.collect().columns.age)\n"
FRAMES = (Frame(""), Frame("seniors", "_segment_0"), Frame("nobody", "_segment_1"), Frame("juniors", "_segment_2"))
SETTINGS = CodeMetricsSettings(engine="sqlframe", warm=1)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    ages = [20, 30, 60, 70, 45]
    table = {
        "age": ages,
        "first name": list("abcde"),
        "_segment_0": [age >= 60 for age in ages],
        "_segment_1": [False] * 5,
        "_segment_2": [True, True, None, False, False],
    }
    pq.write_table(pa.table(table), path)
    return path


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    opened = Pool(SETTINGS)
    opened.warm()
    yield opened
    opened.close()


def body(*lines: str) -> str:
    return "def calc_metric(df):\n" + "".join(f"    {line}\n" for line in lines)


def only(outcome: Outcome) -> failures.Failure:
    """Give the one failure of a run, its own or its only frame's."""
    found = outcome.failure or outcome.frames[0].failure
    assert found is not None, outcome
    return found


def test_every_segment_has_its_value_and_stages_are_told(pool: Pool, rows: Path) -> None:
    told: list[Progress] = []
    outcome = pool.run(Job(DOCUMENTED, (rows,), FRAMES), told.append)
    assert outcome.failure is None
    assert [(frame.name, frame.rows, frame.value) for frame in outcome.frames] == [
        ("", 5, 45.0),
        ("seniors", 2, 65.0),
        ("nobody", 0, None),
        ("juniors", 2, 25.0),
    ]
    assert [(progress.stage, progress.frame, progress.done) for progress in told] == [
        ("started", None, 1),
        ("loaded", None, 2),
        ("computed", "nobody", 3),
        ("computed", "", 4),
        ("computed", "seniors", 5),
        ("computed", "juniors", 6),
    ]
    assert {progress.total for progress in told} == {6}
    assert set(outcome.seconds) == {"check", "start", "load", "compute"}
    assert outcome.memory_bytes_peak > 2**20
    assert {"static_check", "supervisor", "file_system", "network", "processes", "user", "limits"} <= set(
        outcome.layers
    )


def test_code_sees_its_own_columns_only(pool: Pool, rows: Path) -> None:
    outcome = pool.run(Job(body("return len(df.columns)"), (rows,), FRAMES))
    assert [frame.value for frame in outcome.frames] == [2.0, 2.0, None, 2.0]


def test_one_segments_failure_leaves_the_others(pool: Pool, rows: Path) -> None:
    code = body("rows = df.collect()", "return 1 / (len(rows) - 2)")
    outcome = pool.run(Job(code, (rows,), FRAMES[:2]))
    whole, seniors = outcome.frames
    assert whole.value == pytest.approx(1 / 3)
    assert seniors.failure is not None
    assert seniors.failure.code == failures.RAISED
    assert seniors.failure.traceback == "line 3, in calc_metric\n    return 1 / (len(rows) - 2)"


def test_nothing_is_run_for_no_rows(pool: Pool, rows: Path) -> None:
    told: list[Progress] = []
    outcome = pool.run(Job(body("return 1 / 0"), (rows,), (Frame("nobody", "_segment_1"),)), told.append)
    assert [(frame.value, frame.failure) for frame in outcome.frames] == [(None, None)]
    assert [progress.done for progress in told] == [1, 2, 3]
    assert pool.run(Job(body("return 1 / 0"), ())).frames[0].rows == 0


@pytest.mark.parametrize(
    ("lines", "code", "words"),
    [
        (("return df.select('nope').count()",), failures.COLUMN, "the columns are age, first name"),
        (("return df.collect().columns.nope",), failures.COLUMN, "the columns are age, first name"),
        (("return df.toPandas()['nope'].sum()",), failures.COLUMN, "the columns are age, first name"),
        (("return 'x'",), failures.RESULT, "return a float or an int"),
        (("df.collect()",), failures.RESULT, "is a return missing"),
        (("import os", "return 1"), failures.IMPORT, "allowed are"),
        (("return 1 +",), failures.SYNTAX, "invalid syntax"),
        (("while True: pass",), failures.TIME, "after 2 s"),
    ],
)
def test_failures_say_what_to_do(pool: Pool, rows: Path, lines: tuple[str, ...], code: str, words: str) -> None:
    limits = replace(pool.limits, wall_s=2.0) if code == failures.TIME else None
    found = only(pool.run(Job(body(*lines), (rows,), limits=limits)))
    assert found.code == code
    assert words in f"{found.message} {found.hint}"


def test_a_warm_sandbox_is_taken_and_replaced(pool: Pool, rows: Path) -> None:
    wait_until(lambda: pool.ready() == 1, "a sandbox is ready")
    outcome = pool.run(Job(DOCUMENTED, (rows,)))
    assert outcome.seconds["start"] < 0.5
    wait_until(lambda: pool.ready() == 1, "another one is ready")


def test_bubblewraps_own_first_process_has_our_filter_too(rows: Path) -> None:
    pool = Pool(SETTINGS.model_copy(update={"warm": 0, "static_check": False}))
    try:
        status = only(
            pool.run(Job(body("raise ValueError(open('/proc/1/status').read().replace(chr(10), ' '))"), (rows,)))
        )
        assert "Name: bwrap" in status.message
        assert "Seccomp: 2" in status.message
    finally:
        pool.close()


def test_where_bubblewrap_is_refused_a_filter_it_starts_without_and_that_is_told(tmp_path: Path) -> None:
    script = tmp_path / "bwrap"
    real = find_bwrap(None)
    script.write_text(
        f'#!/bin/sh\ncase " $* " in *" --seccomp "*) echo refused >&2; exit 1 ;; esac\nexec {real} "$@"\n',
        encoding="ascii",
    )
    script.chmod(0o755)
    pool = Pool(SETTINGS.model_copy(update={"warm": 0, "bubblewrap": script}))
    try:
        found = {layer.name: layer for layer in pool.layers()}
    finally:
        pool.close()
    assert {"file_system", "network", "seccomp"} <= {name for name, layer in found.items() if layer.active}
    assert found["seccomp"].detail == "system calls, but not of bubblewrap's own first process"


def test_closing_ends_what_runs(rows: Path) -> None:
    pool = Pool(SETTINGS.model_copy(update={"warm": 0}))
    found: list[Outcome] = []
    loaded = threading.Event()
    job = Job(body("while True: pass"), (rows,))
    running = threading.Thread(
        target=lambda: found.append(
            pool.run(job, lambda progress: loaded.set() if progress.stage == "loaded" else None)
        )
    )
    running.start()
    assert loaded.wait(60)
    began = time.monotonic()
    pool.close()
    running.join(10)
    assert time.monotonic() - began < 10
    assert only(found[0]).code == failures.CLOSED
    with pytest.raises(CodeMetricsRefusedError, match="the service stops") as refused:
        pool.run(job)
    assert refused.value.code == "CBM106"


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({}, "CBM101", "lacks file_system and network"),
        ({"allow_missing_layers": ("network",)}, "CBM101", "lacks file_system"),
        (
            {"allow_missing_layers": ("network", "file_system"), "static_check": False},
            "CBM102",
            "the static check cannot be off",
        ),
    ],
)
def test_without_its_layers_nothing_runs(rows: Path, change: dict[str, object], code: str, words: str) -> None:
    pool = Pool(SETTINGS.model_copy(update={"bubblewrap": Path("/nowhere"), **change}))
    try:
        for attempt in (pool.warm, lambda: pool.run(Job(DOCUMENTED, (rows,)))):
            with pytest.raises(CodeMetricsRefusedError, match=words) as refused:
                attempt()
            assert refused.value.code == code
    finally:
        pool.close()


def test_where_an_operator_allows_it_code_runs_without_bubblewrap_and_leaves_nothing(rows: Path) -> None:
    change = {"bubblewrap": Path("/nowhere"), "allow_missing_layers": ("network", "file_system"), "warm": 0}
    pool = Pool(SETTINGS.model_copy(update=change))
    launcher = pool._launcher
    kind = pool._default
    try:
        assert pool.run(Job(DOCUMENTED, (rows,))).frames[0].value == 45.0
        started = launcher.start(kind)
        code = (
            "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
            "        os.execv('/bin/sleep', ['sleep', '600'])\n    os._exit(0)\nos.wait()\n" + DOCUMENTED
        )
        job = {"code": code, "paths": [launcher.give(started, rows, 0)], "hidden": [], "frames": [(0, None)]}
        started.process.orders.write(json.dumps(job).encode() + b"\n")
        started.process.orders.flush()
        first = started.process._process.pid
        wait_until(lambda: len(descendants(first)) == 2, "the daemon runs")
        daemon = descendants(first)[1]
        launcher.end(started)
        wait_until(lambda: not Path(f"/proc/{daemon}").exists(), "the daemon is gone")
    finally:
        pool.close()


def test_an_engine_that_is_not_there_is_told(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    pool = Pool(SETTINGS.model_copy(update={"java_home": tmp_path}))
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        pool.layers()
        with pytest.raises(CodeMetricsRefusedError, match="Spark needs Java 17 or 21") as refused:
            pool.run(Job(DOCUMENTED, (rows,), engine="spark"))
        assert refused.value.code == "CBM104"
        monkeypatch.delenv("SPARK_REMOTE", raising=False)
        with pytest.raises(CodeMetricsRefusedError, match="address of a Spark Connect server") as nowhere:
            pool.run(Job(DOCUMENTED, (rows,), engine="spark_remote"))
        assert nowhere.value.code == "CBM107"
    finally:
        pool.close()


def test_spark_answers_what_the_page_says(rows: Path) -> None:
    pool = Pool(SETTINGS.model_copy(update={"engine": "spark", "warm": 0}))
    try:
        outcome = pool.run(Job(DOCUMENTED, (rows,), FRAMES))
        assert [frame.value for frame in outcome.frames] == [45.0, 65.0, None, 25.0]
        found = only(pool.run(Job(body("return df.agg({'nope': 'avg'}).first()[0]"), (rows,))))
        assert (found.code, found.message) == (failures.COLUMN, "there is no column `nope`")
    finally:
        pool.close()


def test_a_poisoned_sandbox_is_not_used_again(rows: Path) -> None:
    loose = Pool(SETTINGS.model_copy(update={"static_check": False}))
    try:
        loose.warm()
        wait_until(lambda: loose.ready() == 1, "a sandbox is ready")
        poison = body("import builtins, numpy", "builtins.float = numpy.average = lambda *a: 13.0", "return 1")
        assert loose.run(Job(poison, (rows,))).frames[0].value == 13.0
        wait_until(lambda: loose.ready() == 1, "another one is ready")
        assert loose.run(Job(DOCUMENTED, (rows,))).frames[0].value == 45.0
    finally:
        loose.close()
