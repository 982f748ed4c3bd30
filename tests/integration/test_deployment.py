"""What stands in deploy/ is valid, and says what is true: schemas of Compose and Kubernetes, names of settings, commands and numbers,
and every query of a dashboard, asked of a real ClickHouse. Nothing is started here: no container engine is needed."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from yamllint import linter
from yamllint.config import YamlLintConfig

from fqlstream.cli.main import COMMANDS
from fqlstream.cli.readme_tables import settings_table
from fqlstream.ops.numbers import API_NUMBERS, LAG_NUMBERS, WORKER_NUMBERS
from fqlstream.packaged import packaged
from fqlstream.store.client import Store
from fqlstream.store.values import write_values
from fqlstream.stream.protocol import MetricValue

DEPLOY = packaged("deploy")
KUSTOMIZATIONS = sorted((DEPLOY / "kubernetes").rglob("kustomization.yaml"))
MANIFESTS = sorted(set((DEPLOY / "kubernetes").rglob("*.yaml")) - set(KUSTOMIZATIONS))
COMPOSE = (DEPLOY / "compose.yaml", DEPLOY / "compose.three-brokers.yaml")
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
YAML_FILES = sorted(DEPLOY.rglob("*.yaml"))
#: The oldest and the newest Kubernetes that the manifests are for.
KUBERNETES = ("1.31", "1.37")
LINT = YamlLintConfig(
    "extends: default\nrules: {line-length: disable, document-start: disable, comments: disable, truthy: {check-keys: false}}"
)
SETTINGS = {line.split("`")[1] for line in settings_table().splitlines()[2:]}
OWN_SERVICES = {"topics", "schema", "worker", "api", "lag", "runner"}
HOUR_MS = 3_600_000
NOW_MS = 1_800_000_000_000 // HOUR_MS * HOUR_MS


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def composed(path: Path) -> dict[str, Any]:
    """Read a Compose file with its variables filled in: their defaults, or a word."""
    text = re.sub(r"\$\{\w+(?::(?:-([^}]*)|\?[^}]*))?\}", lambda found: found[1] or "word", path.read_text())
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def dashboards() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in DASHBOARDS:
        yield path.stem, json.loads(path.read_text())


def targets(datasource: str) -> list[tuple[str, str]]:
    """Give the queries of all dashboards to a data source, each with where it stands."""
    found = []
    for name, board in dashboards():
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                if target["datasource"]["uid"] == datasource:
                    found.append((f"{name}: {panel['title']}", target.get("expr") or target["rawSql"]))
        for variable in board["templating"]["list"]:
            if variable["datasource"]["uid"] == datasource:
                query = variable["query"]
                found.append((f"{name}: ${variable['name']}", query if isinstance(query, str) else query["query"]))
    return found


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_yaml_is_in_order(path: Path) -> None:
    assert [str(problem) for problem in linter.run(path.read_text(), LINT)] == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(DEPLOY / "kubernetes")))
def test_a_manifest_is_what_kubernetes_takes(path: Path, version: str) -> None:
    found = documents(path)
    assert found
    for document in found:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_a_kustomization_names_every_manifest_beside_it_but_the_secrets_and_what_is_for_all(path: Path) -> None:
    (kustomization,) = documents(path)
    beside = {each.name for each in MANIFESTS if each.parent == path.parent} - {"secrets.example.yaml"}
    shared = set(kustomization["resources"]) - beside
    assert beside <= set(kustomization["resources"])
    assert {(path.parent / each).resolve().name for each in shared} == ({"settings"} - {path.parent.name})
    named = {image["name"] for image in kustomization.get("images", ())}
    used = {
        container["image"]
        for each in MANIFESTS
        if each.parent == path.parent
        for document in documents(each)
        for container in document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ())
    }
    assert named == used


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_file_is_what_its_specification_allows(path: Path) -> None:
    PyCompose.from_json(json.dumps(composed(path))).validate()


def test_the_second_compose_file_only_adds_to_the_first() -> None:
    first, second = (composed(path) for path in COMPOSE)
    assert set(second["services"]) - set(first["services"]) == {"kafka-2", "kafka-3"}
    voters = second["services"]["kafka-1"]["environment"]["KAFKA_CONTROLLER_QUORUM_VOTERS"]
    assert [voter.partition("@")[2].partition(":")[0] for voter in voters.split(",")] == [
        "kafka-1",
        "kafka-2",
        "kafka-3",
    ]
    assert first["services"]["topics"]["environment"].keys() == first["services"]["schema"]["environment"].keys()


def test_every_setting_that_is_given_is_one_and_every_command_too() -> None:
    names = {name for row in COMMANDS for name in [row.name]}
    text = "\n".join(path.read_text() for path in [*YAML_FILES, DEPLOY / "Dockerfile", DEPLOY / "README.md"])
    assert set(re.findall(r"FQLSTREAM_[A-Z]+(?:_[A-Z]+)*(?:__[A-Z_]+)?", text)) <= SETTINGS
    commands = [composed(COMPOSE[0])["services"][name]["command"] for name in OWN_SERVICES]
    for path in MANIFESTS:
        for document in documents(path):
            pod = document.get("spec", {}).get("template", {}).get("spec", {})
            commands += [
                container["args"] for container in [*pod.get("initContainers", ()), *pod.get("containers", ())]
            ]
    assert len(commands) == 12
    assert {command[0] for command in commands} <= names


def test_everything_of_ours_runs_as_nobody_in_particular_with_nothing_to_write_on() -> None:
    services = composed(COMPOSE[0])["services"]
    for name in OWN_SERVICES:
        assert services[name]["read_only"], name
        assert services[name]["cap_drop"] == ["ALL"], name
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), "only this machine"
    for path in MANIFESTS:
        for document in documents(path):
            pod = document.get("spec", {}).get("template", {}).get("spec")
            if pod is None:
                continue
            assert pod["securityContext"]["runAsNonRoot"]
            assert pod["automountServiceAccountToken"] is False
            for container in [*pod.get("initContainers", ()), *pod["containers"]]:
                assert container["securityContext"]["readOnlyRootFilesystem"]
                assert container["resources"]["limits"].keys() == {"memory"}, "throttling a worker delays every value"


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Give every pod of the manifests with the component that it is."""
    for path in MANIFESTS:
        for document in documents(path):
            template = document.get("spec", {}).get("template")
            if template is not None:
                labels = document["metadata"]["labels"]
                yield labels["app.kubernetes.io/component"], template["spec"]


