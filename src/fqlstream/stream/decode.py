"""A fetch in, typed rows out: JSON events and Arrow batches become Arrow tables, the unusable become dead letters.

Pure: what is decoded depends on the records and the catalogue alone, never on where fetches were cut.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa

from fqlstream.events.catalogue import Catalogue
from fqlstream.events.refusals import POISON
from fqlstream.settings import KafkaSettings, StreamSettings
from fqlstream.stream.arrow_events import ARROW_CONTENT_TYPE, content_types, read_arrow
from fqlstream.stream.batches import DeadLetter, Decoded, Fetch, Rows
from fqlstream.stream.findings import Context, Findings, Refused, shown
from fqlstream.stream.json_events import read_json

Reader = Callable[[Fetch, Sequence[int], Context], Findings]

_RECORD_BYTES_MAX: Final[int] = KafkaSettings.model_fields["record_bytes_max"].default


def decode(
    fetch: Fetch,
    catalogue: Catalogue,
    settings: StreamSettings,
    *,
    record_bytes_max: int = _RECORD_BYTES_MAX,
    columns: Mapping[str, Collection[str]] | None = None,
) -> Decoded:
    """Decode a fetch. Never fails: a record that cannot be used, for whatever reason, becomes a dead letter alone.

    `columns` may name, by model, the only columns that anybody will look at; the others are then neither decoded nor
    checked. It changes no verdict on an event.
    """
    context = Context(catalogue, settings, record_bytes_max, columns)
    types = content_types(fetch)
    arrow = [at for at, kind in sorted(types.items()) if kind == ARROW_CONTENT_TYPE]
    found = Findings()
    if arrow:
        batches = set(arrow)
        found.add(_isolated(read_arrow, fetch, arrow, context))
        found.add(_isolated(read_json, fetch, [at for at in range(len(fetch)) if at not in batches], context))
    else:
        found = _isolated(read_json, fetch, range(len(fetch)), context)
    return Decoded(
        rows=tuple(Rows(*key, table=_in_order(tables)) for key, tables in found.tables.items()),
        watermarks=tuple(sorted(found.marks, key=lambda mark: mark.offset)),
        dead_letters=tuple(
            _dead_letter(fetch, refused, types.get(refused.at)) for refused in sorted(found.refused, key=lambda r: r.at)
        ),
        unknown_models=frozenset(found.unknown_models),
        foreign=frozenset(found.foreign),
    )


def _isolated(read: Reader, fetch: Fetch, at: Sequence[int], context: Context) -> Findings:
    """Read records; where that raises, read them by halves until the one that raises is alone."""
    if not at:
        return Findings()
    try:
        return read(fetch, at, context)
    except Exception as error:  # whatever it is, it must cost one record and not a partition
        if len(at) == 1:
            return Findings(refused=[Refused(at[0], POISON, f"{type(error).__name__}: {shown(str(error))}")])
    found = _isolated(read, fetch, at[: len(at) // 2], context)
    found.add(_isolated(read, fetch, at[len(at) // 2 :], context))
    return found


def _in_order(tables: list[pa.Table]) -> pa.Table:
    """Join the tables of one model version and kind, by (offset, row)."""
    if len(tables) == 1:
        return tables[0]
    ends = [(table["offset"][0].as_py(), table["offset"][-1].as_py()) for table in tables]
    joined = pa.concat_tables(tables)
    if all(before[1] < after[0] for before, after in pairwise(ends)):
        return joined
    # rows of one record are together and in order already
    return joined.take(pa.array(np.argsort(joined["offset"].to_numpy(), kind="stable")))


def _dead_letter(fetch: Fetch, refused: Refused, content_type: str | None) -> DeadLetter:
    rows = None if refused.value is None else (refused.row, refused.value)
    letter = DeadLetter.of(fetch, refused.at, refused.refusal.code, refused.reason, content_type, rows)
    # a batch whose rows are all bad is kept as it came
    return letter if rows else replace(letter, row=refused.row)
