"""The Dioptra client from PyPI, unmodified, against the API: one check for every sentence of its wire format."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.running_stack import RunningStack
from tests.vendor_clients.calls import VendorProcess
from tests.waiting import wait_until

PASSWORD = "correct horse battery staple"  # noqa: S105  # of a user of this test's own stack
REGISTERED = "---\n".join(
    [
        "{kind: experiment, name: digits}\n",
        "{kind: experiment, name: sorted}\n",
        "{kind: experiment, name: empty}\n",
        '{kind: job, experiment: digits, name: first, description: "first of all"}\n',
        "{kind: job, experiment: digits, name: second}\n",
        '{kind: job, experiment: sorted, name: b, description: "beta, run", status: finished, queue: q1, timeout: 24h, tags: [red, blue]}\n',
        '{kind: job, experiment: sorted, name: a, description: Alpha, status: queued, queue: q2, timeout: 1h, tags: ["light green"]}\n',
        "{kind: job, experiment: sorted, name: c, description: gamma, status: queued, queue: q0, entrypoint: main}\n",
    ]
)


@dataclass(frozen=True, slots=True)
class Ids:
    """Numbers of what was registered, by name."""

    experiments: dict[str, int]
    jobs: dict[str, int]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = RunningStack.start(tmp_path_factory.mktemp("dioptra"))
    (running.directory / "registered.yaml").write_text(REGISTERED)
    for name in ("ada", "eve"):
        add_user(running, name)
    yield running
    running.stop()


def add_user(stack: RunningStack, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fqlstream.cli", "users", "add", name, "--password-stdin"],
        input=PASSWORD + "\n", cwd=stack.directory, env=stack.environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def ids(stack: RunningStack) -> Ids:
    rows = json.loads(stack.run("apply", "-f", "registered.yaml", "--json").stdout)
    numbers: dict[str, dict[str, int]] = {"experiment": {}, "job": {}}
    for row in rows:
        numbers[row["kind"]][row["name"]] = row["id"]
    return Ids(numbers["experiment"], numbers["job"])


@pytest.fixture(scope="module")
def vendor(stack: RunningStack) -> Iterator[VendorProcess]:
    process = VendorProcess()
    for name, form in (("d", "json"), ("r", "response")):
        process.do("dioptra", name, stack.said["api_url"], form=form)
        process.do("auth.login", "ada", PASSWORD, on=name)
    yield process
    process.stop()


@pytest.fixture(scope="module")
def unused(stack: RunningStack, ids: Ids) -> Iterator[int]:
    """Jobs that nobody has recorded anything of: registered together, since a command takes a second."""
    (stack.directory / "jobs.yaml").write_text("---\n".join(["{kind: job, experiment: digits}\n"] * 200))
    return iter([row["id"] for row in json.loads(stack.run("apply", "-f", "jobs.yaml", "--json").stdout)])


@pytest.fixture
def job(unused: Iterator[int]) -> int:
    """A job of its own."""
    return next(unused)


def raw(vendor: VendorProcess, stack: RunningStack, method: str, path: str, **options: Any) -> tuple[int, Any]:
    """Send what the client does not, with a key."""
    headers = {"Authorization": f"Bearer {stack.said['api_key']}"}
    answer = vendor.do("raw", method, f"{stack.said['api_url']}/api/v1{path}", headers=headers, **options)
    return answer["status"], json.loads(answer["text"])


def post(vendor: VendorProcess, stack: RunningStack, job: int, body: str) -> tuple[int, Any]:
    return raw(vendor, stack, "POST", f"/jobs/{job}/metrics", data=body)


def latest(vendor: VendorProcess, job: int) -> dict[str, Any]:
    found = vendor.do("jobs.get_metrics_by_id", job, on="d")
    return {row["name"]: row["value"] for row in found}


def steps(vendor: VendorProcess, job: int, name: str) -> list[tuple[int, Any]]:
    found = vendor.do("jobs.get_metrics_snapshots_by_id", job, name, 0, 1_000, on="d")
    return [(row["step"], row["value"]) for row in found["data"]]


def metrics_of(vendor: VendorProcess, experiment: int, **asked: Any) -> list[int]:
    """Give the jobs of an experiment in the order they come in."""
    found = vendor.do("experiments.get_metrics_by_id", experiment, page_length=1_000, on="d", **asked)
    return [row["id"] for row in found["data"]]


# -- logins ------------------------------------------------------------------------------------------------------------


def test_a_login_gives_a_cookie_that_scripts_and_other_sites_do_not_have(
    vendor: VendorProcess, stack: RunningStack
) -> None:
    vendor.do("dioptra", "fresh", stack.said["api_url"])
    told = vendor.tell("auth.login", "ada", PASSWORD, on="fresh")
    assert told.result == {"username": "ada", "status": "Login successful"}
    (sent,) = told.sent
    assert (sent["method"], urlsplit(sent["url"]).path) == ("POST", "/api/v1/auth/login")
    cookie = sent["answer_headers"]["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert vendor.do("jobs.get_metrics_by_id", 1, on="fresh") == []


def test_who_is_not_logged_in_is_told_by_a_message(vendor: VendorProcess, stack: RunningStack, ids: Ids) -> None:
    vendor.do("dioptra", "stranger", stack.said["api_url"], form="response")
    job = ids.jobs["first"]
    for call in (("jobs.get_metrics_by_id", job), ("jobs.append_metric_by_id", job, "loss", 1.0), ("auth.logout",)):
        answer = vendor.do(*call, on="stranger")
        assert answer["status"] == 401
        assert list(json.loads(answer["text"])) == ["message"]


def test_logging_out_ends_one_login_and_everywhere_all_of_them(vendor: VendorProcess, stack: RunningStack) -> None:
    for name in ("one", "two", "three"):
        vendor.do("dioptra", name, stack.said["api_url"])
        vendor.do("auth.login", "eve", PASSWORD, on=name)
    told = vendor.tell("auth.logout", on="one")
    assert told.result["username"] == "eve"
    assert urlsplit(told.sent[0]["url"]).query == "everywhere=False"
    assert vendor.fail("jobs.get_metrics_by_id", 1, on="one")["type"] == "StatusCodeError"
    assert vendor.do("jobs.get_metrics_by_id", 1, on="two") == []
    vendor.do("auth.logout", everywhere=True, on="two")
    for name in ("two", "three"):
        assert vendor.fail("jobs.get_metrics_by_id", 1, on=name)["type"] == "StatusCodeError"


@pytest.mark.parametrize(("name", "password"), [("ada", "xyzzy"), ("nobody", PASSWORD), ("", ""), ("ada", "x" * 5_000)])
def test_a_wrong_password_is_refused(vendor: VendorProcess, stack: RunningStack, name: str, password: str) -> None:
    status, body = raw(vendor, stack, "POST", "/auth/login", json={"username": name, "password": password})
    assert status == 401
    assert set(body) == {"error", "message", "detail", "originating_path"}
    assert password not in body["message"] or not password


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"username": 1, "password": "x"}', '{"username": "a", "password": "b", "c": 1}']
)
def test_a_login_that_is_none_is_refused(vendor: VendorProcess, stack: RunningStack, body: str) -> None:
    status, answer = raw(vendor, stack, "POST", "/auth/login", data=body)
    assert (status, list(answer)) == (400, ["errors"])


# -- recording ---------------------------------------------------------------------------------------------------------


def test_a_metric_is_posted_and_answered_with_name_and_value_only(vendor: VendorProcess, job: int) -> None:
    told = vendor.tell("jobs.append_metric_by_id", job, "loss", 0.5, on="d")
    (sent,) = told.sent
    assert (sent["method"], urlsplit(sent["url"]).path, sent["status"]) == ("POST", f"/api/v1/jobs/{job}/metrics", 200)
    assert json.loads(sent["body"]) == {"name": "loss", "value": 0.5}
    assert told.result == {"name": "loss", "value": 0.5}


def test_a_step_and_a_time_go_along(vendor: VendorProcess, job: int) -> None:
    told = vendor.tell("jobs.append_metric_by_id", job, "loss", 1.0, 7, "2026-01-02T03:04:05.123456+02:00", on="d")
    assert json.loads(told.sent[0]["body"])["step"] == 7
    (row,) = vendor.do("jobs.get_metrics_snapshots_by_id", job, "loss", on="d")["data"]
    assert set(row) == {"name", "value", "step", "timestamp"}
    assert (row["step"], row["timestamp"]) == (7, "2026-01-02T01:04:05.123456+00:00")


def test_a_job_that_nobody_registered_is_not_found(vendor: VendorProcess, stack: RunningStack) -> None:
    answer = vendor.do("jobs.append_metric_by_id", 999_999, "loss", 1.0, on="r")
    body = json.loads(answer["text"])
    assert answer["status"] == 404
    assert set(body) == {"error", "message", "detail", "originating_path"}
    assert body["error"] == "EntityDoesNotExistError"
    assert body["originating_path"].startswith("/api/v1/jobs/999999/metrics")


def test_a_step_is_recorded_once_and_the_latest_value_is_that_of_the_highest_step(
    vendor: VendorProcess, job: int
) -> None:
    for value, step in ((1.0, 5), (2.0, 9), (3.0, 5), (4.0, None), (5.0, -3)):
        vendor.do("jobs.append_metric_by_id", job, "loss", value, step, on="d")
    assert latest(vendor, job) == {"loss": 2.0}
    assert steps(vendor, job, "loss") == [(-3, 5.0), (0, 4.0), (5, 3.0), (9, 2.0)]


def test_what_is_recorded_again_replaces_time_and_value_and_a_nan_too(vendor: VendorProcess, job: int) -> None:
    times = ("2026-01-01T00:00:00Z", "2020-01-01T00:00:00Z")
    for value, at in zip((float("nan"), 2.0), times, strict=True):
        vendor.do("jobs.append_metric_by_id", job, "loss", value, 1, at, on="d")
    (row,) = vendor.do("jobs.get_metrics_snapshots_by_id", job, "loss", on="d")["data"]
    assert (row["value"], row["timestamp"]) == (2.0, "2020-01-01T00:00:00+00:00")
    vendor.do("jobs.append_metric_by_id", job, "loss", float("nan"), 1, on="d")
    assert steps(vendor, job, "loss") == [(1, "nan")]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf"), (4, 4.0), (1e-320, 1e-320)],
)
def test_values_come_back_as_numbers_and_what_json_lacks_as_words(
    vendor: VendorProcess, job: int, value: float, shown: Any
) -> None:
    assert vendor.do("jobs.append_metric_by_id", job, "v", value, on="d") == {"name": "v", "value": shown}
    assert latest(vendor, job) == {"v": shown}
    assert steps(vendor, job, "v") == [(0, shown)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [('"NaN"', '"nan"'), ('"Infinity"', '"inf"'), ('"-Infinity"', '"-inf"'), ("NaN", '"nan"'), ("1e999", '"inf"'), ("-1e999", '"-inf"'), ("Infinity", '"inf"'),
     ('"nan"', '"nan"'), ("4", "4.0"), ('"4"', "4.0"), ('" 1e3 "', "1000.0"), ('"-inf"', '"-inf"')],
)  # fmt: skip
def test_numbers_may_be_texts_and_words(
    vendor: VendorProcess, stack: RunningStack, ids: Ids, text: str, shown: str
) -> None:
    url = f"{stack.said['api_url']}/api/v1/jobs/{ids.jobs['second']}/metrics"
    headers = {"Authorization": f"Bearer {stack.said['api_key']}"}
    answer = vendor.do("raw", "POST", url, headers=headers, data=f'{{"name": "v", "value": {text}}}')
    assert (answer["status"], re.sub(r"\s", "", answer["text"])) == (200, f'{{"name":"v","value":{shown}}}')


@pytest.mark.parametrize("text", ["true", "null", "[1]", "{}", '"abc"', '""', '"1_000"', '"٣"', "1" * 400])
def test_other_values_are_refused(vendor: VendorProcess, stack: RunningStack, job: int, text: str) -> None:
    status, body = post(vendor, stack, job, f'{{"name": "v", "value": {text}}}')
    assert (status, list(body), list(body["errors"])) == (400, ["errors"], ["value"])
    assert latest(vendor, job) == {}


@pytest.mark.parametrize("name", ["a", "Z", "_a", "a1", "LOSS_2", "__", "x" * 256])
def test_names_are_stored_as_given(vendor: VendorProcess, job: int, name: str) -> None:
    vendor.do("jobs.append_metric_by_id", job, name, 1.0, on="d")
    assert latest(vendor, job) == {name: 1.0}


def test_names_differ_by_case(vendor: VendorProcess, job: int) -> None:
    for name, value in (("Loss", 1.0), ("loss", 2.0)):
        vendor.do("jobs.append_metric_by_id", job, name, value, on="d")
    assert latest(vendor, job) == {"Loss": 1.0, "loss": 2.0}


@pytest.mark.parametrize("name", ["_", "1a", "a-b", "a.b", "é", "", "a b", "a\n", "\u212a", "x" * 257])
def test_other_names_are_refused(vendor: VendorProcess, job: int, name: str) -> None:
    answer = vendor.do("jobs.append_metric_by_id", job, name, 1.0, on="r")
    assert (answer["status"], list(json.loads(answer["text"])["errors"])) == (400, ["name"])


@pytest.mark.parametrize(
    ("text", "step"),
    [("3", 3), ('"3"', 3), ("1.5", 1), ("-1.5", -1), ("-7", -7), ('" -7 "', -7), (str(2**63 - 1), 2**63 - 1), (str(-(2**63)), -(2**63))],
)  # fmt: skip
def test_steps_are_whole_numbers_and_what_is_behind_the_point_is_cut(
    vendor: VendorProcess, stack: RunningStack, job: int, text: str, step: int
) -> None:
    assert post(vendor, stack, job, f'{{"name": "v", "value": 1, "step": {text}}}')[0] == 200
    assert steps(vendor, job, "v") == [(step, 1.0)]


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "true",
        '"x"',
        '"1.5"',
        "[1]",
        str(2**63),
        str(-(2**63) - 1),
        '"' + "9" * 40 + '"',
        "1e999",
        "NaN",
        "1e30",
    ],
)
def test_other_steps_are_refused(vendor: VendorProcess, stack: RunningStack, job: int, text: str) -> None:
    status, body = post(vendor, stack, job, f'{{"name": "v", "value": 1, "step": {text}}}')
    assert (status, list(body["errors"])) == (400, ["step"])
    assert latest(vendor, job) == {}


@pytest.mark.parametrize(
    ("text", "shown"),
    [("2026-01-02T03:04:05", "2026-01-02T03:04:05+00:00"), ("2026-01-02T03:04:05.000001Z", "2026-01-02T03:04:05.000001+00:00"),
     ("2026-01-02 03:04:05-05:30", "2026-01-02T08:34:05+00:00"), ("1969-12-31T23:59:59.999999+00:00", "1969-12-31T23:59:59.999999+00:00")],
)  # fmt: skip
def test_times_are_stored_in_utc_with_microseconds(vendor: VendorProcess, job: int, text: str, shown: str) -> None:
    vendor.do("jobs.append_metric_by_id", job, "v", 1.0, 0, text, on="d")
    (row,) = vendor.do("jobs.get_metrics_snapshots_by_id", job, "v", on="d")["data"]
    assert row["timestamp"] == shown


@pytest.mark.parametrize("more", ["", ', "timestamp": null'])
def test_a_metric_without_a_time_has_the_servers(
    vendor: VendorProcess, stack: RunningStack, job: int, more: str
) -> None:
    before = datetime.now(UTC)
    assert post(vendor, stack, job, f'{{"name": "v", "value": 1{more}}}')[0] == 200
    (row,) = vendor.do("jobs.get_metrics_snapshots_by_id", job, "v", on="d")["data"]
    seconds = (datetime.fromisoformat(row["timestamp"]) - before).total_seconds()
    assert -1 < seconds < 60


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *(("step", text) for text in (
            "null", "true", '"x"', '"1.5"', "[1]", str(2**63), str(-(2**63) - 1), '"' + "9" * 40 + '"', "1e999", "NaN", "1e30",
        )),
        *(("timestamp", text) for text in (
            '"2026-01-02"', "1767322800", '"now"', '""', '"20260102"', "true", '"0001-01-01T00:00:00+23:00"',
            '"2026-13-01T00:00:00"',
        )),
    ],
)  # fmt: skip
def test_other_steps_and_times_are_refused(
    vendor: VendorProcess, stack: RunningStack, job: int, field: str, text: str
) -> None:
    status, body = post(vendor, stack, job, f'{{"name": "v", "value": 1, "{field}": {text}}}')
    assert (status, list(body["errors"])) == (400, [field])
    assert latest(vendor, job) == {}


@pytest.mark.parametrize(
    ("body", "field"),
    [('{"name": "v", "value": 1, "more": 1}', "more"), ('[{"name": "v", "value": 1}]', "body"), ("", "body"), ("{", "body"), ("null", "body"),
     ('{"value": 1}', "name"), ('{"name": "v"}', "value"), ('{"name": null, "value": 1}', "name"), ("[" * 50_000, "body")],
)  # fmt: skip
def test_other_bodies_are_refused_by_field(
    vendor: VendorProcess, stack: RunningStack, job: int, body: str, field: str
) -> None:
    status, answer = post(vendor, stack, job, body)
    assert (status, list(answer)) == (400, ["errors"])
    assert list(answer["errors"]) == [field]
    assert all(isinstance(words, list) and words for words in answer["errors"].values())


def test_every_wrong_field_is_told_at_once(vendor: VendorProcess, stack: RunningStack, job: int) -> None:
    _, answer = post(vendor, stack, job, '{"name": "1", "value": true, "step": null, "timestamp": 1, "x": 1}')
    assert set(answer["errors"]) == {"name", "value", "step", "timestamp", "x"}


# -- reading -----------------------------------------------------------------------------------------------------------


def test_the_latest_metrics_are_a_bare_array(vendor: VendorProcess, job: int) -> None:
    vendor.do("jobs.append_metric_by_id", job, "b", 1.0, on="d")
    vendor.do("jobs.append_metric_by_id", job, "a", 2.0, on="d")
    assert vendor.do("jobs.get_metrics_by_id", job, on="d") == [
        {"name": "a", "value": 2.0},
        {"name": "b", "value": 1.0},
    ]


def test_nothing_is_known_of_what_there_is_not(vendor: VendorProcess) -> None:
    assert vendor.do("jobs.get_metrics_by_id", 999_999, on="d") == []
    for page in (
        vendor.do("jobs.get_metrics_snapshots_by_id", 999_999, "loss", on="d"),
        vendor.do("experiments.get_metrics_by_id", 999_999, on="d"),
    ):
        assert (page["data"], page["totalNumResults"], page["isComplete"], page["index"]) == ([], 0, True, 0)


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/x/metrics",
        "/jobs/-1/metrics",
        "/experiments/1.5/metrics",
        "/jobs/" + "9" * 5_000 + "/metrics",
        "/nothing",
    ],
)
def test_a_path_that_is_none_is_not_found(vendor: VendorProcess, stack: RunningStack, path: str) -> None:
    status, body = raw(vendor, stack, "GET", path)
    assert (status, set(body)) == (404, {"error", "message", "detail", "originating_path"})


def follow(vendor: VendorProcess, stack: RunningStack, first: dict[str, Any]) -> list[dict[str, Any]]:
    """Follow `next` to the end."""
    pages = [first]
    while "next" in pages[-1]:
        assert pages[-1]["next"].startswith("/api/v1/"), "links are relative"
        status, page = raw(vendor, stack, "GET", pages[-1]["next"].removeprefix("/api/v1"))
        assert status == 200
        pages.append(page)
    return pages


def test_pages_have_an_envelope_and_whoever_follows_next_sees_every_row_once(
    vendor: VendorProcess, stack: RunningStack, job: int
) -> None:
    for step in range(25):
        vendor.do("jobs.append_metric_by_id", job, "loss", step / 2, step, on="d")
    first = vendor.do("jobs.get_metrics_snapshots_by_id", job, "loss", on="d")
    path = f"/api/v1/jobs/{job}/metrics/loss/snapshots"
    assert {name: value for name, value in first.items() if name != "data"} == {
        "index": 0, "isComplete": False, "totalNumResults": 25, "first": f"{path}?index=0&pageLength=10", "next": f"{path}?index=10&pageLength=10",
    }  # fmt: skip
    pages = follow(vendor, stack, first)
    assert [row["step"] for page in pages for row in page["data"]] == list(range(25))
    assert [page["isComplete"] for page in pages] == [False, False, True]
    assert pages[-1]["prev"] == f"{path}?index=10&pageLength=10"
    assert "next" not in pages[-1]
    odd = vendor.do("jobs.get_metrics_snapshots_by_id", job, "loss", 3, 7, on="d")
    assert (odd["index"], [row["step"] for row in odd["data"]]) == (3, list(range(3, 10))), "index is an offset"
    assert (parse_qs(urlsplit(odd["next"]).query)["index"], parse_qs(urlsplit(odd["prev"]).query)["index"]) == (
        ["10"],
        ["0"],
    )
    beyond = vendor.do("jobs.get_metrics_snapshots_by_id", job, "loss", 90, on="d")
    assert (beyond["data"], beyond["isComplete"], beyond["totalNumResults"]) == ([], True, 25)


@pytest.mark.parametrize("length", [1, 1_000])
def test_pages_have_up_to_a_thousand_rows(vendor: VendorProcess, ids: Ids, length: int) -> None:
    assert vendor.do("jobs.get_metrics_snapshots_by_id", ids.jobs["first"], "x", 0, length, on="d")["data"] == []


@pytest.mark.parametrize(
    ("index", "length", "field"), [(0, 0, "pageLength"), (0, 1_001, "pageLength"), (0, "x", "pageLength"), (-1, 10, "index"), ("x", 10, "index"), (2**63, 10, "index")]
)  # fmt: skip
def test_other_pages_are_refused(vendor: VendorProcess, ids: Ids, index: Any, length: Any, field: str) -> None:
    for call in (
        ("jobs.get_metrics_snapshots_by_id", ids.jobs["first"], "x"),
        ("experiments.get_metrics_by_id", ids.experiments["digits"]),
    ):
        answer = vendor.do(*call, index, length, on="r")
        assert (answer["status"], list(json.loads(answer["text"])["errors"])) == (400, [field])


def test_an_experiment_lists_its_jobs_with_the_latest_metrics_and_those_without_too(
    vendor: VendorProcess, ids: Ids
) -> None:
    a, b, c = (ids.jobs[name] for name in "abc")
    vendor.do("jobs.append_metric_by_id", a, "loss", 2.0, 1, on="d")
    vendor.do("jobs.append_metric_by_id", a, "loss", float("inf"), 2, on="d")
    told = vendor.tell("experiments.get_metrics_by_id", ids.experiments["sorted"], on="d")
    assert parse_qs(urlsplit(told.sent[0]["url"]).query)["experiment_id"] == [str(ids.experiments["sorted"])]
    assert told.result["data"] == [
        {"id": b, "metrics": []}, {"id": a, "metrics": [{"name": "loss", "value": "inf"}]}, {"id": c, "metrics": []},
    ]  # fmt: skip
    assert told.result["totalNumResults"] == 3
    assert vendor.do("experiments.get_metrics_by_id", ids.experiments["empty"], on="d")["data"] == []


@pytest.mark.parametrize(
    ("sort_by", "order"),
    [("id", "bac"), ("description", "abc"), ("createdOn", "bac"), ("lastModifiedOn", "bac"), ("status", "bac"), ("experiment", "bac"), ("entrypoint", "bac"), ("queue", "cba")],
)  # fmt: skip
def test_jobs_are_sorted(vendor: VendorProcess, ids: Ids, sort_by: str, order: str) -> None:
    experiment = ids.experiments["sorted"]
    names = {number: name for name, number in ids.jobs.items()}
    up = "".join(names[number] for number in metrics_of(vendor, experiment, sort_by=sort_by))
    down = "".join(names[number] for number in metrics_of(vendor, experiment, sort_by=sort_by, descending=True))
    assert up == order
    assert sorted(down) == sorted(up)
    if sort_by in ("id", "description", "queue"):
        assert down == order[::-1]


def test_an_order_that_there_is_not_is_refused(vendor: VendorProcess, ids: Ids) -> None:
    answer = vendor.do("experiments.get_metrics_by_id", ids.experiments["sorted"], sort_by="name", on="r")
    assert (answer["status"], list(json.loads(answer["text"])["errors"])) == (400, ["sortBy"])


@pytest.mark.parametrize(
    ("search", "found"),
    [("alpha", "a"), ("description:alpha", "a"), ("description:alp", ""), ("description:al*", "a"), ("description:?lpha", "a"), ("status:queued", "ac"),
     ("status:queued,description:gamma", "c"), ("tag:red", "b"), ('tag:"light green"', "a"), ("tag:'light green'", "a"), ("tag:light", ""), ("tag:*green", "a"),
     ("timeout:24h", "b"), ('description:"beta, run"', "b"), ("beta run", "b"), ("description:beta\\,*", "b"), ("nothing", ""), ("", "bac"), ("*", "bac")],
)  # fmt: skip
def test_jobs_are_searched(vendor: VendorProcess, ids: Ids, search: str, found: str) -> None:
    names = {number: name for name, number in ids.jobs.items()}
    numbers = metrics_of(vendor, ids.experiments["sorted"], search=search)
    assert sorted(names[number] for number in numbers) == sorted(found)


@pytest.mark.parametrize("search", ["nofield:x", "status:", "'open", 'x"', "a,,b", "a\\", "tag:a b"])
def test_a_search_that_is_none_is_refused(vendor: VendorProcess, ids: Ids, search: str) -> None:
    answer = vendor.do("experiments.get_metrics_by_id", ids.experiments["sorted"], search=search, on="r")
    assert (answer["status"], json.loads(answer["text"])["error"]) == (422, "SearchParseError")


def test_links_keep_order_and_search(vendor: VendorProcess, stack: RunningStack, ids: Ids) -> None:
    asked = {"page_length": 1, "sort_by": "description", "descending": True, "search": "status:queued, *a"}
    first = vendor.do("experiments.get_metrics_by_id", ids.experiments["sorted"], on="d", **asked)
    pages = follow(vendor, stack, first)
    assert [row["id"] for page in pages for row in page["data"]] == [ids.jobs["c"], ids.jobs["a"]]


def test_a_deleted_job_takes_its_metrics_with_it(vendor: VendorProcess, stack: RunningStack, job: int) -> None:
    vendor.do("jobs.append_metric_by_id", job, "loss", 1.0, on="d")
    stack.run("delete", "job", str(job))
    # the command is another process: the API reads of the deletion a moment later
    wait_until(
        lambda: vendor.tell("jobs.append_metric_by_id", job, "loss", 1.0, on="d").error is not None,
        "the API knows that the job is gone",
    )
    assert vendor.fail("jobs.append_metric_by_id", job, "loss", 1.0, on="d")["type"] == "StatusCodeError"
    assert latest(vendor, job) == {}
