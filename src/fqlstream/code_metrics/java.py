"""Which Java runs Spark here."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

#: Releases that Spark 4 supports.
SUPPORTED: Final = (17, 21)


def find_java(configured: Path | None) -> tuple[Path | None, str]:
    """Find a supported Java's home: the configured one, JAVA_HOME, or the PATH's; else None and why each was passed over."""
    looked = []
    for origin, home in (
        ("the setting java_home", configured),
        ("JAVA_HOME", _from_environment()),
        ("the PATH", _from_path()),
    ):
        if home is None:
            continue
        release = release_of(home)
        if release in SUPPORTED:
            return home.resolve(), ""
        looked.append(f"{origin} names {home}, which is {'no Java' if release is None else f'Java {release}'}")
    return None, "; ".join(looked) or "there is no java on the PATH"


def release_of(home: Path) -> int | None:
    """Read a Java's release number from its own file; None: it is none, or has no bin/java."""
    if not (home / "bin" / "java").is_file():
        return None
    try:
        found = re.search(r'^JAVA_VERSION="(\d+)', (home / "release").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def _from_environment() -> Path | None:
    home = os.environ.get("JAVA_HOME")
    return Path(home) if home else None


def _from_path() -> Path | None:
    java = shutil.which("java")
    return Path(java).resolve().parents[1] if java else None
