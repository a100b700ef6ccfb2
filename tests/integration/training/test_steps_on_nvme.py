"""Steps of models whose states lie on a disk are, to the last bit, those of models in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import TrainingError
from mizzen.training import operators

ACCUMULATED = {
    "precision": "bf16",
    "gradient_accumulation_steps": 2,
    "activation_checkpointing": True,  # keeps views of parameters that come through buffers
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fp32": ({}, {}),
    "bf16, accumulated, activations reckoned again": ({}, ACCUMULATED),
    "LoRA, the same": ({"method": "lora"}, ACCUMULATED),
}
SMALL_GROUPS = {"zero_optimization": {"sub_group_size": 3_000_000}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose matrices are large enough for DeepSpeed to move them (a MiB for each of two workers)."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("models") / "base"
    LlamaConfig(
        vocab_size=4000,
        hidden_size=1024,
        intermediate_size=2752,
        num_hidden_layers=2,
        num_attention_heads=8,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    ).save_pretrained(folder)
    return folder


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [1, 2])
def test_on_nvme_every_loss_is_what_it_is_in_memory(
    workers: int, base: Path, tmp_path: Path, steps_of: Callable[..., list[dict[str, Any]]]
) -> None:
    try:
        operators.load_for_nvme()
    except TrainingError as cause:
        pytest.skip(str(cause))
    nvme = {"offload_device": "nvme", "nvme_path": str(tmp_path), "extra": SMALL_GROUPS}
    places = {
        "memory": {},
        "optimizer": {"offload": "optimizer", **nvme},
        "all": {"offload": "optimizer_and_parameters", **nvme},
    }
    wanted = {
        f"{case}: {place}": {
            "name": "on-nvme",
            "workload": "chat",
            "data": {"dataset": "chatterbot-corpus"},
            "model": {"base": str(base), "init": "random", "max_length": 16, **model},
            "training": {"steps": 2, "micro_batch_size": 2, **training},
            "deepspeed": {"zero_stage": 3, **deepspeed},
            "scaling": {"workers": workers},
        }
        for case, (model, training) in CASES.items()
        for place, deepspeed in places.items()
    }
    for found in steps_of(wanted, workers):
        for case in CASES:
            in_memory, optimizer, everything = (found[f"{case}: {place}"] for place in places)
            assert len(set(in_memory["losses"])) > 1
            assert optimizer["losses"] == everything["losses"] == in_memory["losses"], case
            # Its matrices: both of words, and of two layers; norms are too small for a disk.
            assert everything["values_on_disk"] == 2 * 4000 * 1024 + 2 * (4 * 1024 + 3 * 2752) * 1024
            assert in_memory["values_on_disk"] == optimizer["values_on_disk"] == 0
