from __future__ import annotations

from pathlib import Path

import pytest

from fqlstream.code_metrics import java


def installed(home: Path, release: str) -> Path:
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").touch()
    (home / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{release}"\n', encoding="utf-8")
    return home


def test_the_configured_java_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(installed(tmp_path / "other", "17.0.1")))
    assert java.find_java(installed(tmp_path / "ours", "21.0.2")) == (tmp_path / "ours", "")


def test_a_java_that_spark_does_not_support_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(installed(tmp_path / "good", "17.0.1")))
    assert java.find_java(installed(tmp_path / "new", "25.0.2"))[0] == tmp_path / "good"


def test_what_was_looked_at_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(installed(tmp_path / "old", "11.0.2")))
    monkeypatch.setenv("PATH", str(tmp_path))
    home, why_not = java.find_java(tmp_path / "empty")
    assert home is None
    assert (
        why_not
        == f"the setting java_home names {tmp_path}/empty, which is no Java; JAVA_HOME names {tmp_path}/old, which is Java 11"
    )
    monkeypatch.delenv("JAVA_HOME")
    assert java.find_java(None) == (None, "there is no java on the PATH")
