"""The Craft AI SDK from PyPI, unmodified, against the API: one check for every sentence of its wire format."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.running_stack import RunningStack
from tests.vendor_clients.calls import VendorProcess
from tests.waiting import wait_until

from fqlstream.client.payloads import pipeline_metric_json
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.settings import KafkaSettings

REGISTERED = """\
{kind: pipeline, name: train, inputs: [{name: epochs, data_type: number}, {name: weights, data_type: file}]}
---
{kind: pipeline, name: score}
---
{kind: pipeline, name: many}
---
{kind: deployment, name: nightly, pipeline: train}
---
{kind: execution, name: e-1, pipeline: train, deployment: nightly}
---
{kind: execution, name: e-2, pipeline: score}
---
{kind: execution, name: e-many, pipeline: many}
---
{kind: execution, name: e-long, pipeline: train}
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = RunningStack.start(tmp_path_factory.mktemp("craft"))
    (running.directory / "registered.yaml").write_text(REGISTERED)
    running.run("apply", "-f", "registered.yaml")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def vendor(stack: RunningStack) -> Iterator[VendorProcess]:
    process = VendorProcess()
    process.do("craft", "sdk", **address(stack))
    process.do("get_metrics", on="sdk")  # fetches the token: what a test sends from here on is its own
    yield process
    process.stop()


@pytest.fixture(autouse=True)
def step(vendor: VendorProcess) -> None:
    """Be inside of a step of execution e-1."""
    vendor.do("step_module", None)
    vendor.do("environ", CRAFT_AI_EXECUTION_ID="e-1")


def address(stack: RunningStack) -> dict[str, Any]:
    url = stack.said["api_url"]
    return {"sdk_token": stack.said["api_key"], "environment_url": url, "control_url": url}


def single(vendor: VendorProcess, **filters: Any) -> list[dict[str, Any]]:
    found = vendor.do("get_metrics", on="sdk", **filters)
    assert isinstance(found, list)
    return found


def lists(vendor: VendorProcess, **filters: Any) -> list[dict[str, Any]]:
    found = vendor.do("get_list_metrics", on="sdk", **filters)
    assert isinstance(found, list)
    return found


def raw(vendor: VendorProcess, stack: RunningStack, method: str, path: str, **options: Any) -> dict[str, Any]:
    """Send what the client does not, with its token."""
    headers = {"Authorization": f"Bearer {stack.said['api_key']}", "craft-ai-client": "craft-ai-sdk@0.74.7"}
    answer = vendor.do("raw", method, f"{stack.said['api_url']}/api/v1{path}", headers=headers, **options)
    assert isinstance(answer, dict)
    return answer


