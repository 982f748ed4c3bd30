from __future__ import annotations

from pathlib import Path

from fqlstream.cli.function_page import FUNCTIONS_PAGE, is_current, page, write_page
from fqlstream.functions.index import FAMILIES, FUNCTIONS
from fqlstream.functions.operators import OPERATORS
from fqlstream.functions.reference import clickhouse_text


def test_every_function_has_a_section_with_all_that_is_declared() -> None:
    text = page()
    sections = text.split("\n### ")[1:]
    assert len(sections) == len(FUNCTIONS) + len(OPERATORS)
    specs = [*OPERATORS, *(spec for _, family in FAMILIES for spec in family)]
    for spec, section in zip(specs, sections, strict=True):
        assert f"`{spec.signature}` gives {spec.gives}" in section
        for example in spec.examples:
            assert f"`{example.call}` gives `" in section
        for param in spec.params:
            assert f"* `{param.name}`: " in section
        for row in ("level", "nulls", "exactness", "tasks", "SQL", "source"):
            (line,) = [line for line in section.splitlines() if line.startswith(f"| {row} | ")]
            assert len(line.removeprefix(f"| {row} | ").removesuffix(" |")) > 1, (spec.name, row)
        form = clickhouse_text(spec)
        assert form is None or len(form) > 300 or form.replace("|", "\\|") in section


def test_a_function_without_sql_says_why() -> None:
    for line in page().splitlines():
        assert not line.startswith("| SQL | none: |")


def test_the_page_is_current() -> None:
    assert is_current(FUNCTIONS_PAGE), "run `fqlstream docs write`"


def test_a_stale_page_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    assert not is_current(path)
    assert write_page(path)
    assert not write_page(path)
    path.write_text(path.read_text() + "more")
    assert not is_current(path)
    assert write_page(path)
