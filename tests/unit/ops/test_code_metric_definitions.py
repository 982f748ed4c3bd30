from __future__ import annotations

from pathlib import Path

import pytest

from fqlstream.errors import DefinitionError
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import CODE_BYTES_MAX, CodeMetricDefinition
from fqlstream.ops.code_metric_definitions import find_code_metric, problems, with_code, with_id

CODE = "def calc_metric(df):\n    return 1\n"


def metric(**given: object) -> CodeMetricDefinition:
    return CodeMetricDefinition.model_validate({"model": "churn", "name": "cool", **given})


def test_the_file_is_read_beside_the_yaml_and_its_code_is_stored(tmp_path: Path) -> None:
    (tmp_path / "cool.py").write_text(CODE)
    read = with_code(metric(file="cool.py"), tmp_path)
    assert (read.code, read.file) == (CODE, "cool.py")
    assert with_code(read, tmp_path / "elsewhere") == read, "what was applied is applied again where the file is not"


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "DEF060"), (b"", "DEF061"), (b"#" * (CODE_BYTES_MAX + 1), "DEF061"), (b"\xff", "DEF061")],
)
def test_a_file_that_is_no_code_is_refused(tmp_path: Path, content: bytes | None, code: str) -> None:
    if content is not None:
        (tmp_path / "cool.py").write_bytes(content)
    with pytest.raises(DefinitionError) as refused:
        with_code(metric(file="cool.py"), tmp_path)
    assert refused.value.code == code


def test_an_id_stays_what_it_was_first() -> None:
    first = with_id(metric(code=CODE), None)
    assert first.id
    assert with_id(metric(code="def calc_metric(df): return 2"), first).id == first.id
    assert with_id(metric(code=CODE), None).id != first.id
    assert with_id(metric(code=CODE, id="mine"), first).id == "mine"


def test_two_code_metrics_cannot_have_one_id() -> None:
    standing = metric(code=CODE, id="a")
    models = Catalogue().with_definition(standing).models
    assert list(problems(standing, models)) == []
    assert list(problems(metric(code=CODE), models)) == []
    assert [field for field, _ in problems(metric(code=CODE, id="a", name="other"), models)] == ["id"]
    assert find_code_metric(models, "a") == standing
    assert find_code_metric(models, "b") is None