def claims(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    decoded = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert isinstance(decoded, dict)
    return decoded


# -- access ------------------------------------------------------------------------------------------------------------


def test_the_constructor_makes_no_call_and_the_token_comes_before_the_first_request(
    vendor: VendorProcess, stack: RunningStack
) -> None:
    assert vendor.tell("craft", "fresh", **address(stack)).sent == []
    sent = vendor.tell("who_am_i", on="fresh").sent
    assert [(s["method"], urlsplit(s["url"]).path) for s in sent] == [
        ("POST", "/api/v1/auth/refresh"), ("GET", "/api/v1/users/me"),
    ]  # fmt: skip
    assert json.loads(sent[0]["body"]) == {"refresh_token": stack.said["api_key"]}


def test_the_access_token_has_iat_and_exp_and_serves_many_calls(vendor: VendorProcess, stack: RunningStack) -> None:
    vendor.do("craft", "fresh", **address(stack))
    token = json.loads(vendor.tell("who_am_i", on="fresh").sent[0]["answer"])["access_token"]
    assert claims(token)["exp"] - claims(token)["iat"] > 120, "the client would refresh it on every call"
    assert len(vendor.tell("who_am_i", on="fresh").sent) == 1


def test_the_client_names_itself_always_and_its_token_but_for_the_refresh(
    vendor: VendorProcess, stack: RunningStack
) -> None:
    vendor.do("craft", "fresh", **address(stack))
    refresh, me = vendor.tell("who_am_i", on="fresh").sent
    assert refresh["headers"]["craft-ai-client"] == me["headers"]["craft-ai-client"] == "craft-ai-sdk@0.74.7"
    assert "Authorization" not in refresh["headers"]
    assert me["headers"]["Authorization"].startswith("Bearer ey")


def test_who_am_i_gives_id_name_and_email(vendor: VendorProcess) -> None:
    assert set(vendor.do("who_am_i", on="sdk")) == {"id", "name", "email"}


def test_the_environment_gives_token_and_addresses(vendor: VendorProcess, stack: RunningStack) -> None:
    given = address(stack)
    vendor.do(
        "environ", CRAFT_AI_SDK_TOKEN=given["sdk_token"], CRAFT_AI_ENVIRONMENT_URL=given["environment_url"],
        CRAFT_AI_CONTROL_URL=given["control_url"] + "/",
    )  # fmt: skip
    vendor.do("craft", "from environment")
    assert vendor.do("who_am_i", on="from environment")["id"]
    vendor.do("environ", CRAFT_AI_SDK_TOKEN=None, CRAFT_AI_ENVIRONMENT_URL=None, CRAFT_AI_CONTROL_URL=None)


@pytest.mark.parametrize("token", ["nonsense", "fq_aaaaaaaaaaaa_" + "b" * 43, "é", ""])
def test_a_wrong_token_is_told(vendor: VendorProcess, stack: RunningStack, token: str) -> None:
    vendor.do("craft", "wrong", **{**address(stack), "sdk_token": token or " "})
    error = vendor.fail("who_am_i", on="wrong")
    assert (error["type"], error["status_code"]) == ("SdkException", "401")
    assert error["message"]


def test_a_key_that_only_reads_may_not_record(vendor: VendorProcess, stack: RunningStack) -> None:
    key = json.loads(stack.run("keys", "create", "--scope", "read", "--json").stdout)["key"]
    vendor.do("craft", "reader", **{**address(stack), "sdk_token": key})
    assert vendor.do("get_metrics", on="reader", name="nothing") == []
    error = vendor.fail("record_metric_value", "loss", 1.0, on="reader")
    assert error["status_code"] == "403"
    assert "not permitted from inside a running deployment" in error["message"], "the client's own words for a 403"


# -- inside of a step --------------------------------------------------------------------------------------------------


def test_outside_of_a_step_the_client_warns_and_sends_nothing(vendor: VendorProcess) -> None:
    vendor.do("environ", CRAFT_AI_EXECUTION_ID=None)
    for call, value in (("record_metric_value", 1.0), ("record_list_metric_values", [1.0])):
        told = vendor.tell(call, "loss", value, on="sdk")
        assert (told.result, told.sent) == (False, [])
        assert any("outside a pipeline code" in warning for warning in told.warned)


def test_the_execution_is_read_on_each_call(vendor: VendorProcess) -> None:
    vendor.do("record_metric_value", "where", 1.0, on="sdk")
    vendor.do("environ", CRAFT_AI_EXECUTION_ID="e-2")
    vendor.do("record_metric_value", "where", 2.0, on="sdk")
    assert [(row["execution_id"], row["value"]) for row in single(vendor, name="where")] == [("e-1", 1.0), ("e-2", 2.0)]


def test_the_module_that_steps_have_names_the_execution_too(vendor: VendorProcess) -> None:
    vendor.do("environ", CRAFT_AI_EXECUTION_ID=None)
    vendor.do("step_module", "e-2")
    vendor.do("record_metric_value", "by module", 1.0, on="sdk")
    assert [row["execution_id"] for row in single(vendor, name="by module")] == ["e-2"]


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_value_is_put_under_its_name_with_its_execution(vendor: VendorProcess) -> None:
    told = vendor.tell("record_metric_value", "accuracy", 0.1409, on="sdk")
    assert told.result is True
    (sent,) = told.sent
    assert (sent["method"], urlsplit(sent["url"]).path) == ("PUT", "/api/v1/metrics/single-value/accuracy")
    assert json.loads(sent["body"]) == {"value": 0.1409, "execution_id": "e-1"}
    assert (sent["status"], sent["answer"]) == (204, "")


def test_a_list_goes_in_posts_of_ten_thousand(vendor: VendorProcess) -> None:
    told = vendor.tell("record_list_metric_values", "long", [float(n) for n in range(20_001)], on="sdk")
    assert [len(json.loads(s["body"])["values"]) for s in told.sent] == [10_000, 10_000, 1]
    assert {s["status"] for s in told.sent} == {204}
    (row,) = lists(vendor, name="long")
    assert row["values"] == [float(n) for n in range(20_001)]


def test_a_value_that_is_recorded_again_replaces_the_old_one(vendor: VendorProcess) -> None:
    for value in (1.0, 2.0, 3):
        vendor.do("record_metric_value", "again", value, on="sdk")
    assert [row["value"] for row in single(vendor, name="again")] == [3.0]


def test_a_value_and_a_list_may_share_a_name_and_lists_append(vendor: VendorProcess) -> None:
    vendor.do("record_metric_value", "shared", 1.5, on="sdk")
    for values in ([1.4, 1.2], [1.1, 1], 7.0):
        vendor.do("record_list_metric_values", "shared", values, on="sdk")
    assert [row["value"] for row in single(vendor, name="shared")] == [1.5]
    assert [row["values"] for row in lists(vendor, name="shared")] == [[1.4, 1.2, 1.1, 1.0, 7.0]]


def test_thousands_of_values_one_at_a_time(vendor: VendorProcess) -> None:
    for index in range(300):
        vendor.do("record_list_metric_values", "logx", index / 7, on="sdk")
    assert lists(vendor, name="logx")[0]["values"] == [index / 7 for index in range(300)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_json_lacks_never_leaves_the_client(vendor: VendorProcess, value: float) -> None:
    for call, given in (("record_metric_value", value), ("record_list_metric_values", [1.0, value])):
        told = vendor.tell(call, "odd", given, on="sdk")
        assert (told.error or {})["type"] == "SdkException"
        assert told.sent == []


@pytest.mark.parametrize("value", [None, "1.0", True, [1.0], {}, 10**400])
def test_what_is_no_number_is_refused_with_a_message(vendor: VendorProcess, value: Any) -> None:
    error = vendor.fail("record_metric_value", "no number", value, on="sdk")
    assert (error["type"], error["status_code"]) == ("SdkException", "400")
    assert "$.value" in error["message"] or "out of range" in error["message"]
    error = vendor.fail("record_list_metric_values", "no number", [1.0, value], on="sdk")
    assert error["status_code"] == "400"
    assert single(vendor, name="no number") == lists(vendor, name="no number") == []


def test_an_empty_list_sends_nothing_and_changes_nothing(vendor: VendorProcess, stack: RunningStack) -> None:
    assert vendor.tell("record_list_metric_values", "empty", [], on="sdk").sent == []
    answer = raw(vendor, stack, "POST", "/metrics/list-values/empty", json={"values": [], "execution_id": "e-1"})
    assert answer["status"] == 204
    assert lists(vendor, name="empty") == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"value": 1}', b'{"execution_id": "e-1"}', b'{"value": 1, "execution_id": 7}', b'{"value": NaN, "execution_id": "e-1"}',
     b"\xff", b"[" * 100_000],
)  # fmt: skip
def test_a_body_that_is_none_is_refused(vendor: VendorProcess, stack: RunningStack, body: bytes) -> None:
    answer = raw(vendor, stack, "PUT", "/metrics/single-value/body", data=body.decode("latin-1"))
    assert answer["status"] == 400
    assert set(json.loads(answer["text"])) == {"message", "name", "request_id", "additional_data"}


