from __future__ import annotations

from collections.abc import Callable

from fqlstream.runner.ownership import Ownership


class Claims:
    """Claims in memory; `meanwhile` happens between a claim and the look that follows it."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, str]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def claim(self, partition: int, epoch: int, owner: str) -> None:
        self.rows.append((partition, epoch, owner))
        happens, self.meanwhile = self.meanwhile, lambda: None
        happens()

    def owners(self, partition: int) -> dict[str, int]:
        mine = [(epoch, owner) for at, epoch, owner in self.rows if at == partition]
        highest = max((epoch for epoch, _ in mine), default=0)
        return {owner: epoch for epoch, owner in mine if epoch == highest}


def test_whoever_claims_last_owns_and_the_one_before_notices() -> None:
    claims = Claims()
    first, second = Ownership("a", claims), Ownership("b", claims)
    first.take(3)
    version = first.numbers_of(3, 100)()
    assert not first.is_forgotten(3)
    second.take(3)
    assert first.is_forgotten(3)
    assert not second.is_forgotten(3)
    assert second.numbers_of(3, 100)() > first.numbers_of(3, 100)() > version


def test_rivals_of_one_epoch_claim_again_until_one_is_left() -> None:
    claims = Claims()
    claims.meanwhile = lambda: claims.claim(0, 1, "rival")
    mine = Ownership("a", claims)
    mine.take(0)
    assert claims.owners(0) == {"a": 2}


def test_a_partition_that_was_given_back_is_claimed_anew() -> None:
    claims = Claims()
    mine, other = Ownership("a", claims), Ownership("b", claims)
    mine.take(0)
    mine.leave(0)
    other.take(0)
    mine.take(0)
    assert mine.epochs == {0: 3}
    assert other.is_forgotten(0)
