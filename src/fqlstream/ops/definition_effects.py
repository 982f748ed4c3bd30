"""What follows from definitions that were applied or deleted: ClickHouse shows them, and the past is computed under them."""

from __future__ import annotations

from dataclasses import dataclass

from fqlstream.errors import FqlstreamError
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import parse_key
from fqlstream.events.documents import COMPUTED_KINDS
from fqlstream.ops import definitions, repairing
from fqlstream.ops.definition_log import Folded
from fqlstream.ops.definition_mirror import prepare_store
from fqlstream.ops.registry_mirror import RegistryMirror
from fqlstream.store.client import Store


@dataclass(frozen=True, slots=True)
class Effects:
    """What was set going. `asked` are panes that owners shall rebuild, `notes` what has to wait, and for whom."""

    asked: tuple[repairing.Asked, ...]
    notes: tuple[str, ...]


def show_in_store(
    store: Store, catalogue: Catalogue, folded: Folded, mirror: RegistryMirror | None = None
) -> tuple[str, ...]:
    """Make tables and the copies of definitions now; where that fails a worker does it later, and the note says so."""
    try:
        prepare_store(store, folded, catalogue)
        if mirror is not None:
            mirror.write(store)
    except FqlstreamError as error:
        return (shown_later(error),)
    return ()


def shown_later(error: FqlstreamError) -> str:
    """Say that definitions are stored, and that ClickHouse does not have them yet."""
    return f"stored; but ClickHouse does not show it yet: {error.message}. A worker makes up for it, and a running API for what is registered."


def carry_out(
    store: Store,
    applied: definitions.Applied,
    reason: str,
    *,
    backfill: bool,
    mirror: RegistryMirror | None = None,
) -> Effects:
    """Show what was applied, and ask for stored panes under it: all of them, or only those that drift is compared with.

    Raises StoreError where a back-fill cannot be asked for.
    """
    notes = list(show_in_store(store, applied.catalogue, applied.folded, mirror))
    changed = {
        parse_key(str(result.id))[1]
        for result in applied.results
        if result.result != "unchanged" and result.kind in COMPUTED_KINDS
    }
    entries = [applied.catalogue.models[name] for name in sorted(changed & applied.catalogue.models.keys())]
    if backfill:
        asked = [repairing.ask(store, entry, 0, repairing.END_OF_TIME_MS, reason) for entry in entries]
        return Effects(tuple(asked), tuple(notes))
    try:
        for entry in entries:
            for baseline in entry.baselines.values():
                if (found := baseline.range_ms) is not None:
                    repairing.ask(store, entry, *found, "a baseline is read by new definitions")
    except FqlstreamError as error:
        notes.append(f"stored; but its baselines' past waits for a back-fill: {error.message}")
    return Effects((), tuple(notes))
