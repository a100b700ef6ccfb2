"""Several conversations in a row, none of which sees another.

Legend: B rows, T tokens, V words of the vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mizzen.workloads.chat import evaluate, packing, workload
from mizzen.workloads.chat.packing import KINDS, PackedExamples, Row, pack
from mizzen.workloads.chat.tokens import IGNORED, Example, Examples, tokenizer_of
from mizzen.workloads.chat.tokens import collate as unpacked

CONVERSATIONS = [
    [
        {"role": "user", "content": "My printer does not print."},
        {"role": "assistant", "content": "Switch it off and on again."},
    ],
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello to you."}],
    [{"role": "user", "content": "Grüße"}, {"role": "assistant", "content": "Grüße aus Köln"}],
    [
        {"role": "user", "content": "It is black."},
        {"role": "assistant", "content": "The screen stays black."},
    ],
]
MAX_LENGTH = 160


@pytest.fixture
def examples(tiny_base: Path) -> Any:
    conversations: Any = CONVERSATIONS
    return Examples(conversations, tokenizer_of(tiny_base), MAX_LENGTH)


@pytest.fixture
def rows(examples: Any) -> list[Row]:
    lengths = [len(examples[i].input_ids) for i in range(len(examples))]
    packed = PackedExamples(examples, lengths, MAX_LENGTH)
    assert len(packed) < len(examples)
    return [packed[i] for i in range(len(packed))]


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(20, 50))
def test_each_conversation_stands_in_one_row_and_no_row_is_too_long(
    lengths: list[int], capacity: int
) -> None:
    rows = pack(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    filled = [sum(min(lengths[i], capacity) for i in row) for row in rows]
    assert all(0 < tokens <= capacity for tokens in filled)
    if len(rows) > 1:  # no two rows would fit into one
        assert sum(sorted(filled)[:2]) > capacity


def test_little_of_many_rows_is_padding() -> None:
    lengths = np.random.default_rng(0).lognormal(4, 0.7, 5000).astype(int).clip(8, 512).tolist()
    rows = pack(lengths, 512)
    assert sum(lengths) / (512 * len(rows)) > 0.99
    assert rows == pack(lengths, 512)


def test_the_packed_loss_is_the_loss_of_the_same_conversations_unpacked(
    tiny_model: Any, examples: Any, rows: list[Row]
) -> None:
    batch = packing.collate(rows)
    with torch.no_grad():
        apart = evaluate.loss(tiny_model, unpacked([examples[i] for i in range(len(examples))]))
        assert evaluate.loss(tiny_model, batch).item() == pytest.approx(apart.item(), rel=1e-5)
        blind = {**batch, "position_ids": torch.arange(MAX_LENGTH).expand(len(rows), -1)}
        assert abs(evaluate.loss(tiny_model, blind).item() / apart.item() - 1) > 1e-3


def test_gradients_are_the_same_too(tiny_base: Path, examples: Any, rows: list[Row]) -> None:
    def gradient(batch: Any) -> torch.Tensor:
        model: Any = workload.build_model(_config(tiny_base), None, dropout=0.0)  # type: ignore[arg-type]
        evaluate.loss(model, batch).backward()
        taken: torch.Tensor = model.get_input_embeddings().weight.grad
        return taken

    apart = gradient(unpacked([examples[i] for i in range(len(examples))]))
    assert torch.allclose(gradient(packing.collate(rows)), apart, rtol=1e-3, atol=1e-6)


def _config(tiny_base: Path) -> Any:
    from mizzen.workloads.chat.model import ChatModel

    return ChatModel(base=str(tiny_base), packing=True, max_length=MAX_LENGTH)


def test_positions_begin_anew_and_padding_is_neither_counted_nor_learnt() -> None:
    first, second = Example([5, 6, 7], [5, 6, 7], False), Example([8, 9], [IGNORED, 9], False)
    batch = packing.collate([Row((first, second), 8)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, IGNORED, 9, IGNORED, IGNORED, IGNORED]]
    assert workload.count(batch) == 5
    assert workload.collate([Row((first, second), 8)])["position_ids"].equal(batch["position_ids"])


def test_lengths_are_counted_once_for_the_same_data_and_tokenizer(
    examples: Any, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIZZEN_HOME", str(tmp_path))
    expected = [len(examples[i].input_ids) for i in range(len(examples))]
    assert packing.lengths_of(examples, "data", tiny_base, MAX_LENGTH).tolist() == expected
    nothing: Any = []
    assert packing.lengths_of(nothing, "data", tiny_base, MAX_LENGTH).tolist() == expected
    assert packing.lengths_of(nothing, "other data", tiny_base, MAX_LENGTH).tolist() == []


SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16384,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OTHERWISE: dict[str, dict[str, Any]] = {
    **{kind: {"head_dim": 8} for kind in ("gemma", "gemma2", "gemma3_text", "qwen3")},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128},
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_in_each_kind_of_model_conversations_do_not_see_each_other(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    shape = AutoConfig.for_model(kind, **{**SHAPE, **OTHERWISE.get(kind, {})})
    model: Any = AutoModelForCausalLM.from_config(shape).eval()
    given = [Example(torch.randint(3, 64, (length,)).tolist(), [1] * length, False) for length in (9, 6)]
    with torch.no_grad():
        together_BTV = evaluate.predict(model, packing.collate([Row(tuple(given), 18)]))["logits"]
        start = 0
        for example in given:
            alone_BTV = evaluate.predict(model, unpacked([example]))["logits"]
            end = start + len(example.input_ids)
            assert (together_BTV[:, start:end] - alone_BTV).abs().max() < 1e-5
            start = end
