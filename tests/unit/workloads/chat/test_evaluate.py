from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mizzen.workloads.chat import evaluate, workload
from mizzen.workloads.chat.tokens import collate, encode, tokenizer_of

CONVERSATIONS = [
    [
        {"role": "user", "content": "My printer does not print."},
        {"role": "assistant", "content": "Switch it off."},
    ],
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello to you."}],
]


@pytest.fixture
def batch(tiny_base: Path) -> dict[str, Any]:
    tokenizer = tokenizer_of(tiny_base)
    return collate([encode(tokenizer, messages, 100) for messages in CONVERSATIONS])


def test_the_loss_is_the_one_that_transformers_computes_from_the_same_labels(
    tiny_model: Any, batch: dict[str, Any]
) -> None:
    with torch.no_grad():
        expected = tiny_model(**batch).loss
        assert evaluate.loss(tiny_model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_metric_over_rows_is_the_loss_over_tokens(tiny_model: Any, batch: dict[str, Any]) -> None:
    with torch.no_grad():
        values = workload.measure(workload.predict(tiny_model, workload.inputs(batch)), batch)
        loss = evaluate.loss(tiny_model, batch).item()
    metrics = workload.summarise({name: float(value_B.mean()) for name, value_B in values.items()})
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_what_stands_in_the_padding_changes_nothing(tiny_model: Any, batch: dict[str, Any]) -> None:
    other = {**batch, "input_ids": batch["input_ids"] + 5 * (1 - batch["attention_mask"])}
    with torch.no_grad():
        assert evaluate.loss(tiny_model, other).item() == evaluate.loss(tiny_model, batch).item()


def test_a_batch_with_nothing_to_learn_has_loss_zero_and_a_gradient(
    tiny_model: Any, batch: dict[str, Any]
) -> None:
    nothing = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    loss = evaluate.loss(tiny_model, nothing)
    assert loss.item() == 0 and loss.requires_grad


def test_no_token_at_all_gives_no_figure_and_no_error() -> None:
    assert math.isnan(workload.summarise({"nll_sum": 0.0, "num_tokens": 0.0})["perplexity"])


def test_throughput_counts_tokens_without_padding(batch: dict[str, Any]) -> None:
    assert workload.count(batch) == int(batch["attention_mask"].sum()) < batch["input_ids"].numel()
