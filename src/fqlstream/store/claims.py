"""Claims: rows by which one of several processes says that something is its own; the highest epoch counts."""

from __future__ import annotations

from typing import Final, Literal

from fqlstream.store.client import Store, rows_of

#: What is claimed, in which table, by which key.
Claimed = Literal["finalisers", "code_metric_owners"]
_KEYS: Final[dict[Claimed, tuple[str, str]]] = {
    "finalisers": ("model", "String"),
    "code_metric_owners": ("partition", "Int32"),
}


def newest_claims(store: Store, table: Claimed, key: str | int) -> dict[str, int]:
    """Give the owners that claimed it with the highest epoch, and that epoch: one, or rivals; none where nobody did."""
    name, kind = _KEYS[table]
    mine = f"{name} = {{key:{kind}}}"
    found = store.query_arrow(
        f"SELECT owner, epoch FROM {table} WHERE {mine} AND epoch = (SELECT max(epoch) FROM {table} WHERE {mine})",
        {"key": key},
        store.quorum_read(),
    )
    return {row["owner"]: row["epoch"] for row in rows_of(found)}
