"""What is written for SQL users is true: every example runs, as somebody without the key would run it."""

from __future__ import annotations

import re

import clickhouse_connect
import pytest
from tests.store_process import StoreProcess

from fqlstream.events.definitions import ModelDefinition
from fqlstream.packaged import packaged
from fqlstream.store.client import Store
from fqlstream.store.model_tables import ensure

TEXT = (packaged("schemas") / "clickhouse" / "README.md").read_text()
EXAMPLES = re.findall(r"^(?P<title>[^\n]+):\n```sql\n(?P<sql>.*?)```", TEXT, re.MULTILINE | re.DOTALL)
VIEWS = re.findall(r"^\| `(\w+)[^`]*` \| [^|]+ \| `([^`]+)`", TEXT, re.MULTILINE)
CHURN = ModelDefinition.model_validate({
    "name": "churn",
    "columns": [{"name": "score", "type": "float", "role": "output"}, {"name": "churned", "type": "category", "role": "target"}],
})  # fmt: skip


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8
    assert len(VIEWS) >= 4


@pytest.mark.parametrize("sql", [sql for _, sql in EXAMPLES], ids=[title for title, _ in EXAMPLES])
def test_an_example_runs(store_process: StoreProcess, store: Store, sql: str) -> None:
    ensure(store, [CHURN])
    client = clickhouse_connect.get_client(
        host=store_process.host, port=store_process.port, database=store.name.rsplit("/", 1)[1]
    )

    assert client.query(sql).column_names is not None
    client.close()


def test_the_columns_are_as_listed(store: Store) -> None:
    ensure(store, [CHURN])
    for view, columns in VIEWS:
        name = "events_churn" if view == "events_" else view
        found = [row[0] for row in store.query_rows(f"DESCRIBE TABLE {name}")]
        assert found[: len(columns.split())] == columns.split(), view
