from __future__ import annotations

import pytest
import torch

from mizzen.workloads.contract import Prepared
from mizzen.workloads.knowledge import evaluate


def figures(scores: list[float], right: list[int]) -> tuple[float, float]:
    """recall@5 and the reciprocal rank of one question to chunks of these scores."""
    embeddings_ND = torch.tensor(scores)[:, None]
    batch = {"right": [tuple(right)], "embeddings": embeddings_ND}
    measured = evaluate.measure({"sentence_embedding": torch.ones(1, 1)}, batch)
    return float(measured["recall@5"]), float(measured["mrr"])


@pytest.mark.parametrize(
    ("right", "expected"),
    [([0], (1, 1)), ([4], (1, 0.2)), ([5], (0, 1 / 6)), ([6, 1], (1, 0.5)), ([6], (0, 1 / 7))],
)
def test_a_question_is_found_if_a_right_chunk_is_among_the_first_five(
    right: list[int], expected: tuple[float, float]
) -> None:
    assert figures([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], right) == pytest.approx(expected)


def test_a_wrong_chunk_that_is_as_near_counts_as_nearer_and_a_right_one_does_not() -> None:
    assert figures([0.5, 0.5, 0.1], [0]) == (1, 0.5)
    assert figures([0.5, 0.5, 0.1], [0, 1]) == (1, 1)


def test_questions_come_with_the_models_inputs(base: Prepared) -> None:
    questions = evaluate.Questions(base)
    batch = evaluate.collate([questions[0], questions[1]])
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["embeddings"].shape == (43, 16)
    assert len(batch["right"]) == 2
