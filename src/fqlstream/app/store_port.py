"""The delivery protocol's view of ClickHouse: the store's functions, run in threads, tried again while trouble may pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import pyarrow as pa

from fqlstream.app.retries import patiently
from fqlstream.clock import Clock
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import DAY_MS, ModelDefinition
from fqlstream.store import deletions, history, recorded, recorded_rows, repairs, states, values
from fqlstream.store.client import Store
from fqlstream.store.deletions import DeletionRequest, Rewrite, Rewriting
from fqlstream.store.repairs import RepairRequest
from fqlstream.stream.batches import DeadLetter, StoredEvents
from fqlstream.stream.deleted import DeletedIds
from fqlstream.stream.protocol import FlushRow, MetricValue, PaneKey, Published, RepairNeed, StateRecord, Version
from fqlstream.stream.recorded import (
    ForgetRow,
    ListKey,
    ListState,
    Needs,
    Refused,
    Row,
    Summary,
)
from fqlstream.stream.windows import Span

T = TypeVar("T")

#: States of a model whose definition is gone: kept no longer than the usual retention.
_RETENTION_MS = 90 * DAY_MS


@dataclass(frozen=True, slots=True)
class StoreAdapter:
    """ClickHouse, as `stream.delivery` and `stream.finalise` ask for it."""

    store: Store
    clock: Clock
    catalogue: Callable[[], Catalogue]
    #: told of each step of long work, as a pane's rows that were read: somebody may wait for all of them
    worked: Callable[[], None] = lambda: None

    # -- flush rows and claims -------------------------------------------------------------------------------------

    async def newest_flush(self, topic: str, partition: int) -> FlushRow | None:
        """Give the row of the highest version."""
        return await patiently("newest flush row", lambda: states.newest_flush(self.store, topic, partition))

    async def newest_flushes(self, topic: str) -> Sequence[FlushRow]:
        """Give every partition's newest flush row."""
        return await patiently("newest flush rows", lambda: states.newest_flushes(self.store, topic))

    async def owners_from(self, topic: str, partition: int, epoch: int) -> Mapping[str, int]:
        """Give the owners that claimed this epoch or a higher one."""
        return await patiently("claims", lambda: states.claims(self.store, topic, partition, epoch))

    async def write_flushes(self, rows: Sequence[FlushRow]) -> None:
        """Write flush or claim rows."""
        await patiently("flush rows", lambda: states.write_flushes(self.store, rows))

    # -- history ---------------------------------------------------------------------------------------------------

    async def write_events(self, model: ModelDefinition, partition: int, table: pa.Table) -> None:
        """Write event rows."""
        await patiently("event rows", lambda: history.write_events(self.store, model, partition, table))

    async def write_labels(self, model: ModelDefinition, partition: int, table: pa.Table) -> None:
        """Write label rows."""
        await patiently("label rows", lambda: history.write_labels(self.store, model, partition, table))

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Write what was refused, for SQL."""
        seen_at_ms = self.clock.now_ms()
        await patiently("dead letters", lambda: history.write_dead_letters(self.store, letters, seen_at_ms=seen_at_ms))

    async def read_pane_rows(
        self, model: ModelDefinition, partition: int, start_ms: int, end_ms: int, upto: int
    ) -> Sequence[pa.Table]:
        """Give counted events of a time range as they are at an offset."""
        self.worked()
        return await patiently(
            "rows of panes",
            lambda: list(history.read_pane(self.store, model, partition, start_ms, end_ms, upto)),
        )

    async def events_by_id(self, model: str, partition: int, ids: Sequence[str], upto: int) -> StoredEvents:
        """Give counted events as they are at an offset, and where other partitions hold such events."""
        versions = list(self.catalogue().models[model].versions.values())
        return await patiently(
            "events of labels", lambda: history.events_by_id(self.store, versions, partition, ids, upto)
        )

    async def labelled_elsewhere(self, model: str, partition: int, since_ms: int) -> Sequence[RepairNeed]:
        """Name panes of other partitions' events that have a label in this one, if either was written since a time."""
        versions = list(self.catalogue().models[model].versions.values())
        return await patiently(
            "labels of other partitions' events",
            lambda: history.labelled_elsewhere(self.store, versions, partition, since_ms),
        )

    async def labels_by_id(self, model: str, partition: int, ids: Sequence[str], upto: int) -> pa.Table:
        """Give the last label of each id up to an offset."""
        versions = list(self.catalogue().models[model].versions.values())
        return await patiently(
            "labels of events", lambda: history.labels_by_id(self.store, versions, partition, ids, upto)
        )

    async def recent_ids(self, partition: int, upto: int, rows_max: int) -> Mapping[str, pa.Table]:
        """Give per model the ids of the partition's latest events."""
        names = list(self.catalogue().models)
        return await patiently("recent ids", lambda: history.recent_ids(self.store, names, partition, upto, rows_max))

    async def recent_rows(self, model: ModelDefinition, partition: int, upto: int, rows_max: int) -> pa.Table:
        """Give the latest counted rows as they are at an offset."""
        return await patiently("recent rows", lambda: history.recent_rows(self.store, model, partition, upto, rows_max))

    async def waiting_labels(self, model: str, partition: int, upto: int, rows_max: int) -> pa.Table:
        """Give the newest labels without an event."""
        versions = list(self.catalogue().models[model].versions.values())
        return await patiently(
            "waiting labels", lambda: history.waiting_labels(self.store, versions, partition, upto, rows_max)
        )

    async def forget_record(self, partition: int, offset: int) -> None:
        """Take the rows of one record out of history."""
        names = list(self.catalogue().models)
        await patiently("rows of a record", lambda: history.forget_record(self.store, names, partition, offset))

    # -- states ----------------------------------------------------------------------------------------------------

    async def write_states(self, records: Sequence[StateRecord]) -> None:
        """Write state records."""
        retention_ms = {record.pane.model: self._retention_ms(record.pane.model) for record in records}
        await patiently("states", lambda: states.write_states(self.store, records, retention_ms=retention_ms))

    async def read_states(self, partition: int, keys: Sequence[PaneKey]) -> Sequence[StateRecord]:
        """Give the newest record of each lane of these panes."""
        return await patiently("states of panes", lambda: states.read_states(self.store, partition, keys))

    async def pane_keys(self, partition: int, model: str, version: str, from_ms: int) -> Sequence[PaneKey]:
        """Name the panes from a time on that have a record."""
        return await patiently("panes", lambda: states.pane_keys(self.store, partition, model, version, from_ms))

    async def panes_beyond(self, partition: int, fence: int) -> Sequence[PaneKey]:
        """Name the partition's panes with a record that contains a later offset."""
        return await patiently("panes", lambda: states.panes_beyond(self.store, partition, fence))

    async def was_survived(self, topic: str, partition: int, offset: int, epoch: int) -> bool:
        """Say whether an owner of this epoch or a later one has applied a record and lived to write so."""
        return await patiently("flush rows", lambda: states.was_survived(self.store, topic, partition, offset, epoch))

    async def changed_panes(self, model: str, after: Mapping[int, int]) -> Sequence[PaneKey]:
        """Name the panes with a record newer than the given version."""
        return await patiently("changed panes", lambda: states.changed_panes(self.store, model, after))

    async def pane_records(self, keys: Sequence[PaneKey]) -> Sequence[StateRecord]:
        """Give the newest record of each lane and partition of these panes."""
        self.worked()
        return await patiently("records of panes", lambda: states.read_records(self.store, keys))

    async def pane_starts(self, model: str, version: str, start_ms: int, end_ms: int) -> Sequence[int]:
        """Name the panes of a time range that have a record."""
        return await patiently(
            "panes of a window", lambda: states.pane_starts(self.store, model, version, start_ms, end_ms)
        )

    # -- repairs ---------------------------------------------------------------------------------------------------

    async def request_repairs(self, needs: Sequence[RepairNeed], reason: str) -> None:
        """Ask the owners of these partitions to rebuild panes."""
        now_ms = self.clock.now_ms()
        await patiently("repair requests", lambda: repairs.request(self.store, needs, reason, requested_at_ms=now_ms))

    async def take_repairs(self, partition: int, next_offset: int) -> Sequence[RepairRequest]:
        """Give the requests that wait for an owner that has applied what is before an offset."""
        return await patiently("repair requests", lambda: repairs.poll(self.store, partition, next_offset))

    async def finish_repairs(self, requests: Sequence[RepairRequest]) -> None:
        """Say that requests were carried out."""
        now_ms = self.clock.now_ms()
        await patiently("repairs", lambda: repairs.finish(self.store, requests, finished_at_ms=now_ms))

    # -- deletions -------------------------------------------------------------------------------------------------

    async def deleted_state(self) -> Mapping[str, tuple[int, int]]:
        """Give per model a mark that changes whenever its deleted ids do."""
        return await patiently("deleted ids", lambda: deletions.ids_state(self.store))

    async def deleted_ids(self, model: str) -> DeletedIds:
        """Give the deleted ids of a model."""
        return await patiently("deleted ids", lambda: deletions.read_ids(self.store, model))

    async def take_deletions(self) -> Sequence[DeletionRequest]:
        """Give the requests that wait, of all partitions."""
        return await patiently("deletion requests", lambda: deletions.poll(self.store))

    async def finish_deletions(self, requests: Sequence[DeletionRequest]) -> None:
        """Say that requests were carried out."""
        now_ms = self.clock.now_ms()
        await patiently("deletions", lambda: deletions.finish(self.store, requests, finished_at_ms=now_ms))

    async def has_deleted_rows(self, model: str, partition: int, since_ms: int | None) -> bool:
        """Say whether a partition has rows of deleted ids that were written since a time, or since the first was deleted."""

        def look() -> bool:
            since = deletions.first_deleted_at(self.store, model) if since_ms is None else since_ms
            return deletions.has_rows(self.store, model, partition, since)

        return model in self.catalogue().models and await patiently("rows of deleted ids", look)

    async def store_now_ms(self) -> int:
        """Give ClickHouse's time (Unix ms)."""
        return await patiently("time", lambda: deletions.now_ms(self.store))

    async def searched_until(self, partition: int) -> int | None:
        """Say until when a partition was searched for rows of deleted ids (Unix ms); None where it never was."""
        return await patiently("deleted ids", lambda: deletions.searched_until(self.store, partition))

    async def note_search(self, partition: int, until_ms: int) -> None:
        """Note until when it was."""
        await patiently("deleted ids", lambda: deletions.note_search(self.store, partition, until_ms))

    async def panes_of_deleted(self, model: str, partition: int) -> Sequence[RepairNeed]:
        """Name the panes of a partition that hold a deleted event."""
        versions = list(self.catalogue().models[model].versions.values()) if model in self.catalogue().models else []
        if not versions:
            return []  # nobody computes it any more
        return await patiently("panes of deleted ids", lambda: deletions.held_panes(self.store, versions, partition))

    async def deletion_refusal(self, model: str, partition: int) -> str | None:
        """Say why a deletion that was begun in a partition fails."""
        return await patiently("deletions", lambda: deletions.refusal(self.store, model, partition))

    async def erase(self, model: str, partition: int) -> Sequence[Rewrite]:
        """Begin to take deleted ids' rows out of a partition's history; those of a model that is no more end with its retention."""
        if model not in self.catalogue().models:
            return []
        return await patiently("rows of deleted ids", lambda: deletions.delete_rows(self.store, model, partition))

    async def erase_states(self, model: str, partition: int) -> Sequence[Rewrite]:
        """Begin to take the states out that newer ones have replaced."""
        return await patiently("older states", lambda: deletions.delete_older_states(self.store, model, partition))

    async def rewriting(self, rewrites: Sequence[Rewrite]) -> Rewriting:
        """Say how far these are: they rewrite whole parts, and hold no connection meanwhile."""
        return await patiently("deleted rows", lambda: deletions.rewriting(self.store, rewrites))

    async def are_rows_left(self, model: str, partition: int) -> bool:
        """Say whether a replica has carried a deletion out before it knew all of the ids."""
        return self.store.quorum is not None and await self.has_deleted_rows(model, partition, 0)

    # -- recorded metrics ------------------------------------------------------------------------------------------

    async def write_recorded(self, rows: Mapping[int, Sequence[Row]]) -> None:
        """Write rows of numbers, each kind by one insert, side by side."""
        inserts = recorded_rows.inserts(self.store, rows)
        await asyncio.gather(*(patiently("recorded metrics", insert) for insert in inserts))

    async def forget_recorded(self, partition: int, forgotten: Sequence[ForgetRow]) -> None:
        """Mark what was recorded below an offset as gone."""
        for row in forgotten:
            await patiently("forgotten metrics", partial(recorded_rows.forget, self.store, partition, row))

    async def write_summaries(self, summaries: Mapping[int, tuple[Version, Sequence[Summary]]]) -> None:
        """Write summaries of lists."""
        if any(found for _, found in summaries.values()):
            await patiently("summaries of lists", lambda: recorded_rows.write_summaries(self.store, summaries))

    async def read_lists(self, partition: int, needs: Needs) -> Mapping[ListKey, ListState]:
        """Give lists as their newest summary has them."""
        return await patiently("lists", lambda: recorded_rows.read_lists(self.store, partition, needs))

    async def refused_from(self, partition: int, offset: int) -> Mapping[int, Refused]:
        """Give the metric events from an offset on that are dead letters already."""
        found = await patiently("dead letters", lambda: recorded.refusals_from(self.store, partition, offset))
        return {at: Refused(0, one.code, one.message, one.stored) for at, one in found.items()}

    # -- values ----------------------------------------------------------------------------------------------------

    async def read_published(self, model: str) -> Published | None:
        """Give what the model's finaliser remembered last."""
        return await patiently("what was published", lambda: states.read_published(self.store, model))

    async def model_watermark(self, model: str) -> int | None:
        """Give how far time has come for a model, as last published."""
        published = await self.read_published(model)
        return published.watermark_ms if published is not None else None

    async def write_published(self, model: str, published: Published, now_ms: int) -> None:
        """Remember what was published."""
        await patiently(
            "what was published",
            lambda: states.write_published(self.store, model, published, now_ms),
        )

    async def claim_finaliser(self, model: str, epoch: int, owner: str) -> None:
        """Say that from now on this finaliser publishes a model's values."""
        now_ms = self.clock.now_ms()
        await patiently("claim", lambda: states.claim_finaliser(self.store, model, epoch, owner, now_ms))

    async def finalisers(self, model: str) -> Mapping[str, int]:
        """Give the finalisers with the highest epoch, and that epoch."""
        return await patiently("claims", lambda: states.finalisers(self.store, model))

    async def latest_values(self, model: str, spans: Sequence[Span]) -> Sequence[MetricValue]:
        """Give the newest published values of these windows."""
        wanted = [(span.start_ms, span.end_ms) for span in spans]
        return await patiently("latest values", lambda: values.latest_of_windows(self.store, model, wanted))

    async def open_spans(self, model: str) -> Sequence[Span]:
        """Name the windows whose newest values are not final yet."""
        found = await patiently("open windows", lambda: values.open_windows(self.store, model))
        return [Span(start_ms, end_ms) for start_ms, end_ms in found]

    async def write_values(self, published: Sequence[MetricValue], retention_ms: int) -> None:
        """Insert values."""
        await patiently("values", lambda: values.write_values(self.store, published, retention_ms=retention_ms))

    def _retention_ms(self, model: str) -> int:
        entry = self.catalogue().models.get(model)
        return entry.newest.retention_ms if entry and entry.newest else _RETENTION_MS
