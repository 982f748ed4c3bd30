"""Lag against a real broker: what `fqlstream lag` says, what is true, and what Kafka's own kafka-consumer-groups says."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.table import Table
from tests.commands import command, invoke
from tests.integration.lag_situations import Scripts, Situation, Truth, kafka_tool, tool_rows
from tests.store_process import StoreProcess
from tests.waiting import wait_until

from fqlstream.cli.lag import lag
from fqlstream.errors import BrokerError, UsageError
from fqlstream.local.broker import Broker
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.ops.lag.observing import Observer, Window, look, report, samples_of
from fqlstream.ops.lag.report import GroupLag, PartitionLag
from fqlstream.ops.lag.sampling import Sampler
from fqlstream.settings import KafkaSettings, LagSettings
from fqlstream.store import migrations
from fqlstream.store.client import Store

#: How far an age may be off: timestamps are whole milliseconds.
_AGE_S = 0.002
_LOOKS = 6
#: Judges after few looks: what takes half a minute in production.
_QUICK = LagSettings(samples_min=3)
HOUR_S = 3600.0


@pytest.fixture(scope="module")
def scripts(kafka: Broker) -> Iterator[Scripts]:
    made = Scripts(kafka.bootstrap)
    yield made
    made.close()


# ---------------------------------------------------------------------------------------------- the situations


def steady(scripts: Scripts) -> Situation:
    """A member that has read everything."""
    group, _ = scripts.names("steady")
    topic = scripts.topic("steady", partitions=2)
    scripts.produce(topic, [90, 80, 70])
    member = scripts.member(group, topic)
    member.commit(offsets=[TopicPartition(topic, 0, 3)], asynchronous=False)
    nothing_yet = Truth(None, None, None, None, "OK", partition=1)
    return Situation("steady", group, topic, (Truth(3, 0, 0, 0, "OK"), nothing_yet))


def slow(scripts: Scripts) -> Situation:
    """A member that reads, while more is written than it reads: `advance` moves both between looks."""
    group, _ = scripts.names("slow")
    topic = scripts.topic("slow")
    scripts.produce(topic, [60.0 - i for i in range(50)])
    member = scripts.member(group, topic)
    member.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
    for count in range(_LOOKS):
        scripts.steps.append(lambda at=count: _advance(scripts, member, topic, at))
    return Situation(
        "slow consumer", group, topic, (Truth(_LOOKS, 44 + 2 * _LOOKS, 44 + 2 * _LOOKS, 60.0 - _LOOKS, "WARN"),)
    )


def _advance(scripts: Scripts, member: Consumer, topic: str, step: int) -> None:
    scripts.produce(topic, [0, 0])
    member.commit(offsets=[TopicPartition(topic, 0, step + 1)], asynchronous=False)


def stopped(scripts: Scripts) -> Situation:
    """Nobody reads what is left, of which a record holds several rows."""
    group, _ = scripts.names("stopped")
    topic = scripts.topic("stopped", partitions=2)
    scripts.produce(topic, [500, 400, 300], partition=0)
    scripts.produce(topic, [HOUR_S, 30], partition=1, rows=250)
    scripts.commit(group, topic, 1, 0)
    return Situation(
        "stopped", group, topic, (Truth(1, 2, 2, 400, "STOP"), Truth(0, 2, 500, HOUR_S, "STOP", partition=1))
    )


def rewound(scripts: Scripts) -> Situation:
    """A member that was set back while it is watched."""
    group, _ = scripts.names("rewound")
    topic = scripts.topic("rewound")
    scripts.produce(topic, [100.0 - i for i in range(20)])
    member = scripts.member(group, topic)
    member.commit(offsets=[TopicPartition(topic, 0, 18)], asynchronous=False)
    scripts.steps.append(lambda: member.commit(offsets=[TopicPartition(topic, 0, 4)], asynchronous=False))
    return Situation("rewound", group, topic, (Truth(4, 16, 16, 96, "REWIND"),))


def idle(scripts: Scripts) -> Situation:
    """Everything was read long ago, and nobody is there: nothing to do is no trouble."""
    group, _ = scripts.names("idle")
    topic = scripts.topic("idle")
    scripts.produce(topic, [HOUR_S] * 3)
    scripts.commit(group, topic, 3)
    return Situation("idle topic", group, topic, (Truth(3, 0, 0, 0, "OK"),))


def compacted(scripts: Scripts) -> Situation:
    """The record at the commit was compacted away: the age is that of the one behind the hole."""
    group, _ = scripts.names("compacted")
    topic = scripts.topic(
        "compacted",
        cleanup_policy="compact",
        segment_ms="1",
        min_cleanable_dirty_ratio="0.01",
        min_compaction_lag_ms="0",
    )
    scripts.produce(topic, [HOUR_S, 2000, 1500, 1000, 900], keys="aabab")
    scripts.produce(topic, [800], keys="c")  # begins a segment, so that what is before it may be compacted
    undo = scripts.clean_soon()
    try:
        wait_until(lambda: scripts.first_offsets(topic) == [3, 4, 5], "the topic is compacted", 60, look_s=0.5)
    finally:
        undo()
    scripts.commit(group, topic, 1)
    return Situation("compacted topic", group, topic, (Truth(1, 5, 3, 1000, "STOP"),))


def only_markers(scripts: Scripts) -> Situation:
    """All that is behind the commit is the marker of a transaction: there is lag, and nothing to read."""
    group, _ = scripts.names("markers")
    topic = scripts.topic("markers")
    scripts.transaction(topic, [50, 40], end="commit")
    scripts.commit(group, topic, 2)
    return Situation("transaction marker", group, topic, (Truth(2, 1, 0, 0, "OK"),))


def aborted(scripts: Scripts) -> Situation:
    """Aborted records are older than the first that a reader gets."""
    group, _ = scripts.names("aborted")
    topic = scripts.topic("aborted")
    scripts.transaction(topic, [HOUR_S] * 4, end="abort")
    scripts.transaction(topic, [70, 60], end="commit")
    scripts.commit(group, topic, 0)
    return Situation("aborted records", group, topic, (Truth(0, 8, 2, 70, "STOP"),))


def open_transaction(scripts: Scripts) -> Situation:
    """An open transaction holds everything behind it back: nobody could read it."""
    group, _ = scripts.names("open")
    topic = scripts.topic("open")
    scripts.produce(topic, [90])
    scripts.transaction(topic, [80, 70], end="later")
    scripts.commit(group, topic, 1)
    return Situation("open transaction", group, topic, (Truth(1, 2, 0, 0, "OK"),))


def expired(scripts: Scripts) -> Situation:
    """The log has lost what was committed: time counts from what it has, records as Kafka's tool counts them."""
    group, _ = scripts.names("expired")
    topic = scripts.topic("expired")
    scripts.produce(topic, [HOUR_S, HOUR_S, 700, 600])
    scripts.commit(group, topic, 1)
    for future in scripts.admin.delete_records([TopicPartition(topic, 0, 2)]).values():
        future.result(20)
    return Situation("expired offset", group, topic, (Truth(1, 3, 2, 700, "STOP"),))


