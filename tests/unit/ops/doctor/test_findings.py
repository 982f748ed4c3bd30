"""A report is as bad as its worst finding."""

from __future__ import annotations

import pytest

from fqlstream.ops.doctor.findings import DoctorReport, Finding, Severity


@pytest.mark.parametrize(
    ("found", "status", "has_trouble"),
    [
        ([], Severity.OK, False),
        ([Severity.OK, Severity.NOTE], Severity.NOTE, False),
        ([Severity.WARN, Severity.NOTE], Severity.WARN, True),
        ([Severity.OK, Severity.ERROR, Severity.WARN], Severity.ERROR, True),
    ],
)
def test_a_report_is_as_bad_as_its_worst_finding(found: list[Severity], status: Severity, has_trouble: bool) -> None:
    report = DoctorReport(tuple(Finding("x", severity, "what") for severity in found), 0.5)
    assert (report.status, report.has_trouble) == (status, has_trouble)
    assert report.as_dict()["status"] == status.value
    assert [each["severity"] for each in report.as_dict()["findings"]] == [each.value for each in found]
