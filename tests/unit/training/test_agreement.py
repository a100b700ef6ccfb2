"""Ranks do the same at the same step, though only one of them was told, and do not ask at each step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mizzen.training.agreement import EVERY_S, Agreement


class Group:
    """Ranks as threads; `highest` waits for all of them."""

    def __init__(self, world_size: int) -> None:
        self.times = 0
        self._said: list[list[int]] = [[] for _ in range(world_size)]
        self._barrier = threading.Barrier(world_size)

    def highest(self, rank: int) -> Callable[[list[int]], list[int]]:
        def ask(mine: list[int]) -> list[int]:
            self._said[rank] = mine
            if self._barrier.wait(30) == 0:
                self.times += 1
            found = [max(numbers) for numbers in zip(*self._said, strict=True)]
            self._barrier.wait(30)
            return found

        return ask


def done(
    wishes: dict[int, dict[int, int]], step_s: dict[int, float], num_steps: int
) -> tuple[Group, list[list[int]]]:
    """What each rank does before each step; `wishes` by rank and step, `step_s` by rank."""
    group = Group(len(step_s))

    def run(rank: int) -> list[int]:
        now_s = 0.0
        agreement = Agreement(len(step_s), group.highest(rank), lambda: now_s)
        found, told = [], 0
        for step in range(num_steps):
            told = max(told, wishes.get(rank, {}).get(step, 0))
            found.append(agreement.reached(told))
            told = 0 if found[-1] else told
            now_s += step_s[rank]
        return found

    with ThreadPoolExecutor(len(step_s)) as pool:
        return group, list(pool.map(run, step_s))


def test_what_one_rank_wishes_all_do_at_the_same_step() -> None:
    _, found = done({1: {3: 1}}, {0: EVERY_S, 1: EVERY_S, 2: EVERY_S}, 6)
    assert found == [[0, 0, 0, 1, 0, 0]] * 3


def test_the_highest_wish_wins() -> None:
    _, found = done({0: {2: 1}, 1: {2: 3}}, {0: EVERY_S, 1: EVERY_S}, 4)
    assert found == [[0, 0, 3, 0]] * 2


def test_short_steps_ask_seldom_and_hear_of_a_wish_soon_all_the_same() -> None:
    group, found = done({0: {100: 2}}, {0: EVERY_S / 50, 1: EVERY_S / 40}, 400)
    assert found[0] == found[1]
    [heard] = [step for step, wish in enumerate(found[0]) if wish]
    assert 100 <= heard <= 150
    assert group.times < 400 / 30


def test_a_rank_alone_does_what_it_wishes() -> None:
    def never(_: list[int]) -> list[int]:
        raise AssertionError

    agreement = Agreement(1, never)
    assert [agreement.reached(wish) for wish in (0, 2, 0)] == [0, 2, 0]
