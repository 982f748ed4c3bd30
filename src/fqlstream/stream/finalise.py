"""Published values: merge the states of a window over partitions, panes and versions, and say what changed.

Reads only what owners have made durable, so a value never contains a row that could be lost or counted again.

Two finalisers of one model do no harm. Each claims the model under a higher epoch than all before, and looks for a higher one
after it has read how far the partitions are and before it publishes: so what a forgotten one may still write was read before
its successor's first look, and is older than what that publishes of the same windows, whether it says anything new or not.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fqlstream.clock import Clock
from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.definitions import ModelDefinition
from fqlstream.fql.compile_arrow import Cells, Engine, Result
from fqlstream.fql.plan import Lane, walk
from fqlstream.functions.expression import Aggregate, Expression
from fqlstream.settings import StreamSettings
from fqlstream.stream.baselines import counted_state, is_in_fixed_range, touched_spans
from fqlstream.stream.engines import definitions_digest
from fqlstream.stream.forgetting import Forgetting
from fqlstream.stream.pace import Pace
from fqlstream.stream.panes import LANES
from fqlstream.stream.protocol import FlushRow, MetricValue, PaneKey, Published, StateRecord
from fqlstream.stream.versions import cells_in_common
from fqlstream.stream.watermarks import model_watermark
from fqlstream.stream.windows import Block, Span, blocks_of, children_of, parents_of, spans_of

#: Workers learn of definitions within seconds of each other.
_LATELY_MS = 60_000
#: The version under which all versions of a model are merged.
ALL = "all"
#: Windows that are read, published and remembered in one go, if they are small: a long absence must not fill the memory.
_SPANS_MAX = 200
#: Of the values that may be in memory so many are of one go.
_VALUES_PART = 8
#: Panes whose records are read by one query, if they are small.
_PANES_MAX = 1_500
#: Memory of a merged pane, hour or day beside its states: the objects and the key.
_BLOCK_HEAD_BYTES = 700
#: Later than any pane; what ClickHouse's times hold.
_END_OF_TIME_MS = 4_102_444_800_000


class FinalStorePort(Protocol):
    """What publishing asks of ClickHouse."""

    async def newest_flushes(self, topic: str) -> Sequence[FlushRow]:
        """Give every partition's newest flush row, read in one query."""
        ...

    async def changed_panes(self, model: str, after: Mapping[int, int]) -> Sequence[PaneKey]:
        """Name the panes with a record newer than the given version number of its partition."""
        ...

    async def pane_records(self, keys: Sequence[PaneKey]) -> Sequence[StateRecord]:
        """Give the newest record of each lane and partition of these panes."""
        ...

    async def pane_starts(self, model: str, version: str, start_ms: int, end_ms: int) -> Sequence[int]:
        """Name the panes of a time range that have a record."""
        ...

    async def read_published(self, model: str) -> Published | None:
        """Give what the model's finaliser remembered last."""
        ...

    async def write_published(self, model: str, published: Published, now_ms: int) -> None:
        """Remember."""
        ...

    async def claim_finaliser(self, model: str, epoch: int, owner: str) -> None:
        """Say that from now on this finaliser publishes a model's values."""
        ...

    async def finalisers(self, model: str) -> Mapping[str, int]:
        """Give the finalisers that claimed the model with the highest epoch, and that epoch."""
        ...

    async def latest_values(self, model: str, spans: Sequence[Span]) -> Sequence[MetricValue]:
        """Give the newest published values of these windows."""
        ...

    async def open_spans(self, model: str) -> Sequence[Span]:
        """Name the windows whose newest values are not final yet."""
        ...

    async def write_values(self, values: Sequence[MetricValue], retention_ms: int) -> None:
        """Insert values."""
        ...


class ValueLogPort(Protocol):
    """What publishing asks of Kafka."""

    async def partitions_count(self, topic: str) -> int:
        """Count the partitions of the source topic."""
        ...

    async def send_values(self, values: Sequence[MetricValue]) -> None:
        """Write to the metric-values topic."""
        ...


@dataclass(frozen=True, slots=True)
class Flushed:
    """How far every partition is: the newest flush rows, which hold all that was durable at `read_at_ms` and perhaps more."""

    rows: Sequence[FlushRow]
    read_at_ms: int


