"""Sends attempts through the whole service, by REST as Aporia's client does, and looks what became of it; as a program it prints JSON.

One stack runs all of them, one after the other. Between them a control metric must give its value, and all the time somebody else
asks the API. The order of judgement is that of `suite`; here come in addition: every answer, the log, ClickHouse, every process
of the stack.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from tests.escapes import suite
from tests.escapes.attempts import ATTEMPTS, CONTROLS, SPARK_CONTROLS, Attempt
from tests.escapes.suite import Ending, Result, Surroundings
from tests.running_stack import RunningStack, environment_of_free_ports
from tests.waiting import wait_until

from fqlstream.settings import CodeMetricsSettings

#: Whoever asks the API waits so long at most for any answer, whatever a metric does meanwhile: clients commonly give up then.
#: On a machine of two processors that nothing else uses the longest is about a second.
ANSWER_S_MAX = 30.0
#: The API is asked again after so long: all the time, and without keeping the metrics from the processors.
_ASK_EVERY_S = 0.5
#: A validation ends within: rows exported, a sandbox started, the time that a run has, all of it on a machine with much else to do.
_TASK_S = 900.0
_REQUEST_S = 120.0
_STORED_S = 120.0
#: A runner looks for requests so often, more often than it has to: most attempts take about as long as that.
_LOOK_MS = 500
#: An attempt that can share a sandbox has a control after it only so often; one that may end or change its sandbox always.
_CONTROL_EVERY = 5

_METRICS = "/api/v1/default/default/metrics/code-based-metrics"
_VERSIONS = "/api/v1/default/default/model-versions"
_OURS = "/api/fqlstream/v1"
_MODEL = "escapes"
#: Its periods end once in thirty days, so that nothing is computed but what is asked for: rows of now lie in one that goes on.
_DEFINITION = f"""
kind: model
name: {_MODEL}
columns:
  - {{name: age, type: int}}
  - {{name: score, type: float, role: output}}
  - {{name: country, type: category}}
