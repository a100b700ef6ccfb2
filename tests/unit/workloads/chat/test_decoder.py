"""The decoder over a tiny exported model, against one pass of PyTorch over the whole text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mizzen.errors import ServingError
from mizzen.workloads.chat import export
from mizzen.workloads.chat.decoder import Decoder, Shape
from mizzen.workloads.chat.prefixes import BLOCK_TOKENS

TOLERANCE = 2e-4


def decoder_of(folder: Path, num_slots: int, num_blocks: int = 0) -> Decoder:
    return Decoder(
        folder,
        provider="CPUExecutionProvider",
        num_threads=1,
        num_slots=num_slots,
        max_context=256,
        num_blocks=num_blocks,
    )


def random_tokens(num: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(2, 280, num).tolist()


def reference(model: Any, tokens: list[int]) -> NDArray[Any]:
    inputs = {"input_ids": np.array([tokens]), "attention_mask": np.ones((1, len(tokens)), int)}
    logits_TV: NDArray[Any] = export.reference(model, inputs)["logits"][0]
    return logits_TV


def test_sequences_of_different_lengths_share_a_step_and_a_moved_one_goes_on(
    tiny_export: Path, tiny_model: Any
) -> None:
    decoder = decoder_of(tiny_export, 3)
    sequences = [random_tokens(num, num) for num in (90, 20, 41)]
    lengths = [len(tokens) - 4 for tokens in sequences]
    expected = [reference(tiny_model, tokens) for tokens in sequences]
    for slot, (tokens, length) in enumerate(zip(sequences, lengths, strict=True)):
        for start in range(0, length, 64):
            end = min(length, start + 64)
            logits_V = decoder.prefill(slot, tokens[start:end], start)
            assert np.abs(logits_V - expected[slot][end - 1]).max() < TOLERANCE
    slots = [0, 1, 2]
    for step in range(4):
        if step == 2:  # the middle one ends; the last one takes its slot
            decoder.move(2, 1, lengths[2] + step)
            slots = [0, 2]
        fed = [sequences[i][lengths[i] + step] for i in slots]
        logits_BV = decoder.step(fed, [lengths[i] + step for i in slots])
        for i, logits_V in zip(slots, logits_BV, strict=True):
            assert np.abs(logits_V - expected[i][lengths[i] + step]).max() < TOLERANCE


def test_a_slot_that_was_used_before_leaves_no_trace(tiny_export: Path, tiny_model: Any) -> None:
    decoder = decoder_of(tiny_export, 1)
    decoder.prefill(0, random_tokens(60, 1), 0)
    tokens = random_tokens(20, 2)
    assert np.abs(decoder.prefill(0, tokens, 0) - reference(tiny_model, tokens)[-1]).max() < TOLERANCE


def test_blocks_that_were_kept_continue_in_another_slot_as_if_they_had_been_read_there(
    tiny_export: Path, tiny_model: Any
) -> None:
    decoder = decoder_of(tiny_export, 2, num_blocks=5)
    tokens = random_tokens(3 * BLOCK_TOKENS + 10, 3)
    decoder.prefill(0, tokens, 0)
    decoder.keep(0, 0, [4, 1])
    decoder.keep(0, 2 * BLOCK_TOKENS, [2])
    decoder.prefill(0, random_tokens(70, 4), 0)  # the first slot goes to somebody else
    decoder.reuse(1, [4, 1, 2])
    logits_V = decoder.prefill(1, tokens[3 * BLOCK_TOKENS :], 3 * BLOCK_TOKENS)
    assert np.abs(logits_V - reference(tiny_model, tokens)[-1]).max() < TOLERANCE


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"genai_config\.json cannot be read"):
        Shape.read(tmp_path)
