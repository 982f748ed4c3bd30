from __future__ import annotations

import errno
import subprocess

import pytest

from fqlstream.code_metrics import checking
from fqlstream.settings import CodeMetricsSettings

SETTINGS = CodeMetricsSettings()


def test_code_that_may_run_passes() -> None:
    assert checking.check("def calc_metric(df):\n    return 1.0\n", SETTINGS) is None


def test_what_is_wrong_is_a_failure_with_its_line() -> None:
    failure = checking.check("import math\nimport os\n\ndef calc_metric(df):\n    return 1.0\n", SETTINGS)
    assert failure is not None
    assert (failure.code, failure.message, failure.traceback) == (
        "CBM002",
        "import of os is not allowed",
        "line 2\n    import os",
    )
    assert failure.hint == "allowed are " + ", ".join(checking.ALLOWED_IMPORTS)


def test_code_that_is_too_large_or_no_text_is_refused_without_the_check_too() -> None:
    large = checking.size_failure("#" * 70_000, SETTINGS)
    assert large is not None
    assert large.code == "CBM005"
    broken = checking.size_failure("\ud800", SETTINGS)
    assert broken is not None
    assert broken.code == "CBM001"


def test_text_that_breaks_the_parser_is_refused() -> None:
    for text in ("(" * 60_000, "-" * 60_000 + "1", "x = " + "[" * 30_000, "a" + ".b" * 30_000, "\0"):
        failure = checking.check(text, SETTINGS)
        assert failure is not None, text[:10]
        assert failure.code in {"CBM001", "CBM004", "CBM006"}


def test_a_machine_that_starts_no_process_says_nothing_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "run", refuse)
    failure = checking.check("x = 1", SETTINGS)
    assert failure is not None
    assert failure.code == "CBM006"
    assert "no process could be started" in failure.message
    assert "Resource temporarily unavailable" in failure.message


def test_a_check_that_takes_too_long_is_ended() -> None:
    failure = checking.check("x = 1", CodeMetricsSettings(check_wait_s=0.000_1))
    assert failure is not None
    assert failure.code == "CBM006"
