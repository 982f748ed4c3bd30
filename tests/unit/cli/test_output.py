"""How commands answer: one document for scripts, tables for people, notes beside both."""

from __future__ import annotations

import json

import pytest

from fqlstream.cli.output import print_json, print_note, print_table, print_text, progress


def test_a_document_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"text": "é\n\u2028", "none": None, "list": [1, 0.1]}
    print_json(value)
    told = capsys.readouterr()
    assert (json.loads(told.out), told.err) == (value, "")
    assert told.out.endswith("\n")
    assert told.out.count("\n") == 1


def test_a_note_is_not_part_of_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    print_text("answer")
    print_note("note")
    assert capsys.readouterr() == ("answer\n", "note\n")


def test_a_table_in_a_pipe_cuts_nothing_off_and_reads_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 500
    print_table(("name", "value"), [("[bold]a[/bold]", long), ("b", None), ("[/]", 0)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["name", "value"]
    assert [line.split() for line in lines[1:]] == [["[bold]a[/bold]", long], ["b", "-"], ["[/]", "0"]]


def test_without_a_terminal_a_status_is_said_once_and_a_line_always(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as spoken:
        for share in (1, 2, 3):
            spoken.status(f"fetching jars: {share} of 3")
        spoken.status("starting Kafka")
        spoken.status("")
        spoken.line("broker: here")
        spoken.line("broker: here")
    assert capsys.readouterr() == ("", "fetching jars: 1 of 3\nstarting Kafka\nbroker: here\nbroker: here\n")


def test_quiet_work_says_no_status(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=True) as spoken:
        spoken.status("fetching jars: 1 of 3")
        spoken.line("what stays")
    assert capsys.readouterr() == ("", "what stays\n")
