"""Names and constants as ClickHouse writes them."""

from __future__ import annotations

from typing import Final

from fqlstream.functions.expression import DType, Literal

_SQL_TYPE: Final = {
    DType.NUMBER: "Nullable(Float64)",
    DType.BOOLEAN: "Nullable(Bool)",
    DType.STRING: "Nullable(String)",
}


def identifier(name: str) -> str:
    """Quote a name for SQL."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def text_literal(text: str) -> str:
    """Quote a text for SQL where no parameter can stand, such as in a view's definition."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def number_literal(value: float) -> str:
    """Write a finite double: never as an integer, which ClickHouse would compute with otherwise."""
    text = repr(float(value))
    return f"({text})" if text.startswith("-") else text


def constant(literal: Literal) -> str:
    """Write an FQL constant, null in its own type."""
    match literal.value:
        case None:
            return f"CAST(NULL, '{_SQL_TYPE[literal.dtype]}')"
        case bool() as truth:
            return "true" if truth else "false"
        case str() as text:
            return text_literal(text)
        case number:
            return number_literal(number)
