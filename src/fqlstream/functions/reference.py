"""A declared row for readers: as JSON, and as a page of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fqlstream.events.definitions import Task
from fqlstream.functions.spec import Example, FunctionSpec, LevelRule
from fqlstream.functions.sql_lambdas import lambdas_of


def spec_as_dict(spec: FunctionSpec) -> dict[str, Any]:
    """Give everything that is declared of a function."""
    return {
        "name": spec.name,
        "operator": spec.symbol is not None,
        "signature": spec.signature,
        "parameters": [
            {
                "name": param.name,
                "types": [item.value for item in param.types],
                "passing": param.passing.value,
                "takes": param.takes.value,
                "required": param.required,
                "repeats": bool(param.repeats_min),
                "summary": param.summary,
            }
            for param in spec.params
        ],
        "type": spec.gives,
        "level": spec.level.value,
        "tasks": [task.value for task in spec.tasks],
        "nulls": spec.nulls.value,
        "error_bound": spec.error_bound,
        "summary": spec.summary,
        "examples": [_example_as_dict(example) for example in spec.examples],
        "clickhouse": clickhouse_text(spec),
        "source": spec.source,
        "since": spec.since,
    }


def _example_as_dict(example: Example) -> dict[str, Any]:
    return {
        "call": example.call,
        "columns": {name: list(values) for name, values in example.columns.items()},
        "model": example.model,
        "baseline": None if example.baseline is None else {name: list(rows) for name, rows in example.baseline.items()},
        "result": list(example.result) if isinstance(example.result, tuple) else example.result,
    }


def clickhouse_text(spec: FunctionSpec) -> str | None:
    """Give the SQL form of a kernel over its parameters' names; None where it is built of other rows or has none."""
    if spec.kernel is None or spec.kernel.clickhouse is None:
        return None
    form = spec.kernel.clickhouse(*(param.name for param in spec.params))
    lambdas = lambdas_of(form)
    return f"{form} WITH {', '.join(lambdas)}" if lambdas else form


def spec_as_text(spec: FunctionSpec) -> str:
    """Give a function as a page of text."""
    tasks = "all" if len(spec.tasks) == len(Task) else ", ".join(task.value for task in spec.tasks)
    lines = [
        f"{spec.signature} -> {spec.gives}",
        "",
        spec.summary,
        "",
        *(f"  {param.name}: {param.summary} ({' or '.join(param.types)})" for param in spec.params),
        "",
        f"level    {spec.level.value}",
        f"nulls    {spec.nulls.value}",
        f"exact    {spec.error_bound}",
        f"tasks    {tasks}",
        f"source   {spec.source}",
        "",
        *(_example_text(example) for example in spec.examples),
    ]
    return "\n".join(lines)


def spec_as_markdown(spec: FunctionSpec, built_of: Sequence[str] = ()) -> str:
    """Give a function as a section of the reference page; `built_of` names what stands for it in a plan."""
    tasks = "all" if len(spec.tasks) == len(Task) else ", ".join(f"`{task.value}`" for task in spec.tasks)
    given = (
        f"* `{param.name}`: {_markdown(param.summary)} {' or '.join(param.types)}{'' if param.required else '; may be left out'}."
        for param in spec.params
    )
    lines = [
        f"### `{spec.name if spec.symbol is None else spec.symbol}`",
        "",
        f"`{spec.signature}` gives {spec.gives}",
        "",
        _markdown(spec.summary),
        "",
        *given,
        *([""] if spec.params else []),
        "| | |",
        "| --- | --- |",
        f"| level | {_LEVELS[spec.level]} |",
        f"| nulls | {spec.nulls.value} |",
        f"| exactness | {_cell(spec.error_bound)} |",
        f"| tasks | {tasks} |",
        f"| SQL | {_sql_cell(spec, built_of)} |",
        f"| source | {_cell(spec.source)}; since {spec.since} |",
        "",
        *(f"{line}\n" for example in spec.examples for line in _example_markdown(example)),
    ]
    return "\n".join(lines).rstrip() + "\n"


#: A longer form is for programs.
_SQL_SHOWN_MAX: Final = 300
_LEVELS = {
    LevelRule.ARGUMENTS: "that of its arguments",
    LevelRule.ROW: "a value per row",
    LevelRule.AGGREGATE: "an aggregate of rows",
    LevelRule.COMBINED: "of aggregates",
}


def _sql_cell(spec: FunctionSpec, built_of: Sequence[str]) -> str:
    text = clickhouse_text(spec)
    if text is not None and len(text) > _SQL_SHOWN_MAX:
        return f"{len(text):,} characters, which `fqlstream fql functions {spec.name} --json` shows"
    if text is not None:
        return f"`{text.replace('|', chr(92) + '|')}`"
    if spec.kernel is not None:
        return f"none: {_cell(spec.kernel.clickhouse_reason)}"
    parts = ", ".join(f"`{name}`" for name in built_of)
    return f"that of {parts}, which it is built of" if parts else "that of its argument"


def _example_markdown(example: Example) -> list[str]:
    results = example.result if isinstance(example.result, tuple) else (example.result,)
    lines = [f"`{example.call}` gives {', '.join(f'`{_value_text(value)}`' for value in results)}"]
    for what, rows in (("where", example.columns), ("and in the baseline", example.baseline or {})):
        if rows:
            columns = (f"`{name}` = {', '.join(map(_value_text, values))}" for name, values in rows.items())
            lines[0] += f", {what} {'; '.join(columns)}"
    return lines


def _markdown(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def _cell(text: str) -> str:
    return _markdown(text).replace("|", "\\|")


def _example_text(example: Example) -> str:
    given = _rows_text(example.columns)
    if example.baseline is not None:
        given += f"; in the baseline {_rows_text(example.baseline)}"
    results = example.result if isinstance(example.result, tuple) else (example.result,)
    where = f"   where {given}" if given else ""
    return f"example  {example.call}  gives {', '.join(map(_value_text, results))}{where}"


def _rows_text(columns: Mapping[str, Sequence[float | bool | str | None]]) -> str:
    return "; ".join(f"{name} = {', '.join(map(_value_text, values))}" for name, values in columns.items())


def _value_text(value: float | bool | str | None) -> str:  # noqa: FBT001 (a value, not a switch)
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"'{value}'"
        case _:
            return f"{value:g}"
