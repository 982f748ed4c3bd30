"""Which partitions of code-metric-tasks a runner owns: Kafka's group gives them out, a claim in ClickHouse fences who had one before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


class ClaimsPort(Protocol):
    """Where claims are durable."""

    def claim(self, partition: int, epoch: int, owner: str) -> None:
        """Say that from now on this owner runs the metrics of a partition."""
        ...

    def owners(self, partition: int) -> dict[str, int]:
        """Give the owners that claimed a partition with the highest epoch, and that epoch: one, or rivals."""
        ...


@dataclass(slots=True)
class Ownership:
    """The partitions of one runner, each with the epoch of its claim: higher than all before, so later rows win over earlier owners'."""

    owner: str
    claims: ClaimsPort
    epochs: dict[int, int] = field(default_factory=dict)
    _numbers: dict[int, int] = field(default_factory=dict)

    def take(self, partition: int) -> None:
        """Claim a partition, under an epoch of our own."""
        epoch = 0
        while list(owners := self.claims.owners(partition)) != [self.owner]:
            epoch = max([epoch, *owners.values()]) + 1
            self.claims.claim(partition, epoch, self.owner)
        self.epochs[partition] = owners[self.owner]
        self._numbers.setdefault(partition, 0)

    def leave(self, partition: int) -> None:
        """Forget a partition: somebody else may claim it from now on."""
        self.epochs.pop(partition, None)

    def is_forgotten(self, partition: int) -> bool:
        """Say whether somebody has claimed a partition since we did."""
        return partition in self.epochs and list(self.claims.owners(partition)) != [self.owner]

    def numbers_of(self, partition: int, numbers_per_epoch: int) -> Callable[[], int]:
        """Give what counts versions of rows under the present claim: each higher than the one before and than any earlier owner's."""
        epoch = self.epochs[partition]

        def following() -> int:
            self._numbers[partition] += 1
            return epoch * numbers_per_epoch + self._numbers[partition]

        return following