windows: {{pane: 1h, sizes: [30d], lateness: 1h}}
"""
_CONTROL = "documented"
_COUNT = "count(score)"


@dataclass(slots=True)
class Asked:
    """What became of the questions that somebody else asks all the time."""

    answers: int = 0
    longest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def complaints(self) -> list[str]:
        """Say what was wrong since the last look."""
        found, self.wrong = self.wrong, []
        return found


@dataclass(frozen=True, slots=True)
class Report:
    """What attempts came to: results, and how the service did meanwhile."""

    results: tuple[Result, ...]
    layers: tuple[str, ...]
    answers: int
    longest_answer_s: float
    seconds: float


@dataclass(slots=True)
class Service:
    """A running stack, as whoever sends metrics to it sees it, and as whoever runs it does."""

    stack: RunningStack
    http: httpx.Client
    outside: Surroundings
    asked: Asked
    dataset: str
    pids: dict[str, Any]
    warm: int
    log_read_bytes: int = 0

    def attempt(self, attempt: Attempt) -> Result:
        """Send an attempt as a metric, try it, take it back, and judge."""
        began_s = time.monotonic()
        told, words = self.tried(f"{attempt.kind} {attempt.name}", self.outside.fill(attempt.code))
        ending = Ending(_number(told), told["code"], told["status"] == "failed" and told["stage"] != "computed", words)
        found = suite.judged(attempt, ending, self.outside, self.left, time.monotonic() - began_s)
        return _with(found, self.complaints())

    def control(self, name: str, code: str, expected: float, after: str) -> Result:
        """Send ordinary code, which must give its value whatever was sent before it."""
        began_s = time.monotonic()
        told, _ = self.tried(f"control {name}", code)
        shown = f"{name} after {after}"
        found = suite.control_result(shown, _number(told), expected, told, time.monotonic() - began_s)
        return _with(found, self.complaints())

    def tried(self, name: str, code: str) -> tuple[dict[str, Any], str]:
        """Create a metric, validate it to its end, see it listed, and delete it. Gives the final state, and the text of all answers."""
        made = self._call("POST", _METRICS, json={"model_id": _MODEL, "name": name, "code": code})
        place = f"{_METRICS}/{made.json()['id']}"
        texts = [made.text]
        question = {"metric_id": made.json()["id"], "dataset_id": self.dataset}

        def final() -> dict[str, Any] | None:
            answer = self._call("POST", f"{_METRICS}/validate", json=question)
            texts.append(answer.text)
            told: dict[str, Any] = answer.json()
            return None if told["status"] == "pending" else told

        told = wait_until(final, f"{name!r} is tried", _TASK_S, saw=lambda: texts[-1], look_s=0.2)
        assert told is not None
        texts.append(self._call("GET", f"{_OURS}/code-metrics", params={"model": _MODEL}).text)
        texts.append(self._call("DELETE", place).text)
        return told, "\n".join(texts)

    def complaints(self) -> list[str]:
        """Say what is wrong with the service since the last look."""
        found = self.asked.complaints()
        added = self._log_added()
        if self.outside.token in added:
            found.append("the token is in the runner's log")
        if len(added) > suite.WORDS_MAX:
            found.append("the runner's log is flooded")
        if (pids := _pids(self.stack)) != self.pids:
            found.append(f"a part of the stack ended: {self.pids} are {pids}")
            self.pids = pids
        return found

    def left(self) -> list[str]:
        """Give what of sandboxes runs beside those that the settings keep warm."""
        held = suite.sandboxes(self.stack.process.pid)
        return [each for commands in held.values() for each in commands] if len(held) > self.warm else []

    def stored(self) -> list[str]:
        """Give rows of ClickHouse that the token is in, table by table."""
        found = []
        with self.stack.store() as store:
            tables = store.query_rows(
                "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
            )
            assert {"code_metric_task_rows", "code_metric_run_rows"} <= {name for (name,) in tables}
            for (name,) in tables:
                rows = store.query_rows(
                    f"SELECT formatRow('TSV', *) AS row FROM `{name}` WHERE position(row, {{token:String}}) > 0 LIMIT 3",
                    {"token": self.outside.token},
                )
                found += [f"the token is in {name}: {row[:500]}" for (row,) in rows]
        return found

    def logged(self) -> list[str]:
        """Give logs of the stack that the token is in."""
        logs = sorted((self.stack.data / "logs").iterdir())
        assert logs
        return [f"the token is in {log.name}" for log in logs if self.outside.token in _text(log)]

    def layers(self) -> tuple[str, ...]:
        """Give the layers that the runner says hold, once it has looked."""
        runners = wait_until(
            lambda: [each for each in self._call("GET", "/health").json()["runners"] or () if each["layers"]],
            "the runner has looked at its sandbox",
            _TASK_S,
            look_s=0.2,
        )
        return tuple(runners[0]["layers"])

    def _log_added(self) -> str:
        with (self.stack.data / "logs" / "runner.log").open("rb") as log:
            log.seek(self.log_read_bytes)
            added = log.read()
        self.log_read_bytes += len(added)
        return added.decode(errors="replace")

    def _call(self, method: str, path: str, **given: Any) -> httpx.Response:
        answer = self.http.request(method, path, **given)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer


@contextlib.contextmanager
def running_service(engine: str, outside: Surroundings, directory: Path, *, static_check: bool) -> Iterator[Service]:
    """Run a stack with one runner, five rows in it, and somebody who asks it all the time."""
    stack = RunningStack.start(directory, environment=_environment(engine, static_check=static_check))
    try:
        headers = {"authorization": f"Bearer {stack.api_key}"}
        with (
            httpx.Client(base_url=stack.api_url, headers=headers, timeout=_REQUEST_S) as http,
            httpx.Client(base_url=stack.api_url, headers=headers, timeout=_REQUEST_S) as other,
        ):
            _fill(http)
            (version,) = http.get(_VERSIONS, params={"model_id": _MODEL}).json()
            dataset, warm = version["serving_dataset"]["id"], CodeMetricsSettings().warm
            with _asking(other, outside.token) as asked:
                yield Service(stack, http, outside, asked, dataset, _pids(stack), warm)
    finally:
        stack.stop()


def _environment(engine: str, *, static_check: bool) -> dict[str, str]:
    limits = suite.SPARK_SMALL if engine == "spark" else suite.SMALL
    chosen = {**limits, "engine": engine, "static_check": str(static_check).lower(), "uid_first": suite.UID_FIRST}
    return {
        **environment_of_free_ports(),
        **{f"FQLSTREAM_CODE_METRICS__{name.upper()}": str(value) for name, value in chosen.items()},
        "FQLSTREAM_LOCAL__RUNNERS": "1",
        "FQLSTREAM_RUNNER__LOOK_MS": str(_LOOK_MS),
        # slow and away are the same only beyond our own bound
        "FQLSTREAM_API__HEALTH_WAIT_S": str(ANSWER_S_MAX),
    }


def _fill(http: httpx.Client) -> None:
    """Define the model, send its rows, and wait until they are stored."""
    applied = http.post(f"{_OURS}/definitions/yaml", content=_DEFINITION)
    assert applied.status_code == 200, applied.text
    now = datetime.now(UTC).isoformat()
    columns = [dict(zip(suite.ROWS, values, strict=True)) for values in zip(*suite.ROWS.values(), strict=True)]
    events = [
        {"model": _MODEL, "event_id": f"e-{number}", "event_at": now, "columns": each}
        for number, each in enumerate(columns)
    ]
    sent = http.post(
        f"{_OURS}/events/file",
        data={"model": _MODEL},
        files={"file": ("events.jsonl", "".join(json.dumps(event) + "\n" for event in events))},
    )
    assert sent.status_code == 200, sent.text
    wait_until(lambda: _rows_now(http) == len(events), "the rows are stored", _STORED_S, look_s=0.1)


def _rows_now(http: httpx.Client) -> int:
    answer = http.post(f"{_OURS}/snapshots", json={"model": _MODEL, "expression": _COUNT})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["value"] or 0)


@contextlib.contextmanager
def _asking(http: httpx.Client, token: str) -> Iterator[Asked]:
    """Ask the API all the time whether it is well, and how many rows there are."""
    asked, ended = Asked(), threading.Event()
    snapshot = {"model": _MODEL, "expression": _COUNT}
    questions: tuple[tuple[str, str, dict[str, Any], tuple[str, object]], ...] = (
        ("GET", "/health", {}, ("status", "ok")),
        ("POST", f"{_OURS}/snapshots", {"json": snapshot}, ("value", float(len(suite.ROWS["age"])))),
    )

    def ask() -> None:
        while not ended.wait(_ASK_EVERY_S):
            for method, path, given, (name, expected) in questions:
                began_s = time.monotonic()
                try:
                    answer = http.request(method, path, **given)
                    is_right = answer.status_code == 200 and answer.json()[name] == expected
                    if not is_right or token in answer.text:
                        asked.wrong.append(f"{path} answered {answer.status_code} {answer.text[:500]}")
                except (httpx.HTTPError, ValueError, KeyError) as error:
                    asked.wrong.append(f"{path} was not answered: {error!r}")
                took_s = time.monotonic() - began_s
                if took_s > ANSWER_S_MAX:
                    asked.wrong.append(f"{path} was answered after {took_s:.1f} s")
                asked.answers, asked.longest_s = asked.answers + 1, max(asked.longest_s, took_s)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield asked
    finally:
        ended.set()
        thread.join()


def _pids(stack: RunningStack) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stack.data / "stack.json").read_text())["pids"]
    return found


def _number(told: dict[str, Any]) -> float | None:
    """Read a value as JSON has it, NaN and infinity by name."""
    return None if told["value"] is None else float(told["value"])


def _with(result: Result, complaints: Sequence[str]) -> Result:
    return Result(result.kind, result.name, (*result.complaints, *complaints), result.code, result.seconds)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def run(engine: str, attempts: Sequence[Attempt], *, static_check: bool, controls: bool) -> Report:
    """Send attempts that fit the engine through one stack, controls between them; `controls`: ordinary code of every kind at the end."""
    began_s = time.monotonic()
    fitting = [attempt for attempt in attempts if attempt.engine in {None, engine}]
    with suite.surroundings() as outside, tempfile.TemporaryDirectory(prefix="escapes-") as directory:
        with running_service(engine, outside, Path(directory), static_check=static_check) as service:
            outside.complaints()  # of the time in which the stack started
            results = _tried(service, fitting)
            if controls:
                ordinary = CONTROLS | (SPARK_CONTROLS if engine == "spark" else {})
                results += [service.control(name, *ordinary[name], "all attempts") for name in ordinary]
            layers = service.layers()
            results += [
                Result("surroundings", "ClickHouse", tuple(service.stored()), None, 0.0),
                Result("surroundings", "logs", tuple(service.logged()), None, 0.0),
            ]
        results.append(Result("surroundings", "after the end", tuple(_remains(service)), None, 0.0))
    asked = service.asked
    return Report(tuple(results), layers, asked.answers, asked.longest_s, time.monotonic() - began_s)


def _tried(service: Service, attempts: Sequence[Attempt]) -> list[Result]:
    results, without = [], 0
    for attempt in attempts:
        results.append(service.attempt(attempt))
        sys.stderr.write(f"{results[-1]}\n")
        without += 1
        if attempt.alone or without >= _CONTROL_EVERY or attempt is attempts[-1]:
            results.append(service.control(_CONTROL, *CONTROLS[_CONTROL], f"{attempt.kind}: {attempt.name}"))
            without = 0
    return results


def _remains(service: Service) -> list[str]:
    """Give what a stack that has ended has left of sandboxes: processes, and files of rows."""
    files = [f"left behind: {path}" for path in (service.stack.data / "code-metrics").rglob("*") if path.is_file()]
    return files + [f"left running: {stray}" for stray in suite.strays()]


def main() -> None:
    """Run the suite and print one JSON object: who ran it, which layers held, how the API answered, and every result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="spark", choices=("spark", "sqlframe"))
    parser.add_argument("--kind", action="append", help="only attempts of this class")
    parser.add_argument("--one-per-class", action="store_true")
    parser.add_argument("--static-check", action="store_true")
    chosen = parser.parse_args()
    attempts = suite.one_per_class() if chosen.one_per_class else list(ATTEMPTS)
    attempts = [attempt for attempt in attempts if not chosen.kind or attempt.kind in chosen.kind]
    report = run(chosen.engine, attempts, static_check=chosen.static_check, controls=True)
    answer = {"uid": os.getuid(), "engine": chosen.engine, "static_check": chosen.static_check, **asdict(report)}
    sys.stdout.write(json.dumps(answer, indent=1) + "\n")
    sys.exit(1 if any(result.complaints for result in report.results) else 0)


if __name__ == "__main__":
    main()
