from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fqlstream.code_metrics.inside import calc, engines, work


@pytest.mark.parametrize(
    ("names", "found"), [(("age", "Age", "x"), ["age", "Age"]), (("age", "ages"), []), (("STRASSE", "stra\u00dfe"), [])]
)
def test_columns_that_differ_in_case_only_are_found(tmp_path: Path, names: Sequence[str], found: list[str]) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table([[1.0]] * len(names), names=list(names)), path)
    assert engines.alike([str(path)]) == found


def test_what_an_engine_cannot_read_is_a_failure_that_is_told() -> None:
    def broken(_paths: Sequence[str], _hidden: Sequence[str]) -> engines.Table:
        raise ValueError("no such type")

    with pytest.raises(calc.MetricError) as failed:
        work._opened(broken, {"paths": [], "hidden": []})
    assert (failed.value.parts["code"], failed.value.parts["message"]) == ("CBM010", "ValueError: no such type")