def rebalancing(scripts: Scripts) -> Situation:
    """Nobody holds a partition while they are shared out, and yet nobody has stopped."""
    group, _ = scripts.names("rebalancing")
    topic = scripts.topic("rebalancing", partitions=2)
    scripts.produce(topic, [40, 30])
    member = scripts.member(group, topic)
    member.commit(offsets=[TopicPartition(topic, 0, 1), TopicPartition(topic, 1, 0)], asynchronous=False)
    scripts.joining(group, topic)
    return Situation("rebalancing", group, topic, (Truth(1, 1, 1, 30, "OK"), Truth(0, 0, 0, 0, "OK", partition=1)))


def newer_protocol(scripts: Scripts) -> Situation:
    """A member that speaks the newer group protocol (KIP-848)."""
    group, _ = scripts.names("newer")
    topic = scripts.topic("newer")
    scripts.produce(topic, [25, 15])
    member = scripts.member(group, topic, group_protocol="consumer")
    member.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
    return Situation("newer protocol", group, topic, (Truth(1, 1, 1, 15, "OK"),))


SCRIPTS = (
    steady, slow, stopped, rewound, idle, compacted, only_markers, aborted, open_transaction, expired, newer_protocol, rebalancing,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judged:
    """The situations, what fqlstream said of each at first and at the end, and what Kafka's tool said.

    `passed_s`: from the beginning of the scripts to the last look.
    """

    situations: tuple[Situation, ...]
    groups: dict[str, GroupLag]
    first: dict[str, GroupLag]
    tool: dict[tuple[str, str, int], dict[str, str]]
    passed_s: float


@pytest.fixture(scope="module")
def judged(scripts: Scripts, kafka_settings: KafkaSettings) -> Judged:
    """Script everything, look several times while some of it moves, then ask Kafka's tool once."""
    situations = tuple(script(scripts) for script in SCRIPTS)
    observer = Observer(Sampler(kafka_settings, _QUICK), _QUICK, [f"lag-{scripts.tag}-*"])
    first = {each.group: each for each in observer.look(with_rows=True).groups}
    for step in scripts.steps:
        step()
        seen = observer.look(with_rows=False)
    seen = observer.look(with_rows=True)
    text = kafka_tool(str(kafka_settings.bootstrap), "--describe", "--all-groups")
    passed_s = seen.at_ms / 1000 - scripts.started_s
    return Judged(situations, {each.group: each for each in seen.groups}, first, tool_rows(text), passed_s)


def test_every_situation_is_told_as_it_is(judged: Judged) -> None:
    table = Table(
        *[
            "situation",
            "partition",
            "committed",
            "end",
            "records",
            "Kafka's tool",
            "rows",
            "age (s)",
            "true age (s)",
            "status",
            "why",
        ]
    )
    wrong = []
    for situation in judged.situations:
        said = {each.partition: each for each in judged.groups[situation.group].partitions}
        for truth in situation.truths:
            found = said[truth.partition]
            row = judged.tool.get((situation.group, situation.topic, truth.partition), {})
            theirs = f"{row.get('CURRENT-OFFSET', '-')} {row.get('LOG-END-OFFSET', '-')} {row.get('LAG', '-')}"
            true_age = truth.seconds and truth.seconds + judged.passed_s
            table.add_row(
                situation.name, str(truth.partition), *(str(v) for v in (found.committed, found.end, found.lag_records)), theirs,
                *(str(v) for v in (found.lag_rows, found.lag_seconds, true_age and round(true_age, 3), found.status, found.why)),
            )  # fmt: skip
            is_told = told(found) == (truth.committed, truth.records, truth.rows, truth.status)
            if not (is_told and is_age(found, truth.seconds, judged.passed_s)):
                wrong.append((situation.name, truth, found))
    Console(width=220).print(table)
    assert not wrong


def told(found: PartitionLag) -> tuple[object, ...]:
    return found.committed, found.lag_records, found.lag_rows, found.status


def is_age(found: PartitionLag, seconds: float | None, passed_s: float) -> bool:
    """Say whether an age is that of the first record that is left, which had one already when the scripts began."""
    if not seconds:
        return found.lag_seconds == seconds
    return found.lag_seconds == pytest.approx(seconds + passed_s, abs=_AGE_S)


def test_offsets_and_lag_are_those_of_kafkas_own_tool(judged: Judged) -> None:
    compared = 0
    for situation in judged.situations:
        for found in judged.groups[situation.group].partitions:
            row = judged.tool.get((situation.group, situation.topic, found.partition))
            if row is None:
                # it leaves partitions out of which it knows nothing
                assert found.committed is None or situation.name == "rebalancing", found
                continue
            theirs = [
                None if text == "-" else int(text)
                for text in (row["CURRENT-OFFSET"], row["LOG-END-OFFSET"], row["LAG"])
            ]
            assert [found.committed, found.end, found.lag_records] == theirs, (situation.name, found)
            assert (found.member or "-", found.client_id or "-") == (row["CONSUMER-ID"], row["CLIENT-ID"]), (
                situation.name,
                found,
            )
            assert (found.host or "-") == row["HOST"].removeprefix("/")
            compared += 1
    assert compared >= len(judged.situations) - 1


def test_what_changes_what_figures_mean_is_said_in_words(judged: Judged, scripts: Scripts) -> None:
    def why(name: str, partition: int = 0) -> str:
        return judged.groups[scripts.names(name)[0]].partitions[partition].why

    assert "1 offsets were deleted before they were read" in why("expired")
    assert "an open transaction holds back what is from 1 on" in why("open")
    assert "only markers, holes" in why("markers")
    assert "went back from 18 to 4" in why("rewound")
    assert "no member of the group reads it" in why("stopped")
    assert "did not shrink" in why("slow")
    assert why("steady", 1) == "the log is empty"


def test_one_look_says_only_what_one_look_can_know(judged: Judged, scripts: Scripts) -> None:
    found = {
        name: judged.first[scripts.names(name)[0]] for name in ("slow", "rewound", "stopped", "idle", "rebalancing")
    }
    assert {name: group.partitions[0].status for name, group in found.items()} == {
        "slow": "OK", "rewound": "OK", "stopped": "STOP", "idle": "OK", "rebalancing": "OK",
    }  # fmt: skip
    assert {name: group.status for name, group in found.items() if group.status != "OK"} == {"stopped": "ERR"}
    assert found["slow"].partitions[0].eta_seconds is None, "a pace takes two looks"
    assert found["idle"].partitions[0].eta_seconds == 0


def test_pace_and_time_to_drain(judged: Judged, scripts: Scripts) -> None:
    slow_one = judged.groups[scripts.names("slow")[0]].partitions[0]
    assert slow_one.in_per_s == pytest.approx(2 * (slow_one.out_per_s or 0), rel=0.35)
    assert slow_one.eta_seconds is None, "at this pace it never drains"


def test_looking_changes_nothing(judged: Judged, scripts: Scripts, kafka_settings: KafkaSettings) -> None:
    groups = {each.group_id for each in scripts.admin.list_consumer_groups().result(20).valid}
    assert "fqlstream-lag" not in groups
    before = scripts.admin.list_topics(timeout=20).topics.keys()
    look(kafka_settings, LagSettings(), [f"lag-{scripts.tag}-*"])
    assert scripts.admin.list_topics(timeout=20).topics.keys() == before
    with pytest.raises(BrokerError) as refused:
        look(kafka_settings, LagSettings(), [scripts.names("steady")[0] + "x"])
    assert (refused.value.code, scripts.names("steady")[0] in (refused.value.hint or "")) == ("LAG001", True)
    assert {each.group_id for each in scripts.admin.list_consumer_groups().result(20).valid} == groups


def test_many_groups_on_one_topic_are_each_told_their_own(scripts: Scripts, kafka_settings: KafkaSettings) -> None:
    topic = scripts.topic("shared", partitions=3)
    for partition in range(3):
        scripts.produce(topic, [1000.0 - 10 * i for i in range(20)], partition)
    for number in range(4):
        scripts.commit(f"shared-{scripts.tag}-{number}", topic, number, number + 5, number + 10)
    found = look(kafka_settings, LagSettings(), [f"shared-{scripts.tag}-*"])
    passed_s = found.at_ms / 1000 - scripts.started_s
    for number, group in enumerate(found.groups):
        for offset, each in zip((number, number + 5, number + 10), group.partitions, strict=True):
            assert told(each) == (offset, 20 - offset, 20 - offset, "STOP")
            assert is_age(each, 1000.0 - 10 * offset, passed_s)


def test_what_takes_too_long_is_not_known_and_nothing_is_guessed(
    scripts: Scripts, kafka_settings: KafkaSettings
) -> None:
    topic = scripts.topic("large")
    scripts.produce(topic, [100.0] * 300)
    group = f"large-{scripts.tag}"
    scripts.commit(group, topic, 10)

    def only(**limits: Any) -> PartitionLag:
        return look(kafka_settings, LagSettings(**limits), [group]).groups[0].partitions[0]

    assert only().lag_rows == 290
    assert [only(rows_records_max=289).lag_rows, only(rows_bytes_max=100).lag_rows] == [None, None]
    hurried = only(read_wait_ms=0)
    assert (hurried.lag_records, hurried.lag_seconds, hurried.lag_rows, hurried.status) == (290, None, None, "STOP")
    assert "could not be read in time" in hurried.why


def test_a_cluster_that_is_away_is_an_error_within_its_time(kafka_settings: KafkaSettings) -> None:
    away = kafka_settings.model_copy(update={"bootstrap": "127.0.0.1:1"})
    began_s = time.monotonic()
    with pytest.raises(BrokerError) as refused:
        look(away, LagSettings(request_wait_ms=500), ["g"])
    assert (refused.value.code, refused.value.retryable) == ("LAG002", True)
    assert time.monotonic() - began_s < 20


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def behind(scripts: Scripts) -> tuple[str, str]:
    """A group that is behind by three records of two hours ago, and its topic; nobody reads it."""
    group = f"behind-{uuid_hex()}"
    topic = scripts.topic(group)
    # of two hours before this, not before the module began
    scripts.produce(topic, [2 * HOUR_S - (time.time() - scripts.started_s)] * 3)
    scripts.commit(group, topic, 0)
    return group, topic


def uuid_hex() -> str:
    return os.urandom(6).hex()


def run(kafka: KafkaSettings, *arguments: object) -> Any:
    return invoke(command(lag), "--bootstrap", kafka.bootstrap, *arguments)


def test_json_has_the_keys_of_the_contract_and_the_exit_code_tells_of_trouble(
    behind: tuple[str, str], kafka_settings: KafkaSettings
) -> None:
    group, topic = behind
    done = run(kafka_settings, "--group", group, "--json")
    (told_group,) = json.loads(done.stdout)["groups"]
    (partition,) = told_group.pop("partitions")
    assert told_group == {"group": group, "status": "ERR", "lag_records": 3}
    age_s = partition.pop("lag_seconds")
    assert partition == {
        "topic": topic, "partition": 0, "committed": 0, "end": 3, "lag_records": 3, "lag_rows": 3, "status": "STOP", "member": None,
        "client_id": None, "host": None, "eta_seconds": None,
    }  # fmt: skip
    assert 2 * HOUR_S - 1 < age_s < 2 * HOUR_S + 600
    assert done.exit_code == 1


def test_csv_people_and_nagios_are_told_the_same(behind: tuple[str, str], kafka_settings: KafkaSettings) -> None:
    group, topic = behind
    (row,) = csv.DictReader(run(kafka_settings, "--group", group, "--csv").stdout.splitlines())
    assert (row["group"], row["topic"], row["lag_records"], row["member"], row["status"]) == (
        group,
        topic,
        "3",
        "",
        "STOP",
    )
    text = run(kafka_settings, "--group", group).stdout
    # however long it takes on a busy machine
    assert re.search(rf"{group}  ERR  Empty, 0 members, 1 partitions: 3 records, oldest 2 h \d\d m", text)
    assert "no member of the group reads it" in text
    nagios = run(kafka_settings, "--group", group, "--nagios", "--warn", "2", "--warn", "5m", "--critical", "10")
    assert re.match(rf"LAG CRITICAL - {group} ERR 3 records 7\d\d\d\.\d s", nagios.stdout)
    assert f"'{group} records'=3;2;10;0" in nagios.stdout
    assert nagios.exit_code == 2


def test_nagios_says_unknown_where_nothing_is_known(kafka_settings: KafkaSettings) -> None:
    done = run(kafka_settings, "--group", "nobody-has-this-name", "--nagios")
    assert (done.exit_code, done.stdout.startswith("LAG UNKNOWN - LAG001")) == (3, True)
    nobody = run(kafka_settings, "--group", "nobody-has-*-name", "--nagios")
    assert (nobody.exit_code, nobody.stdout.startswith("LAG UNKNOWN - no group")) == (3, True)
    assert "there is no consumer group like nobody-has-*-name" in nobody.stdout
    assert run(kafka_settings, "--group", "nobody-has-*-name", "--json").exit_code == 1
    for arguments, code in ((("--warn", "lots"), "LAG010"), (("--json",), "LAG011"), (("--watch",), "LAG011")):
        wrong = run(kafka_settings, "--nagios", *arguments)
        assert (wrong.exit_code, wrong.stdout.startswith(f"LAG UNKNOWN - {code}")) == (3, True), "2 would be CRITICAL"


def test_only_lagging_hides_and_topics_choose(scripts: Scripts, kafka_settings: KafkaSettings) -> None:
    group = f"two-{uuid_hex()}"
    topics = [scripts.topic(f"{group}-{name}") for name in ("full", "read")]
    for topic in topics:
        scripts.produce(topic, [9.0] * 2)
    scripts.commit(group, topics[0], 1)
    scripts.commit(group, topics[1], 2)

    def shown(*arguments: str) -> list[tuple[str, int]]:
        (found,) = json.loads(run(kafka_settings, "--group", group, "--json", *arguments).stdout)["groups"]
        return [(each["topic"], found["lag_records"]) for each in found["partitions"]]

    assert shown() == [(topics[0], 1), (topics[1], 1)]
    assert shown("--only-lagging") == [(topics[0], 1)]
    assert shown("--topic", topics[1]) == [(topics[1], 0)]
    assert shown("--topic", f"lag-*-{group}-re*") == [(topics[1], 0)]


def test_what_makes_no_sense_together_is_refused(kafka_settings: KafkaSettings) -> None:
    for arguments, code in ((("--json", "--csv"), "LAG011"), (("--once",), "LAG011"), (("--warn", "lots"), "LAG010"),
                            (("--interval", "5"), "LAG012"), (("--since", "yesterday"), "LAG012")):  # fmt: skip
        with pytest.raises(UsageError) as refused:
            run(kafka_settings, *arguments)
        assert refused.value.code == code


def started(kafka: KafkaSettings, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fqlstream.cli", "lag", "--bootstrap", str(kafka.bootstrap), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip


def test_watching_goes_on_until_it_is_told_to_end(
    behind: tuple[str, str], kafka_settings: KafkaSettings, scripts: Scripts
) -> None:
    group, topic = behind
    with started(kafka_settings, "--group", group, "--watch", "--json", "--interval", "200ms") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        scripts.produce(topic, [0.0] * 4)
        wait_until(
            lambda: json.loads(process.stdout.readline())["groups"][0]["lag_records"] == 7 if process.stdout else False,
            "it sees what was written meanwhile",
        )
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=20)
    assert first["groups"][0]["lag_records"] == 3
    assert (process.returncode, words.strip()) == (0, "stopping")


def test_prometheus_is_shown_the_page_for_the_key(behind: tuple[str, str], kafka_settings: KafkaSettings) -> None:
    group, topic = behind
    key = "k" * 32
    with started(
        kafka_settings, "--group", group, "--prometheus", "--port", "0", "--interval", "200ms", FQLSTREAM_LAG__KEY=key
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().removeprefix("metrics at ").strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", address)
        assert httpx.get(address, timeout=10).status_code == 401
        page = httpx.get(address, headers={"Authorization": f"Bearer {key}"}, timeout=10).text
        process.terminate()
        process.communicate(timeout=20)
    assert re.search(rf'kafka_consumergroup_group_sum_lag{{cluster_name="[^"]+",group="{group}"}} 3.0', page)
    assert re.search(rf'kafka_consumergroup_group_lag{{[^}}]*topic="{topic}"}} 3.0', page)
    assert process.returncode in (0, -signal.SIGTERM)


# ------------------------------------------------------------------------------------------------- the history


@pytest.fixture(scope="module")
def kept(store_process: StoreProcess) -> Iterator[tuple[Store, dict[str, str]]]:
    """A database with our tables, and the environment of a command that keeps its history there."""
    name = f"lag_{uuid_hex()}"
    with store_process.connect() as admin:
        admin.command(f"CREATE DATABASE {name}")
        with store_process.connect(name) as client:
            migrations.apply(client)
            yield (
                client,
                {"FQLSTREAM_STORE__URL": f"{store_process.url}/{name}", "FQLSTREAM_STORE__PASSWORD": store_process.key},
            )
        admin.command(f"DROP DATABASE {name}")


def test_a_restart_keeps_the_window_and_the_past_is_drawn(
    behind: tuple[str, str], kafka_settings: KafkaSettings, kept: tuple[Store, dict[str, str]], monkeypatch: pytest.MonkeyPatch,
    scripts: Scripts,
) -> None:  # fmt: skip
    group, topic = behind
    for name, value in {**kept[1], "FQLSTREAM_KAFKA__BOOTSTRAP": str(kafka_settings.bootstrap)}.items():
        monkeypatch.setenv(name, value)
    once = ("--group", group, "--history", "--json")
    for offset in (0, 2, 1):
        scripts.commit(group, topic, offset)
        # each look is a process of its own, as by cron: the rewind is only seen by what was kept
        told_now = json.loads(run(kafka_settings, *once).stdout)["groups"][0]["partitions"][0]
    assert (told_now["status"], told_now["lag_records"]) == ("REWIND", 2)

    # it moved once though nobody is a member: so a consumer reads that commits without joining
    rows = kept[0].query_rows(
        "SELECT committed, lag_records, lag_rows, is_left, status FROM lag_samples FINAL ORDER BY at"
    )
    assert rows == [(0, 3, 3, True, "STOP"), (2, 1, 1, True, "OK"), (1, 2, 2, True, "REWIND")]
    points = json.loads(run(kafka_settings, "--group", "behind-*", "--since", "1h", "--json").stdout)
    assert {(p["group"], p["topic"]) for p in points} == {(group, topic)}
    assert "REWIND" in {p["worst"] for p in points}
    assert max(p["lag_records"] for p in points) == 3
    drawn = run(kafka_settings, "--group", group, "--since", "1h").stdout
    assert f"{group}  {topic}  worst REWIND" in drawn
    assert "records behind: highest 3" in drawn
    header = run(kafka_settings, "--group", group, "--since", "1h", "--csv").stdout.splitlines()[0]
    assert header.startswith("group,topic,at,lag_records")
    assert run(kafka_settings, "--group", group.replace("-", "_"), "--since", "1h").exit_code == 1, (
        "an underscore is no pattern"
    )


# ------------------------------------------------------------------------------------------------------- size


@pytest.mark.soak
def test_eight_hundred_partitions_take_seconds(kafka_settings: KafkaSettings) -> None:
    topic, partitions, each, groups = f"wide-{uuid_hex()}", 800, 50, 5
    options = librdkafka_options(kafka_settings)
    admin = AdminClient(options)
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(120)
    producer = Producer({**options, "queue.buffering.max.messages": partitions * each})
    wait_until(
        lambda: len(admin.list_topics(topic, 20).topics[topic].partitions) == partitions, "every partition is there"
    )
    for number in range(partitions * each):
        producer.produce(topic, b"x" * 200, partition=number % partitions)
    assert producer.flush(120) == 0
    for group in range(groups):
        consumer = Consumer({**options, "group.id": f"{topic}-{group}", "enable.auto.commit": False})
        consumer.commit(
            offsets=[TopicPartition(topic, number, group) for number in range(partitions)], asynchronous=False
        )
        consumer.close()
    sampler, limits = Sampler(kafka_settings, LagSettings()), LagSettings()
    for pattern, most_s in ((f"{topic}-0", 5.0), (f"{topic}-*", 15.0)):
        for with_rows in (False, True):
            found = sampler.sample([pattern], with_rows=with_rows)
            window = Window(limits)
            window.add(samples_of(found), found.at_ms)
            told_all = report(found, window, limits).groups
            for index, group in enumerate(told_all):
                assert group.total.lag_records == partitions * (each - index)
                assert all(p.lag_seconds for p in group.partitions)
                assert group.total.lag_rows == (group.total.lag_records if with_rows else None)
            Console().print(f"{len(told_all)} groups x {partitions} partitions, rows {with_rows}: {found.took_s:.2f} s")
            assert found.took_s < most_s
    admin.delete_topics([topic])[topic].result(60)
