"""What a look finds: one finding per thing that was looked at, or per trouble in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Fact = str | int | float | bool | None


class Severity(StrEnum):
    """How bad it is. Notes are worth knowing and need nobody."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"  # it will get worse, or something does less than it should
    ERROR = "error"  # something does not work, or loses what it should keep

    @property
    def rank(self) -> int:
        """Order: the higher, the worse."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: `what` is true now, `do` is what to do about it, `facts` are the numbers behind it."""

    check: str
    severity: Severity
    what: str
    do: str | None = None
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {
            "check": self.check,
            "severity": str(self.severity),
            "what": self.what,
            "do": self.do,
            "facts": dict(self.facts),
        }


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """All findings in the order of the checks."""

    findings: tuple[Finding, ...]
    took_s: float

    @property
    def status(self) -> Severity:
        """The worst of them."""
        return max((finding.severity for finding in self.findings), key=lambda each: each.rank, default=Severity.OK)

    @property
    def has_trouble(self) -> bool:
        """Whether somebody should act."""
        return self.status.rank >= Severity.WARN.rank

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        findings = [finding.as_dict() for finding in self.findings]
        return {"status": str(self.status), "took_s": round(self.took_s, 3), "findings": findings}