@pytest.mark.parametrize(
    "name", ["test-loss", "1onx", "a b", "a/b", "a?b=c", "50%", "é", "_", "x" * 256, "a.b", "a//b", "a+b"]
)
def test_any_name_may_be_recorded_though_the_client_does_not_quote_it(vendor: VendorProcess, name: str) -> None:
    vendor.do("record_metric_value", name, 1.0, on="sdk")
    vendor.do("record_list_metric_values", name, [1.0, 2.0], on="sdk")
    assert [row["name"] for row in single(vendor, name=name)] == [name]
    assert [row["values"] for row in lists(vendor, name=name)] == [[1.0, 2.0]]


@pytest.mark.parametrize(
    "path", ["/metrics/single-value/", "/metrics/single-value/" + "x" * 257, "/metrics/single-value/%FF"]
)
def test_a_name_that_is_none_is_refused(vendor: VendorProcess, stack: RunningStack, path: str) -> None:
    answer = raw(vendor, stack, "PUT", path, json={"value": 1, "execution_id": "e-1"})
    assert answer["status"] == 400
    assert "name" in json.loads(answer["text"])["message"]


def test_an_execution_that_nobody_registered_is_not_found(vendor: VendorProcess) -> None:
    vendor.do("environ", CRAFT_AI_EXECUTION_ID="nobody's")
    for call, value in (("record_metric_value", 1.0), ("record_list_metric_values", [1.0])):
        error = vendor.fail(call, "loss", value, on="sdk")
        assert (error["status_code"], error["name"]) == ("404", "ExecutionNotFound")
        assert "nobody's" in error["message"]


