"""Ids whose events were deleted: what still comes of them, or comes again, is dropped.

A fingerprint, not the id, is what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fqlstream.stream.fingerprints import Fingerprints, fingerprint


@dataclass(frozen=True, slots=True)
class DeletedIds:
    """Fingerprints of one model, in the order of their high words."""

    ids: Fingerprints

    @classmethod
    def of(cls, ids: Fingerprints) -> DeletedIds:
        """Give these ids in the order that is looked up."""
        return cls(ids.take(np.argsort(ids.high, kind="stable")))

    def __len__(self) -> int:
        return len(self.ids)

    def holds(self, ids: Fingerprints) -> np.ndarray:
        """Say which of these ids were deleted."""
        if not len(self) or not len(ids):
            return np.zeros(len(ids), bool)
        at = np.searchsorted(self.ids.high, ids.high)
        at[at == len(self)] = 0
        mask: np.ndarray = (self.ids.high[at] == ids.high) & (self.ids.low[at] == ids.low)
        return mask


#: By model; models without any are not in it.
Deleted = Mapping[str, DeletedIds]


def deleted_rows(deleted: Deleted, model: str, table: pa.Table) -> np.ndarray | None:
    """Say which rows of a table with event ids were deleted; None where that is none of them."""
    known = deleted.get(model)
    if known is None or not len(table):
        return None
    mask = known.holds(fingerprint(table.column("event_id"), model))
    return mask if mask.any() else None


def without_deleted(deleted: Deleted, model: str, table: pa.Table) -> pa.Table:
    """Leave out the rows that were deleted."""
    mask = deleted_rows(deleted, model, table)
    return table if mask is None else table.filter(pa.array(~mask))
