"""The aggregate agent: owns partitions of the source topic, applies fetches, flushes.

All waiting, timing and locking is here; what happens to a batch, and in which order it becomes durable, is in `stream/`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from fqlstream.app.holding import Held, Holding
from fqlstream.app.numbers import Numbers
from fqlstream.app.rounds import Room, Rounds
from fqlstream.app.transport import SourcePartition
from fqlstream.app.unbroken import Unbroken
from fqlstream.app.watchdog import Duties
from fqlstream.errors import FqlstreamError
from fqlstream.events.catalogue import Catalogue
from fqlstream.settings import Settings
from fqlstream.store.deletions import DeletionRequest, Rewrite, Rewriting
from fqlstream.store.repairs import TAKEN_MAX, RepairRequest
from fqlstream.stream.batches import Fetch
from fqlstream.stream.deleted import Deleted, DeletedIds
from fqlstream.stream.delivery import Owner, Ports, flush, take_over
from fqlstream.stream.engines import Engines, changed_models
from fqlstream.stream.protocol import RepairNeed
from fqlstream.stream.trials import next_part, try_alone

log = logging.getLogger("fqlstream.aggregate")

#: Panes that are rebuilt, or looked at under newer definitions, between two flushes: they are in memory at once.
_PANES_AT_ONCE = 256
_FLUSHING = "flushing"
#: What the watchdog calls `delete`: whoever runs it begins the duty, and each look at ClickHouse's work on it is a step.
DELETING = "deleting"
#: How often it is looked whether ClickHouse has written parts anew.
_REWRITE_LOOK_S = 0.2


class Definitions(Protocol):
    """Where definitions come from."""

    @property
    def catalogue(self) -> Catalogue:
        """What is known now."""
        ...

    async def refresh(self) -> Catalogue:
        """Read to the end of the topic."""
        ...


class Repairs(Protocol):
    """Where rebuilding panes is asked for."""

    async def take_repairs(self, partition: int, next_offset: int) -> Sequence[RepairRequest]:
        """Give the requests that wait for an owner that has applied what is before an offset, `TAKEN_MAX` at most."""
        ...

    async def finish_repairs(self, requests: Sequence[RepairRequest]) -> None:
        """Say that requests were carried out."""
        ...


class Deletions(Protocol):
    """Where it is asked for that events be deleted, and what deletes them."""

    async def deleted_state(self) -> Mapping[str, tuple[int, int]]:
        """Give per model a mark that changes whenever its deleted ids do."""
        ...

    async def deleted_ids(self, model: str) -> DeletedIds:
        """Give the deleted ids of a model."""
        ...

    async def take_deletions(self) -> Sequence[DeletionRequest]:
        """Give the requests that wait, of all partitions."""
        ...

    async def finish_deletions(self, requests: Sequence[DeletionRequest]) -> None:
        """Say that requests were carried out."""
        ...

    async def has_deleted_rows(self, model: str, partition: int, since_ms: int | None) -> bool:
        """Say whether a partition has rows of deleted ids that were written since a time, or since the first was deleted."""
        ...

    async def store_now_ms(self) -> int:
        """Give the store's time (Unix ms): its rows are stamped with it."""
        ...

    async def searched_until(self, partition: int) -> int | None:
        """Say until when a partition was searched for rows of deleted ids (Unix ms); None where it never was."""
        ...

    async def note_search(self, partition: int, until_ms: int) -> None:
        """Note until when it was, for later owners."""
        ...

    async def panes_of_deleted(self, model: str, partition: int) -> Sequence[RepairNeed]:
        """Name the panes of a partition that hold a deleted event."""
        ...

    async def deletion_refusal(self, model: str, partition: int) -> str | None:
        """Say why a deletion that was begun in a partition fails; None where none does."""
        ...

    async def erase(self, model: str, partition: int) -> Sequence[Rewrite]:
        """Begin to take the rows of deleted ids out of a partition's history."""
        ...

    async def erase_states(self, model: str, partition: int) -> Sequence[Rewrite]:
        """Begin to take the states out that newer ones have replaced."""
        ...

    async def rewriting(self, rewrites: Sequence[Rewrite]) -> Rewriting:
        """Say how far these are."""
        ...

    async def are_rows_left(self, model: str, partition: int) -> bool:
        """Say whether a deletion that was carried out has left rows of deleted ids, as it may on replicas."""
        ...


