from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from tests.commands import invoke

from fqlstream.cli.docs import app
from fqlstream.events.schemas import SCHEMAS, schema_files, stale_schemas
from fqlstream.packaged import packaged


def test_the_files_in_the_repository_are_current() -> None:
    assert stale_schemas(packaged("schemas")) == []


def test_every_payload_that_a_topic_declares_has_a_schema() -> None:
    declared = {
        name
        for path in packaged("topics").glob("*.yaml")
        for name in yaml.safe_load(path.read_text())["value"]
        if re.fullmatch(r"[a-z_]+", name)
    }
    assert len(declared) >= 6
    assert declared == SCHEMAS.keys()


@pytest.mark.parametrize("name", sorted(schema_files()))
def test_a_schema_describes_what_it_is_for(name: str) -> None:
    schema = json.loads(schema_files()[name])
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["title"] == name.removesuffix(".json")
    assert "description" in schema or "oneOf" in schema


def test_check_fails_on_what_is_stale_and_write_makes_it_current(tmp_path: Path) -> None:
    assert invoke(app, "write", "--schemas", tmp_path).exit_code == 0
    assert invoke(app, "check", "--schemas", tmp_path).exit_code == 0
    (tmp_path / "metric_value.json").write_text("{}")
    (tmp_path / "label_event.json").unlink()
    (tmp_path / "gone.json").write_text("{}")
    checked = invoke(app, "check", "--schemas", tmp_path, "--json")
    assert checked.exit_code == 1
    assert json.loads(checked.output) == {"stale": ["gone.json", "label_event.json", "metric_value.json"]}
    assert "wrote gone.json" not in invoke(app, "write", "--schemas", tmp_path).output
    assert invoke(app, "check", "--schemas", tmp_path).output == "everything is current\n"
    assert not (tmp_path / "gone.json").exists()
