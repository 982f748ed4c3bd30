from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.errors import DefinitionError
from fqlstream.events.definitions import DEFINITION, Definition, MetricDefinition, ModelDefinition
from fqlstream.events.documents import (
    KINDS,
    NODES_MAX,
    dump_definitions,
    load_definitions,
    parse_definition,
    read_documents,
)

CHURN = """\
kind: model
name: churn
version: v1
task: binary_classification
columns:
  - {name: age, type: int, role: input, min: 18, max: 100}
  - {name: country, type: category, role: input, categories: [FR, DE, NO]}
  - {name: score, type: float, role: output}
  - {name: churned, type: category, role: target, categories: [no, yes]}
task_params: {threshold: 0.5, target_class_order: [no, yes]}
windows: {pane: 1m, sizes: [1h, {size: 1h, every: 5m}], lateness: 1d}
retention: 90d
---
{kind: metric, model: churn, name: cost, definition: "sum(if(fp(), 10, 0))"}
---
"""


def parse(text: str) -> tuple[Definition, ...]:
    return tuple(parse_definition(document) for document in read_documents(text, "f.yaml"))


def test_words_of_yaml_1_1_stay_words() -> None:
    model, _ = parse(CHURN)
    assert isinstance(model, ModelDefinition)
    assert model.columns[1].categories == ("FR", "DE", "NO")
    assert model.columns[3].categories == ("no", "yes")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("no", "no"), ("~", None), ("", None), ("12", 12), ("-3", -3), ("1.5", 1.5), ("1e3", 1000.0), ("010", 10),
        ("1_000", "1_000"), ("12:30", "12:30"), ("2026-01-01", "2026-01-01"), ("0x1F", "0x1F"), (".inf", float("inf")), ("9" * 5000, float("inf")),
    ],
)  # fmt: skip
def test_scalars_are_read_as_yaml_1_2_has_them(text: str, value: object) -> None:
    (document,) = read_documents(f"a: {text}", "f.yaml")
    assert document.value == {"a": value}
    assert type(document.value["a"]) is type(value)


def test_definitions_survive_yaml_and_json() -> None:
    definitions = parse(CHURN)
    assert parse(dump_definitions(definitions)) == definitions
    for definition in definitions:
        assert DEFINITION.validate_json(definition.model_dump_json(by_alias=True)) == definition


@given(name=st.text(min_size=1, max_size=20).filter(str.isprintable), text=st.text(min_size=1).filter(str.isprintable))
def test_any_text_survives_yaml(name: str, text: str) -> None:
    metric = MetricDefinition(model=name, name=name, definition=text)
    assert parse(dump_definitions([metric])) == (metric,)


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("kind: modle", "DEF002", "f.yaml:1 (document 1): unknown kind 'modle'"),
        ("name: x", "DEF002", "no `kind`"),
        ("- a", "DEF002", "f.yaml:1 (document 1) is no mapping"),
        ("a: [1", "DEF001", "f.yaml:1:6 is no valid YAML"),
        ("a: &x [*x]", "DEF001", "contains itself"),
        ("kind: metric\nkind: model", "DEF001", "'kind' stands twice"),
        ("[" * 5000, "DEF001", "nested too deeply"),
        ("? [a, b]\n: 1", "DEF001", "no valid YAML"),
        ("kind: model\nname: m\ncolumns:\n  - name: a\n    type: flot", "DEF003", "f.yaml:5 (document 1): columns.0.type: Input should be"),
        ("kind: model\nname: m\ncolums: []\ncolumns: []", "DEF003", "f.yaml:3 (document 1): colums: no such key"),
        ("kind: metric\nmodel: m\nname: x", "DEF003", "f.yaml:1 (document 1): definition: Field required"),
        ("kind: model\nname: m\ncolumns: []\n---\n\nkind: model\nname: n\ncolumns: []\nwindows: {pane: 60}", "DEF003", "f.yaml:9 (document 2): windows.pane: 60 is no duration"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_place(text: str, code: str, part: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse(text)
    assert caught.value.code == code
    assert part in caught.value.message


def test_every_problem_of_a_document_is_named() -> None:
    with pytest.raises(DefinitionError) as caught:
        parse("kind: model\nname: ''\ncolumns: 3\nretention: never")
    assert len(caught.value.message.splitlines()) == 3


def test_aliases_cannot_blow_up_a_document() -> None:
    levels = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(DefinitionError, match=f"more than {NODES_MAX} values"):
        parse("\n".join(levels))


def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "data.yaml"
    binary.write_bytes(b"kind: \xff")
    with pytest.raises(DefinitionError, match="is not UTF-8: byte 6"):
        load_definitions(binary)
    with pytest.raises(DefinitionError, match="No such file"):
        load_definitions(tmp_path / "none.yaml")


def test_kinds_are_those_of_the_definition_type() -> None:
    assert set(KINDS) >= {"model", "metric", "segment", "baseline"}