async def read_flushed(store: FinalStorePort, topic: str, clock: Clock) -> Flushed:
    """Read how far every partition is.

    The time is taken first: counted from a later one, a model would seem idle whose rows were flushed meanwhile.
    """
    read_at_ms = clock.now_ms()
    return Flushed(await store.newest_flushes(topic), read_at_ms)


@dataclass(frozen=True, slots=True)
class Merged:
    """States of a block or window over all partitions; `missing` names cells that some record does not cover."""

    cells: Mapping[Lane, Cells]
    missing: frozenset[str] = frozenset()


#: A pane, hour or day without rows.
_NOTHING = Merged({})

EngineOf = Callable[[str, str], Engine]
_BlockKey = tuple[str, str, Block]
_Values = dict[tuple[str, str, str], MetricValue]


class FinalMemory:
    """What the finalisers of one worker keep of ClickHouse, within the bounds of the settings for all of them together.

    Blocks are merged panes, hours and days by finaliser, model version and place; values are those published last, by
    finaliser and window.
    """

    def __init__(self, settings: StreamSettings) -> None:
        self.blocks: Forgetting[_BlockKey, Merged] = Forgetting(settings.blocks_bytes_max)
        self.values: Forgetting[tuple[str, Span], _Values] = Forgetting(settings.values_max, settings.windows_max)


