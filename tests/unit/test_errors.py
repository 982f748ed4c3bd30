from __future__ import annotations

import pytest

from fqlstream.errors import Diagnostic, FqlError, SettingsError, StoreError, UsageError, render


def test_an_error_says_its_code_what_happened_and_what_to_do() -> None:
    assert str(StoreError("STO001", "nothing answers", "is it up?")) == "STO001 nothing answers\n  hint: is it up?"
    assert str(StoreError("STO001", "nothing answers")) == "STO001 nothing answers"
    assert not StoreError("STO001", "x").retryable


@pytest.mark.parametrize(("kind", "code"), [(UsageError, 2), (SettingsError, 2), (StoreError, 1)])
def test_exit_codes_tell_a_wrong_call_from_trouble(kind: type[StoreError], code: int) -> None:
    assert kind("X", "y").exit_code == code


def test_a_finding_is_shown_with_its_line_and_a_caret_under_its_place() -> None:
    text = "sum(age)\n  + sum(aeg) * 2"
    shown = render(text, Diagnostic("FQL010", "there is no column 'aeg'", 17, 20, "did you mean 'age'?"))
    assert shown.splitlines() == [
        "FQL010 there is no column 'aeg' at 2:9",
        "    + sum(aeg) * 2",
        "          ^^^",
        "  hint: did you mean 'age'?",
    ]


def test_a_caret_is_never_missing_and_never_leaves_its_line() -> None:
    assert render("", Diagnostic("X", "empty", 0, 0)).splitlines()[-1] == "  ^"
    assert render("ab", Diagnostic("X", "the end", 2, 2)).splitlines()[-1] == "    ^"
    assert render("ab\ncd", Diagnostic("X", "both lines", 1, 5)).splitlines()[-1] == "   ^"


def test_a_long_line_is_cut_around_the_place() -> None:
    text = "x" * 500 + "?" + "y" * 500
    head, line, caret = render(text, Diagnostic("X", "here", 500, 501)).splitlines()
    assert head == "X here at 1:501"
    assert len(line) <= 122
    assert line[caret.index("^")] == "?"


def test_a_tab_does_not_move_the_caret() -> None:
    _, line, caret = render("a\t?", Diagnostic("X", "here", 2, 3)).splitlines()
    assert line[caret.index("^")] == "?"


def test_all_findings_of_a_text_are_shown_and_the_first_names_the_error() -> None:
    found = [Diagnostic("A", "one", 0, 1), Diagnostic("B", "two", 1, 2, severity="warning")]
    error = FqlError("ab", found)
    assert (error.code, error.message) == ("A", "one")
    assert str(error) == "A one at 1:1\n  ab\n  ^\nB warning: two at 1:2\n  ab\n   ^"
    assert found[0].as_dict() == {"code": "A", "message": "one", "start": 0, "end": 1, "hint": None}
