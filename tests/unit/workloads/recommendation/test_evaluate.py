"""Metrics against figures computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import torch

from mizzen.workloads.contract import Prepared
from mizzen.workloads.recommendation import workload
from mizzen.workloads.recommendation.evaluate import measure, ranks


def test_ranks_count_higher_scores_of_unseen_items_and_half_of_equal_ones() -> None:
    scores = torch.tensor([[5.0, 4.0, 3.0, 3.0, 1.0]])
    for target, seen, rank in [(1, [0], 1), (3, [0], 3.5), (3, [1, 0], 2.5), (3, [1, 4], 2), (5, [0, 0], 5)]:
        assert ranks(scores, torch.tensor([target]), torch.tensor([seen])).item() == rank


def test_each_row_hides_its_own_items() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0]] * 2)
    seen = torch.tensor([[0, 1], [1, 2]])
    assert ranks(scores, torch.tensor([3, 3]), seen).tolist() == [2, 1]


def test_a_model_that_answers_nan_comes_last() -> None:
    scores = torch.full((1, 4), math.nan)
    assert ranks(scores, torch.tensor([1]), torch.tensor([[0]])).item() == 4


def test_metrics_follow_from_the_rank() -> None:
    scores = torch.arange(20, 0, -1).float().repeat(4, 1)
    batch = {"target": torch.tensor([1, 3, 10, 11]), "seen": torch.zeros(4, 1, dtype=torch.int64)}
    values = measure({"scores": scores}, batch)
    assert values["hr@10"].tolist() == [1, 1, 1, 0]
    assert values["ndcg@10"].tolist() == pytest.approx([1, 1 / 2, 1 / math.log2(11), 0])
    assert values["mrr@10"].tolist() == pytest.approx([1, 1 / 3, 1 / 10, 0])


def test_popularity_is_ranked_by_what_was_met_before_the_split(prepare: Callable[..., Prepared]) -> None:
    """Two users; a is met first by both. For test, user one's c is known to user two, by validation."""
    rows = pa.table(
        {
            "user": ["one"] * 4 + ["two"] * 4,
            "item": [*"abcd", *"aedc"],
            "timestamp": [1, 2, 3, 4] * 2,
        }
    )
    prepared = prepare({"met.csv": [rows]}, min_interactions=4)
    config: Any = workload.model_config()
    # Counts before validation: a 2, b 1, e 1. one: c (0) after e (1), level with d: rank 2.5. two: d, with c
    # level and b above: 2.5 too.
    found = workload.baselines(config, prepared, "validation")["popularity"]
    assert found["mrr@10"] == pytest.approx(1 / 2.5)
    assert found["hr@10"] == 1.0
    # Counts before test: a 2, b c d e 1 each. one: d of (d, e): rank 1.5. two: c of (b, c): rank 1.5.
    found = workload.baselines(config, prepared, "test")["popularity"]
    assert found["mrr@10"] == pytest.approx(1 / 1.5)
    assert found["ndcg@10"] == pytest.approx(1 / math.log2(2.5))