class ModelFinaliser:
    """Keeps one model's published values up to date. Shares its `memory` with the other finalisers of the worker."""

    def __init__(
        self,
        model: str,
        topic: str,
        store: FinalStorePort,
        log: ValueLogPort,
        clock: Clock,
        settings: StreamSettings,
        memory: FinalMemory | None = None,
    ) -> None:
        self.model = model
        self.topic = topic
        self.store = store
        self.log = log
        self.clock = clock
        self.settings = settings
        self.published: Published | None = None
        self.superseded = False  # somebody else publishes this model now: this object must not be used any more
        self.open: set[Span] = set()
        self._owner = uuid.uuid4().hex
        self._since_version = 0  # values below it were published by others
        self.memory = FinalMemory(settings) if memory is None else memory
        self._loading = Pace(settings.load_bytes_max, _PANES_MAX)
        self._reading = Pace(settings.load_bytes_max, _SPANS_MAX)
        self._common: dict[tuple[str, str], Mapping[str, str]] = {}  # cells of a version that stand for another's
        self._entry: ModelEntry | None = None
        self._digest = ""
        self._changes: deque[tuple[int, frozenset[PaneKey]]] = deque()  # when which panes changed
        self._stored: Published | None = None  # what a successor would find
        self._stored_at_ms = 0

    async def refresh(self, catalogue: Catalogue, engine_of: EngineOf) -> Sequence[MetricValue]:
        """Publish what has changed since last time. Gives the values that were published, however many."""
        return [value async for values in self.look(catalogue, engine_of) for value in values]

    async def look(
        self, catalogue: Catalogue, engine_of: EngineOf, flushed: Flushed | None = None
    ) -> AsyncIterator[Sequence[MetricValue]]:
        """Publish what has changed since last time, some windows at a time. Must be read to its end.

        `flushed` was read a moment ago, for many models at once; the first look reads its own, after its claim.
        """
        flushed = flushed if self.published is not None else None
        entry = catalogue.models.get(self.model)
        if entry is None or entry.newest is None:
            return
        before = await self._remembered()
        if self._entry is not entry:  # other definitions: other states are read from the records
            self.memory.blocks.forget(lambda key: key[0] == self._owner)
            self._common.clear()
            self._entry, self._digest = entry, definitions_digest(entry)
        flushed = await read_flushed(self.store, self.topic, self.clock) if flushed is None else flushed
        rows, now_ms = flushed.rows, flushed.read_at_ms
        partitions_count = await self.log.partitions_count(self.topic)
        watermark = model_watermark(
            self.model, rows, partitions_count, now_ms, self.settings.idle_ms, before.watermark_ms
        )
        now = Published({row.partition: row.version.number for row in rows}, watermark, self._digest)
        self._since_version = self._since_version or now.value_version
        changed = await self._changed_panes(before, now)
        spans = self._spans(entry, changed) | self._due(entry.newest, watermark)
        spans |= await self._compared_spans(entry, engine_of, rows, changed)
        changed_lately = self._changed_lately(changed, now_ms)
        if before.definitions != now.definitions:
            # an owner elsewhere may have known these definitions first, and have rebuilt panes of closed windows by them
            spans |= self._spans(entry, changed_lately)
            spans |= await self._open_spans(entry, watermark)
        if spans and self._owner not in await self.store.finalisers(self.model):
            self.superseded = True
            return
        is_news = False
        left = sorted(spans)
        while left:
            count = self._spans_at_once(entry)
            part, left = left[:count], left[count:]
            values = await self._values_of(entry, engine_of, part, now, now_ms)
            if values:
                # The topic first: what is in the table is not sent again after a crash, what is in the topic alone is.
                await self.log.send_values(values)
                await self.store.write_values(values, entry.newest.retention_ms)
            self._remember_values(entry.newest, now, values, part)
            is_news |= bool(values)
            yield values
        await self._remember(now, now_ms, is_news=is_news)

    def _spans_at_once(self, entry: ModelEntry) -> int:
        each = (len(entry.versions) + 1) * max(1, len(entry.metrics)) * (len(entry.segments) + 1)
        return max(1, min(self._reading.items, self.settings.values_max // _VALUES_PART // each))

    # -- what to look at -------------------------------------------------------------------------------------------

    async def _remembered(self) -> Published:
        if self.published is None:
            await self._claim()
            self.published = self._stored = await self.store.read_published(self.model) or Published()
            self.open = set(await self.store.open_spans(self.model))
        return self.published

    async def _claim(self) -> None:
        """Claim the model with an epoch of our own, higher than all others."""
        epoch = 0
        while list(await self.store.finalisers(self.model)) != [self._owner]:
            epoch = max([epoch, *(await self.store.finalisers(self.model)).values()]) + 1
            await self.store.claim_finaliser(self.model, epoch, self._owner)

    async def _changed_panes(self, before: Published, now: Published) -> Sequence[PaneKey]:
        if now.vector == before.vector:
            return ()
        changed = await self.store.changed_panes(self.model, {p: before.vector.get(p, -1) for p in now.vector})
        for key in changed:
            pane_ms = self._pane_ms(key.version)
            if pane_ms is None:
                continue
            for block in (Block(pane_ms, key.start_ms), *parents_of(key.start_ms, pane_ms)):
                self.memory.blocks.pop((self._owner, key.version, block))
        return changed

    def _changed_lately(self, changed: Sequence[PaneKey], now_ms: int) -> set[PaneKey]:
        if changed:
            self._changes.append((now_ms, frozenset(changed)))
        while self._changes and self._changes[0][0] < now_ms - _LATELY_MS:
            self._changes.popleft()
        return {key for _, keys in self._changes for key in keys}

    def _pane_ms(self, version: str) -> int | None:
        definition = self._entry.versions.get(version) if self._entry else None
        return definition.windows.pane_ms if definition else None

    def _spans(self, entry: ModelEntry, changed: Iterable[PaneKey]) -> set[Span]:
        spans: set[Span] = set()
        newest = entry.newest
        for key in changed:
            for definition in (entry.versions.get(key.version), newest):
                if definition is not None:
                    for window in definition.windows.sizes:
                        spans.update(spans_of(window, key.start_ms))
        return spans

    async def _compared_spans(
        self, entry: ModelEntry, engine_of: EngineOf, rows: Sequence[FlushRow], changed: Sequence[PaneKey]
    ) -> set[Span]:
        """Windows whose baseline holds a changed pane."""
        newest = _newest_of(entry)
        names = {item.baseline for version in entry.versions for item in engine_of(self.model, version).plan.compared}
        marks = [mark for row in rows if (mark := row.watermarks.get(Lane.EVENTS, {}).get(self.model)) is not None]
        if not names or not changed or not marks:
            return set()
        panes = {
            Span(key.start_ms, key.start_ms + pane_ms) for key in changed if (pane_ms := self._pane_ms(key.version))
        }
        if not is_in_fixed_range(entry, names, panes):
            return touched_spans(entry, names, newest.windows.sizes, panes, max(marks))
        return self._spans(
            entry,
            [
                PaneKey(self.model, version, start)
                for version in entry.versions
                for start in await self.store.pane_starts(self.model, version, 0, max(marks) + 1)
            ],
        )

    async def _open_spans(self, entry: ModelEntry, watermark_ms: int | None) -> set[Span]:
        """Name the open windows that hold a pane: all of them have a value of a metric that is new."""
        newest = _newest_of(entry)
        windows = newest.windows
        longest_ms = max(window.size_ms for window in windows.sizes)
        from_ms = 0 if watermark_ms is None else max(0, watermark_ms - windows.lateness_ms - longest_ms)
        keys = [
            PaneKey(self.model, version, start)
            for version in entry.versions
            for start in await self.store.pane_starts(self.model, version, from_ms, _END_OF_TIME_MS)
        ]
        spans = self._spans(entry, keys)
        if watermark_ms is None:
            return spans
        return {span for span in spans if span.end_ms + windows.lateness_ms > watermark_ms}

    def _due(self, definition: ModelDefinition, watermark_ms: int | None) -> set[Span]:
        """Open windows that have become final."""
        if watermark_ms is None:
            return set()
        return {span for span in self.open if span.end_ms + definition.windows.lateness_ms <= watermark_ms}

    # -- values ----------------------------------------------------------------------------------------------------

    async def _values_of(
        self, entry: ModelEntry, engine_of: EngineOf, spans: Sequence[Span], now: Published, now_ms: int
    ) -> list[MetricValue]:
        await self._load_last(spans)
        results: dict[tuple[str, Span], list[Result]] = {}
        for version, definition in entry.versions.items():
            engine = engine_of(self.model, version)
            found = await self._windows(engine, definition, version, spans)
            merged = [state or _empty(engine) for state in found]
            self._reading.took(len(merged), sum(engine.bytes_of(state.cells) for state in merged))
            rows = await self._results(entry, engine_of, engine, spans, merged)
            results.update(((version, span), row) for span, row in zip(spans, rows, strict=True))
        if len(entry.versions) == 1:
            for span in spans:
                results[ALL, span] = results[next(iter(entry.versions)), span]
        else:
            results.update(await self._all_versions(entry, engine_of, spans))
        newest = _newest_of(entry)
        # a window exists once it holds a counted event, under whichever version
        existing = {span for (_, span), found in results.items() if any(result.rows for result in found)}
        existing.update(span for span in spans if self._last(span))
        values = []
        for (version, span), row in results.items():
            is_final = now.watermark_ms is not None and span.end_ms + newest.windows.lateness_ms <= now.watermark_ms
            for result in row if span in existing else ():
                value = self._value(version, span, result, entry, now, now_ms, is_final=is_final)
                if value is not None:
                    values.append(value)
        return values

    def _value(
        self,
        version: str,
        span: Span,
        result: Result,
        entry: ModelEntry,
        now: Published,
        now_ms: int,
        *,
        is_final: bool,
    ) -> MetricValue | None:
        """Give a value if it says something new."""
        last = self._last(span).get((version, result.metric, result.segment))
        status = "final" if is_final else "early"
        value = MetricValue(
            self.model,
            version,
            result.metric,
            result.segment,
            span.start_ms,
            span.end_ms,
            result.value,
            result.rows,
            result.labelled_rows,
            result.exact,
            result.error_bound,
            status,
            now.value_version,
            entry.revisions.get(result.metric, 1),
            # of two values of one version the later one counts: a clock that was set back must not make it the older one
            now_ms if last is None else max(now_ms, last.updated_at_ms + 1),
        )
        if last is None:
            return value
        was_final = last.status in ("final", "revised")
        if _content(last) == _content(value):
            if is_final and not was_final:
                return value
            # a predecessor may have read something else meanwhile, and write it at any time: ours must be the newer one
            return replace(value, status=last.status) if last.value_version < self._since_version else None
        return replace(value, status="revised") if was_final else value

    async def _load_last(self, spans: Sequence[Span]) -> None:
        """Read what was published of windows that are not in memory."""
        unknown = [span for span in spans if (self._owner, span) not in self.memory.values]
        if unknown:
            self._keep(await self.store.latest_values(self.model, unknown))

    def _last(self, span: Span) -> _Values:
        """Give what was published of a window last."""
        return self.memory.values.get((self._owner, span)) or {}

    async def _remember(self, now: Published, now_ms: int, *, is_news: bool) -> None:
        """Remember how far this was, durably where a successor would otherwise do much of it again."""
        self.published = now
        is_later = now_ms - self._stored_at_ms >= self.settings.published_ms
        if now != self._stored and (is_news or is_later):
            await self.store.write_published(self.model, now, now_ms)
            self._stored, self._stored_at_ms = now, now_ms

    def _remember_values(
        self, definition: ModelDefinition, now: Published, values: Sequence[MetricValue], spans: Iterable[Span]
    ) -> None:
        self._keep(values)
        for span in spans:
            if self._last(span):
                is_final = (
                    now.watermark_ms is not None and span.end_ms + definition.windows.lateness_ms <= now.watermark_ms
                )
                if is_final:
                    self.open.discard(span)
                else:
                    self.open.add(span)
        self.memory.values.trim()

    def _keep(self, values: Iterable[MetricValue]) -> None:
        of_spans: dict[Span, _Values] = {}
        for value in values:
            span = Span(value.window_start_ms, value.window_end_ms)
            if span not in of_spans:
                of_spans[span] = self._last(span)
            of_spans[span][value.version, value.metric, value.segment] = value
        for span, of_span in of_spans.items():
            self.memory.values.put((self._owner, span), of_span, len(of_span))

    # -- states ----------------------------------------------------------------------------------------------------

    async def _windows(
        self, engine: Engine, definition: ModelDefinition, version: str, spans: Sequence[Span]
    ) -> list[Merged | None]:
        """Give the states of windows; None where the version has none in one."""
        found = []
        for at, span in enumerate(spans):
            await self._read_ahead(engine, definition, version, spans[at:])
            found.append(await self._window(engine, definition, version, span))
        return found

    async def _window(self, engine: Engine, definition: ModelDefinition, version: str, span: Span) -> Merged | None:
        """Give the states of a window; None where the version has none in it."""
        pane_ms = definition.windows.pane_ms
        if (span.end_ms - span.start_ms) % pane_ms:
            return None
        merged = await self._merged(engine, version, blocks_of(span, pane_ms), pane_ms)
        return None if merged is _NOTHING else merged

    async def _read_ahead(
        self, engine: Engine, definition: ModelDefinition, version: str, spans: Sequence[Span]
    ) -> None:
        """Read the panes of the first window and of the next ones by one query, as far as they fit one."""
        pane_ms = definition.windows.pane_ms
        unknown: set[int] = set()
        for span in spans:
            of_span: set[int] = set()
            for block in blocks_of(span, pane_ms):
                of_span.update(self._unknown_panes(version, block, pane_ms))
            if len(unknown | of_span) > self._loading.items or not (unknown or of_span):
                break
            unknown |= of_span
        if unknown:
            await self._load_panes(engine, version, sorted(unknown), pane_ms)
            self.memory.blocks.trim()

    async def _merged(self, engine: Engine, version: str, blocks: Iterable[Block], pane_ms: int) -> Merged:
        """Merge blocks, as many at once as fit the memory: those whose panes are unknown are read some at a time.

        What is in the memory for blocks may leave it whenever panes are read; so what a group of blocks lacks is looked up
        right before it is read, and the group is merged before anything leaves.
        """
        fold = _Fold(engine, self.settings.load_bytes_max)
        group: list[Block] = []
        unknown: list[int] = []
        for block in blocks:
            lacking = self._unknown_panes(version, block, pane_ms)
            if group and len(unknown) + len(lacking) > self._loading.items:
                await self._merge_group(fold, version, group, unknown, pane_ms)
                group, unknown = [], []
                lacking = self._unknown_panes(version, block, pane_ms)
            if len(lacking) > self._loading.items and block.size_ms > pane_ms:
                whole = await self._merged(engine, version, children_of(block, pane_ms), pane_ms)
                self._put(engine, version, block, whole)
                fold.add(whole)
            else:
                group.append(block)
                unknown += lacking
        await self._merge_group(fold, version, group, unknown, pane_ms)
        return fold.merged()

    async def _merge_group(
        self, fold: _Fold, version: str, blocks: Sequence[Block], unknown: Sequence[int], pane_ms: int
    ) -> None:
        fresh = await self._load_panes(fold.engine, version, unknown, pane_ms) if unknown else {}
        for block in blocks:
            fold.add(self._block(fold.engine, version, block, pane_ms, fresh))
        self.memory.blocks.trim()

    async def _load_panes(
        self, engine: Engine, version: str, starts: Sequence[int], pane_ms: int
    ) -> Mapping[Block, Merged]:
        """Read panes from their records, by one query."""
        present = set(await self.store.pane_starts(self.model, version, starts[0], starts[-1] + pane_ms))
        wanted = [PaneKey(self.model, version, start) for start in starts if start in present]
        records: dict[int, list[StateRecord]] = {}
        bytes_count = 0
        for record in await self.store.pane_records(wanted) if wanted else ():
            records.setdefault(record.pane.start_ms, []).append(record)
            bytes_count += len(record.cells)
        if wanted:
            self._loading.took(len(wanted), bytes_count)
        fresh = {}
        for start in starts:
            block = Block(pane_ms, start)
            found = [_decode(engine, record) for record in records.pop(start, ())]
            fresh[block] = _merge(engine, found) if found else _NOTHING
            self._put(engine, version, block, fresh[block])
        return fresh

    def _put(self, engine: Engine, version: str, block: Block, merged: Merged) -> None:
        weight = _BLOCK_HEAD_BYTES + engine.bytes_of(merged.cells)
        # to be had again it takes reading its panes: of a day as many times more as it has panes, and hardly more memory
        self.memory.blocks.put((self._owner, version, block), merged, weight, cost=block.size_ms)

    def _unknown_panes(self, version: str, whole: Block, pane_ms: int) -> list[int]:
        starts: list[int] = []
        stack = [whole]
        while stack:
            block = stack.pop()
            if (self._owner, version, block) in self.memory.blocks:
                continue
            if block.size_ms == pane_ms:
                starts.append(block.start_ms)
            else:
                stack.extend(children_of(block, pane_ms))
        return sorted(starts)

    def _block(self, engine: Engine, version: str, block: Block, pane_ms: int, fresh: Mapping[Block, Merged]) -> Merged:
        """Give a block whose panes are in the memory or in `fresh`, merged from its parts if need be."""
        known = fresh.get(block) or self.memory.blocks.get((self._owner, version, block))
        if known is not None:
            return known
        parts = [self._block(engine, version, child, pane_ms, fresh) for child in children_of(block, pane_ms)]
        merged = _merge(engine, parts)
        self._put(engine, version, block, merged)
        return merged

    async def _all_versions(
        self, entry: ModelEntry, engine_of: EngineOf, spans: Sequence[Span]
    ) -> dict[tuple[str, Span], list[Result]]:
        """Merge every version's states, read with the newest version's plan; what one of them lacks is not published."""
        newest = _newest_of(entry)
        engine = engine_of(self.model, newest.version)
        merged = [await self._versions_merged(entry, engine_of, engine, span) for span in spans]
        found = await self._results(entry, engine_of, engine, spans, merged)
        return {(ALL, span): row for span, row in zip(spans, found, strict=True)}

    async def _versions_merged(self, entry: ModelEntry, engine_of: EngineOf, engine: Engine, span: Span) -> Merged:
        """Give the states of all versions' rows, as `engine` reads them."""
        parts = []
        for version, definition in entry.versions.items():
            own = engine_of(self.model, version)
            found = await self._window(own, definition, version, span)
            if found is not None:  # a version without rows here lacks nothing
                parts.append(found if own is engine else _translate(engine, own, found, self._in_common(engine, own)))
        return _merge(engine, parts) if parts else _empty(engine)

    def _in_common(self, to: Engine, of: Engine) -> Mapping[str, str]:
        key = to.plan.model.version, of.plan.model.version
        if key not in self._common:
            self._common[key] = cells_in_common(to.plan, of.plan)
        return self._common[key]

    async def _results(
        self, entry: ModelEntry, engine_of: EngineOf, engine: Engine, spans: Sequence[Span], merged: Sequence[Merged]
    ) -> list[list[Result]]:
        """Read windows, beside the baselines that they are compared with; what some record does not cover is left out."""
        cells = {(cell.aggregate, cell.segment): cell for cell in engine.plan.cells}
        place_of = {cell.key: place for lane in LANES for place, cell in enumerate(engine.plan.lane_cells(lane))}
        pasts: dict[tuple[int, int], Merged] = {}
        lacking = [frozenset(item for item, cell in cells.items() if cell.key in state.missing) for state in merged]
        beside: list[Cells] = []
        for at, span in enumerate(spans):
            states: list[object] = []
            for item in engine.plan.compared:
                baseline = entry.baselines[item.baseline]
                reach = baseline.range_before(span.end_ms)
                if reach is None:
                    states.append(counted_state(baseline, item))
                    continue
                if reach not in pasts:
                    pasts[reach] = await self._versions_merged(entry, engine_of, engine, Span(*reach))
                cell = cells[item.production, item.segment]
                states.append(pasts[reach].cells[cell.lane][place_of[cell.key]])
                if cell.key in pasts[reach].missing:
                    lacking[at] |= {(item.aggregate, item.segment)}
            beside.append(tuple(states))
        rows = engine.results_many([state.cells for state in merged], beside)
        return [_covered(engine, row, of) for row, of in zip(rows, lacking, strict=True)]


def _content(value: MetricValue) -> tuple[object, ...]:
    return (value.value, value.rows, value.labelled_rows, value.exact, value.error_bound, value.definition_revision)


def _empty(engine: Engine) -> Merged:
    return Merged({lane: engine.init(lane) for lane in LANES})


def _decode(engine: Engine, record: StateRecord) -> Merged:
    cells, missing = engine.decode(record.lane, record.cells)
    other = {lane: engine.init(lane) for lane in LANES}
    return Merged({**other, record.lane: cells}, missing)


def _merge(engine: Engine, parts: Iterable[Merged]) -> Merged:
    found = [part for part in parts if part is not _NOTHING]
    if not found:
        return _NOTHING
    cells = {lane: engine.merge_all(lane, [part.cells[lane] for part in found]) for lane in LANES}
    return Merged(cells, frozenset().union(*(part.missing for part in found)))


class _Fold:
    """States that are merged as they come, some at a time: a window may hold more than fit the memory side by side."""

    def __init__(self, engine: Engine, bytes_max: int) -> None:
        self.engine = engine
        self.bytes_max = bytes_max
        self._parts: list[Merged] = []
        self._bytes = 0

    def add(self, part: Merged) -> None:
        """Take states in."""
        if part is _NOTHING:
            return
        self._parts.append(part)
        self._bytes += self.engine.bytes_of(part.cells)
        if self._bytes > self.bytes_max and len(self._parts) > 1:
            self._parts = [self.merged()]
            self._bytes = self.engine.bytes_of(self._parts[0].cells)

    def merged(self) -> Merged:
        """Give what came, merged; nothing where nothing came."""
        return _merge(self.engine, self._parts)


def _translate(to: Engine, of: Engine, merged: Merged, common: Mapping[str, str]) -> Merged:
    """Read one version's states with another version's plan; `common` says which cell of it stands for which."""
    known = {
        cell.key: state
        for lane in LANES
        for cell, state in zip(of.plan.lane_cells(lane), merged.cells[lane], strict=True)
        if cell.key not in merged.missing
    }
    cells: dict[Lane, Cells] = {}
    missing: set[str] = set()
    for lane in LANES:
        wanted = to.plan.lane_cells(lane)
        found = [known.get(common.get(cell.key, "")) for cell in wanted]
        missing.update(cell.key for cell, state in zip(wanted, found, strict=True) if state is None)
        cells[lane] = tuple(
            nothing if state is None else state for state, nothing in zip(found, to.init(lane), strict=True)
        )
    return Merged(cells, frozenset(missing))


def _covered(
    engine: Engine, results: Sequence[Result], lacking: frozenset[tuple[Aggregate, Expression]]
) -> list[Result]:
    """Leave out results that read an aggregate over a segment which some merged record does not cover."""
    if not lacking:
        return list(results)
    plan = engine.plan
    segments = {segment.name: segment.expression for segment in plan.segments}
    reads = {
        metric.name: [node for node in walk(metric.expression) if isinstance(node, Aggregate)]
        for metric in plan.metrics
    }
    always = [plan.traffic.aggregate, plan.labelled.aggregate]
    return [
        result
        for result in results
        if not any((aggregate, segments[result.segment]) in lacking for aggregate in [*reads[result.metric], *always])
    ]


def _newest_of(entry: ModelEntry) -> ModelDefinition:
    """Give the newest version of a model that has one, as `refresh` has seen."""
    if entry.newest is None:
        raise AssertionError(entry.name)
    return entry.newest
