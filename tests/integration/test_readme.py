"""The README's commands and queries, run as they stand there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import clickhouse_connect
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from tests.readme_blocks import blocks

from fqlstream.local.ports import find_free_port

DEADLINE_S = 120.0
#: What the README says where nothing else uses the port.
STORE_URL = "http://127.0.0.1:8123"


class Terminal:
    """A directory in which a stack runs, and a shell in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {
            **os.environ,
            "PATH": path,
            "FQLSTREAM_LOCAL__KAFKA_PORT": str(find_free_port()),
            "FQLSTREAM_STORE__PORT": str(find_free_port()),
        }
        self.words = (directory / "words").open("ab")
        self.up = subprocess.Popen(
            ["fqlstream", "up", "--json"],
            cwd=directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=self.words,
        )
        assert self.up.stdout is not None
        line = self.up.stdout.readline()
        assert line, (directory / "words").read_text()
        self.store_url = str(json.loads(line)["store_url"])

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a block of the README; the store's address is the one that it has here."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace(STORE_URL, self.store_url)],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )

    def close(self) -> None:
        """End the stack."""
        self.up.terminate()
        self.up.wait(35)
        assert self.up.stdout is not None
        self.up.stdout.close()
        self.words.close()


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    opened = Terminal(tmp_path_factory.mktemp("readme"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def churn(terminal: Terminal) -> Terminal:
    """The README's minute, as far as the values are there."""
    define, publish, _ = blocks("run", "churn")
    for script in (define, publish):
        done = terminal.run(script)
        assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + DEADLINE_S
    expected = {("recall", ""): 0.5, ("recall", "seniors"): 0.5, ("cost", ""): 210.0, ("cost", "seniors"): 200.0}
    while (found := _days(terminal)) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return terminal


def _days(terminal: Terminal) -> dict[tuple[str, str], float]:
    query = (
        "SELECT metric, segment, value FROM metric_latest"
        " WHERE model = 'churn' AND version = 'all' AND window_s = 86400 AND labelled_rows > 0"
    )
    rows = terminal.run(f'fqlstream sql "{query}" --format JSONCompactEachRow').stdout.splitlines()
    return {(metric, segment): value for metric, segment, value in map(json.loads, rows)}


def test_the_minute_ends_with_values(churn: Terminal) -> None:
    (_, _, ask) = blocks("run", "churn")
    done = churn.run(ask)
    assert done.returncode == 0, done.stderr
    for told in ("0.5", "recall\tseniors", "r-3"):
        assert told in done.stdout


@pytest.mark.parametrize("name", ["fql", "mistake"])
def test_output_is_what_the_readme_shows(churn: Terminal, name: str) -> None:
    (script,), (output,) = blocks("run", name), blocks("output", name)
    done = churn.run(script)
    assert (done.stdout + done.stderr).strip() == output.strip()


def test_drift_is_computed_for_stored_history_and_history_again(churn: Terminal) -> None:
    define, repair = blocks("run", "drift")
    defined, repaired = churn.run(define), churn.run(repair)
    assert defined.returncode == repaired.returncode == 0, defined.stderr + repaired.stderr
    assert "back-filled" in defined.stderr
    assert "rebuilt" in repaired.stderr
    sent, trained = (
        np.histogram(scores, 10, (0, 1))[0] for scores in ((0.91, 0.73, 0.18, 0.08), (0.10, 0.35, 0.55, 0.80))
    )
    assert f"{jensenshannon(sent, trained, base=2):.6f}" in defined.stdout


@pytest.mark.parametrize("query", blocks("sql"), ids=lambda text: text.splitlines()[0].removeprefix("-- "))
def test_queries_run_in_an_unmodified_client(churn: Terminal, query: str) -> None:
    host, port = churn.store_url.removeprefix("http://").split(":")
    client = clickhouse_connect.get_client(host=host, port=int(port))
    try:
        rows = client.query(query).row_count
        assert rows >= 1 or "FROM dead_letters" in query  # nothing was refused in the README's minute
    finally:
        client.close()


def test_the_readme_has_blocks_to_run() -> None:
    assert len(blocks("run", "churn")) == 3
    assert len(blocks("sql")) == 4