def test_beyond_fifty_thousand_values_the_post_itself_is_refused_and_says_what_is_stored(vendor: VendorProcess) -> None:
    vendor.do("environ", CRAFT_AI_EXECUTION_ID="e-long")
    told = vendor.tell("record_list_metric_values", "limit", [float(n) for n in range(59_999)], on="sdk")
    assert [s["status"] for s in told.sent] == [204] * 5 + [409], "earlier batches stay, and nothing is tried again"
    error = told.error or {}
    assert error["name"] == "ListMetricLimitExceeded"
    assert "50000" in error["message"].replace(",", "").replace("_", "")
    assert error["additional_data"] == {
        "stored": 50_000, "refused": 9_999, "limit": 50_000, "code": error["additional_data"]["code"],
    }  # fmt: skip
    (row,) = lists(vendor, name="limit")
    assert row["values"] == [float(n) for n in range(50_000)]
    vendor.fail("record_list_metric_values", "limit", [1.0], on="sdk")
    vendor.do("record_list_metric_values", "another", [1.0], on="sdk")


# -- reading -----------------------------------------------------------------------------------------------------------


def test_rows_have_six_keys(vendor: VendorProcess) -> None:
    vendor.do("record_metric_value", "keys", 1.0, on="sdk")
    vendor.do("record_list_metric_values", "keys", [1.0], on="sdk")
    common = {"name", "created_at", "execution_id", "deployment_name", "pipeline_name"}
    (row,), (list_row,) = single(vendor, name="keys"), lists(vendor, name="keys")
    assert set(row) == common | {"value"}
    assert set(list_row) == common | {"values"}
    for found in (row, list_row):
        assert (found["execution_id"], found["deployment_name"], found["pipeline_name"]) == ("e-1", "nightly", "train")
        assert found["created_at"].endswith("Z")


def test_filters_and_pages_are_asked_for_as_the_wire_has_them(vendor: VendorProcess) -> None:
    for call, path in (("get_metrics", "single-value"), ("get_list_metrics", "list-values")):
        (sent,) = vendor.tell(call, on="sdk", name="keys", pipeline_name="train").sent
        assert urlsplit(sent["url"]).path == f"/api/v1/metrics/{path}"
        assert urlsplit(sent["url"]).query == (
            "filters%5Bname%5D=keys&filters%5Bpipeline_name%5D=train&items_per_page=5000&page=1"
        )
        assert set(json.loads(sent["answer"][:2_000] if len(sent["answer"]) < 2_000 else "{}") or {"metrics", "total_count"}) == {
            "metrics", "total_count",
        }  # fmt: skip


