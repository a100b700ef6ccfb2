"""Features of histories: the same in training as in requests, and what requests hand over."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.recommendation import workload
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.features import NAMES, Traits
from mizzen.workloads.recommendation.filters import AttributeFilters
from mizzen.workloads.recommendation.histories import Histories
from mizzen.workloads.recommendation.ranking import Query, Recommender

TRAITS = Traits(max_length=5, num_items=10)


def test_a_history_says_how_long_and_how_popular_and_how_well_known_it_is() -> None:
    assert TRAITS.of(np.array([3, 1]), 0) == (2, 0.0, 0.0)
    assert TRAITS.of(np.array([1, 10]), 2) == (2, 0.9, 0.5)
    assert TRAITS.of(np.arange(1, 9), 0) == (5, 0.7, 0.0)


def test_where_nothing_is_known_there_is_no_last_item() -> None:
    length, rank, unknown = TRAITS.of(np.zeros(0, np.int64), 3)
    assert (length, unknown) == (0, 1.0) and math.isnan(rank)


def test_training_has_one_value_a_user_of_what_is_stored(world: Any, exported: Path) -> None:
    config, prepared, _ = world
    found = workload.input_features(config, prepared)
    assert tuple(found) == NAMES and {len(values) for values in found.values()} == {40}
    lengths = Histories(exported / "histories.arrow").lengths()
    assert found["history_length"] == tuple(np.minimum(lengths, 12))
    assert set(found["unknown_items_ratio"]) == {0}
    assert 0 <= min(found["last_item_popularity_rank"]) < max(found["last_item_popularity_rank"]) < 1


def test_users_of_training_bring_what_training_had_and_warm_up_is_left_out(
    world: Any, exported: Path
) -> None:
    config, prepared, _ = world
    items = Catalogue.read(exported / "items.arrow")
    recommender = Recommender(exported, OnnxRuntime("cpu", 1), items, AttributeFilters(items))
    taken: list[Any] = []
    recommender.answer([Query("user 1", None)])
    recommender.watch(taken.append)
    read = Histories(exported / "histories.arrow")
    recommender.answer([Query(read.user(row), None) for row in range(len(read))])
    (found,) = taken  # one call for what shares a batch
    assert found == workload.input_features(config, prepared)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(None, ["unheard of"]), (0, math.nan, 1)),
        (Query(None, ["item 00", "unheard of"]), (1, "rank", 0.5)),
        (Query("a stranger", None, session=["item 00", "item 01"]), (2, "rank", 0)),
    ],
)
def test_requests_that_training_never_had_show(exported: Path, query: Query, expected: Any) -> None:
    items = Catalogue.read(exported / "items.arrow")
    recommender = Recommender(exported, OnnxRuntime("cpu", 1), items, AttributeFilters(items))
    taken: list[Any] = []
    recommender.watch(taken.append)
    recommender.answer([Query("a stranger", None)])
    assert taken == []  # there is nothing to compare, and cold starts have a series of their own
    recommender.answer([query])
    ((length,), (rank,), (unknown,)) = taken[0].values()
    assert (length, unknown) == (expected[0], expected[2])
    assert math.isnan(rank) == (expected[1] is math.nan)
