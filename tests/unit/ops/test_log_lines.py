"""One record of a log, one line of JSON."""

from __future__ import annotations

import json
import logging
from pathlib import PurePosixPath

from fqlstream.ops.log_lines import JsonLines


def test_a_line_has_what_is_known_as_fields_of_its_own() -> None:
    record = logging.LogRecord("fqlstream.x", logging.WARNING, "file", 1, "took over %s", ("a[1]",), None)
    record.created = 1_700_000_000.25
    record.fields = {"partition": 1}
    line = json.loads(JsonLines().format(record))
    assert line == {
        "at": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "fqlstream.x",
        "message": "took over a[1]",
        "partition": 1,
    }


def test_a_line_is_written_whatever_is_in_it() -> None:
    """A log that fails to write loses the very line that would have said why."""
    record = logging.LogRecord("x", logging.ERROR, "file", 1, "no file \udce9t\xe9", (), None)
    record.fields = {"path": PurePosixPath("/a"), "error": ValueError("b\ud800")}
    line = JsonLines().format(record)
    line.encode()
    assert "\\udce9t\xe9" in line
    assert (json.loads(line)["path"], json.loads(line)["error"]) == ("/a", "b\ud800")
    record.msg = "fine"
    record.fields = {"path": PurePosixPath("/a")}
    assert json.loads(JsonLines().format(record))["path"] == "/a"


def test_an_exception_stays_in_its_line() -> None:
    error = ValueError("two\nlines")
    record = logging.LogRecord("x", logging.ERROR, "file", 1, "failed", (), (ValueError, error, None))
    text = JsonLines().format(record)
    assert "\n" not in text
    assert "two\nlines" in json.loads(text)["exception"]