def test_a_name_goes_with_one_of_pipeline_deployment_and_execution(vendor: VendorProcess) -> None:
    for execution in ("e-1", "e-2"):
        vendor.do("environ", CRAFT_AI_EXECUTION_ID=execution)
        vendor.do("record_metric_value", "f", 1.0, on="sdk")
        vendor.do("record_list_metric_values", "f", [1.0], on="sdk")
    for rows in (single, lists):
        assert [row["execution_id"] for row in rows(vendor, name="f")] == ["e-1", "e-2"]
        assert [row["execution_id"] for row in rows(vendor, name="f", pipeline_name="score")] == ["e-2"]
        assert [row["execution_id"] for row in rows(vendor, name="f", deployment_name="nightly")] == ["e-1"]
        assert [row["execution_id"] for row in rows(vendor, name="f", execution_id="e-2")] == ["e-2"]
        assert {row["pipeline_name"] for row in rows(vendor, pipeline_name="score")} == {"score"}
        assert rows(vendor, pipeline_name="nothing") == rows(vendor, execution_id="nothing") == []
        assert rows(vendor, deployment_name="nothing") == rows(vendor, name="nothing") == []


@pytest.mark.parametrize("call", ["get_metrics", "get_list_metrics"])
@pytest.mark.parametrize("without", ["pipeline_name", "deployment_name", "execution_id", None])
def test_two_of_pipeline_deployment_and_execution_are_refused(
    vendor: VendorProcess, call: str, without: str | None
) -> None:
    filters = {"pipeline_name": "train", "deployment_name": "nightly", "execution_id": "e-1"}
    error = vendor.fail(call, on="sdk", **{name: value for name, value in filters.items() if name != without})
    assert error["status_code"] == "400"
    assert "only one of" in error["message"]


def publish(stack: RunningStack, count: int, execution: str = "e-many") -> None:
    """Record so many values straight on the topic: by the client that takes minutes."""
    from confluent_kafka import Producer

    settings = KafkaSettings(bootstrap=stack.bootstrap)
    producer = Producer({**librdkafka_options(settings), "partitioner": "murmur2_random"})
    for index in range(count):
        producer.produce("metric-events", key=execution, value=pipeline_metric_json(execution, f"m-{index:05}", index))
        producer.poll(0)
    assert producer.flush(60) == 0


def test_pages_hold_every_row_once_and_the_total_is_exact(vendor: VendorProcess, stack: RunningStack) -> None:
    publish(stack, 5_000)
    deadline = time.monotonic() + 60
    while (told := vendor.tell("get_metrics", on="sdk", pipeline_name="many")).error is None and len(
        told.result
    ) < 5_000:
        assert time.monotonic() < deadline, len(told.result)
    assert len(told.sent) == 1, "5,000 rows are one page, and the client asks for no second one"
    vendor.do("environ", CRAFT_AI_EXECUTION_ID="e-many")
    vendor.do("record_metric_value", "m-05000", 5_000.0, on="sdk")
    told = vendor.tell("get_metrics", on="sdk", pipeline_name="many")
    assert len(told.sent) == 2
    assert [row["name"] for row in told.result] == [f"m-{index:05}" for index in range(5_001)]


def test_a_page_beyond_the_end_is_refused_since_the_client_would_ask_for_ever(
    vendor: VendorProcess, stack: RunningStack
) -> None:
    for path in ("single-value", "list-values"):
        answer = raw(vendor, stack, "GET", f"/metrics/{path}?items_per_page=5000&page=9&filters[execution_id]=e-1")
        assert answer["status"] == 400
        assert "beyond the end" in json.loads(answer["text"])["message"]


