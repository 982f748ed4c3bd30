from __future__ import annotations

import pytest

from fqlstream.store.embedded.exceptions import BAD_ARGUMENTS, engine_error, refusal


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        ("Code: 60. DB::Exception: Table t does not exist. (UNKNOWN_TABLE)", 60, 404),
        ("Failed to create connection: Code: 27. DB::Exception: x: (CANNOT_PARSE_INPUT_ASSERTION_FAILED)", 27, 400),
        ("Code: 395. DB::Exception: (x) (FUNCTION_THROW_IF_VALUE_IS_NON_ZERO)", 395, 500),
        ("Code: 497. DB::Exception: no. (ACCESS_DENIED) (version 26.9.2.1)", 497, 403),
        ("something else", 1001, 500),
    ],
)  # fmt: skip
def test_the_engine_s_words_become_code_and_status(text: str, code: int, status: int) -> None:
    error = engine_error(RuntimeError(text))
    assert (error.code, error.status) == (code, status)
    assert error.text.startswith(f"Code: {code}. DB::Exception: ")


def test_our_own_refusals_look_the_same() -> None:
    assert refusal(BAD_ARGUMENTS, "no.").text == "Code: 36. DB::Exception: no. (BAD_ARGUMENTS)"
