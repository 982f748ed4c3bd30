from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from tests.unit.ops.lag.test_report import lagging

from fqlstream.errors import UsageError
from fqlstream.ops.lag import exporter
from fqlstream.ops.lag.judgement import Status
from fqlstream.ops.lag.report import GroupLag, LagReport
from fqlstream.ops.numbers import LAG_NUMBERS
from fqlstream.settings import LagSettings

REPORT = LagReport(0, "c1", (
    GroupLag("g", "Stable", 1, (
        lagging("t", 0, 5, member="m-1", client_id="m", host="10.0.0.1"), lagging("t", 1, None, status=None),
        lagging("u", 0, 7, status=Status.STALL),
    )),
    GroupLag("h", "Empty", 0, (lagging("t", 0, 1),)),
), 0.25)  # fmt: skip
#: The names that kafka-lag-exporter's README lists, with their labels.
KNOWN = {
    "kafka_consumergroup_group_offset": {"cluster_name", "group", "topic", "partition", "member_host", "consumer_id", "client_id"},
    "kafka_consumergroup_group_lag": {"cluster_name", "group", "topic", "partition", "member_host", "consumer_id", "client_id"},
    "kafka_consumergroup_group_lag_seconds": {"cluster_name", "group", "topic", "partition", "member_host", "consumer_id", "client_id"},
    "kafka_consumergroup_group_max_lag": {"cluster_name", "group"},
    "kafka_consumergroup_group_max_lag_seconds": {"cluster_name", "group"},
    "kafka_consumergroup_group_sum_lag": {"cluster_name", "group"},
    "kafka_consumergroup_group_topic_sum_lag": {"cluster_name", "group", "topic"},
    "kafka_partition_latest_offset": {"cluster_name", "topic", "partition"},
    "kafka_partition_earliest_offset": {"cluster_name", "topic", "partition"},
    "kafka_consumergroup_poll_time_ms": {"cluster_name"},
}  # fmt: skip


class Asked:
    """Asks an ASGI application without a socket."""

    def __init__(self, application: Any) -> None:
        self._transport = httpx.ASGITransport(application)

    def __call__(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://test") as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(ask())


def read(report: LagReport | None) -> dict[str, list[tuple[dict[str, str], float]]]:
    text = exporter.page(lambda: report).decode()
    return {
        family.name: [(sample.labels, sample.value) for sample in family.samples]
        for family in text_string_to_metric_families(text)
    }


def test_the_names_and_labels_that_users_know() -> None:
    found = read(REPORT)
    assert {name: set(found[name][0][0]) for name in KNOWN} == KNOWN
    assert set(found) == {row.name for row in LAG_NUMBERS}, "what is declared is what is exported"


def test_figures_are_those_of_the_report_and_what_is_not_known_is_left_out() -> None:
    found = read(REPORT)
    member = {"cluster_name": "c1", "member_host": "10.0.0.1", "consumer_id": "m-1", "client_id": "m"}
    assert found["kafka_consumergroup_group_lag"] == [
        ({**member, "group": "g", "topic": "t", "partition": "0"}, 5),
        ({"cluster_name": "c1", "group": "g", "topic": "u", "partition": "0", "member_host": "", "consumer_id": "", "client_id": ""}, 7),
        ({"cluster_name": "c1", "group": "h", "topic": "t", "partition": "0", "member_host": "", "consumer_id": "", "client_id": ""}, 1),
    ]  # fmt: skip
    assert [value for _, value in found["kafka_consumergroup_group_max_lag"]] == [7, 1]
    assert [value for _, value in found["kafka_consumergroup_group_sum_lag"]] == [12, 1]
    assert [(labels["topic"], value) for labels, value in found["kafka_consumergroup_group_topic_sum_lag"]] == [
        ("t", 5), ("u", 7), ("t", 1),
    ]  # fmt: skip
    assert len(found["kafka_partition_latest_offset"]) == 3, "a log that two groups read is told once"
    assert [value for _, value in found["fqlstream_lag_group_status"]] == [2, 0]
    assert [labels["status"] for labels, _ in found["fqlstream_lag_partition_status"]] == ["OK", "STALL", "OK"]
    assert found["kafka_consumergroup_poll_time_ms"] == [({"cluster_name": "c1"}, 250)]


def test_a_look_that_failed_leaves_no_old_figures() -> None:
    assert read(None) == {"fqlstream_lag_up": [({}, 0)]}


def test_a_label_that_would_break_a_line_is_escaped() -> None:
    odd = 'a"b\\c\nd'
    found = read(LagReport(0, "c", (GroupLag(odd, "Stable", 0, (lagging("t", 0, 5),)),), 0.1))
    assert found["kafka_consumergroup_group_sum_lag"] == [({"cluster_name": "c", "group": odd}, 5)]


def test_the_page_asks_for_the_key_and_health_does_not() -> None:
    ask = Asked(exporter.application(lambda: REPORT, LagSettings(key=SecretStr("k" * 32))))
    shown = [{}, *({"Authorization": text} for text in ("Bearer wrong", "k" * 32, f"Bearer {'k' * 32}"))]
    assert [ask("/metrics", **headers).status_code for headers in shown] == [401, 401, 401, 200]
    refused = ask("/metrics")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "kafka" not in refused.text
    assert [ask("/health").status_code, ask("/").status_code, ask("/metrics", "POST").status_code] == [200, 404, 405]


def test_without_a_last_look_it_is_not_healthy_and_the_page_says_so() -> None:
    ask = Asked(exporter.application(lambda: None, LagSettings()))
    assert ask("/health").status_code == 503
    page = ask("/metrics")
    assert (page.status_code, "fqlstream_lag_up 0.0" in page.text) == (200, True)
    assert page.headers["content-type"].startswith("text/plain; version=")
    assert ask("/metrics", "HEAD").content == b""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_what_others_reach_needs_a_key(host: str) -> None:
    with pytest.raises(UsageError, match="told to everybody who reaches") as refused:
        exporter.serve(lambda: None, LagSettings(host=host), lambda _: None)
    assert (refused.value.code, "FQLSTREAM_LAG__KEY" in (refused.value.hint or "")) == ("LAG020", True)


def test_a_key_that_nobody_filled_in_is_refused() -> None:
    with pytest.raises(UsageError, match="FQLSTREAM_LAG__KEY has fewer than 16 characters") as refused:
        exporter.serve(lambda: None, LagSettings(host="127.0.0.1", port=0, key=SecretStr("")), lambda _: None)
    assert refused.value.code == "LAG020"


def test_an_address_that_cannot_be_had_is_an_error_of_its_own() -> None:
    with pytest.raises(UsageError, match="the exporter cannot listen") as refused:
        exporter.serve(lambda: None, LagSettings(host="192.0.2.7", key=SecretStr("k" * 32)), lambda _: None)
    assert refused.value.code == "LAG021"