@pytest.mark.parametrize(
    "query", ["page=0", "page=x", "items_per_page=0", "items_per_page=5001", "page=99999999999999999999"]
)
def test_a_page_that_is_none_is_refused(vendor: VendorProcess, stack: RunningStack, query: str) -> None:
    answer = raw(vendor, stack, "GET", f"/metrics/single-value?{query}")
    assert answer["status"] == 400
    assert set(json.loads(answer["text"])) == {"message", "name", "request_id", "additional_data"}


# -- runs and refusals -------------------------------------------------------------------------------------------------


def test_run_asks_for_the_inputs_and_registers_an_execution(vendor: VendorProcess) -> None:
    told = vendor.tell("run_pipeline", "train", {"epochs": 3}, on="sdk", wait_for_completion=False)
    assert [(s["method"], urlsplit(s["url"]).path) for s in told.sent] == [
        ("GET", "/api/v1/pipelines/train"), ("POST", "/api/v1/pipelines/train/run"),
    ]  # fmt: skip
    execution = told.result["execution_id"]
    vendor.do("environ", CRAFT_AI_EXECUTION_ID=execution)
    vendor.do("record_metric_value", "of a run", 1.0, on="sdk")
    (row,) = single(vendor, execution_id=execution)
    assert (row["pipeline_name"], row["deployment_name"]) == ("train", None)


def test_run_waits_for_outputs_of_which_there_are_none(vendor: VendorProcess) -> None:
    assert vendor.do("run_pipeline", "score", on="sdk")["outputs"] == {}


def test_a_pipeline_that_there_is_not_cannot_be_run(vendor: VendorProcess) -> None:
    error = vendor.fail("run_pipeline", "nothing", on="sdk")
    assert (error["status_code"], error["name"]) == ("404", "PipelineNotFound")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics/nothing", 404),
        ("DELETE", "/metrics/single-value", 405),
        ("GET", "/nothing", 404),
        ("PATCH", "/users/me", 405),
    ],
)
def test_refusals_are_objects_with_four_keys_whatever_was_asked(
    vendor: VendorProcess, stack: RunningStack, method: str, path: str, status: int
) -> None:
    answer = raw(vendor, stack, method, path)
    body = json.loads(answer["text"])
    assert (answer["status"], set(body)) == (status, {"message", "name", "request_id", "additional_data"})
    assert body["request_id"] == answer["headers"]["x-request-id"]


def test_the_answer_to_a_write_comes_in_one_piece(stack: RunningStack) -> None:
    at = urlsplit(stack.said["api_url"])
    body = b'{"value": 1.0, "execution_id": "e-1"}'
    head = (
        f"PUT /api/v1/metrics/single-value/piece HTTP/1.1\r\nHost: {at.netloc}\r\nContent-Length: {len(body)}\r\n"
        f"Authorization: Bearer {stack.said['api_key']}\r\nContent-Type: application/json\r\n\r\n"
    )
    with socket.create_connection((at.hostname or "", at.port or 0)) as connection:
        connection.settimeout(20)
        for _ in range(3):
            connection.sendall(head.encode() + body)
            answer = connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 204")
            assert answer.endswith(b"\r\n\r\n"), "the head is whole in the first piece, and has no body behind it"


def test_a_deleted_execution_takes_its_metrics_with_it(vendor: VendorProcess, stack: RunningStack) -> None:
    execution = vendor.do("run_pipeline", "score", on="sdk", wait_for_completion=False)["execution_id"]
    vendor.do("environ", CRAFT_AI_EXECUTION_ID=execution)
    vendor.do("record_metric_value", "gone", 1.0, on="sdk")
    vendor.do("record_list_metric_values", "gone", [1.0], on="sdk")
    stack.run("delete", "execution", execution)
    # the command is another process: the API reads of the deletion a moment later
    wait_until(
        lambda: vendor.tell("record_metric_value", "gone", 2.0, on="sdk").error is not None,
        "the API knows that the execution is gone",
    )
    assert vendor.fail("record_metric_value", "gone", 1.0, on="sdk")["status_code"] == "404"
    assert single(vendor, name="gone") == lists(vendor, name="gone") == []