@dataclass(slots=True)
class Meter:
    """Where the time of this process goes, in seconds, and what went through."""

    apply_s: float = 0.0
    flush_s: float = 0.0
    records: int = 0
    bytes: int = 0
    fetches: int = 0
    flushes: int = 0


@dataclass(slots=True)
class _Upkeep:
    """What is done now and then in a partition."""

    repairing: asyncio.Lock = field(default_factory=asyncio.Lock)  # upkeep and deletions need not make the same panes
    swept_ms: int | None = None  # when history was last searched for rows of deleted ids
    searched_ms: int | None = None  # the same by the store's clock


_Held: TypeAlias = Held[Owner, _Upkeep]


class AggregateAgent:
    """One worker's partitions of one source topic."""

    def __init__(
        self,
        topic: str,
        owner_id: str,
        settings: Settings,
        ports: Ports,
        repairs: Repairs,
        definitions: Definitions,
        commit: Callable[[], Awaitable[None]],
        on_failure: Callable[[BaseException], None],
        duties: Duties | None = None,
        deletions: Deletions | None = None,
        numbers: Numbers | None = None,
    ) -> None:
        self.topic = topic
        self.duties = duties or Duties()
        self.owner_id = owner_id
        self.settings = settings
        self.ports = ports
        self.repairs = repairs
        self.definitions = definitions
        self.commit = commit
        self.deletions = deletions
        self._deleted: Deleted = {}
        self._learning = asyncio.Lock()
        self._deleted_state: Mapping[str, tuple[int, int]] = {}
        self._put_off_s: dict[
            tuple[str, int], float
        ] = {}  # until when a model's deletions are left alone in a partition
        self.engines = Engines(definitions.catalogue, settings.fql)
        self.meter = Meter()
        self._unbroken = Unbroken(on_failure)
        self.holding: Holding[Owner, _Upkeep] = Holding(
            topic, self._take, self._unbroken, self.duties, log, numbers or Numbers()
        )
        self._rounds = Rounds(_FLUSHING, self.duties, on_failure)
        self._room = Room(self._rounds, self._is_full, self._what_waits, log)
        self._flushing = asyncio.Lock()
        self._nobody_alone = asyncio.Event()  # cleared while records of one partition are applied alone
        self._nobody_alone.set()
        self._adopting = asyncio.Lock()

    @property
    def owners(self) -> list[Owner]:
        """The partitions held now."""
        return self.holding.owners

    # -- assignment ------------------------------------------------------------------------------------------------

    async def take(self, source: SourcePartition) -> int:
        """Take a partition over; gives the first offset to read."""
        return await self.holding.take(source)

    async def _take(self, source: SourcePartition) -> int:
        started_s = time.monotonic()
        partition = source.partition
        # a predecessor may have met a model that is newer than what this worker has read: its rows are to be remembered too
        await self.adopt(await self.definitions.refresh())
        lock = asyncio.Lock()
        engines = self.engines
        owner = await take_over(self.topic, partition, self.owner_id, engines.catalogue, engines, self.ports, lock)
        while engines is not self.engines:  # definitions have moved on while the takeover read its rows
            changed = changed_models(engines.catalogue, self.engines.catalogue)
            engines = self.engines
            await owner.adopt(engines.catalogue, engines, changed)
        # after the claim: whoever finished a deletion before it had noted the ids by then, and later ones are asked of us
        await self._look_for_deleted()
        owner.state.deleted = self._deleted
        if not self.holding.add(source, owner, lock, _Upkeep(), time.monotonic() - started_s):
            return owner.state.next_offset
        self._share_memory()
        if owner.caution is not None:
            log.warning(
                "%s[%d]: workers have ended at offset %d again and again: what may have ended them, before offset %d, is applied alone",
                self.topic,
                partition,
                owner.state.next_offset,
                owner.caution.until,
            )
        return owner.state.next_offset

    async def release(self, source: SourcePartition) -> None:
        """Write what there is, and that the partition may be left: whoever takes it over next finds no sudden end."""
        self.holding.leave(source)
        await self.flush(labels=True)

    def lose(self, source: SourcePartition) -> None:
        """Forget a partition at once: its next owner goes on from what is durable."""
        if self.holding.lose(source):
            self._share_memory()

    def _share_memory(self) -> None:
        """Give each partition the same part of the memory for panes."""
        owners = self.owners
        for owner in owners:
            owner.panes_bytes_max = self.settings.stream.panes_bytes_max // len(owners)

    def _caught_up(self, held: _Held, next_offset: int) -> bool:
        """Say whether everything that was in the log a moment ago has been read, as far as the broker has told."""
        progress = held.source.progress()
        return progress is not None and next_offset >= progress.log_end

    # -- fetches ---------------------------------------------------------------------------------------------------

    async def apply(self, fetch: Fetch) -> None:
        """Apply one fetch; returns when it is in memory. Waits while too much is unwritten."""
        held = self.holding.following(fetch)
        if held is None:
            return
        while True:
            await self._room.wait()
            if held.owner.caution is not None:
                await self._apply_carefully(held, fetch)
            if not self.holding.is_current(held):
                return
            await self._apply(held, fetch)
            if held.owner.state.next_offset >= fetch.next_offset:
                break  # else its panes do not fit the memory at once
        self.meter.records += len(fetch)
        self.meter.bytes += fetch.bytes_count
        self.meter.fetches += 1

    async def _apply(self, held: _Held, fetch: Fetch) -> None:
        """Apply as much of a fetch as its owner takes at once."""
        is_known = held.owner.needs_news
        if is_known:  # now, so that it is decoded once
            await self.adopt(await self.definitions.refresh())
        await self._nobody_alone.wait()
        started_s = time.process_time()
        caught_up = self._caught_up(held, fetch.next_offset)
        async with held.lock:
            unknown = await held.owner.apply(fetch, caught_up=caught_up, is_known=is_known)
        if unknown:
            # A model or a column that is new to this worker: read definitions to their end before calling it unknown.
            await self.adopt(await self.definitions.refresh())
            async with held.lock:
                await held.owner.apply(fetch, caught_up=caught_up, is_known=True)
        self.meter.apply_s += time.process_time() - started_s
        self.holding.moved(held)
        if self._unwritten_bytes() >= self.settings.stream.flush_bytes_max or held.owner.is_full:
            self._rounds.ask()

    async def _apply_carefully(self, held: _Held, fetch: Fetch) -> None:
        """Apply the records of a fetch that may kill the process, each few of them alone."""
        await self.adopt(await self.definitions.refresh())
        while self.holding.is_current(held) and (part := next_part(held.owner, fetch)) is not None:
            await self._unbroken.await_to_its_end(self._apply_alone(held, part))
            self.holding.moved(held)

    async def _apply_alone(self, held: _Held, part: Fetch) -> None:
        """Apply some records while no other record is applied and nothing else is flushed: a death is then theirs."""
        async with self._flushing, self._alone(held):
            await try_alone(held.owner, part, caught_up=self._caught_up(held, part.next_offset))
            self.holding.take_superseded_again([held])

    @asynccontextmanager
    async def _alone(self, held: _Held) -> AsyncIterator[None]:
        """Keep the other partitions still: those held now by their locks, those taken meanwhile before their first fetch."""
        self._nobody_alone.clear()
        try:
            async with AsyncExitStack() as others:
                for other in self.holding.parts:
                    if other is not held:
                        await others.enter_async_context(other.lock)
                yield
        finally:
            self._nobody_alone.set()

    def _what_waits(self) -> str:
        if self._has_too_many_rows():
            return f"{self._unwritten_bytes() / 1e6:.0f} MB of rows wait for a flush"
        return "changed panes, as many as memory may hold, wait for a flush"

    def _is_full(self) -> bool:
        # one that was superseded is not flushed any more: it is about to be taken over again
        return self._has_too_many_rows() or any(o.is_full for o in self.owners if not o.superseded)

    def _has_too_many_rows(self) -> bool:
        return self._unwritten_bytes() >= self.settings.stream.sink_backlog_bytes_max

    def _unwritten_bytes(self) -> int:
        return sum(owner.unwritten_bytes for owner in self.owners)

    # -- flushes ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Flush for ever, in the rhythm of the settings; ends the worker where that cannot go on."""
        await self._rounds.run(self.flush, self.settings.stream.flush_ms / 1000)

    async def flush(self, *, labels: bool = False) -> None:
        """Make everything applied so far durable."""
        await self._unbroken.await_to_its_end(self._flush(labels=labels))

    async def _flush(self, *, labels: bool) -> None:
        async with self._flushing:
            started_s = time.process_time()
            with self.holding.flushing() as parts:
                for held in parts:
                    held.owner.read_end = self._caught_up(held, held.owner.state.next_offset)
                await flush([held.owner for held in parts], self.ports, labels=labels)
            await self.commit()
            self.holding.take_superseded_again(parts)
            self.meter.flush_s += time.process_time() - started_s
            self.meter.flushes += 1
        await self._room.written()

    async def look_for_lag(self, quiet_s: float) -> None:
        """Expect progress of every partition that has applied nothing for a while though its log, asked now, holds more."""
        await self.holding.look_for_lag(quiet_s)

    # -- upkeep ----------------------------------------------------------------------------------------------------

    async def maintain(self) -> None:
        """Do what nothing waits for: back-fill new metrics, look for labels' events elsewhere, rebuild what was asked for.

        Deletions are not among it (`delete`): they wait for ClickHouse to write parts anew, and that may take hours.
        """
        for held in self.holding.parts:
            while self.holding.is_current(held) and await held.owner.backfill(_PANES_AT_ONCE):
                await self.flush(labels=True)
            await held.owner.search()
        await self.repair()

    async def repair(self) -> int:
        """Carry out the repairs that were asked for in this worker's partitions. Gives how many panes were rebuilt."""
        rebuilt = 0
        for held in self.holding.parts:
            rebuilt += await self._repair_waiting(held)
        return rebuilt

    async def _repair_waiting(self, held: _Held) -> int:
        """Rebuild what waits in a partition, `TAKEN_MAX` panes at most; gives how many that were."""
        async with held.notes.repairing:
            return await self._repair_partition(held)

    async def _repair_partition(self, held: _Held) -> int:
        owner = held.owner
        # an event that is in history already may still have to be applied: its label would be missed
        waiting = await self.repairs.take_repairs(owner.partition, owner.state.next_offset)
        if waiting:  # whoever asks after a change of definitions means the new ones
            await self.adopt(await self.definitions.refresh())
        requests = sorted(waiting, key=lambda request: request.pane)
        done = 0
        while done < len(requests):
            ahead = requests[done : done + _PANES_AT_ONCE]
            async with held.lock:
                part = ahead[: owner.fitting(request.pane for request in ahead)]
                await owner.rebuild(dict.fromkeys(request.pane for request in part))
            await self.flush(labels=True)
            if owner.superseded or not self.holding.is_current(held):
                return done  # what was written may have lost against the next owner's states: it is asked again
            await self.repairs.finish_repairs(part)
            done += len(part)
        if requests:
            log.info("rebuilt %d panes of %s[%d]", len(requests), self.topic, owner.partition)
        return len(requests)

    async def delete(self) -> None:
        """Carry out the deletions that were asked for in this worker's partitions, and those that came undone."""
        if self.deletions is None or not self.settings.stream.history:
            return
        waiting = await self.deletions.take_deletions()
        if waiting:  # a model that this worker has not read of yet would have nothing to delete
            await self.adopt(await self.definitions.refresh())
        await self._look_for_deleted()
        for held in self.holding.parts:
            if not self.holding.is_current(held):
                continue  # lost while ClickHouse was waited for
            requests = [request for request in waiting if request.partition == held.owner.partition]
            for model in sorted({request.model for request in requests} | await self._undone(held)):
                if not self._is_put_off(model, held) and await self._delete_in(held, model, self.deletions):
                    await self.deletions.finish_deletions([request for request in requests if request.model == model])

    async def _look_for_deleted(self) -> None:
        """Learn which ids were deleted: from here on their records are dropped."""
        if self.deletions is None:
            return
        async with self._learning:  # who looked earlier must not forget what who looked later has learned
            state = await self.deletions.deleted_state()
            if state == self._deleted_state:
                return
            known = {
                model: self._deleted[model]
                if self._deleted_state.get(model) == mark
                else await self.deletions.deleted_ids(model)
                for model, mark in state.items()
            }
            self._deleted, self._deleted_state = known, state
            for held in self.holding.parts:
                async with held.lock:
                    held.owner.state.deleted = known

    async def _undone(self, held: _Held) -> set[str]:
        """Name the models of which a partition has rows of deleted ids again: a worker that slept had them in memory."""
        now_ms, every_ms = self.ports.clock.now_ms(), self.settings.stream.deleted_sweep_ms
        if self.deletions is None or (held.notes.swept_ms is not None and now_ms - held.notes.swept_ms < every_ms):
            return set()
        partition = held.owner.partition
        if any(self._is_put_off(model, held) for model in self._deleted):
            return set()  # its rows are still there, and searching for them every second would not help
        found: set[str] = set()
        if self._deleted:
            # by the clock that stamps rows, and with an overlap: one may be written, and stamped, while this is going on
            at_ms = await self.deletions.store_now_ms()
            if held.notes.searched_ms is None:
                held.notes.searched_ms = await self.deletions.searched_until(partition)
            since_ms = None if held.notes.searched_ms is None else held.notes.searched_ms - every_ms
            found = {m for m in self._deleted if await self.deletions.has_deleted_rows(m, partition, since_ms)}
            if not found:
                await self.deletions.note_search(partition, at_ms)
                held.notes.searched_ms = at_ms
        if not found:
            held.notes.swept_ms = now_ms
        return found

    async def _delete_in(self, held: _Held, model: str, deletions: Deletions) -> bool:
        """Delete what a partition holds of deleted ids: rows, memory, states. False where it has to be done again, or by another.

        Rows that were applied before the ids were known are durable first, so that they are found; later ones are dropped.
        """
        owner = held.owner
        if (refusal := await deletions.deletion_refusal(model, owner.partition)) is not None:
            return self._put_off(model, held, refusal)  # it goes on trying that, and would not begin another before
        await self.flush(labels=True)
        if not self._is_owned(held):
            return False
        async with held.lock:
            owner.state.forget_deleted(owner.flushed_offset - 1)
        needs = await deletions.panes_of_deleted(model, owner.partition)
        if needs:  # durable before the rows go: afterwards nothing would say which panes held them
            await self.ports.store.request_repairs(needs, "events were deleted")
        if not await self._rewritten(held, model, await deletions.erase(model, owner.partition), deletions):
            return False
        # what waits now; under traffic there is always more to come
        while await self._repair_waiting(held) >= TAKEN_MAX and self._is_owned(held):
            pass
        await self.flush(labels=True)
        if not self._is_owned(held) or await deletions.are_rows_left(model, owner.partition):
            return False
        if not await self._rewritten(held, model, await deletions.erase_states(model, owner.partition), deletions):
            return False
        log.info("deleted events of %s in %s[%d]", model, self.topic, owner.partition)
        return True

    async def _rewritten(self, held: _Held, model: str, rewrites: Sequence[Rewrite], deletions: Deletions) -> bool:
        """Wait until ClickHouse has written parts anew; False where it cannot, or where somebody else has to see to it."""
        while rewrites:
            found = await deletions.rewriting(rewrites)
            self.duties.moved(DELETING)
            if not self._is_owned(held):
                return False
            if found.refusal is not None:
                return self._put_off(model, held, found.refusal)
            if found.is_done:
                break
            await asyncio.sleep(_REWRITE_LOOK_S)
        return True

    def _put_off(self, model: str, held: _Held, why: str) -> bool:
        """Leave a deletion that cannot be carried out alone for a while, and say so."""
        wait_s = self.settings.stream.trouble_said_ms / 1000
        self._put_off_s[model, held.owner.partition] = time.monotonic() + wait_s
        place = f"{model} in {self.topic}[{held.owner.partition}]"
        log.warning("STO060 events of %s cannot be deleted, the request waits and is tried again: %s", place, why)
        return False

    def _is_put_off(self, model: str, held: _Held) -> bool:
        return time.monotonic() < self._put_off_s.get((model, held.owner.partition), 0.0)

    def _is_owned(self, held: _Held) -> bool:
        return self.holding.is_current(held) and not held.owner.superseded

    async def adopt(self, catalogue: Catalogue) -> None:
        """Go over to newer definitions at a flush boundary; older ones than those of now change nothing."""
        await self._unbroken.await_to_its_end(self._adopt(catalogue))

    async def _adopt(self, catalogue: Catalogue) -> None:
        async with self._adopting:
            before = self.engines.catalogue
            if catalogue.position < before.position:
                return
            changed = changed_models(before, catalogue)
            engines = Engines(catalogue, self.settings.fql, self.engines)
            if changed:
                await self.flush(labels=True)
            self.engines = engines
            for held in self.holding.parts:
                async with held.lock:
                    await held.owner.adopt(catalogue, engines, changed)
        for (model, version), skipped in engines.skipped.items():
            for left in skipped:
                log.warning(
                    "model %s version %s: %s %s does not fit: %s",
                    model,
                    version,
                    left.kind,
                    left.name,
                    left.error.message,
                )

    async def stop(self) -> None:
        """Write what is in memory and stop flushing."""
        self._rounds.end()
        try:
            await self.flush(labels=True)
        except FqlstreamError as error:
            log.warning("the last flush failed, the next owner will redo it: %s", error.message)
