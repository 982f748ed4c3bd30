from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fqlstream.code_metrics import rows
from fqlstream.code_metrics.request import Frame


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for number, flags in enumerate(([True, None, False], [True, True, True, False])):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(
            pa.table({"age": list(range(len(flags))), "_s": flags, "_none": [False] * len(flags)}),
            path,
            row_group_size=2,
        )
        paths.append(path)
    return paths


def test_frames_are_counted_over_all_files(files: list[Path]) -> None:
    frames = [Frame(""), Frame("seniors", "_s"), Frame("nobody", "_none"), Frame("seniors again", "_s")]
    assert rows.count(files, frames) == [7, 4, 0, 4]


def test_without_files_every_frame_is_empty() -> None:
    assert rows.count([], [Frame(""), Frame("seniors", "_s")]) == [0, 0]
