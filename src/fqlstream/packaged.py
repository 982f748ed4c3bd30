"""Where the files that ship with the package are: topics, schemas, the broker's pom."""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).parent / "_packaged"
_CHECKOUT = Path(__file__).parent.parent.parent


def packaged(name: str) -> Path:
    """Give the path of a shipped directory, such as `topics` or `deploy/kafka`, from a wheel or a checkout."""
    installed = _INSTALLED / name
    return installed if installed.exists() else _CHECKOUT / name
