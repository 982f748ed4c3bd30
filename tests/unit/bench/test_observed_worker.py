from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from fqlstream.bench.observed_worker import MARK, Observed, read

SEEN = Observed(10.0, 4, 100, 90, 7, 7_000, 3, 300, 10**8)


def test_what_a_worker_said_is_read_among_its_log_and_a_line_that_is_being_written_is_left(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    line = MARK + json.dumps(asdict(SEEN))
    log.write_text(f"2026-11-21 INFO took over\n{line}\n{line.replace('10.0', '20.0')}\n{line[:40]}")
    assert [seen.at_s for seen in read(log, 0)] == [10.0, 20.0]
    assert read(log, 15.0)[0].applied == 100


def test_before_it_has_said_anything_there_is_nothing(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("--- starting\n")
    assert read(log, 0) == []
