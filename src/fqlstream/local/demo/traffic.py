"""What a model server of the demo sends, in its order. A seed decides everything: the same seed, the same messages."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fqlstream.local.demo.models import DemoModel, Row

#: Shares of events: never labelled, labelled wrongly at first, sent twice, with a spoiled column.
UNLABELLED: Final = 0.08
CORRECTED: Final = 0.03
REPEATED: Final = 0.01
SPOILED: Final = 0.03
#: After how many further events, at most, a wrong label is corrected, and an event is sent again.
CORRECTION_EVENTS_MAX: Final = 120
REPEAT_EVENTS_MAX: Final = 20
#: One record in so many is broken.
BROKEN_EVERY: Final = 100


@dataclass(frozen=True, slots=True)
class Inference:
    """A prediction; `at_ms` None: now. `repeated`: it was sent before, as after a time-out."""

    event_id: str
    at_ms: int | None
    columns: Mapping[str, Any]
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """The truth of an earlier prediction; the last one sent counts."""

    event_id: str
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Broken:
    """Bytes that no event can be read from, as a faulty client sends them."""

    value: bytes


Message = Inference | Label | Broken


@dataclass(frozen=True, slots=True)
class Timed:
    """A row of a data set and when it is asked about; None: now."""

    at_ms: int | None
    row: Row


def spread(rows: Sequence[Row], start_ms: int, end_ms: int) -> Iterator[Timed]:
    """Lay rows out evenly over a stretch of time."""
    for number, row in enumerate(rows):
        yield Timed(start_ms + number * (end_ms - start_ms) // len(rows), row)


def endless(rows: Sequence[Row], seed: int) -> Iterator[Timed]:
    """Give the rows again and again, each time in another order."""
    shuffled = list(rows)
    rng = random.Random(seed)  # noqa: S311  # a demo, no secret
    while True:
        rng.shuffle(shuffled)
        for row in shuffled:
            yield Timed(None, row)


def traffic(model: DemoModel, rows: Iterable[Timed], *, seed: int, run: str) -> Iterator[Message]:
    """Predict each row, then learn from its label when that arrives; `run` begins every event_id.

    After the last row everything that is still due follows at once.
    """
    session = _Session(model, random.Random(seed), run)  # noqa: S311  # a demo, no secret
    for number, timed in enumerate(rows):
        yield from session.due(number)
        yield from session.predict(number, timed)
        if number % BROKEN_EVERY == BROKEN_EVERY // 2:
            yield session.broken(number // BROKEN_EVERY)
    yield from session.due(None)


class _Session:
    """A model that serves: what it has learnt, and what is still to come of the events so far."""

    def __init__(self, model: DemoModel, rng: random.Random, run: str) -> None:
        self._model = model
        self._rng = rng
        self._run = run
        self._predictor = model.predictor()
        # (after which event, a number that keeps the order, message, the row to learn from)
        self._due: list[tuple[int, int, Message, Row | None]] = []
        self._planned = 0

    def predict(self, number: int, timed: Timed) -> Iterator[Message]:
        """Send a prediction and plan what follows from it."""
        features, _ = timed.row
        event_id = f"{self._run}-{number:06d}"
        columns = {**features, self._model.output: round(self._predictor.predict(features), 6)}
        if self._happens(SPOILED):
            columns |= self._rng.choice(self._model.spoiled)
        yield Inference(event_id, timed.at_ms, columns)
        if self._happens(REPEATED):
            again = Inference(event_id, timed.at_ms, columns, repeated=True)
            self._plan(number + self._rng.randint(1, REPEAT_EVENTS_MAX), again, None)
        if not self._happens(UNLABELLED):
            self._plan_label(number, event_id, timed.row)

    def _plan_label(self, number: int, event_id: str, row: Row) -> None:
        after = number + self._rng.randint(*self._model.label_delay)
        target, truth = self._model.target, row[1]
        if self._happens(CORRECTED):
            self._plan(after, Label(event_id, {target: self._model.mistaken(truth)}), None)
            after += self._rng.randint(1, CORRECTION_EVENTS_MAX)
        self._plan(after, Label(event_id, {target: truth}), row)

    def due(self, number: int | None) -> Iterator[Message]:
        """Send what is due after so many events (None: all of it), and learn from the true labels."""
        while self._due and (number is None or self._due[0][0] <= number):
            _, _, message, row = heapq.heappop(self._due)
            if row is not None:
                self._predictor.learn(*row)
            yield message

    def broken(self, number: int) -> Broken:
        """Give one of the ways in which records are broken, in turn."""
        name = self._model.name.encode()
        ways = (
            b'{"model": "' + name + b'", "event_id": "cut", "columns": {"sco',
            b'{"model": "no such model", "event_id": "lost", "columns": {"score": 0.5}}',
            b'{"model": "' + name + b'", "columns": {"score": 0.5}}',
            b'{"model": "'
            + name
            + b'", "event_id": "early", "event_at": "2999-01-01T00:00:00Z", "columns": {"score": 0.5}}',
            b'{"model": "' + name + b'", "event_id": "list", "columns": [0.5]}',
            b"\xff\xfe this is not UTF-8",
        )
        return Broken(ways[number % len(ways)])

    def _happens(self, share: float) -> bool:
        return self._rng.random() < share

    def _plan(self, after: int, message: Message, row: Row | None) -> None:
        self._planned += 1
        heapq.heappush(self._due, (after, self._planned, message, row))
