from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fqlstream.errors import BrokerError
from fqlstream.local.jars import kafka_jars
from fqlstream.local.java import Java
from fqlstream.local.progress import Progress

JAVA = Java(Path("java"), 21, "test", Path("/opt/jvm"))
#: Stands for Maven: says what it downloads, notes each call, makes the directory that it is told to.
MAVEN = """#!/bin/sh
echo "$JAVA_HOME" >> "{calls}"
for argument in "$@"; do case "$argument" in -DoutputDirectory=*) out="${{argument#*=}}";; esac; done
echo "Downloaded from central: https://repository/kafka-clients-4.3.0.jar (10 MB at 3.1 MB/s)"
echo "Downloaded from central: https://repository/slf4j-api.jar (500 kB at 1 MB/s)"
echo "Downloaded from central: https://repository/a.pom (3 kB at 1 MB/s)"
sleep 0.2
mkdir -p "$out" && touch "$out/kafka-clients-4.3.0.jar"
{end}
"""


@pytest.fixture
def maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    calls = tmp_path / "calls"
    (binaries / "mvn").write_text(MAVEN.format(calls=calls, end="exit 0"))
    (binaries / "mvn").chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:/usr/bin:/bin")
    return calls


def test_jars_are_fetched_once_with_progress(tmp_path: Path, maven: Path) -> None:
    left_by_a_killed_process = tmp_path / "cache" / "kafka" / "fetching-1"
    left_by_a_killed_process.mkdir(parents=True)
    said: list[str] = []
    progress = Progress(status=said.append)
    libs = kafka_jars(JAVA, progress, cache=tmp_path / "cache")
    assert [jar.name for jar in libs.iterdir()] == ["kafka-clients-4.3.0.jar"]
    assert said[-1].endswith("2 files, 10 MB")
    assert kafka_jars(JAVA, progress, cache=tmp_path / "cache") == libs
    assert maven.read_text() == "/opt/jvm\n", "called once, and told of the Java"
    assert sorted(path.name for path in libs.parent.iterdir()) == sorted([libs.name, "lock"]), "nothing half-made stays"


def test_processes_that_need_them_at_once_fetch_them_once(tmp_path: Path, maven: Path) -> None:
    found: list[Path] = []
    fetch = lambda: found.append(kafka_jars(JAVA, Progress(), cache=tmp_path / "cache"))  # noqa: E731  # run by two threads
    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(maven.read_text().splitlines()) == 1


def test_a_failure_tells_mavens_reason_and_leaves_nothing(tmp_path: Path, maven: Path) -> None:
    mvn = tmp_path / "bin" / "mvn"
    mvn.write_text(MAVEN.format(calls=maven, end="echo '[ERROR] Could not transfer artifact: Unknown host'; exit 1"))
    with pytest.raises(BrokerError, match="Unknown host") as caught:
        kafka_jars(JAVA, Progress(), cache=tmp_path / "cache")
    assert "settings.xml" in str(caught.value.hint)
    assert [path.name for path in (tmp_path / "cache" / "kafka").iterdir()] == ["lock"]


def test_without_maven_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError, match="mvn is not on the PATH"):
        kafka_jars(JAVA, Progress(), cache=tmp_path / "cache")
