"""How far time has come for a model: the lowest watermark of the partitions that are not idle for it."""

from __future__ import annotations

from collections.abc import Sequence

from fqlstream.fql.plan import Lane
from fqlstream.stream.protocol import CAUGHT_UP, FlushRow


def model_watermark(
    model: str, rows: Sequence[FlushRow], partitions_count: int, now_ms: int, idle_ms: int, before_ms: int | None
) -> int | None:
    """Give W(model) in Unix ms, None while it is unknown. It never goes back behind `before_ms`.

    The slower lane counts, so that a window is final only when both lanes hold all of it. A partition without rows of the
    model holds time back until it was read to its end.
    """
    if len(rows) < partitions_count:
        return before_ms
    active: list[int] = []
    all_marks: list[int] = []
    for row in rows:
        mark = min((row.watermarks.get(lane, {}).get(model) for lane in Lane), key=lambda at: -1 if at is None else at)
        if mark is not None:
            all_marks.append(mark)
        idle = model in row.idle if mark is not None else CAUGHT_UP in row.idle
        if idle:
            continue
        if mark is None:
            return before_ms
        active.append(mark)
    if active:
        now_at = min(active)
    elif all_marks:
        now_at = max(*all_marks, now_ms - idle_ms)
    else:
        return before_ms
    return now_at if before_ms is None else max(now_at, before_ms)
