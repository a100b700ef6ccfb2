"""Which rows are the best, and which slots promotions get."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mizzen.workloads.recommendation.selection import best, slots, woven

SCORES = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, 3.0]), min_size=1, max_size=30)
SHARES = st.lists(st.integers(1, 100), min_size=1, max_size=4).map(
    lambda parts: [part / 100 for part in parts if sum(parts) <= 100]
)


@given(scores=SCORES, num_results=st.integers(1, 40))
def test_the_best_are_those_that_sorting_gives_and_nothing_forbidden(
    scores: list[float], num_results: int
) -> None:
    scores_V = np.array(scores)
    found = best(scores_V, num_results)
    rows = [row for row, _ in found]
    assert all(score == scores[row] for row, score in found)
    allowed = sorted((score for score in scores if score > -np.inf), reverse=True)
    assert [scores[row] for row in rows] == allowed[:num_results]
    assert len(set(rows)) == len(rows)
    assert all(one < two for one, two in pairwise(rows) if scores[one] == scores[two])


@given(scores=SCORES, few=st.integers(1, 20), more=st.integers(0, 20))
def test_more_results_begin_with_the_same_ones(scores: list[float], few: int, more: int) -> None:
    scores_V = np.array(scores)
    assert best(scores_V, few + more)[:few] == best(scores_V, few)


@given(shares=SHARES, num_slots=st.integers(0, 200))
def test_each_promotion_has_its_share_of_any_number_of_slots(shares: list[float], num_slots: int) -> None:
    taken = list(slots(tuple(shares)))[:num_slots]
    fair = [int(num_slots * share + 1e-9) for share in shares]
    counts = [taken.count(number) for number in range(len(shares))]
    assert all(count >= due for count, due in zip(counts, fair, strict=True))
    # What is due just after these slots may have found its free one among them.
    assert sum(counts) - sum(fair) <= len(shares)


def test_one_promotion_of_a_fifth_has_every_fifth_slot() -> None:
    taken = slots((0.2,))
    assert [slot for slot in range(20) if taken[slot] == 0] == [4, 9, 14, 19]


def test_shares_of_all_slots_leave_none() -> None:
    taken = list(slots((0.29, 0.31, 0.4)))
    assert None not in taken[:100]
    assert [taken[:100].count(number) for number in range(3)] == [29, 31, 40]


def scored(*rows: int) -> list[tuple[int, float]]:
    return [(row, -row / 2) for row in rows]


def test_promotions_weave_into_the_ordinary_without_repeats() -> None:
    ordinary, first, second = scored(1, 2, 3, 4, 5, 6), scored(3, 9, 1), scored(9, 8)
    placed = list(woven(ordinary, [first, second], [0.25, 0.25], 8))
    assert [(row, promotion) for (row, _), promotion in placed] == [
        (1, None), (2, None), (9, 1), (3, 0), (4, None), (5, None), (8, 1), (6, None)
    ]  # fmt: skip
    assert [one for one, _ in placed] == scored(*(row for (row, _), _ in placed))


def test_a_promotion_without_items_leaves_its_slots_to_the_ordinary() -> None:
    assert [row for (row, _), _ in woven(scored(1, 2, 3), [[]], [1.0], 3)] == [1, 2, 3]
    assert list(woven([], [scored(7)], [0.5], 4)) == [((7, -3.5), 0)]
