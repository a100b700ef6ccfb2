"""What is tried again while the store is away."""

from __future__ import annotations

import pytest

from mizzen.errors import ConflictError, IntegrityError, StoreError
from mizzen.training.patience import FOR_S, LONGEST_PAUSE_S, patiently


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.pauses_s.append(seconds)


class Store:
    """Is away at first, so many times."""

    def __init__(self, away: int, error: StoreError | None = None) -> None:
        self.away, self.error = away, error or StoreError("the store cannot be reached")
        self.calls = 0

    def publish(self) -> int:
        self.calls += 1
        if self.calls <= self.away:
            raise self.error
        return 3


def outcome(store: Store) -> tuple[int, list[str], Clock]:
    clock, kinds = Clock(), []
    found = patiently(
        "publishing", store.publish, lambda kind, _: kinds.append(kind), sleep=clock.sleep, clock=clock
    )
    return found, list(kinds), clock


def test_a_store_that_is_there_is_asked_once_and_nothing_is_told() -> None:
    store = Store(0)
    assert outcome(store)[:2] == (3, [])
    assert store.calls == 1


def test_a_store_that_is_away_is_tried_again_with_longer_pauses_and_told_of_once() -> None:
    found, kinds, clock = outcome(Store(8))
    assert (found, kinds) == (3, ["store_away", "store_back"])
    assert clock.pauses_s == [0.5, 1, 2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_after_the_stated_time_the_error_is_raised() -> None:
    clock, store = Clock(), Store(10_000)
    with pytest.raises(StoreError, match="cannot be reached"):
        patiently("publishing", store.publish, lambda *_: None, sleep=clock.sleep, clock=clock)
    assert FOR_S - LONGEST_PAUSE_S <= clock.now_s <= FOR_S


@pytest.mark.parametrize("error", [IntegrityError("other bytes"), ConflictError("others publish")])
def test_what_another_try_cannot_better_is_raised_at_once(error: StoreError) -> None:
    store = Store(1, error)
    with pytest.raises(type(error)):
        outcome(store)
    assert store.calls == 1
