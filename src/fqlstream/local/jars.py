"""Apache Kafka's own jars, resolved once per machine and version by Maven."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from fqlstream.errors import BrokerError
from fqlstream.local.java import Java
from fqlstream.local.progress import Progress
from fqlstream.packaged import packaged

_DOWNLOADED = re.compile(r"Downloaded from \S+: \S+\.jar \(([\d.]+) (kB|MB|B)")
_MEGABYTES = {"B": 1e-6, "kB": 1e-3, "MB": 1.0}
_FETCHING = "fetching-"
_TAIL_LINES = 8


def kafka_jars(java: Java, progress: Progress, *, cache: Path | None = None) -> Path:
    """Give the directory that holds Kafka's jars, fetching them into the user's cache the first time.

    Safe for several processes at once: the first one fetches, the others wait for it. A directory in the cache is whole:
    it gets its name last. Raises BrokerError when Maven is missing or fails.
    """
    pom = packaged("deploy/kafka") / "pom.xml"
    root = (cache or user_cache_path("fqlstream")) / "kafka"
    libs = root / hashlib.sha256(pom.read_bytes()).hexdigest()[:16]
    if libs.is_dir():
        return libs
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root / "lock", progress):
        if not libs.is_dir():
            for left in root.glob(f"{_FETCHING}*"):  # by a process that was killed: we alone may fetch now
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=_FETCHING) as temporary:
                _resolve(pom, Path(temporary), java, progress)
                (Path(temporary) / "libs").rename(libs)
    return libs


def find_maven() -> Path | None:
    """Give the `mvn` command, if there is one."""
    found = shutil.which("mvn")
    return Path(found) if found else None


@contextmanager
def _alone(lock: Path, progress: Progress) -> Iterator[None]:
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.status("waiting for another process that fetches Kafka's jars")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _resolve(pom: Path, directory: Path, java: Java, progress: Progress) -> None:
    """Have Maven copy the jars to `directory`/libs. Maven's own settings (mirrors, proxies) apply."""
    maven = find_maven()
    if maven is None:
        raise BrokerError("KFK011", "mvn is not on the PATH", "install Maven")
    shutil.copy(pom, directory / "pom.xml")
    command = [
        str(maven), "-B", "-f", str(directory / "pom.xml"), "dependency:copy-dependencies",
        f"-DoutputDirectory={directory / 'libs'}", "-DincludeScope=runtime",
    ]  # fmt: skip
    env = {**os.environ, "MAVEN_OPTS": os.environ.get("MAVEN_OPTS", "")}
    if java.home is not None:
        env["JAVA_HOME"] = str(java.home)
    progress.status("fetching Apache Kafka's jars with Maven (54 MB, once)")
    lines: list[str] = []
    count, megabytes = 0, 0.0
    with subprocess.Popen(  # noqa: S603  # Maven as found on the PATH
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            if match := _DOWNLOADED.search(line):
                count, megabytes = count + 1, megabytes + float(match[1]) * _MEGABYTES[match[2]]
                progress.status(f"fetching Apache Kafka's jars with Maven: {count} files, {megabytes:.0f} MB")
    if process.returncode != 0:
        problems = [line for line in lines if "ERROR" in line][:_TAIL_LINES] or lines[-_TAIL_LINES:]
        raise BrokerError(
            "KFK012",
            "Maven could not fetch Kafka's jars:\n" + "\n".join(f"  | {line}" for line in problems),
            "is the network there? a proxy or mirror goes into Maven's settings.xml; or give --kafka-home or a broker",
        )
