"""Requests that nobody would write by hand: no accident of the server, no hang, nothing stored that was refused."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.rest_client import PREFIX, RestClient
from tests.running_stack import RunningStack

FUZZ_S = 280.0
#: The checks that say what this API promises; others ask for conventions that it does not follow, such as 404 before 403.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth,unsupported_method"
DEFINITIONS = """
{kind: pipeline, name: train}
---
{kind: execution, name: known, pipeline: train}
---
{kind: experiment, name: digits}
---
{kind: job, name: known, experiment: digits}
---
kind: model
name: churn
columns:
  - {name: age, type: int, role: input}
---
{kind: metric, model: churn, name: mean age, definition: "average(age)"}
"""
#: Half of the requests speak of what is there, so that they come further than "no such thing".
KNOWN = """
[parameters]
model = "churn"
model_id = "churn"
"path.account" = "default"
"path.workspace" = "default"
metric = "mean age"
execution = "known"
"path.id" = 1
"""


@pytest.fixture(scope="module")
def rest(stack: RunningStack) -> Iterator[RestClient]:
    with RestClient(stack) as client:
        client("POST", "/definitions/yaml", content=DEFINITIONS)
        yield client


def schemathesis(stack: RunningStack, directory: Path, config: str, *options: str) -> str:
    """Run schemathesis over the whole description; gives what it says."""
    (directory / "schemathesis.toml").write_text(config)
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{stack.api_url}{PREFIX}/openapi.json",
            "--header", f"Authorization: Bearer {stack.api_key}", "--checks", CHECKS, "--request-timeout", "30",
            "--continue-on-failure", "--no-color", "--workers", "2", *options,
        ],
        cwd=directory, capture_output=True, text=True, check=False, timeout=FUZZ_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    return done.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("config", "phases"), [("", "coverage,fuzzing"), (KNOWN, "fuzzing")], ids=["anything", "about what is there"]
)
def test_no_request_breaks_the_server_or_its_description(
    rest: RestClient, stack: RunningStack, tmp_path: Path, config: str, phases: str
) -> None:
    operations = len([m for item in rest("GET", "/openapi.json")["paths"].values() for m in item])
    said = schemathesis(stack, tmp_path, config, "--phases", phases, "--max-examples", "4", "--seed", "1")
    selected = re.search(r"Selected:\s+(\d+)/(\d+)", said)
    assert selected, said[-3_000:]
    assert int(selected[1]) == operations > 60, "every operation was asked for"
    assert rest("GET", "/me")["id"].startswith("key:"), "it still answers"
    log = (stack.data / "logs" / "api.log").read_text()
    assert '"unforeseen"' not in log


junk = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4),
    st.sampled_from(["NaN", "Infinity", "-Infinity", "nan", "1", 10**400, 2**63, -(2**63), 0, -0.0, 1e308, 5e-324]),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)  # fmt: skip
numbers = st.one_of(st.floats(), st.integers(-(2**60), 2**60), st.sampled_from(["NaN", "Infinity", "-Infinity"]))
names = st.one_of(st.sampled_from(["loss", "acc"]), st.text(max_size=3), junk)
executions = st.one_of(st.just("twin"), st.text(max_size=3), junk)


def bodies(values: Any, owner: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies of which about every other one is right."""
    right = st.fixed_dictionaries({**owner, "name": st.sampled_from(["loss", "acc"]), **values})
    key, strategy = next(iter(values.items()))
    odd = st.fixed_dictionaries(
        {"name": names, key: st.one_of(strategy, junk)},
        optional={
            "execution": executions,
            "job": junk,
            "step": junk,
            "at": junk,
            "surprise": junk,
        },
    )
    return st.one_of(right, odd)