def test_each_component_has_a_secret_of_its_own_with_nothing_that_it_does_not_need() -> None:
    secrets = {
        document["metadata"]["name"]: document["stringData"].keys()
        for path in MANIFESTS
        if path.name == "secrets.example.yaml"
        for document in documents(path)
    }
    read: set[str] = set()
    for component, pod in pods():
        for container in pod["containers"]:
            given = [source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source]
            assert given == [f"fqlstream-{component}"]
            read.update(given)
        mounted = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
        assert mounted == {"fqlstream-kafka-ca"}
    assert secrets.keys() == read | {"fqlstream-kafka-ca"}
    kafka, store = "FQLSTREAM_KAFKA__SASL_PASSWORD", "FQLSTREAM_STORE__PASSWORD"
    assert secrets["fqlstream-lag"] == {kafka, "FQLSTREAM_LAG__KEY"}
    holders = {
        name: {each for each, keys in secrets.items() if name in keys} for name in (store, "FQLSTREAM_API__SECRET")
    }
    assert holders == {store: read - {"fqlstream-lag"}, "FQLSTREAM_API__SECRET": {"fqlstream-api"}}


def stages_of_the_image() -> dict[str, list[str]]:
    """Give the stages of the Dockerfile by their names, each with its instructions, lines joined."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    stages: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("FROM "):
            stages[line.split(" AS ")[1]] = []
        if stages and line and not line.startswith("#"):
            stages[list(stages)[-1]].append(line)
    return stages


def test_the_runners_image_has_java_bubblewrap_and_the_extra_for_spark_and_the_other_has_not() -> None:
    stages = stages_of_the_image()
    (packages,) = (line for line in stages["runner"] if "apt-get install" in line)
    assert {"bubblewrap", "openjdk-17-jre-headless", "--no-install-recommends"} <= set(packages.split())
    assert packages.rstrip().endswith("rm -rf /var/lib/apt/lists/*")
    extras = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (installed,) = (line for line in stages["build-runner"] if "pip install" in line)
    assert set(re.findall(r"\[(\w+)\]", installed)) == {"spark"} <= extras.keys()
    assert "COPY --from=build-runner /opt/fqlstream /opt/fqlstream" in stages["runner"]
    assert not any("apt-get" in line or "build-runner" in line for line in stages["fqlstream"] + stages["base"])
    entry, command = (next(line for line in stages[name] if line.startswith(word)) for name, word in (("base", "ENTRYPOINT "), ("runner", "CMD ")))  # fmt: skip
    assert ast.literal_eval(entry.removeprefix("ENTRYPOINT ")) == ["fqlstream"]
    assert ast.literal_eval(command.removeprefix("CMD ")) == ["code-metrics", "serve"]
    services = composed(COMPOSE[0])["services"]
    assert services["runner"]["build"]["target"] == "runner"
    assert services["runner"]["profiles"] == ["code-metrics"], "nobody who asks for none has it"
    targets_built = {name: services[name]["build"]["target"] for name in OWN_SERVICES}
    assert targets_built == dict.fromkeys(OWN_SERVICES, "fqlstream") | {"runner": "runner"}


#: What bubblewrap asks of the kernel to make a sandbox, and what a sandbox gives up with.
OF_A_SANDBOX = {"clone", "clone3", "unshare", "mount", "umount2", "pivot_root", "sethostname", "chroot", "prctl", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"}  # fmt: skip


def test_the_runner_may_make_namespaces_and_nothing_else_that_the_others_may_not() -> None:
    profile = json.loads((DEPLOY / "seccomp" / "runner.json").read_text())
    assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
    (refused,) = profile["syscalls"]
    assert refused["action"] == "SCMP_ACT_ERRNO"
    assert not OF_A_SANDBOX & set(refused["names"])
    assert {"bpf", "kexec_load", "init_module", "keyctl", "open_by_handle_at", "ptrace", "setns"} <= set(
        refused["names"]
    )
    options = composed(COMPOSE[0])["services"]["runner"]["security_opt"]
    assert set(options) == {"no-new-privileges:true", "seccomp:seccomp/runner.json", "apparmor:unconfined", "systempaths=unconfined"}  # fmt: skip
    assert (COMPOSE[0].parent / "seccomp" / "runner.json").exists()
    found = dict(pods())
    runner = found.pop("runner")
    (container,) = runner["containers"]
    assert runner["hostUsers"] is False, "a /proc without masks is for pods with users of their own"
    assert container["securityContext"]["procMount"] == "Unmasked"
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    profile_of_pod = runner["securityContext"]["seccompProfile"]
    assert profile_of_pod == {"type": "Localhost", "localhostProfile": "fqlstream/runner.json"}
    assert f"/var/lib/kubelet/seccomp/{profile_of_pod['localhostProfile']}" in (DEPLOY / "README.md").read_text()
    for component, pod in found.items():
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, component
        assert "hostUsers" not in pod
    assert composed(COMPOSE[0])["services"]["runner"]["environment"]["TMPDIR"] == "/var/lib/fqlstream"
    assert {"name": "TMPDIR", "value": "/var/lib/fqlstream"} in container["env"], "rows are linked there, not copied"
    levels = {
        document["metadata"]["name"]: document["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for path in MANIFESTS
        for document in documents(path)
        if document["kind"] == "Namespace"
    }
    assert levels == {"fqlstream": "restricted", "fqlstream-runner": "privileged"}


def test_the_image_is_built_of_what_is_there_and_runs_without_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    stages = stages_of_the_image()
    bases = [stage[0].split()[1] for stage in stages.values()]
    foreign = [base for base in bases if base not in stages]
    assert len(foreign) == 2
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", base) for base in foreign), "a tag that says a version"
    assert list(stages)[-1] == "fqlstream", "what a build without a target makes"
    for target in ("fqlstream", "runner"):
        assert [line for line in stages[target] if line.startswith("USER ")] == ["USER 10001:10001"]
        assert stages[target][-2:][0] == "USER 10001:10001", "nothing is done to it as somebody else afterwards"
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    sources = [source for sources in copied for source in sources]
    root = DEPLOY.parent
    assert all((root / source).exists() for source in sources)
    allowed = {
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert {source.partition("/")[0] for source in sources} <= {each.partition("/")[0] for each in allowed}
    entry = next(line for line in lines if line.startswith("ENTRYPOINT "))
    assert ast.literal_eval(entry.removeprefix("ENTRYPOINT ")) == ["fqlstream"]


def test_every_number_that_is_asked_of_prometheus_is_told_by_a_process_of_ours() -> None:
    told = {name for row in (*WORKER_NUMBERS, *API_NUMBERS) for name in row.series} | {row.name for row in LAG_NUMBERS}
    told |= {"process_resident_memory_bytes"}
    alerts = [
        (f"alerts: {rule['alert']}", rule["expr"])
        for document in documents(DEPLOY / "prometheus" / "alerts.yaml")
        for group in document["groups"]
        for rule in group["rules"]
    ]
    asked = [*targets("fqlstream-prometheus"), *alerts]
    assert len(asked) > 50
    labels = {label for row in (*WORKER_NUMBERS, *API_NUMBERS, *LAG_NUMBERS) for label in row.labels} | {
        "instance",
        "job",
        "le",
    }
    for where, expression in asked:
        plain = re.sub(r'"[^"]*"', '""', expression)
        names = set(re.findall(r"\b(?:fqlstream|kafka|process)_\w+", plain))
        assert names, where
        assert names <= told, f"{where}: {sorted(names - told)}"
        used = {name.strip() for part in re.findall(r"\b(?:by|on) \(([^)]*)\)", plain) for name in part.split(",")}
        used |= set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", plain))
        assert used <= labels, f"{where}: {sorted(used - labels)}"


def test_alerts_see_what_is_away_and_page_for_nothing_of_others() -> None:
    """In situations they are tested by promtool, by hand: it is in no package that tests can install."""
    (alerts,) = documents(DEPLOY / "prometheus" / "alerts.yaml")
    rules = {rule["alert"]: rule for group in alerts["groups"] for rule in group["rules"]}
    assert {f"Fqlstream{name}" for name in ("NoWorker", "LagUnknown", "TimeStandsBehind")} <= rules.keys()
    for name, rule in rules.items():
        counted = re.findall(r"count by \([^)]*\) \((\w+)", rule["expr"])
        assert set(counted) <= {"group"}, f"{name} counts what two exporters tell twice"
        if "fqlstream_lag_group_status" in rule["expr"] and rule["labels"]["severity"] == "critical":
            assert '{group="fqlstream"}' in rule["expr"], name
    nobodys = rules["FqlstreamPartitionOfNobody"]["expr"]
    assert " unless on (topic) (" in nobodys, "also where no worker tells of a partition"
    (tested,) = documents(DEPLOY / "prometheus" / "alerts.test.yaml")
    asked = {each["alertname"] for test in tested["tests"] for each in test["alert_rule_test"]}
    assert asked <= rules.keys()


def test_every_number_of_a_worker_is_on_a_dashboard_or_in_an_alert() -> None:
    text = "\n".join(path.read_text() for path in [*DASHBOARDS, DEPLOY / "prometheus" / "alerts.yaml"])
    unseen = {row.name for row in WORKER_NUMBERS if row.name not in text}
    assert unseen == {"fqlstream_models", "fqlstream_build_info"}, "known from elsewhere"


def test_dashboards_are_whole() -> None:
    (provisioned,) = documents(DEPLOY / "grafana" / "provisioning" / "datasources" / "datasources.yaml")
    sources = {each["uid"]: each["type"] for each in provisioned["datasources"]}
    uids = [board["uid"] for _, board in dashboards()]
    assert len(uids) == len(set(uids)) == 4
    for name, board in dashboards():
        panels = board["panels"]
        assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1)), name
        known = {variable["name"] for variable in board["templating"]["list"]}
        for panel in panels:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24, panel["title"]
            for target in panel.get("targets", ()):
                assert sources[target["datasource"]["uid"]] == target["datasource"]["type"]
                asked = re.findall(r"\$\{?(\w+)", target.get("expr") or target["rawSql"])
                assert {each for each in asked if not each.startswith("__")} <= known, panel["title"]


def fill(store: Store) -> None:
    values = [
        MetricValue("m'1", "all", "recall", segment, end - HOUR_MS, end, 0.5, 10, 4, True, None, "final", 7, 1, end)
        for end in (NOW_MS - HOUR_MS, NOW_MS)
        for segment in ("", "seniors")
    ]
    write_values(store, values, retention_ms=10 * 365 * 86_400_000)
    at_us = NOW_MS * 1_000
    at = f"fromUnixTimestamp64Milli({NOW_MS})"
    store.command(f"INSERT INTO pipeline_metric_rows (execution_id, name, value, at_us, recorded_at, partition, offset) VALUES ('run-1', 'loss', 0.5, {at_us}, {at}, 0, 1)")  # fmt: skip
    store.command(f"INSERT INTO list_metric_rows (execution_id, name, start, values, at_us, recorded_at, partition, offset) VALUES ('run-1', 'curve', 0, [1, 2, 3], {at_us}, {at}, 0, 2)")  # fmt: skip
    store.command(f"INSERT INTO job_metric_rows (job_id, name, step, value, at_us, recorded_at, partition, offset) VALUES ('7', 'accuracy', 1, 0.9, {at_us}, {at}, 0, 3)")  # fmt: skip
    store.command(f"INSERT INTO published (model, value_version, vector, watermark_ms, updated_at) VALUES ('m''1', 7, map(0, 7), {NOW_MS}, {at})")  # fmt: skip
    store.command(f"INSERT INTO dead_letter_rows (topic, partition, offset, row, code, reason, record_at, seen_at) VALUES ('t', 0, 1, '0', 'DLQ005', 'broken', {at}, {at})")  # fmt: skip


#: What Grafana puts in place of its variables and macros.
CHOSEN = {"model": "'m''1'", "version": "'all'", "window_s": "'3600'", "metric": "'recall'", "segment": "'(all rows)','seniors'", "execution": "'run-1'", "job": "'7'"}  # fmt: skip


def expanded(sql: str) -> str:
    for name, value in CHOSEN.items():
        sql = sql.replace(f"${{{name}:sqlstring}}", value)
    span = f"fromUnixTimestamp64Milli({NOW_MS - 10 * HOUR_MS}) AND \\1 <= fromUnixTimestamp64Milli({NOW_MS})"
    return re.sub(r"\$__timeFilter\((\w+)\)", f"\\\\1 >= {span}".replace("\\\\", "\\"), sql)


def test_every_query_of_a_dashboard_is_answered(store: Store) -> None:
    fill(store)
    asked = targets("fqlstream-clickhouse")
    assert len(asked) >= 15
    for where, sql in asked:
        found = store.query_arrow(expanded(sql))
        if where == "recorded-metrics: Lists in short":
            continue  # summaries are the record agent's own encoding: none is made here
        assert found.num_rows, f"{where}: nothing is found where there is something"
        if ": $" not in where and "time" in found.column_names:
            assert re.search(r"ORDER BY (time|index|step)", sql), where
