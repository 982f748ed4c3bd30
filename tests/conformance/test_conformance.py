"""The tables of this folder: an expression, and what is known of it. Errors and warnings are complete and in order."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fqlstream.events.definitions import BaselineDefinition, ModelDefinition
from fqlstream.events.documents import load_definitions
from fqlstream.fql.check import check
from fqlstream.functions.expression import Literal

HERE = Path(__file__).parent
DEFINITIONS = load_definitions(HERE / "models.yaml")
MODELS = {item.name: item for item in DEFINITIONS if isinstance(item, ModelDefinition)}
BASELINES = [item for item in DEFINITIONS if isinstance(item, BaselineDefinition)]
FIELDS = {"expression", "model", "kind", "type", "level", "value", "errors", "warnings"}


@dataclass(frozen=True)
class Case:
    table: str
    number: int
    row: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.table}:{self.number}:{self.row['expression'][:50]}"


def _cases() -> list[Case]:
    cases = []
    for path in sorted(HERE.glob("*.toml")):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        for number, row in enumerate(table.pop("case"), 1):
            cases.append(Case(path.stem, number, {**table, **row}))
    return cases


CASES = _cases()


def test_tables_are_collected_and_well_formed() -> None:
    assert len(CASES) > 250
    for case in CASES:
        assert set(case.row) <= FIELDS, case
        assert case.row["model"] in MODELS, case
        assert ("type" in case.row and "level" in case.row) or case.row.get("errors"), case


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conformance(case: Case) -> None:
    row = case.row
    text = row["expression"]
    baselines = {item.name: item for item in BASELINES if item.model == row["model"]}
    result = check(text, MODELS[row["model"]], row.get("kind", "expression"), baselines=baselines)
    wanted = row.get("errors", [])
    assert [item.code for item in result.errors] == [item["code"] for item in wanted], result.errors
    for found, expected in zip(result.errors, wanted, strict=True):
        assert 0 <= found.start <= found.end <= len(text)
        assert text[found.start : found.end] == expected.get("at", text[found.start : found.end])
        assert expected.get("message", found.message) == found.message
        assert expected.get("hint", "") in (found.hint or ""), found.hint
    assert [item.code for item in result.warnings] == row.get("warnings", [])
    assert result.ok == (not wanted)
    if result.ok or "level" in row:
        assert result.as_dict()["type"] == row.get("type")
        assert result.as_dict()["level"] == row.get("level")
    if "value" in row:
        assert isinstance(result.expression, Literal)
        assert result.expression.value == (None if row["value"] == "null" else row["value"])


def test_every_code_stands_in_a_table() -> None:
    sources = Path(check.__code__.co_filename).parents[1]
    declared = {
        code
        for folder in ("fql", "functions")
        for path in (sources / folder).glob("*.py")
        for code in re.findall(r"FQL\d{3}", path.read_text())
    }
    shown = {item["code"] for case in CASES for item in case.row.get("errors", [])}
    shown |= {code for case in CASES for code in case.row.get("warnings", [])}
    # limits need longer texts than a table should hold: tests/unit/fql/test_parse.py has them; FQL064 is about data,
    # FQL080 about the length of SQL
    assert declared - shown == {"FQL020", "FQL021", "FQL022", "FQL064", "FQL080"}