class Twin:
    """What should be stored, by what was acknowledged."""

    def __init__(self) -> None:
        self.single: dict[tuple[str, str], Any] = {}
        self.lists: dict[tuple[str, str], list[Any]] = {}
        self.steps: dict[tuple[str, int], Any] = {}
        self.answers: dict[int, int] = {}

    def take(self, kind: str, body: dict[str, Any], answer: httpx.Response) -> None:
        self.answers[answer.status_code] = self.answers.get(answer.status_code, 0) + 1
        assert answer.status_code in (200, 400, 404, 422), (body, answer.text)
        if answer.status_code != 200:
            assert answer.json()["code"]
            return
        if kind == "pipeline":
            self.single[body["execution"], body["name"]] = shown(body["value"])
        elif kind == "list":
            self.lists.setdefault((body["execution"], body["name"]), []).extend(map(shown, body["values"]))
        else:
            self.steps[body["name"], body.get("step", 0)] = shown(body["value"])


def shown(value: Any) -> Any:
    """Give a number as the API gives it back."""
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def test_what_was_refused_is_not_stored_and_what_was_acknowledged_is(rest: RestClient) -> None:
    twin = Twin()

    def send(kind: str, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode(errors="surrogatepass")
        answer = rest.http.post(
            f"{PREFIX}/recorded/{kind}-metrics", content=content, headers={"content-type": "application/json"}
        )
        twin.take(kind, body, answer)

    rest("POST", "/executions", json={"name": "twin", "pipeline": "train"})
    job = rest("POST", "/jobs", json={"experiment": "digits"})["id"]
    known = {"execution": st.just("twin")}
    steps = {"value": numbers, "step": st.integers(-3, 3)}

    @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(
        st.one_of(
            st.tuples(st.just("pipeline"), bodies({"value": numbers}, known)),
            st.tuples(st.just("list"), bodies({"values": st.lists(numbers, max_size=4)}, known)),
            st.tuples(st.just("job"), bodies(steps, {"job": st.just(job)})),
        )
    )
    def play(request: tuple[str, dict[str, Any]]) -> None:
        send(*request)

    play()
    assert min(twin.answers.get(200, 0), sum(twin.answers.values()) - twin.answers.get(200, 0)) > 30, twin.answers
    single = {
        (row["execution"], row["name"]): row["value"]
        for row in rest.pages("/recorded/pipeline-metrics", 50, execution="twin")
    }
    assert single == twin.single
    heads = {
        (row["execution"], row["name"]): row["count"]
        for row in rest.pages("/recorded/list-metrics", 50, execution="twin")
    }
    assert heads == {key: len(values) for key, values in twin.lists.items()}
    for (execution, name), values in twin.lists.items():
        found = rest("GET", "/recorded/list-metrics/values", params={"execution": execution, "name": name})
        assert found["items"] == values
    for name in {name for name, _ in twin.steps}:
        rows = rest.pages("/recorded/job-metrics/steps", 50, job=job, name=name)
        assert {(name, row["step"]): row["value"] for row in rows} == {
            key: value for key, value in twin.steps.items() if key[0] == name
        }


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":' * 20_000, b'"x"', b"1e99999", b"[" * 100_000, b'{"execution":"\\ud800","name":"m","value":1}'],
    ids=["nothing", "half", "array", "null", "no UTF-8", "deep", "text", "huge", "deeper", "half a surrogate"],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused(rest: RestClient, content: bytes) -> None:
    for path in (
        "/recorded/pipeline-metrics",
        "/recorded/list-metrics",
        "/recorded/job-metrics",
        "/definitions",
        "/snapshots",
    ):
        answer = rest.http.post(PREFIX + path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 404, 422), (path, answer.status_code, answer.text)


def test_a_request_line_or_head_that_is_odd_does_not_end_the_server(rest: RestClient) -> None:
    for path in (
        "/%00",
        "/%ff%fe",
        "/values?model=%00&metric=x",
        "/values?model=%ff&metric=x",
        "/../../etc/passwd",
        "/values?limit=" + "9" * 5_000,
    ):
        answer = rest.http.get(PREFIX + path)
        assert answer.status_code in (200, 400, 404, 422), (path, answer.text)
    assert rest.http.get(f"{PREFIX}/me", headers={"x": "y" * 60_000}).status_code in (200, 400, 431)
    assert rest.http.get(f"{PREFIX}/me").status_code == 200
